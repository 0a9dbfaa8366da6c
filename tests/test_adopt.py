"""A finished stage is taken over after a change that the user says does not matter, and never otherwise."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest
import small
from commands import LIMIT

import hfpipe
from hfpipe.cli.main import main
from hfpipe.errors import RecipeError, StageError
from hfpipe.store.store import Store


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    """Return a recipe whose two stages are done, with a comment added to its rows' code since then."""
    (tmp_path / "rivers.py").write_text(
        'def rows():\n    return [{"text": f"The river {n} flows to the sea."} for n in range(40)]\n'
    )
    stages = {
        "rows": {"kind": "dataset", "source": {"python": "rivers.py:rows"}},
        "words": {"kind": "tokenizer", "data": "stage:rows", "algorithm": "bpe", "vocab_size": 300},
    }
    file = small.write(tmp_path, {"name": "rivers", "stages": stages})
    hfpipe.run(hfpipe.load(file), tmp_path / "runs", say=lambda _: None)
    with (tmp_path / "rivers.py").open("a") as code:
        code.write("# a comment changes nothing\n")
    return file, tmp_path / "runs"


def test_a_stage_is_taken_over_with_its_files_and_the_change_in_its_report(made: tuple[Path, Path]) -> None:
    file, runs = made
    before = {step.name: step for step in hfpipe.plan(hfpipe.load(file), runs)}
    assert not before["rows"].done
    [old] = [path for path in (runs / "rivers").glob("rows-*") if path != before["rows"].folder]
    seen = []
    folder = hfpipe.adopt(
        hfpipe.load(file),
        "rows",
        runs,
        confirm=lambda path, changes: bool(seen.append((path, *changes)) or True),
    )
    assert folder == before["rows"].folder
    assert seen == [(old, "file rivers.py: content changed")]
    report = hfpipe.open(folder).reports["rows"]
    assert report.facts["adopted"] == {"folder": old.name, "changes": ["file rivers.py: content changed"]}
    assert all(each.damage == () for each in hfpipe.verify(folder))
    with pytest.raises(RecipeError, match="rows: is done"):
        hfpipe.adopt(hfpipe.load(file), "rows", runs)
    hfpipe.adopt(hfpipe.load(file), "words", runs)
    said: list[str] = []
    hfpipe.run(hfpipe.load(file), runs, say=said.append)
    assert [line.partition(" · ")[0] for line in said] == ["rows: done", "words: done"]


def test_nothing_is_taken_over_without_a_yes(
    made: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, runs = made
    before = sorted(runs.rglob("*"))
    assert main(["adopt", str(file), "rows", "--runs", str(runs)]) == 0
    shown = capsys.readouterr()
    assert "file rivers.py: content changed" in shown.out + shown.err
    assert "--yes adopts it" in shown.out + shown.err
    assert [path for path in sorted(runs.rglob("*")) if path not in before and path.is_dir()] == []
    assert main(["adopt", str(file), "rows", "--yes", "--runs", str(runs)]) == 0
    assert "taken over" in "".join(capsys.readouterr())


def test_what_cannot_be_taken_over_is_refused_in_one_line(made: tuple[Path, Path]) -> None:
    file, runs = made
    recipe = hfpipe.load(file)
    for stage, why in {
        "row": "there is no stage 'row'; there is 'rows' and 'words'",
        "words": "words: reads 'rows', which is not done",
    }.items():
        with pytest.raises(RecipeError, match=why):
            hfpipe.adopt(recipe, stage, runs)
    with pytest.raises(RecipeError, match="no other finished folder"):
        hfpipe.adopt(recipe, "rows", runs.with_name("others"))
    [old] = (runs / "rivers").glob("rows-*")
    victim = next(path for path in old.rglob("*.arrow"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    with pytest.raises(StageError, match="is damaged"):
        hfpipe.adopt(recipe, "rows", runs)
    assert json.loads((old / "report.json").read_text())["kind"] == "dataset"


def test_a_stage_that_a_run_makes_while_the_question_waits_for_an_answer_keeps_its_result(
    made: tuple[Path, Path],
) -> None:
    file, runs = made

    def run_and_confirm(*_: object) -> bool:
        hfpipe.run(hfpipe.load(file), runs, until="rows", say=lambda _: None)
        return True

    with pytest.raises(RecipeError, match=r"rows: a run has begun it in .*; nothing was taken over"):
        hfpipe.adopt(hfpipe.load(file), "rows", runs, confirm=run_and_confirm)
    [step] = [step for step in hfpipe.plan(hfpipe.load(file), runs) if step.name == "rows"]
    assert step.done
    assert "adopted" not in hfpipe.open(step.folder).reports["rows"].facts


def test_adopting_names_the_process_for_which_it_waits(made: tuple[Path, Path]) -> None:
    file, runs = made
    [step] = [step for step in hfpipe.plan(hfpipe.load(file), runs) if step.name == "rows"]
    said: list[str] = []
    held, heard = threading.Event(), threading.Event()

    def hold() -> None:
        with Store(runs / "rivers").lock(step.folder, lambda owner: None):
            held.set()
            heard.wait(LIMIT)

    def say(line: str) -> None:
        said.append(line)
        heard.set()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(LIMIT)
    assert hfpipe.adopt(hfpipe.load(file), "rows", runs, say=say) == step.folder
    holder.join(LIMIT)
    host = socket.gethostname()
    assert said == [f"rows: waiting for process {os.getpid()} on {host}, which is running it"]
