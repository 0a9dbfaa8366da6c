"""Commands of hfpipe in processes that are forked from one that has all imports: a tenth of the time.

They are alone, or several under a file of recipes/accelerate, each with the environment that `accelerate
launch` would give it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import small
import yaml
from commands import LIMIT, wait_for_end, wait_until

CONFIGS = small.ROOT / "recipes" / "accelerate"
PRELOADED = [
    "torch",
    "transformers.trainer",
    "accelerate",
    "hfpipe.api",
    "hfpipe.training.loop",
    "hfpipe.stages.pretrain",
    "hfpipe.estimation.estimate",
    "hfpipe.reporting.model_card",
    "hfpipe.tasks.text_classification.runtime",
    "accelerate.commands.launch",
    "sklearn.metrics",
    "transformers.models.bert.modeling_bert",
    "hfpipe.inference.loaded_model",
    "gradio",  # which may be missing
]


def config_file(folder: Path, name: str, processes: int, **sizes: int) -> Path:
    """Return a copy of a config for processes on the CPU; `sizes` are those of its parallelism_config."""
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    settings |= {"use_cpu": True, "num_processes": processes}
    if settings["distributed_type"] == "DEEPSPEED":
        del settings["use_cpu"]  # with which Accelerate leaves DeepSpeed out
    settings.pop("gpu_ids", None)
    for key, size in sizes.items():
        settings["parallelism_config"][f"parallelism_config_{key}_size"] = size
    path = folder / f"{name}-{processes}.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def environment(config: Path) -> dict[str, str]:
    """Return what `accelerate launch` sets for the processes of a config."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    line = ["--config_file", str(config), "--main_process_port", "29999", "-m", "hfpipe"]
    arguments = _validate_launch_command(launch_command_parser().parse_args(line))[0]
    if arguments.use_deepspeed:
        section = yaml.safe_load(config.read_text(encoding="utf-8"))["deepspeed_config"]
        arguments.deepspeed_fields_from_accelerate_config = ",".join([*section, "mixed_precision"])
        return prepare_deepspeed_cmd_env(arguments)[1]
    return prepare_multi_gpu_env(arguments)


def run(
    path: Path, runs: Path, config: Path, killed_after: str | None = None, until: str | None = None
) -> None:
    """Run a recipe, up to `until`, in the processes of a config. Raises AssertionError with their traces.

    `killed_after` is a pattern below `runs`: once such a file is there, no step is begun, and all are killed.
    """
    world = yaml.safe_load(config.read_text(encoding="utf-8"))["num_processes"]
    context = _forking()
    log = runs.parent / f"{config.stem}.log"
    port = context.Value("i", 0)
    given = (world, port, config, path, runs, log, until, killed_after)
    started = [context.Process(target=_process, args=(rank, *given)) for rank in range(world)]
    for process in started:
        process.start()
    deadline = time.monotonic() + LIMIT
    try:
        while any(process.exitcode is None for process in started):
            if killed_after is not None and list(runs.glob(killed_after)):
                return
            if any(process.exitcode for process in started):
                _wait_for(started)  # another one may be about to print the cause
                raise AssertionError(log.read_text(encoding="utf-8"))
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.002)
        assert killed_after is None, "it ended before it could be killed"
        assert not any(process.exitcode for process in started), log.read_text(encoding="utf-8")
    finally:
        for process in started:
            process.kill()
            process.join()


def _forking() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@contextlib.contextmanager
def run_command(output: Path, *arguments: str | Path, **environ: str) -> Iterator[Any]:
    """Run the command line, which writes into a file; yields its process, which is killed at the end."""
    given = (output, list(map(str, arguments)), environ, Path.cwd())
    process = _forking().Process(target=_command, args=given)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def kill_once(holds: Callable[[], Any], *arguments: str | Path) -> None:
    """Run the command line, and kill it as soon as something is true, which is before it ends."""
    with run_command(Path(os.devnull), *arguments) as process:
        wait_until(lambda: holds() or process.exitcode is not None, pause=0.002)
        assert process.exitcode is None, "the command ended before"


def kill_after(pattern: str, path: Path, runs: Path, holds: Callable[[], Any] = lambda: True) -> None:
    """Run a recipe, which begins no step once there is such a file in `runs`, and kill it then.

    It waits until something else is true as well.
    """
    process = _forking().Process(target=_run_until_killed, args=(pattern, path, runs))
    process.start()
    try:
        wait_until(lambda: (list(runs.glob(pattern)) and holds()) or process.exitcode is not None)
        assert process.exitcode is None, "the run ended before"
    finally:
        process.kill()
        wait_for_end(process.pid)  # and not for the workers of its loader, as `join` does


def _run_until_killed(pattern: str, path: Path, runs: Path) -> None:
    import hfpipe

    # As in a command; workers of a loader would have a server of their own, which outlives this process.
    multiprocessing.set_start_method("fork", force=True)
    hfpipe.run(hfpipe.load(path), runs, say=lambda _: None, progress=_waits_once(pattern, runs))


def _command(output: Path, arguments: list[str], environ: dict[str, str], folder: Path) -> None:
    """Be the process of a command."""
    from hfpipe.cli.main import main

    os.chdir(folder)
    os.environ.update(environ)
    with output.open("w", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os._exit(main(arguments))


def _wait_for(started: list[Any]) -> None:
    deadline = time.monotonic() + LIMIT
    for process in started:
        process.join(max(0.0, deadline - time.monotonic()))


def _waits_once(pattern: str, runs: Path) -> Any:
    """Return a way to show progress that ends no step once a file is there, so that its process is killed."""

    @contextlib.contextmanager
    def progress(title: str, total: int | None) -> Iterator[Callable[..., None]]:
        def advance(done: int, note: str = "") -> None:
            while list(runs.glob(pattern)):
                time.sleep(1)

        yield advance

    return progress


def _process(
    rank: int,
    world: int,
    port: Any,
    config: Path,
    path: Path,
    runs: Path,
    log: Path,
    until: str | None,
    killed_after: str | None,
) -> None:
    """Be one process, as `accelerate launch -m hfpipe run` starts it."""
    import hfpipe
    from hfpipe.contract import show_no_progress

    if rank == 0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port.value = free.getsockname()[1]
    while not port.value:
        time.sleep(0.01)
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port.value}
    if yaml.safe_load(config.read_text(encoding="utf-8")).get("use_cpu"):
        own |= {"ACCELERATE_USE_CPU": "true"}
    os.environ.update(environment(config) | {name: str(value) for name, value in own.items()})
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stderr(file):
        try:
            progress = show_no_progress if killed_after is None else _waits_once(killed_after, runs)
            hfpipe.run(hfpipe.load(path), runs, until=until, say=lambda _: None, progress=progress)
        except BaseException:
            traceback.print_exc()
            file.flush()
            os._exit(1)
    os._exit(0)
