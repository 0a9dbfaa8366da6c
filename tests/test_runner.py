"""What runs again and what does not, why, and what a run that fails leaves behind."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toys
from commands import LIMIT

from hfpipe.errors import DataError, RecipeError, StageError
from hfpipe.runner import Launch, plan_recipe, run_recipe
from hfpipe.runner.failures import translate_errors
from hfpipe.store.store import is_done, read_report


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe of toys whose every stage is done."""
    folder = tmp_path_factory.mktemp("finished")
    toys.make(toys.write(folder / "recipes"), folder / "runs")
    return folder


@pytest.fixture
def recipe(finished: Path, tmp_path: Path) -> Path:
    """Return a recipe of toys whose every stage is done in `tmp_path/runs`."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "recipes" / "toy.yaml"


def content(folder: Path) -> dict[str, str]:
    """Return the digest of every file of a folder, the locks left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_a_finished_run_does_nothing_when_run_again(recipe: Path, tmp_path: Path) -> None:
    before = content(tmp_path / "runs")
    said = toys.make(recipe, tmp_path / "runs")
    assert [line.partition(" ")[0] for line in said] == [f"{name}:" for name in toys.ALL]
    assert all(": done · " in line for line in said)
    assert content(tmp_path / "runs") == before


UNCHANGED = {
    "a comment": ("name: toy", "name: toy  # of rivers"),
    "a blank line": ("stages:\n", "stages:\n\n"),
    "the order of keys": (
        "    data: stage:names\n    size: 8",
        "    size: 8\n    data: stage:names",
    ),
    "the order of keys inside": (
        "{validation: 0.25, test: 0.25}",
        "{test: 0.25, validation: 0.25}",
    ),
    "a default spelled out": ("    size: 8", "    size: 8\n    lowercase: false"),
    "a null that is the default": ('["data/*.tsv"]', '["data/*.tsv"]\n    limit: null'),
    "another way to write a number": ("learning_rate: 0.1", "learning_rate: 1e-1"),
    "another way to write text": ("kind: tokenizer", "'kind': \"tokenizer\""),
    "a stage that nothing reads": (
        "  words:\n    kind: tokenizer\n    data: stage:names\n    size: 8\n",
        "  more: {kind: tokenizer, data: stage:names}\n"
        "  words:\n    kind: tokenizer\n    data: stage:names\n    size: 8\n",
    ),
}


@pytest.mark.parametrize(("before", "after"), UNCHANGED.values(), ids=UNCHANGED)
def test_what_means_the_same_reruns_nothing(recipe: Path, tmp_path: Path, before: str, after: str) -> None:
    edit(recipe, before, after)
    would = toys.reasons(recipe, tmp_path / "runs")
    assert set(would) <= {"more"}


CHANGED = {
    "a learning rate": ("learning_rate: 0.1", "learning_rate: 0.2", ["topics", "score"]),
    "a vocabulary": ("size: 8", "size: 9", ["words", "topics", "score"]),
    "a default's change": ("    size: 8", "    size: 8\n    lowercase: true", ["words", "topics", "score"]),
    "a share": ("validation: 0.25", "validation: 0.5", toys.ALL),
    "the seed": ("seed: 17", "seed: 18", toys.ALL),
    "the name of the run": ("name: toy", "name: other", toys.ALL),
    "the last stage": (
        "    model: stage:topics",
        "    model: stage:topics\n    require: {a: 1.0}",
        ["score"],
    ),
}


@pytest.mark.parametrize(("before", "after", "below"), CHANGED.values(), ids=CHANGED)
def test_a_change_reruns_what_is_below_it_and_nothing_else(
    recipe: Path, tmp_path: Path, before: str, after: str, below: list[str]
) -> None:
    edit(recipe, before, after)
    assert list(toys.reasons(recipe, tmp_path / "runs")) == below
    kept = content(tmp_path / "runs")
    said = toys.make(recipe, tmp_path / "runs")
    assert [line.partition(":")[0] for line in said if ": done · " not in line] == below
    assert kept.items() <= content(tmp_path / "runs").items()
    assert toys.reasons(recipe, tmp_path / "runs") == {}


def test_what_is_changed_back_is_still_there(recipe: Path, tmp_path: Path) -> None:
    toys.make(recipe, tmp_path / "runs", ["words.size=5"])
    assert toys.reasons(recipe, tmp_path / "runs") == {}


def test_a_set_on_the_command_line_is_what_the_recipe_could_say(recipe: Path, tmp_path: Path) -> None:
    toys.make(recipe, tmp_path / "runs", ["topics.training.learning_rate=0.2"])
    edit(recipe, "learning_rate: 0.1", "learning_rate: 0.2")
    assert toys.reasons(recipe, tmp_path / "runs") == {}


def test_one_byte_of_a_data_file_reruns_everything_below(recipe: Path, tmp_path: Path) -> None:
    edit(recipe.parent / "data" / "topics.tsv", "K2", "K3")
    assert toys.reasons(recipe, tmp_path / "runs")["names"] == ("file data/topics.tsv: content changed",)
    assert list(toys.reasons(recipe, tmp_path / "runs")) == toys.ALL


def test_a_file_that_joins_or_leaves_a_pattern_reruns_everything_below(recipe: Path, tmp_path: Path) -> None:
    data = recipe.parent / "data"
    (data / "more.tsv").write_text("The Rhine\triver\n", encoding="utf-8")
    assert toys.reasons(recipe, tmp_path / "runs")["names"] == ("file data/more.tsv: added",)
    (data / "more.tsv").rename(data / "more.txt")
    assert toys.reasons(recipe, tmp_path / "runs") == {}
    (data / "topics.tsv").rename(data / "names.tsv")
    assert toys.reasons(recipe, tmp_path / "runs")["names"] == (
        "file data/names.tsv: added",
        "file data/topics.tsv: removed",
    )


def test_the_text_of_user_code_is_part_of_the_key(recipe: Path, tmp_path: Path) -> None:
    edit(recipe.parent / "code.py", "upper()", "lower()")
    assert toys.reasons(recipe, tmp_path / "runs")["names"] == ("file code.py: content changed",)
    assert list(toys.reasons(recipe, tmp_path / "runs")) == toys.ALL


def test_a_moved_runs_folder_and_a_moved_recipe_rerun_nothing(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").rename(tmp_path / "moved runs")
    recipe.parent.rename(tmp_path / "moved recipes")
    assert toys.reasons(tmp_path / "moved recipes" / "toy.yaml", tmp_path / "moved runs") == {}


def test_where_one_stands_reruns_nothing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    assert toys.reasons(Path("toy.yaml"), Path("../runs")) == {}


def test_the_number_of_processes_reruns_nothing(recipe: Path, tmp_path: Path) -> None:
    said = toys.make(recipe, tmp_path / "runs", launch=Launch(processes=2))
    assert [line.partition(" · ")[0] for line in said] == [f"{name}: done" for name in toys.ALL]


def test_a_new_version_of_a_stage_reruns_it(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toys.Words, "version", 2)
    assert toys.reasons(recipe, tmp_path / "runs")["words"] == (
        "hfpipe's own code for tokenizer changed: version 1 → 2",
    )


WHY = {
    "a number": ("topics", ["topics.training.learning_rate=0.2"], "training.learning_rate: 0.1 → 0.2"),
    "a default": ("words", ["words.lowercase=true"], "lowercase: false → true"),
    "something new": ("names", ["names.limit=3"], "limit: not set → 3"),
    "a new key": ("topics", ["topics.training.max_steps=3"], "training.max_steps: not set → 3"),
    "a new mapping": ("score", ["score.require={f1: 0.5}"], "require.f1: not set → 0.5"),
    "a list": ("names", ["names.files=[data/topics.tsv]"], 'files: ["data/*.tsv"] → ["data/topics.tsv"]'),
    "the seed": ("names", ["seed=4"], "seed: 17 → 4"),
}


@pytest.mark.parametrize(("stage", "overrides", "why"), WHY.values(), ids=WHY)
def test_the_plan_says_which_setting_changed(
    recipe: Path, tmp_path: Path, stage: str, overrides: list[str], why: str
) -> None:
    assert toys.reasons(recipe, tmp_path / "runs", overrides)[stage] == (why,)


def test_the_plan_says_which_input_changed(recipe: Path, tmp_path: Path) -> None:
    old, new = (toys.steps(recipe, tmp_path / "runs", over) for over in ([], ["words.size=5"]))
    assert new[2].why == (f"input words: {old[1].identity.key} → {new[1].identity.key}",)


def test_a_change_that_is_not_visible_is_still_reported(recipe: Path, tmp_path: Path) -> None:
    why = toys.reasons(recipe, tmp_path / "runs", ["topics.training.eval_steps=null"])
    assert why["topics"] == ("its settings differ only in notation",)


def test_a_plan_compares_with_the_newest_run_of_a_stage(recipe: Path, tmp_path: Path) -> None:
    toys.make(recipe, tmp_path / "runs", ["words.size=5"])
    for folder in (tmp_path / "runs" / "toy").glob("words-*"):
        if '"size":5' not in (folder / "stage.json").read_text().replace(" ", ""):
            os.utime(folder / "report.json", (1, 1))
    assert toys.reasons(recipe, tmp_path / "runs", ["words.size=6"])["words"] == ("size: 5 → 6",)


def test_a_stage_that_never_ran_says_so(tmp_path: Path) -> None:
    path = toys.write(tmp_path)
    assert toys.reasons(path, tmp_path / "runs") == dict.fromkeys(toys.ALL, ("has not run yet",))


@pytest.mark.parametrize(
    ("until", "stages"),
    [("words", ["names", "words"]), ("finetune", ["names", "words", "topics"]), ("dataset", ["names"])],
)
def test_until_names_a_stage_or_a_kind(tmp_path: Path, until: str, stages: list[str]) -> None:
    path = toys.write(tmp_path)
    said = toys.make(path, tmp_path / "runs", until=until)
    assert [line.partition(":")[0] for line in said] == stages
    assert list(toys.reasons(path, tmp_path / "runs")) == toys.ALL[len(stages) :]


def test_until_a_kind_goes_as_far_as_the_last_of_it(tmp_path: Path) -> None:
    path = toys.write(tmp_path)
    edit(path, "  score:", "  again: {kind: tokenizer, data: stage:names}\n  score:")
    steps = plan_recipe(toys.read(path), tmp_path / "runs", "tokenizer")
    assert [step.name for step in steps] == ["names", "words", "topics", "again"]


@pytest.mark.parametrize(
    ("until", "fix"),
    [
        ("topic", "did you mean 'topics'?"),
        ("fine-tune", "did you mean 'finetune'?"),
        (
            "zebra",
            "there is 'names', 'words', 'topics', 'score', 'dataset', 'tokenizer', 'finetune' and 'evaluate'",
        ),
    ],
)
def test_until_something_unknown_is_refused_with_what_there_is(tmp_path: Path, until: str, fix: str) -> None:
    with pytest.raises(RecipeError) as caught:
        toys.make(toys.write(tmp_path), tmp_path / "runs", until=until)
    assert str(caught.value) == f"--until {until}: no such stage or kind; {fix}"
    assert not (tmp_path / "runs" / "toy").exists()


def test_a_failure_leaves_what_is_finished_as_it_was(recipe: Path, tmp_path: Path) -> None:
    before = content(tmp_path / "runs")
    with pytest.raises(StageError, match="the loss is nan at step 3"):
        toys.make(recipe, tmp_path / "runs", ["topics.fails=true"])
    assert before.items() <= content(tmp_path / "runs").items()
    (failed,) = (
        step
        for step in plan_recipe(toys.read(recipe, ["topics.fails=true"]), tmp_path / "runs", "topics")[2:]
    )
    assert (failed.done, failed.why) == (False, ("interrupted; will resume",))
    assert "lower learning_rate" in (failed.folder / "stage.log").read_text(encoding="utf-8")
    assert "Traceback" in (failed.folder / "stage.log").read_text(encoding="utf-8")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import toys

def run(self, ctx):
    (ctx.folder / "half.txt").write_text("half of it")
    os.kill(os.getpid(), signal.SIGKILL)

toys.Topics.run = run
toys.make(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_run_is_taken_up_by_the_next(tmp_path: Path) -> None:
    path, runs = toys.write(tmp_path), tmp_path / "runs"
    program = KILLED.format(tests=str(Path(__file__).parent))
    killed = subprocess.run([sys.executable, "-c", program, path, runs], check=False, timeout=LIMIT)
    assert killed.returncode == -9
    finished = {
        name: text for name, text in content(runs).items() if name.startswith(("toy/names", "toy/words"))
    }
    (folder,) = (runs / "toy").glob("topics-*")
    assert sorted(item.name for item in folder.iterdir()) == [".work", "half.txt", "stage.json", "stage.log"]
    assert toys.reasons(path, runs) == {
        "topics": ("interrupted; will resume",),
        "score": ("has not run yet",),
    }
    said = toys.make(path, runs)
    assert [": done · " in line for line in said] == [True, True, False, False]
    assert not (folder / "half.txt").exists()
    assert finished.items() <= content(runs).items()


def test_the_report_is_written_last_and_the_scratch_removed(recipe: Path, tmp_path: Path) -> None:
    for step in toys.steps(recipe, tmp_path / "runs"):
        times = {item.name: item.stat().st_mtime_ns for item in step.folder.iterdir()}
        assert max(times.values()) == times["report.json"]
        assert ".work" not in times


def test_a_report_says_how_long_it_took_and_with_which_libraries(recipe: Path, tmp_path: Path) -> None:
    report = read_report(toys.steps(recipe, tmp_path / "runs")[0].folder)
    assert report.seconds > 0
    assert {"hfpipe", "torch", "transformers"} <= report.versions.keys()


def test_what_changes_while_it_runs_does_not_lose_the_run(tmp_path: Path) -> None:
    path = toys.write(tmp_path)

    def meddle(line: str) -> None:
        if line.startswith("score"):
            edit(tmp_path / "code.py", "upper()", "lower()")

    steps = run_recipe(toys.read(path), tmp_path / "runs", say=meddle, progress=toys.no_progress)
    assert all(step.done and is_done(step.folder) for step in steps)


def test_a_runs_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StageError) as caught:
        toys.make(toys.write(tmp_path), tmp_path / "runs")
    message = str(caught.value)
    assert message.startswith(f"stage names: {tmp_path}/runs")
    assert message.endswith("; fix the cause and run again; finished stages are kept")
    assert "\n" not in message


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(self: toys.Topics, ctx: Any) -> Any:
        with Path("/dev/full").open("w") as file:
            file.write("model")
        raise AssertionError("a full disk took it")

    before = content(tmp_path / "runs")
    with monkeypatch.context() as full:
        full.setattr(toys.Topics, "run", fill)
        with pytest.raises(StageError) as caught:
            toys.make(recipe, tmp_path / "runs", ["topics.training.learning_rate=0.3"])
    assert str(caught.value).startswith("stage topics: ")
    assert str(caught.value).endswith(
        ": No space left on device; free disk space and run again; finished stages are kept"
    )
    assert before.items() <= content(tmp_path / "runs").items()
    said = toys.make(recipe, tmp_path / "runs", ["topics.training.learning_rate=0.3"])
    assert [": done · " in line for line in said] == [True, True, False, False]


REFUSED = {
    "a full disk": (
        OSError(errno.ENOSPC, "No space left on device", "/runs/model.safetensors"),
        "/runs/model.safetensors: No space left on device; "
        "free disk space and run again; finished stages are kept",
    ),
    "a full disk, told by a library in Rust": (
        Exception("I/O error: No space left on device (os error 28)"),
        "FOLDER: No space left on device; free disk space and run again; finished stages are kept",
    ),
    "a file that may not be read": (
        PermissionError(errno.EACCES, "Permission denied", "/corpus.txt"),
        "/corpus.txt: Permission denied; fix the cause and run again; finished stages are kept",
    ),
    "no memory": (
        MemoryError(),
        "out of memory; halve per_device_train_batch_size and double gradient_accumulation_steps, "
        "or lower batch_size to evaluate; the results do not change",
    ),
    "no memory, told by torch": (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 TB"),
        "out of memory; halve per_device_train_batch_size and double gradient_accumulation_steps, "
        "or lower batch_size to evaluate; the results do not change",
    ),
}


@pytest.mark.parametrize(("error", "line"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("limit", [resource.RLIM_INFINITY, 2**40], ids=["any memory", "a memory limit"])
def test_what_the_machine_refuses_is_one_line_with_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str, limit: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    if line.startswith("out of memory") and limit != resource.RLIM_INFINITY:
        line += "; or raise the limit that `ulimit -v` prints"

    def fail(self: toys.Words, ctx: Any) -> Any:
        raise error

    monkeypatch.setattr(toys.Words, "run", fail)
    path, runs = toys.write(tmp_path), tmp_path / "runs"
    with pytest.raises(StageError) as caught:
        toys.make(path, runs)
    folder = toys.steps(path, runs)[1].folder
    assert str(caught.value) == f"stage words: {line.replace('FOLDER', str(folder))}"
    assert "Traceback" in (folder / "stage.log").read_text(encoding="utf-8")


def test_an_error_of_user_code_is_kept_behind_the_line_that_names_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toys.Words, "run", lambda self, ctx: {}["label"])
    with pytest.raises(
        StageError, match=r"^stage words: KeyError: 'label'; the trace is in .*stage\.log"
    ) as caught:
        toys.make(toys.write(tmp_path), tmp_path / "runs")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_damaged_report_of_a_finished_stage_is_one_line(recipe: Path, tmp_path: Path) -> None:
    folder = toys.steps(recipe, tmp_path / "runs")[0].folder
    (folder / "report.json").write_text("{")
    with pytest.raises(
        StageError, match=f"delete {folder} and run its recipe again, which recreates it"
    ) as caught:
        toys.make(recipe, tmp_path / "runs")
    assert "\n" not in str(caught.value)


def test_an_empty_runs_folder_is_not_made_by_a_plan_that_fails(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        plan_recipe(toys.read(toys.write(tmp_path)), tmp_path / "runs", "nothing")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("message", ["row 7: has no answer", "stage tests: row 7: has no answer"])
def test_what_goes_wrong_with_the_data_names_the_stage_once(context: Any, message: str) -> None:
    with (
        pytest.raises(DataError) as caught,
        translate_errors(context("tests")),
        translate_errors(context("tests")),
    ):
        raise DataError(message)
    assert str(caught.value) == "stage tests: row 7: has no answer"


def test_a_gpu_allocator_grows_its_segments_while_stages_run_unless_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    path = toys.write(tmp_path / "recipes")
    code = "import os\ndef upper(text):\n    return str(os.environ.get('PYTORCH_CUDA_ALLOC_CONF'))\n"
    (path.parent / "code.py").write_text(code, encoding="utf-8")

    def seen(runs: str) -> set[str]:
        toys.make(path, tmp_path / runs)
        assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ
        [rows] = (tmp_path / runs).glob("*/names-*/rows.tsv")
        return set(rows.read_text(encoding="utf-8").splitlines())

    assert seen("usual") == {"expandable_segments:True"}
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    assert seen("told") == {"None"}
