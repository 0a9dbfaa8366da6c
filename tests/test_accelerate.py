"""The Accelerate configs next to the recipes: read by Accelerate's parser, and started where a CPU can."""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import small
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_extend_env_parallelism_config
from commands import LIMIT

from hfpipe.cli.main import main
from hfpipe.distributed.process_layout import ProcessLayout, Split, read_process_layout
from hfpipe.encoding.sampler import BatchLayout, compute_batch_layout
from hfpipe.errors import RecipeError
from hfpipe.runner import Launch
from hfpipe.runner.accelerate_file import find_config_problems, read_accelerate_file, read_known_keys
from hfpipe.runner.launch import check_processes
from hfpipe.stages import restore_stage

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "recipes" / "accelerate"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
EXPECTED = {"single", "ddp", "ddp-cpu", "fsdp", "deepspeed-zero2", "deepspeed-zero3", "multi-node"}
EXPECTED |= {"hybrid-shard", "tensor-parallel", "context-parallel"}
SCRIPT = FOLDER / "slurm.sh"

each_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)


def launched(config: Path) -> argparse.Namespace:
    """Return what `accelerate launch --config_file CONFIG -m hfpipe` would start with."""
    arguments = launch_command_parser().parse_args(["--config_file", str(config), "-m", "hfpipe"])
    return _validate_launch_command(arguments)[0]


def test_every_promised_config_is_there() -> None:
    assert {path.stem for path in CONFIGS} == EXPECTED


@each_config
def test_accelerate_reads_the_config(config: Path) -> None:
    assert isinstance(load_config_from_file(str(config)), ClusterConfig)


@each_config
def test_launch_takes_every_nested_key(config: Path) -> None:
    """The parser refuses unknown keys at the top only; below, launch would set and forget them."""
    known = vars(launch_command_parser().parse_args(["-m", "hfpipe"]))
    settings = load_config_from_file(str(config))
    nested = {*settings.fsdp_config, *settings.deepspeed_config, *settings.dynamo_config}
    nested |= {*settings.parallelism_config}
    assert nested <= set(known)


def test_known_keys_are_those_that_the_installed_accelerate_takes() -> None:
    top, options = read_known_keys()
    assert set(top) == {field.name for field in dataclasses.fields(ClusterConfig)}
    spelled = {text for action in launch_command_parser()._actions for text in action.option_strings}
    names = {text[2:].replace("-", "_") for text in spelled if text.startswith("--")}
    assert names == set(options) - {"positional", "training_script", "training_script_args"}


@each_config
def test_launch_starts_as_many_processes_as_the_config_says(config: Path) -> None:
    settings, arguments = load_config_from_file(str(config)), launched(config)
    assert arguments.num_processes == settings.num_processes
    one_of = [arguments.multi_gpu, arguments.use_fsdp, arguments.use_deepspeed]
    assert sum(one_of) == (settings.num_processes > 1)


@each_config
def test_precision_and_batch_are_left_to_the_recipe(config: Path) -> None:
    assert launched(config).mixed_precision == "no"
    assert not {"gradient_accumulation_steps", "gradient_clipping"} & set(
        load_config_from_file(str(config)).deepspeed_config
    )


@each_config
def test_the_header_says_how_to_run_it(config: Path) -> None:
    header = config.read_text(encoding="utf-8").partition("compute_environment")[0]
    assert str(config.relative_to(ROOT)) in header
    assert "hfpipe run" in header


FSDP2 = "fsdp_version: 2\n  fsdp_state_dict_type: FULL_STATE_DICT"
GROUPS = "parallelism_config:\n  parallelism_config_"


@pytest.mark.parametrize(
    ("kind", "lines", "place", "cause"),
    [
        (
            "FSDP",
            "fsdp_config:\n  fsdp_version: 2",
            "4:1",
            "fsdp_state_dict_type is None, which saves no folder",
        ),
        ("FSDP", f"fsdp_config:\n  state_dict_type: X\n  {FSDP2}", "5:3", "unknown key 'fsdp_verion'"),
        ("FSDP", "fsdp_config:\n  fsdp_state_dict_type: FULL_STATE_DICT", "4:1", "fsdp_version is 1; write"),
        (
            "FSDP",
            f"fsdp_config:\n  {FSDP2}\n  sharding_strategy: HYBRID_SHARD",
            "7:3",
            "FSDP2 ignores fsdp_shar",
        ),
        (
            "DEEPSPEED",
            "deepspeed_config:\n  zero_stage: 3",
            "5:3",
            "ZeRO-3 does not save the full model; write zero3_",
        ),
        ("DEEPSPEED", "use_cpu: true", "4:1", "Accelerate does not use DeepSpeed on a CPU, and would train"),
        (
            "MULTI_GPU",
            f"{GROUPS}tp_size: 3",
            "4:1",
            "is 3 and num_processes is 4; write num_processes: 3, or",
        ),
        (
            "MULTI_GPU",
            "parallelism_config:\n  tp_size: 4",
            "5:3",
            "did you mean 'parallelism_config_tp_size'?",
        ),
        ("MULTI_GPU", f"{GROUPS}sp_size: 4", "5:3", "hfpipe does not split sequences for DeepSpeed"),
        ("FSDP", f"use_cpu: true\n{GROUPS}cp_size: 4", "6:3", "context parallel attention needs GPUs"),
        ("FSDP", f"{GROUPS}tp_size: 2\n  parallelism_config_cp_size: 2", "6:3", "cannot both be over 1"),
        ("MULTI_GPU", "num_machine: 1", "4:1", "unknown key 'num_machine'; did you mean 'num_machines'?"),
    ],
)
def test_what_would_be_ignored_or_fail_later_is_found_with_its_place(
    tmp_path: Path, kind: str, lines: str, place: str, cause: str
) -> None:
    config = tmp_path / "own.yaml"
    head = f"compute_environment: LOCAL_MACHINE\ndistributed_type: {kind}\nnum_processes: 4\n"
    config.write_text(head + lines.replace("state_dict_type: X", "fsdp_verion: 2"), encoding="utf-8")
    found = [str(problem) for problem in find_config_problems(read_accelerate_file(config))]
    assert any(line.startswith(f"{config}:{place}: ") and cause in line for line in found), found


def test_a_shipped_config_has_no_problem_but_a_package_to_install() -> None:
    for config in CONFIGS:
        found = [problem.message for problem in find_config_problems(read_accelerate_file(config))]
        missing = "deepspeed" in config.stem and find_spec("deepspeed") is None
        said = ["DeepSpeed is not installed; pip install 'hfpipe[deepspeed]'"]
        assert found == (said if missing else []), config


def test_check_reads_the_accelerate_config_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "own.yaml"
    config.write_text("distributed_type: FSDP\nnum_proceses: 2\n", encoding="utf-8")
    recipe = str(ROOT / "recipes" / "demo.yaml")
    assert main(["check", recipe, "--accelerate", str(config)]) == 2
    assert (
        f"{config}:2:1: unknown key 'num_proceses'; did you mean 'num_processes'?" in capsys.readouterr().err
    )
    assert main(["check", recipe, "--accelerate", str(FOLDER / "fsdp.yaml")]) == 0


@pytest.mark.parametrize(
    ("name", "layout", "split"),
    [
        ("ddp", ProcessLayout(8), Split()),
        ("fsdp", ProcessLayout(8), Split(8, 8, 8, gathers=True)),
        ("hybrid-shard", ProcessLayout(8, replicas=2, shards=4), Split(4, 4, 4, gathers=True)),
        ("tensor-parallel", ProcessLayout(2, tensor=2), Split(2, 2, 2)),
        ("context-parallel", ProcessLayout(2, context=2), Split(2, 2, 2, gathers=True)),
        ("deepspeed-zero2", ProcessLayout(8), Split(1, 8, 8)),
        ("deepspeed-zero3", ProcessLayout(8), Split(8, 8, 8, gathers=True)),
    ],
)
def test_a_config_tells_how_processes_are_arranged_and_what_is_split(
    name: str, layout: ProcessLayout, split: Split
) -> None:
    file = read_accelerate_file(FOLDER / f"{name}.yaml")
    assert (file.layout, file.split) == (layout, split)
    environ = {"WORLD_SIZE": str(layout.world)}
    if (arguments := launched(FOLDER / f"{name}.yaml")).use_parallelism_config:
        environ = prepare_extend_env_parallelism_config(arguments, environ)
    assert read_process_layout(environ) == layout


def test_processes_that_split_a_model_read_the_same_share_of_a_step() -> None:
    layout = ProcessLayout(8, shards=2, tensor=4)
    assert (layout.readers, layout.averaged) == (2, 2)
    assert [layout.get_reader(rank) for rank in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [rank for rank in range(8) if layout.is_counted(rank)] == [0, 4]
    assert compute_batch_layout(6, 1, layout.readers) == BatchLayout(3, 1, 2)


CAUSAL = {"kind": "causal-lm", "length": 64}


@pytest.mark.parametrize(
    ("task", "cause"),
    [
        ({"kind": "masked-lm", "length": 64}, "has the task masked-lm, which needs another attention mask"),
        ({"kind": "text-classification", "length": 64}, "has the task text-classification"),
        (CAUSAL | {"documents": "separate"}, "has documents: separate, whose mask is dropped"),
        (CAUSAL | {"length": 63}, "has the length 63; write a multiple of 4"),
        (CAUSAL, None),
    ],
)
def test_context_parallel_takes_only_what_attends_to_everything_before(
    task: dict[str, Any], cause: str | None
) -> None:
    settings = {"kind": "finetune", "task": task, "data": "./data", "model": "./model"}
    stage = restore_stage(settings | {"training": {"per_device_train_batch_size": 2}}, ROOT, ROOT)
    launch = Launch(config=FOLDER / "context-parallel.yaml", oversubscribe=True)
    if cause is None:
        check_processes(launch, {"tuned": stage})
        return
    with pytest.raises(RecipeError) as caught:
        check_processes(launch, {"tuned": stage})
    assert cause in str(caught.value)


def test_deepspeed_three_gathers_the_weights_it_saves() -> None:
    assert launched(FOLDER / "deepspeed-zero2.yaml").zero_stage == 2
    third = launched(FOLDER / "deepspeed-zero3.yaml")
    assert third.zero_stage == 3
    assert third.zero3_save_16bit_model is True


def printed(folder: Path, program: str, *arguments: str) -> list[str]:
    """Return the lines that a program prints in the processes that `accelerate launch` starts."""
    script = folder / "program.py"
    script.write_text(program, encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    done = subprocess.run(
        [*command, *arguments, str(script)], capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines())


@pytest.mark.slow
def test_ddp_on_the_cpu_starts_two_processes(tmp_path: Path) -> None:
    # In one write, or the lines of two processes may run into each other.
    program = r"import os; os.write(1, '{RANK} of {WORLD_SIZE}\n'.format(**os.environ).encode())"
    lines = printed(tmp_path, program, "--config_file", str(FOLDER / "ddp-cpu.yaml"))
    assert lines == ["0 of 2", "1 of 2"]


FSDP = """
from accelerate.utils import FullyShardedDataParallelPlugin
plugin = FullyShardedDataParallelPlugin()
print(plugin.fsdp_version, plugin.auto_wrap_policy.__name__, plugin.state_dict_type.name)
"""


@pytest.mark.slow
def test_fsdp_shards_by_layer_and_saves_whole_weights(tmp_path: Path) -> None:
    lines = printed(tmp_path, FSDP, "--config_file", str(FOLDER / "fsdp.yaml"), "--num_processes", "1")
    assert lines == ["2 transformer_auto_wrap_policy FULL_STATE_DICT"]


SRUN = """\
#!/usr/bin/env bash
shift
for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" & tasks+=($!); sleep "${BETWEEN:-0}"; done
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit "${code:-0}"
"""
"""Stands in for Slurm's: runs the command on each of two pretended machines at once."""


def slurm(
    folder: Path, *arguments: str, first: str = "first", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the Slurm script on two pretended machines."""
    commands = folder / "bin"
    commands.mkdir()
    (commands / "scontrol").write_text(f"#!/bin/sh\nprintf '{first}\\nsecond\\n'\n")
    (commands / "srun").write_text(SRUN)
    (commands / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$*"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    environ = {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": str(commands / "python"),
        "SLURM_JOB_NODELIST": "gpu[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "64",
        "BETWEEN": "0.2",
    } | variables
    return subprocess.run(
        [str(SCRIPT), *arguments], env=environ, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_slurm_starts_one_launcher_a_machine_with_its_own_rank(tmp_path: Path) -> None:
    done = slurm(tmp_path, "recipes/demo.yaml", "--runs", "a folder")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 2
    for rank, line in enumerate(lines):
        arguments = launch_command_parser().parse_args(line.split()[2:])
        assert (arguments.machine_rank, arguments.num_machines, arguments.num_processes) == (rank, 2, 16)
        assert arguments.main_process_ip == "first"
        assert line.endswith("-m hfpipe run recipes/demo.yaml --runs a folder")


def test_slurm_refuses_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    done = slurm(tmp_path, "recipes/missing.yaml")
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr


@pytest.mark.slow
def test_slurm_trains_on_two_machines(tmp_path: Path) -> None:
    made = small.recipe("bert", max_steps=2)
    del made["stages"]["pretrain"], made["stages"]["score"]
    made["stages"]["topics"] |= {"tokenizer": "stage:words", "model": small.MODELS["bert"]}
    path, runs = small.write(tmp_path, made), tmp_path / "runs"
    done = slurm(
        tmp_path,
        str(path),
        "--runs",
        str(runs),
        first="127.0.0.1",
        **os.environ | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        PYTHON=sys.executable,
        CONFIG="recipes/accelerate/ddp-cpu.yaml",
        PORT=str(20_000 + os.getpid() % 10_000),
        GPUS_PER_NODE="1",
        SLURM_CPUS_PER_TASK="1",
        GLOO_SOCKET_IFNAME="lo",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("topics: ") == 1
    log = next(runs.glob("small/topics-*/stage.log")).read_text()
    assert "[0] INFO hfpipe" in log
    assert "[1] INFO hfpipe" in log
