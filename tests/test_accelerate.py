"""The Accelerate configs beside the recipes: read by Accelerate's own parser, and started where a CPU can."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "recipes" / "accelerate"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
EXPECTED = {"single", "ddp", "ddp-cpu", "fsdp", "deepspeed-zero2", "deepspeed-zero3", "multi-node"}
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
    assert nested <= set(known)


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
        [*command, *arguments, str(script)], capture_output=True, text=True, check=False, timeout=120
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


def slurm(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the Slurm script on two pretended machines: `srun` runs its command once for each."""
    commands = folder / "bin"
    commands.mkdir()
    (commands / "scontrol").write_text("#!/bin/sh\nprintf 'first\\nsecond\\n'\n")
    (commands / "srun").write_text(
        '#!/bin/sh\nshift\nfor SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done\n'
    )
    (commands / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$*"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    environ = {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": str(commands / "python"),
        "SLURM_JOB_NODELIST": "gpu[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "64",
    }
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
