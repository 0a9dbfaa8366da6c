"""How far a run is, seen from outside: its metrics file, `hfpipe watch` and lines of progress."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import toys

from hfpipe.cli import console, watch
from hfpipe.runner import PlannedStage
from hfpipe.runs.status import StageStatus, read_status
from hfpipe.store.store import StageFile, Store


def line(step: int, **values: Any) -> str:
    """Return a line of `metrics.jsonl` as a training of 100 steps writes it, 2 seconds per step."""
    at = time.time() - 2 * (40 - step)
    return json.dumps({"step": step, "steps": 100, "time": at} | values) + "\n"


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock, so that no time passes between a line and its reader."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)


@pytest.fixture
def planned(tmp_path: Path) -> dict[str, PlannedStage]:
    """Return the stages of a recipe, the first two of which are done."""
    path = toys.write(tmp_path)
    toys.make(path, tmp_path / "runs", until="words")
    return {step.name: step for step in toys.steps(path, tmp_path / "runs")}


def begin(step: PlannedStage, lines: str = "") -> Store:
    """Begin a stage as the runner does, with what it has logged."""
    store = Store(step.folder.parent)
    file = StageFile(name=step.name, base="", folders={}, identity=step.identity)
    store.begin(step.folder, file)
    (step.folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    return store


def test_a_stage_is_done_or_waits_and_says_what_it_made(planned):
    found = {name: read_status(step) for name, step in planned.items()}
    assert [status.state for status in found.values()] == ["done", "done", "waiting", "waiting"]
    assert (found["names"].text, found["score"].text) == ("4 rows", "")


@pytest.mark.usefixtures("still")
def test_a_stage_that_trains_shows_its_newest_numbers_and_the_time_left(planned):
    speed = {"tokens_per_second": 12_345.0, "memory_bytes": 1_200_000_000}
    lines = line(20, loss=3.0, **speed) + line(30, eval_loss=2.75) + line(40, loss=2.5, **speed)
    step = planned["topics"]
    with begin(step, lines + '{"step": 41, "lo').lock(step.folder, print):
        found = read_status(step)
    assert (found.state, found.share, found.losses) == ("running", 0.4, [3.0, 2.5])
    assert found.text == (
        "step 40 of 100, loss 2.500, validation loss 2.750, 12,345 tokens/s, 1.2 GB, about 2 min 0 s left"
    )
    assert read_status(step).state == "interrupted", "its lock was given back before it was done"


def test_a_stage_whose_process_was_killed_is_interrupted(planned):
    step = planned["topics"]
    store = begin(step, line(40, loss=None))
    with store.lock(step.folder, print):
        owner = next((store.root / ".locks").glob("*.owner"))
        text = owner.read_text(encoding="utf-8")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    owner.write_text(f"process {gone.pid} on {text.partition(' on ')[2]}", encoding="utf-8")
    found = read_status(step)
    assert (found.state, found.losses, found.text) == ("interrupted", [], "step 40 of 100")


def test_a_stage_that_does_not_train_yet_shows_the_end_of_its_log(planned):
    step = planned["topics"]
    with begin(step).lock(step.folder, print):
        (step.folder / "stage.log").write_text("12:00 first\n12:01 encoding \x1b[2Jtrain\n", encoding="utf-8")
        assert read_status(step).text == r"12:01 encoding \x1b[2Jtrain"


def test_watching_ends_when_all_is_done_and_says_what_to_do_when_nothing_runs(planned, capsys):
    recipe = Path("my recipes/toy.yaml")
    assert watch.watch_stages(list(planned.values()), recipe, wait=0) == 1
    out = capsys.readouterr().out
    assert "names: done " in out
    assert out.endswith("nothing is running; `hfpipe run 'my recipes/toy.yaml'` resumes\n")
    assert watch.watch_stages(list(planned.values())[:2], recipe, wait=0) == 0
    assert "nothing is running" not in capsys.readouterr().out


def test_the_screen_has_a_row_a_stage_and_the_losses_as_a_sparkline(planned, capsys):
    step = planned["topics"]
    with begin(step, "".join(line(number, loss=10.0 - number) for number in range(1, 9))).lock(
        step.folder, print
    ):
        watch.show_once(list(planned.values()))
    out = capsys.readouterr().out
    assert "topics  running 8%" in out
    assert "topics: loss █▇▆▅▄▃▂▁ 2.000" in out


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([2.0], "▁"), ([1.0, 1.0], "▁▁"), ([float(value // 100) for value in range(4000)], None)],
)
def test_a_sparkline_is_never_wider_than_a_line(values, bars):
    found = watch.draw_sparkline(values)
    assert found == bars if bars is not None else (len(found), found[0], found[-1]) == (40, "▁", "█")


def test_a_line_of_progress_says_how_it_goes_and_keeps_the_last_note(monkeypatch, capsys):
    monkeypatch.setattr(console, "SECONDS", 0)
    with console.show_progress() as progress, progress("pretrain", 100) as advance:
        advance(4)
        advance(0, "loss 2.310, 12.3k tokens/s")
        advance(3)
    [line] = capsys.readouterr().err.splitlines()
    said = r"pretrain: 7 of 100 \(7 %\), \d+\.\d s, about \d+\.\d s left, loss 2\.310, 12\.3k tokens/s"
    assert re.fullmatch(said, line), line


@pytest.mark.usefixtures("still")
def test_the_time_left_does_not_count_steps_before_a_checkpoint_nor_an_interruption(
    planned, monkeypatch, capsys
):
    monkeypatch.setattr(console, "SECONDS", 0)
    with console.show_progress() as progress, progress("pretrain", 100) as advance:
        advance(90)
        time.sleep(0.5)
        advance(5)
    resumed, ending = capsys.readouterr().err.splitlines()
    assert "left" not in resumed
    assert float(ending.partition("about ")[2].removesuffix(" s left")) >= 0.5
    old = "".join(line(number, loss=3.0) for number in (10, 20, 30))
    new = "".join(line(number, loss=3.0) for number in (35, 40))
    hour_ago = "".join(
        json.dumps(entry | {"time": entry["time"] - 3600}) + "\n"
        for entry in map(json.loads, old.splitlines())
    )
    step = planned["topics"]
    with begin(step, old + new).lock(step.folder, print):
        straight = read_status(step).text
    with begin(step, hour_ago + new).lock(step.folder, print):
        assert read_status(step).text == straight


def test_a_status_knows_no_share_before_it_trains():
    assert StageStatus("a", "finetune", "running", "").share is None
