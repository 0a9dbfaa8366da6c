"""What crosses the edges of hfpipe: lines to predict, terminals, pages, launchers, the Hub, progress."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import small
from test_inputs_safety import within
from test_predict import TEXTS, model  # noqa: F401 - a fixture
from test_report import finish

import hfpipe
from hfpipe.cli import console
from hfpipe.cli.main import main
from hfpipe.contract import RunContext
from hfpipe.distributed.world import is_launched
from hfpipe.errors import DataError, RecipeError, StageError
from hfpipe.inference import inputs
from hfpipe.number_format import make_lines_visible, make_visible
from hfpipe.references import hub
from hfpipe.report import Report
from hfpipe.reporting.html import render_page
from hfpipe.runner import Launch, check_world
from hfpipe.runner.failures import translate_errors
from hfpipe.runner.launch import check_processes
from hfpipe.runs.run import Run

# lines to predict


@pytest.fixture
def ask(
    model: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., tuple[int, list[dict[str, Any]], str]]:
    """Return a function that gives bytes to predict and returns code, rows and what was said of them."""

    def run(given: bytes, *more: str) -> tuple[int, list[dict[str, Any]], str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), newline="\n"))
        caplog.clear()
        code = main(["predict", str(model), *more])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err + caplog.text

    return run


@pytest.mark.parametrize("blank", ["", " ", "\t", "\u3000"])
def test_a_blank_line_among_many_has_no_answer_and_all_others_have(
    ask: Callable[..., Any], blank: str
) -> None:
    lines = (
        (small.ROOT / "tests" / "inputs" / "50-predict-blank-line" / "lines.txt")
        .read_text("utf-8")
        .splitlines()
    )
    lines = [line or blank for line in [*lines[:4], blank, *lines[4:], blank, blank]]
    code, rows, said = ask("".join(f"{line}\n" for line in lines).encode())
    assert code == 0
    assert [row["text"].strip() for row in rows] == [line.strip() for line in lines]
    assert [row["prediction"] is None for row in rows] == [not line.strip() for line in lines]
    number = sum(not line.strip() for line in lines)
    assert f"{number} rows have no text and the prediction null: standard input, line 5" in said


def test_windows_line_ends_and_byte_order_marks_do_not_reach_the_model(ask: Callable[..., Any]) -> None:
    plain = ask("\n".join(TEXTS).encode())
    windows = ask(b"\xef\xbb\xbf" + "\r\n".join(TEXTS).encode() + b"\r\n")
    assert plain[1] == windows[1]
    assert [row["text"] for row in windows[1]] == TEXTS


UNDECODABLE = {
    "latin-1": (b"Caf\xe9", "byte 3 (0xe9) is not UTF-8"),
    "cut off": ("Größe".encode()[:-4] + b"\xc3", "byte 2 (0xc3) is not UTF-8"),
    "half a character": (b'{"text": "a \\ud800 b"}', r"'text' holds \ud800, which is not a character"),
    "another type": (b'{"text": 7}', "'text' holds 7, not a text"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("line", "cause"), UNDECODABLE.values(), ids=UNDECODABLE)
def test_a_line_that_cannot_be_used_is_named_and_what_was_answered_before_is_kept(
    ask: Callable[..., Any], tmp_path: Path, line: bytes, cause: str
) -> None:
    given = b"\n".join([TEXTS[0].encode(), b"", TEXTS[1].encode(), line, TEXTS[2].encode()])
    code, rows, said = ask(given)
    assert code == 1
    assert [row["text"] for row in rows] == [TEXTS[0], "", TEXTS[1]]
    assert f"standard input, line 4: {cause}" in said
    out = tmp_path / "out.jsonl"
    out.write_text("what was there\n")
    code, _, said = ask(given, "--output", str(out))
    assert said.rstrip().endswith(f"; the answers before it are in {out}.partial")
    assert out.read_text() == "what was there\n"
    assert [json.loads(kept) for kept in Path(f"{out}.partial").read_text().splitlines()] == rows


def test_utf_16_is_distinguished_from_broken_utf_8(ask: Callable[..., Any]) -> None:
    code, rows, said = ask("The Nile\nThe Rhine\n".encode("utf-16"))
    assert (code, rows) == (1, [])
    assert (
        "standard input, line 1: byte 0 (0xff) is not UTF-8; convert it, as by iconv -f UTF-16 -t UTF-8"
        in said
    )


def test_a_line_without_end_is_refused(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hfpipe.inference.inputs.LONGEST", 1000)
    code, _, said = ask(b"x" * 5000)
    assert code == 1
    assert "standard input, line 1: is longer than" in said


def test_rows_of_a_file_that_hold_nothing_have_no_answer(ask: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "The Nile"}\n{"text": null}\n{"text": "  "}\n{"text": "K2"}\n')
    code, rows, said = ask(b"", "--input", str(path))
    assert code == 0
    assert [row["prediction"] is None for row in rows] == [False, True, True, False]
    assert f"2 rows have no text and the prediction null: {path}, line 2" in said


# terminals and pages

STEERING = [
    "\x1b[31m",
    "\x07",
    "\x9b2J",
    "\u202e",
    "\u2066",
    "\r",
    "\x00",
    "\u2028",
    "\ufeff",
    "\U000e0041",
    "\ud800",
]


@pytest.mark.parametrize("text", STEERING)
def test_what_steers_a_terminal_is_shown_and_does_nothing(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console.say(f"a{text}b")
    assert main(["report", f"no{text}thing"]) in (1, 2)
    with pytest.raises(SystemExit):
        main(["run", "--no\x1b[31mthing"])
    out, err = capsys.readouterr()
    for shown in (out, err, make_visible(text)):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]", shown)
    assert text.encode("unicode_escape").decode() in out


@pytest.mark.parametrize("text", ["👩‍🚀", "می‌خواهم", "한국어", "e\u0301", "Größe", "क्‍ष", "a b"])
def test_what_scripts_need_is_left_alone(text: str) -> None:
    assert make_visible(text) == text
    assert make_lines_visible(f"{text}\n{text}") == f"{text}\n{text}"


def test_a_page_holds_no_character_that_steers(tmp_path: Path) -> None:
    text = "".join(STEERING[:-1])
    report = Report(kind="finetune", summary=f"a{text}b", facts={"left_out": [text]})
    folder = finish(tmp_path, "topics", {"task": {"text": text}}, [], report)
    made = render_page(Run({"topics": folder}, {"topics": report}))
    assert not any(character in made for character in text if make_visible(character) != character)
    assert "\\x1b[31m" in made


# a single guard for a stage


class OddError(Exception):
    """What no code of hfpipe raises."""


@pytest.mark.parametrize(
    "error", [OddError("a\nb"), ValueError(""), RecursionError("deep"), OverflowError(34)]
)
def test_whatever_a_stage_raises_is_one_line_with_its_name(
    error: Exception, context: Callable[..., RunContext]
) -> None:
    with pytest.raises(StageError) as caught, translate_errors(context("topics")):
        raise error
    assert str(caught.value).startswith(f"stage topics: {type(error).__name__}: ")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("stage.log")


# launchers

NUMBERS = [
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_PORT",
    "HFPIPE_PROCESSES",
    "HFPIPE_SILENCE",
    "HFPIPE_RENDEZVOUS",
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["abc", "", "-1", "1.5", "٣", " 2", "9" * 5000])
def test_a_number_of_a_launcher_that_is_garbage_is_one_line(name: str, value: str) -> None:
    with pytest.raises(RecipeError, match=f"the environment has {name}=.* not a whole number from") as caught:
        check_world({name: value})
    assert len(str(caught.value)) < 250


def test_garbage_of_a_launcher_stops_a_run_and_a_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small.write(tmp_path, small.recipe())
    monkeypatch.setenv("WORLD_SIZE", "abc")
    for command in (["run", str(path)], ["predict", str(tmp_path), "The Nile"]):
        assert main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(RecipeError):
        is_launched()
    with pytest.raises(RecipeError, match="RANK=7 and WORLD_SIZE=2; ranks count from 0"):
        check_world({"RANK": "7", "WORLD_SIZE": "2"})


def test_more_processes_than_the_machine_has_room_for_are_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small.write(tmp_path, small.recipe())
    runs = tmp_path / "runs"
    assert main(["run", str(path), "--processes", "9999", "--runs", str(runs)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if "9999 processes, and this machine has" in line]
    assert [line for line in told if "which 9999 processes cannot share" in line]
    assert not list(runs.rglob("stage.json"))


def test_a_step_has_to_be_shared_evenly_even_where_oversubscribing_is_allowed(tmp_path: Path) -> None:
    stages = hfpipe.load(small.write(tmp_path, small.recipe())).stages
    check_processes(Launch(8, oversubscribe=True), stages)
    with pytest.raises(RecipeError) as caught:
        check_processes(Launch(3, oversubscribe=True), stages)
    assert len(caught.value.problems) == 2
    assert "a step of stage topics has 8 examples" in str(caught.value)
    config = tmp_path / "ddp.yaml"
    config.write_text("distributed_type: MULTI_GPU\nnum_processes: 5000\nuse_cpu: true\n")
    with pytest.raises(RecipeError, match="5000 processes, and this machine has"):
        check_processes(Launch(config=config), {})
    config.write_text("distributed_type: MULTI_GPU\nnum_processes: many\n")
    with pytest.raises(RecipeError, match="num_processes is 'many'; write an integer"):
        check_processes(Launch(config=config), {})


# the Hub

FROM_THE_HUB: dict[str, dict[str, Any]] = {
    "model": {"clf": {"model": "someone/some-model"}},
    "tokenizer": {"clf": {"tokenizer": "someone/some-model"}},
    "data set": {"data": {"source": {"hub": "someone/some-data"}}},
    "metric": {"score": {"metrics": ["someone/some-metric"], "trust_remote_code": True}},
}


@pytest.mark.parametrize("change", FROM_THE_HUB.values(), ids=FROM_THE_HUB)
def test_what_is_on_a_hub_that_cannot_be_reached_is_reported_in_seconds(
    change: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "One.", "label": "a"}\n')
    clf = {"kind": "finetune", "task": "text-classification", "data": "stage:data"}
    clf |= {"tokenizer": "stage:words", "model": {"type": "bert"}}
    stages: dict[str, Any] = {
        "data": {"kind": "dataset", "source": {"files": "a.jsonl"}, "split": {"test": 0.5}},
        "words": {"kind": "tokenizer", "data": "stage:data", "algorithm": "wordpiece"},
        "clf": clf,
        "score": {"kind": "evaluate", "model": "stage:clf", "data": "stage:data"},
    }
    for name, settings in change.items():
        stages[name] |= settings
    path = small.write(tmp_path, {"stages": stages})
    assert main(["check", str(path)]) == 0
    capsys.readouterr()
    with within(30):  # libraries ask again for a minute
        assert main(["run", str(path)]) == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert re.search(r"small\.yaml:1:\d+: someone/some-\w+ is on the Hub, which cannot be reached \(", first)
    assert not Path("runs").exists() or not list(Path("runs").rglob("stage.json"))


def test_a_missing_model_to_predict_with_is_reported_as_soon(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with within(30):
        assert main(["predict", "someone/some-model", "The Nile"]) == 2
    assert "someone/some-model is on the Hub, which cannot be reached" in capsys.readouterr().err


@pytest.mark.slow
def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: ended.wait())
    try:
        with within(30):
            assert "did not answer within 2 s" in str(hub.explain_unreachable())
    finally:
        ended.set()


# progress


def test_progress_is_a_line_every_few_percent_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SECONDS", 0)
    with console.show_progress() as progress, progress("topics: encoding\x1b", 1000) as advance:
        for _ in range(1000):
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20
    assert lines[0].startswith("topics: encoding\\x1b: 50 of 1,000 (5 %), ")
    assert lines[-1].startswith("topics: encoding\\x1b: 1,000 of 1,000 (100 %), ")


def test_progress_of_what_is_soon_done_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with console.show_progress() as progress, progress("topics", 3) as advance:
        advance(3)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_curves_and_log_grow_while_a_stage_trains(tmp_path: Path) -> None:
    content = small.recipe(max_steps=20, logging_steps=1, save_strategy="no", eval_strategy="no")
    path, runs = small.write(tmp_path, content), tmp_path / "runs"
    seen: list[tuple[int, int]] = []

    def look() -> None:
        [log] = runs.rglob("pretrain-*/stage.log")
        curves = hfpipe.open(path, runs).curves
        if len(curves):
            seen.append((len(curves), log.read_text(encoding="utf-8").count(": step ")))
            assert len(hfpipe.open(runs / "small").curves) >= len(curves)

    @contextmanager
    def progress(title: str, _: int | None) -> Iterator[Callable[..., None]]:
        def advance(steps: int, note: str = "") -> None:
            if title == "pretrain" and steps:
                look()

        yield advance

    run = hfpipe.run(hfpipe.load(path), runs, until="pretrain", say=lambda _: None, progress=progress)
    curves = run.curves.query("stage == 'pretrain'")
    assert len({points for points, _ in seen}) > 3
    assert len({steps for _, steps in seen}) > 3
    assert max(points for points, _ in seen) <= len(curves)
    assert run.unfinished == {}


@pytest.mark.parametrize("text", ['{"text": ' * 100_000, '{"text": ' + "[" * 100_000])
def test_a_text_that_is_nested_without_end_is_a_text_and_no_json(text: str) -> None:
    assert [row.values for row in inputs.read_input_rows([text], ["text"])] == [{"text": text}]
    with pytest.raises(DataError, match="text 1: the model reads 2 columns; write a JSON object"):
        next(inputs.read_input_rows([text], ["text", "other"]))
