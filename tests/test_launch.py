"""Several processes: how many there are, who waits for whom, and what is said when one fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small
import toys
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from commands import LIMIT

from hfpipe.distributed.world import ASKED, check_world, get_rank
from hfpipe.errors import RecipeError, StageError
from hfpipe.runner import Launch
from hfpipe.runner.launch import check_launch
from hfpipe.store.store import is_done

TESTS = Path(__file__).parent
CONFIGS = small.ROOT / "recipes" / "accelerate"


def test_fewer_processes_than_asked_for_stop_the_stage() -> None:
    with pytest.raises(
        StageError, match="4 processes were requested, 2 started; check the Accelerate config"
    ):
        check_world({ASKED: "4", "WORLD_SIZE": "2"})
    with pytest.raises(StageError, match="2 processes were requested, 1 started"):
        check_world({ASKED: "2"})


@pytest.mark.parametrize(
    "environ", [{}, {"WORLD_SIZE": "2"}, {ASKED: "2", "WORLD_SIZE": "2"}, {ASKED: "1"}, {"MASTER_PORT": "1"}]
)
def test_as_many_processes_as_asked_for_are_fine(environ: dict[str, str]) -> None:
    check_world(environ)


def set_by_accelerate(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, str]:
    """Return the environment that `accelerate launch --cpu` gives to a single process."""
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "MASTER_", "WORLD_"))]:
        monkeypatch.delenv(name)
    options = launch_command_parser().parse_args(["--cpu", *arguments, "-m", "hfpipe"])
    return prepare_simple_launcher_cmd_env(_validate_launch_command(options)[0])[1]


def test_one_process_in_place_of_several_is_noticed_by_what_accelerate_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_world(set_by_accelerate(monkeypatch, "--num_processes", "1"))
    with pytest.raises(StageError, match="started one process instead of several, as it does with --cpu"):
        check_world(set_by_accelerate(monkeypatch, "--num_processes", "2"))


@pytest.mark.parametrize("processes", [0, -1])
def test_no_processes_at_all_are_refused(processes: int) -> None:
    with pytest.raises(RecipeError, match=f"--processes {processes}: must be at least 1"):
        check_launch(Launch(processes=processes))


MACHINES = "distributed_type: MULTI_CPU\nnum_machines: {}\n"
MERGES = "".join(
    ["a0: &a0 {x: 1}\n", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 31))]
)
"""What PyYAML alone takes hours to read."""


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("a: [", "cannot be read (while parsing a flow node)"),
        (MERGES, "cannot be read (it contains an alias (*NAME); write the value there)"),
        ("a: " + "[" * 50_000, "cannot be read (it is nested deeper than 20 levels)"),
        ("#" * 100_001, "cannot be read (it is too long for an Accelerate config)"),
        (MACHINES.format("two"), "num_machines is 'two'; write an integer of at least 1"),
        (MACHINES.format("[1]"), "num_machines is [1]; write an integer of at least 1"),
        (MACHINES.format("0"), "num_machines is 0; write an integer of at least 1"),
        ("stages: {}", "is not an Accelerate config, which has a distributed_type; see recipes/accelerate"),
        ("- 1", "is not an Accelerate config, which has a distributed_type; see recipes/accelerate"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path: Path, content: str | None, cause: str) -> None:
    config = tmp_path / "ddp.yaml"
    if content is not None:
        config.write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        check_launch(Launch(config=config))
    assert str(caught.value) == f"--accelerate {config}: {cause}"


def test_a_config_for_several_machines_names_the_command_for_each() -> None:
    config = CONFIGS / "multi-node.yaml"
    with pytest.raises(RecipeError) as caught:
        check_launch(Launch(config=config))
    assert str(caught.value) == (
        f"--accelerate {config}: for several machines run, on each, "
        f"accelerate launch --config_file {config} -m hfpipe run RECIPE"
    )


def test_every_shipped_config_for_one_machine_is_taken() -> None:
    refused = {}
    here = [file for file in CONFIGS.glob("*.yaml") if "deepspeed" not in file.stem]
    assert len(here) > 4
    for config in here:
        try:
            check_launch(Launch(config=config))
        except RecipeError as error:
            refused[config.stem] = str(error)
    assert list(refused) == ["multi-node"]
    assert "for several machines run, on each, accelerate launch" in refused["multi-node"]


def test_a_launcher_under_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RecipeError, match="not under a launcher"):
        check_launch(Launch(processes=2))
    check_launch(Launch())
    assert get_rank() == 1


@pytest.mark.slow
def test_accelerate_launch_that_starts_one_of_two_is_stopped(tmp_path: Path) -> None:
    launcher = ("accelerate.commands.launch", "--cpu", "--num_processes", "2")
    path = small.write(tmp_path, small.recipe())
    done = small.hfpipe("run", path, "--runs", tmp_path / "runs", launcher=launcher)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("hfpipe: ")]
    assert line.startswith("hfpipe: accelerate launch started one process instead of several")
    assert line.endswith("or hfpipe run --processes N")
    assert "returned non-zero exit status 1" in done.stderr  # which is what Accelerate says of our exit code
    assert not (tmp_path / "runs").exists()


FOLLOWER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import toys

def run(self, ctx):
    sys.exit("began a stage that nobody had prepared")

toys.Topics.run = run
said = toys.make(Path(sys.argv[1]), Path(sys.argv[2]))
sys.exit("said " + said[0] if said else 0)
"""


def follow(path: Path, runs: Path) -> subprocess.Popen[str]:
    """Start the second of two processes of a launcher whose first one never comes."""
    program = FOLLOWER.format(tests=str(TESTS))
    environ = os.environ | {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1"}
    command = [sys.executable, "-c", program, str(path), str(runs)]
    return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_process_that_follows_notices_what_another_run_has_finished(tmp_path: Path) -> None:
    path, runs = toys.write(tmp_path), tmp_path / "runs"
    with follow(path, runs) as follower:
        time.sleep(1)
        assert follower.poll() is None
        toys.make(path, runs)
        _, stderr = follower.communicate(timeout=LIMIT)
    assert (follower.returncode, stderr) == (0, "")


@pytest.mark.slow
def test_what_an_earlier_start_prepared_is_not_taken_for_ready(tmp_path: Path) -> None:
    path, runs = toys.write(tmp_path), tmp_path / "runs"
    toys.make(path, runs, until="words")
    (folder,) = [step.folder for step in toys.steps(path, runs) if step.name == "topics"]
    (folder / ".work").mkdir(parents=True)
    (folder / ".work" / "ready").write_text(json.dumps([0, "none", "0", "localhost", "29500", ""]))
    with follow(path, runs) as follower:
        time.sleep(1)
        assert follower.poll() is None
        toys.make(path, runs)
        _, stderr = follower.communicate(timeout=LIMIT)
    assert (follower.returncode, stderr) == (0, "")
    assert is_done(folder)


OWN_TASK = """
import os
from hfpipe.errors import StageError
from dataclasses import replace
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.text_classification.runtime import TextClassificationEncoder

class FailsEncoder(TextClassificationEncoder):
    def collate(self, examples, tokenizer, seed, *, train):
        if os.environ.get("RANK") == "1":
            raise StageError("a label is missing; fix the data")
        return super().collate(examples, tokenizer, seed, train=train)

class Fails(TextClassification):
    kind: str = "task.py:Fails"

    def runtime(self):
        return replace(super().runtime(), encoder=FailsEncoder(self))
"""


@pytest.mark.slow
def test_one_process_that_fails_is_named_with_its_cause_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(OWN_TASK, encoding="utf-8")
    recipe = small.recipe()
    recipe["stages"]["topics"] |= {
        "task": {"kind": "task.py:Fails", "length": 32},
        "tokenizer": "stage:words",
        "model": small.MODELS["bert"],
    }
    del recipe["stages"]["pretrain"]
    path = small.write(tmp_path, recipe)
    done = small.hfpipe("run", path, "--runs", tmp_path / "runs", "--until", "topics", "--processes", "2")
    (folder,) = (tmp_path / "runs" / "small").glob("topics-*")
    cause = "a label is missing; fix the data"
    (line,) = done.stderr.splitlines()
    place, found = line.split("stage topics: ")
    assert found == f"process 1: {cause}; the log is {folder / 'stage.log'}"
    file, row, column, _ = place.removeprefix("hfpipe: ").split(":")
    assert (file, row) == (str(path), "1")
    assert path.read_text()[int(column) - 1 :].startswith('{"kind": "finetune"')
    assert done.returncode == 1
    assert not (folder / "report.json").exists()
    assert "collate" in (folder / "stage.log").read_text(encoding="utf-8")
