"""The command line: what it loads, prints and returns, and what it does when it is interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import small
from commands import LIMIT, read_line, start_hfpipe, wait_until

from hfpipe import api
from hfpipe.cli.main import main
from hfpipe.report import DataFacts, Report, Score
from hfpipe.store.store import StageFile, Store

HEAVY = ("torch", "transformers", "datasets", "tokenizers", "numpy", "pyarrow", "sklearn", "accelerate")
FACTS = DataFacts(
    columns={"text": "string", "label": "label"},
    splits={"train": 70, "validation": 10, "test": 20},
    labels={"label": ["mountain", "river"]},
)
ROWS = "\n".join(
    json.dumps({"text": f"The river number {number} runs from the hills to the sea.", "label": "river"})
    for number in range(40)
)


def pretend(path: Path, runs: Path, unmet: tuple[str, ...] = ()) -> None:
    """Finish every stage of a recipe without doing its work."""
    recipe = api.load(path)
    for step in api.plan(recipe, runs):
        store = Store(runs / recipe.name)
        folders = {name: f"{name}-{key}" for name, key in step.identity.inputs.items()}
        file = StageFile(name=step.name, base=str(path.parent), folders=folders, identity=step.identity)
        score = Score(
            metric="accuracy", value=0.7, low=0.6, high=0.8, n=20, higher_is_better=True, signature="n:20"
        )
        measures = step.stage.kind == "evaluate"
        report = Report(
            kind=step.stage.kind,
            summary="made",
            data=FACTS if step.stage.kind == "dataset" else None,
            scores=[score] if measures else [],
            unmet=list(unmet) if measures else [],
        )
        store.begin(step.folder, file)
        store.finish(step.folder, report)


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, Path]:
    """Return a recipe of every kind of stage and the runs folder in which all of it is done."""
    path = small.write(tmp_path, small.recipe())
    pretend(path, tmp_path / "runs")
    return path, tmp_path / "runs"


@pytest.fixture
def rivers(tmp_path: Path) -> Path:
    """Return a recipe that makes a data set and a tokenizer from a local file."""
    (tmp_path / "rivers.jsonl").write_text(ROWS, encoding="utf-8")
    stages = {
        "rows": {"kind": "dataset", "source": {"files": "rivers.jsonl"}},
        "words": {"kind": "tokenizer", "data": "stage:rows", "algorithm": "bpe", "vocab_size": 300},
    }
    return small.write(tmp_path, {"name": "rivers", "stages": stages})


LOADED = f"""
import sys
from hfpipe.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(code, sorted({{name.partition(".")[0] for name in sys.modules}} & {set(HEAVY)}), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["--help", "predict", "compare", "check", "plan", "plan of a change", "report", "run"]
)
def test_what_starts_nothing_loads_no_heavy_library(finished: tuple[Path, Path], command: str) -> None:
    path, runs = map(str, finished)
    arguments = {
        "--help": ["--help"],
        "predict": ["predict", "--help"],
        "compare": ["compare", "--help"],
        "check": ["check", path],
        "plan": ["plan", path, "--runs", runs],
        "plan of a change": ["plan", path, "--runs", runs, "--set", "words.vocab_size=900"],
        "report": ["report", path, "--runs", runs],
        "run": ["run", path, "--runs", runs],
    }[command]
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert done.stderr == "0 []\n"
    assert done.stdout


LOADED_BY_STAGES = f"""
import sys
from hfpipe.cli.main import main
path, runs, *stages = sys.argv[1:]
for stage in stages:
    main(["run", path, "--runs", runs, "--until", stage])
    print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {set(HEAVY)}), file=sys.stderr)
"""


@pytest.mark.slow
def test_a_stage_loads_no_heavy_library_that_it_does_not_use(tmp_path: Path) -> None:
    recipe = small.recipe("bert", max_steps=1)
    recipe["stages"]["topics"] |= {"model": small.MODELS["bert"], "tokenizer": "stage:words"}
    stages = ("wiki", "words", "topics")
    done = subprocess.run(
        [sys.executable, "-c", LOADED_BY_STAGES, small.write(tmp_path, recipe), tmp_path / "runs", *stages],
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT,
    )
    rows, words, topics = (set(line.split()) for line in done.stderr.splitlines())
    assert rows == {"datasets", "numpy", "pyarrow"}
    assert words == rows | {"tokenizers", "torch", "transformers"}
    assert topics == set(HEAVY) - {"sklearn"}


def test_plan_says_done_or_why(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path, runs = finished
    code = main(["plan", str(path), "--runs", str(runs), "--set", "topics.training.learning_rate=2e-3"])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert [line.rpartition("-")[0] for line in lines[:3]] == [
        f"{name}: done, {runs}/small/{name}" for name in ("wiki", "words", "pretrain")
    ]
    assert lines[3:6] == [
        "topics: would run",
        "    training.learning_rate: 0.001 → 0.002",
        "score: would run",
    ]
    assert lines[6].startswith("    input topics: ")
    assert len(lines) == 8
    assert re.match(r"    [\d,]+ rows (can show a difference of|are too few)", lines[7])


def test_a_bound_that_is_not_met_ends_with_1_and_the_table_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small.write(tmp_path, small.recipe())
    pretend(path, tmp_path / "runs", unmet=("require: accuracy is 0.7, below 0.8",))
    for _ in range(2):
        assert main(["run", str(path), "--runs", str(tmp_path / "runs")]) == 1
        said = capsys.readouterr()
        assert "not met: require: accuracy is 0.7, below 0.8" in said.out
        assert "accuracy  model   0.7" in said.out
        assert said.err == ""
    assert main(["run", str(path), "--runs", str(tmp_path / "runs"), "--until", "topics"]) == 0


@pytest.mark.slow
def test_a_missing_score_is_reported_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = small.recipe()
    content["stages"]["score"]["require"] = {"acuracy": {"min": 0.5}}
    path, runs = small.write(tmp_path, content), tmp_path / "runs"
    assert main(["run", str(path), "--runs", str(runs)]) == 2
    said = capsys.readouterr()
    assert said.out.startswith("wiki: ")
    assert f"{path}:1:" in said.err
    assert "there is no score 'acuracy' to require; did you mean 'accuracy'?" in said.err
    assert [folder.name.partition("-")[0] for folder in (runs / "small").glob("[a-z]*")] == ["wiki"]
    assert main(["run", str(path), "--runs", str(runs), "--until", "words"]) == 0


def test_a_finished_run_ends_with_0(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path, runs = finished
    assert main(["run", str(path), "--runs", str(runs)]) == 0
    assert "accuracy  model   0.7" in capsys.readouterr().out


WRONG = {
    "an unknown key": ["check", "RECIPE", "--set", "words.vocab_sise=9"],
    "an override without a value": ["run", "RECIPE", "--set", "words.vocab_size"],
    "a recipe that is not there": ["run", "missing.yaml"],
    "a folder in place of a recipe": ["check", "."],
    "an unknown stage": ["plan", "RECIPE", "--until", "nothing"],
    "no processes": ["run", "RECIPE", "--processes", "0"],
    "a config that is not there": ["run", "RECIPE", "--accelerate", "missing.yaml"],
    "nothing to report": ["report", "RECIPE", "--runs", "missing"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_what_is_wrong_in_the_recipe_or_the_arguments_ends_with_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(small.write(tmp_path, small.recipe()))
    assert main([argument.replace("RECIPE", path) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip()
    assert "Traceback" not in said.err
    assert not (tmp_path / "runs" / "small").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--version"], "hfpipe 0."), (["--help"], "COMMAND --help"), (["plan", "--help"], "--sizes")],
)
def test_the_version_and_the_help_are_printed(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("command", [["report"], ["verify"], ["compare", "runs/other"]])
def test_a_run_that_is_not_there_has_to_be_run_first(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command[0], "runs/demo", *command[1:]]) == 2
    assert capsys.readouterr().err == "runs/demo: does not exist; run its recipe first with hfpipe run\n"


def test_a_line_of_a_table_ends_with_its_last_character(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line != line.rstrip()] == [], "a terminal would wrap the spaces"
    assert len({len(line) for line in lines}) > 2


@pytest.mark.parametrize(
    "arguments",
    [[], ["no-such-command"], ["run"], ["plan", "a.yaml", "--what"], ["report", "runs/a", "--explain", "-1"]],
)
def test_arguments_that_make_no_command_end_with_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: hfpipe" in capsys.readouterr().err


def test_a_damaged_folder_ends_with_1_and_debug_shows_where(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, runs = finished
    (folder,) = (runs / "small").glob("wiki-*")
    (folder / "report.json").write_text("{")
    assert main(["plan", str(path), "--runs", str(runs)]) == 1
    plain = capsys.readouterr().err
    assert plain.startswith(f"hfpipe: {folder / 'report.json'}: cannot be read")
    assert plain.count("\n") == 1
    assert main(["plan", str(path), "--runs", str(runs), "--debug"]) == 1
    debug = capsys.readouterr().err
    assert debug.startswith("Traceback")
    assert debug.endswith(plain)


@pytest.mark.parametrize("target", ["wiki", "words"])
def test_a_stage_that_nobody_prepared_is_left_alone(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str], target: str
) -> None:
    (folder,) = (finished[1] / "small").glob(f"{target}-*")
    before = sorted(folder.iterdir())
    assert main(["stage", str(folder)]) == 1
    assert capsys.readouterr().err == (
        f"hfpipe: {folder}: is not a stage in progress; hfpipe run RECIPE prepares stages and starts this\n"
    )
    assert sorted(folder.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "json", "schema", "plan"])
def test_a_reader_that_goes_away_gets_no_trace(finished: tuple[Path, Path], command: str) -> None:
    path, runs = map(str, finished)
    arguments = {
        "report": ["report", path, "--runs", runs],
        "json": ["report", path, "--runs", runs, "--format", "json"],
        "schema": ["schema"],
        "plan": ["plan", path, "--runs", runs],
    }[command]
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [sys.executable, "-m", "hfpipe", *arguments], stdout=writing, stderr=subprocess.PIPE
    ) as command_line:
        os.close(writing)
        _, stderr = command_line.communicate(timeout=LIMIT)
    assert (stderr, command_line.returncode) == (b"", 1)


def test_output_that_does_not_fit_on_a_disk_ends_with_1_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hfpipe", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=LIMIT,
        )
    assert done.returncode == 1
    assert done.stderr == "hfpipe: No space left on device; fix the cause and run again\n"


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Return a function that runs a recipe, which has to end well, and lists the stages that ran."""

    def run(*arguments: str | Path) -> list[str]:
        assert main(["run", *map(str, arguments)]) == 0
        said = [line for line in capsys.readouterr().out.splitlines() if " · " in line]
        return [line.partition(":")[0] for line in said if ": done · " not in line]

    return run


@pytest.mark.slow
def test_real_stages_rerun_below_a_change_and_nowhere_else(
    rivers: Path, tmp_path: Path, told: Callable[..., list[str]]
) -> None:
    runs = tmp_path / "runs"
    assert told(rivers, "--runs", runs) == ["rows", "words"]
    assert told(rivers, "--runs", runs, "--processes", "2") == []
    assert told(rivers, "--runs", runs, "--set", "words.vocab_size=301") == ["words"]
    (tmp_path / "rivers.jsonl").write_text(ROWS.replace("hills", "rills", 1), encoding="utf-8")
    assert told(rivers, "--runs", runs) == ["rows", "words"]
    (tmp_path / "rivers.jsonl").write_text(ROWS, encoding="utf-8")
    runs.rename(tmp_path / "moved")
    assert told(rivers, "--runs", tmp_path / "moved") == []


SLOW = """
from pathlib import Path

def rows():
    here = Path(__file__).parent
    (here / "began").write_text("")
    with (here / "gate").open() as gate:
        for line in gate:
            yield {"text": line.strip()}
"""


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    """Return a recipe whose source reads a pipe, and so waits until somebody writes to it."""
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    os.mkfifo(tmp_path / "gate")
    rows = {"kind": "dataset", "source": {"python": "slow.py:rows"}}
    return small.write(tmp_path, {"name": "gated", "stages": {"rows": rows}})


def running(path: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start a run in a process of its own, which ends with the test."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return start_hfpipe("run", path, "--runs", path.parent / "runs", **pipes)


def open_gate(path: Path) -> None:
    (path.parent / "gate").write_text("The Nile\nThe Rhine\n", encoding="utf-8")


@pytest.mark.slow
def test_a_second_run_waits_and_names_the_process_that_holds_the_lock(gated: Path) -> None:
    with running(gated) as first:
        wait_until((gated.parent / "began").exists)
        with running(gated) as second:
            waiting = read_line(second)
            open_gate(gated)
            ends = [process.communicate(timeout=LIMIT) for process in (first, second)]
    assert waiting == f"rows: waiting for process {first.pid} on {os.uname().nodename}, which is running it\n"
    assert [(first.returncode, second.returncode), *(stderr for _, stderr in ends)] == [(0, 0), "", ""]
    assert all("2 rows" in stdout for stdout, _ in ends)
    assert len(list((gated.parent / "runs" / "gated").glob("rows-*"))) == 1


@pytest.mark.slow
def test_a_run_that_waited_for_one_that_was_killed_takes_its_place(gated: Path) -> None:
    began = gated.parent / "began"
    with running(gated) as first:
        wait_until(began.exists)
        (folder,) = (gated.parent / "runs" / "gated").glob("rows-*")
        with running(gated) as second:
            assert read_line(second).startswith(f"rows: waiting for process {first.pid}")
            began.unlink()
            first.send_signal(signal.SIGKILL)
            first.wait()
            wait_until(began.exists)
            assert not (folder / "report.json").exists()
            open_gate(gated)
            stdout, stderr = second.communicate(timeout=LIMIT)
    assert (second.returncode, stderr) == (0, "")
    assert "2 rows" in stdout
    assert (folder / "report.json").exists()


@pytest.mark.slow
def test_an_interrupted_run_ends_with_130_and_says_how_to_resume(
    gated: Path,
) -> None:
    with running(gated) as run:
        wait_until((gated.parent / "began").exists)
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate(timeout=LIMIT)
    assert run.returncode == 130
    assert stderr == "hfpipe: stage rows: stopped by SIGINT; run the same command again to resume\n"
    (folder,) = (gated.parent / "runs" / "gated").glob("rows-*")
    assert not (folder / "report.json").exists()


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_with_1_in_one_line(
    rivers: Path, tmp_path: Path, told: Callable[..., list[str]]
) -> None:
    runs = tmp_path / "runs"
    assert told(rivers, "--runs", runs, "--until", "rows") == ["rows"]
    before = {path: path.read_bytes() for path in (runs / "rivers").rglob("*") if path.is_file()}
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); "
    program = limit + "from hfpipe.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, "run", rivers, "--runs", runs],  # -B: modules would be cut, too
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("hfpipe: stage words: ")
    assert "File too large" in done.stderr
    assert all(path.read_bytes() == content for path, content in before.items())
    assert told(rivers, "--runs", runs) == ["words"]
