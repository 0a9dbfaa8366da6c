"""Starts one process per device under Accelerate, after checking that the request can be met."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import get_terminal_size

from hfpipe.contract import Stage
from hfpipe.distributed.process_layout import Arrangement, ProcessLayout, read_process_layout
from hfpipe.distributed.world import ASKED, is_launched
from hfpipe.errors import Problem, RecipeError, StageError
from hfpipe.interruption import Interrupted, StopRequest
from hfpipe.recipe.installed import read_installed_arguments
from hfpipe.runner.accelerate_file import AccelerateFile, find_config_problems, read_accelerate_file
from hfpipe.runner.jobs.devices import DeviceShare, divide_devices, list_devices
from hfpipe.runner.launcher import run_launcher
from hfpipe.runner.supervision import coordinate


@dataclass(frozen=True)
class Launch:
    """How the distributed stages are started; never part of a key."""

    processes: int | None = None
    """Number of processes on this machine."""
    config: Path | None = None
    """An Accelerate config file, instead of `processes`."""
    oversubscribe: bool = False
    """Whether there may be more processes than devices, or than cores of a CPU."""
    jobs: int = 1
    """Number of stages that run concurrently, each in that many processes."""

    @property
    def here(self) -> bool:
        """Whether stages run in this process."""
        return self.config is None and (self.processes or 1) == 1


def arrange_processes(launch: Launch) -> Arrangement:
    """Return the layout of the processes, and how the memory of a training is split over them.

    A config file without `use_cpu` is for GPUs, also where it is planned on a machine without one. Raises
    RecipeError when the Accelerate config is wrong.
    """
    from hfpipe.modeling.performance import runs_on_cpu

    if launch.config is None:
        return Arrangement(ProcessLayout(launch.processes or 1), cpu=runs_on_cpu())
    file = check_accelerate_file(launch.config)
    return Arrangement(file.layout, file.split, cpu=runs_on_cpu() and bool(file.settings.get("use_cpu")))


def check_accelerate_file(config: Path) -> AccelerateFile:
    """Return an Accelerate config. Raises RecipeError with all its problems."""
    file = read_accelerate_file(config)
    if "distributed_type" not in file.settings:
        cause = "is not an Accelerate config, which has a distributed_type; see recipes/accelerate"
        raise RecipeError([Problem(f"{file.option}: {cause}")])
    if found := list(find_config_problems(file)):
        raise RecipeError(found)
    return file


def check_launch(launch: Launch) -> None:
    """Raise RecipeError when the requested processes cannot be started."""
    for option, number in (("--processes", launch.processes), ("--jobs", launch.jobs)):
        if number is not None and number < 1:
            raise RecipeError([Problem(f"{option} {number}: must be at least 1")])
    if is_launched() and (not launch.here or launch.jobs > 1):
        options = "--jobs is" if launch.here else "--processes and --accelerate are"
        raise RecipeError([Problem(f"{options} for plain `hfpipe run`, not under a launcher")])
    if launch.config is None:
        return
    file = check_accelerate_file(launch.config)
    if launch.jobs > 1 and str(file.settings.get("gpu_ids", "all")) != "all":
        message = f"it names GPUs, which --jobs {launch.jobs} divides; delete gpu_ids"
        raise RecipeError([file.make_problem(message, "gpu_ids")])
    if file.get_number("num_machines") > 1:
        command = f"accelerate launch --config_file {launch.config} -m hfpipe run RECIPE"
        raise RecipeError(
            [Problem(f"--accelerate {launch.config}: for several machines run, on each, {command}")]
        )


def check_processes(launch: Launch, stages: Mapping[str, Stage]) -> None:
    """Check, before any process starts, that the machine has room for all and that they can share each step.

    Raises RecipeError with all problems.
    """
    file = read_accelerate_file(launch.config) if launch.config is not None else None
    if is_launched():
        layout, option = read_process_layout(), "the launcher"
    elif file is not None:
        layout, option = file.layout, file.option
    else:
        layout = ProcessLayout(launch.processes or 1)
        option = f"--processes {layout.world}"
    if layout.world * launch.jobs == 1:
        return
    found = [*_check_steps(layout.readers, option, stages), *_check_contexts(layout.context, option, stages)]
    if not launch.oversubscribe and not is_launched():
        there, what = _count_room(cpu=bool(file and file.settings.get("use_cpu")))
        if layout.world > there:
            message = f"{option}: {layout.world} processes, and this machine has {there} {what}"
            found.append(Problem(f"{message}; start at most {there}, or add `--oversubscribe`"))
        elif layout.world * launch.jobs > there:
            each = "1 process" if layout.world == 1 else f"{layout.world} processes"
            message = (
                f"--jobs {launch.jobs}: {launch.jobs} jobs of {each}, and this machine has {there} {what}"
            )
            most = there // layout.world
            found.append(Problem(f"{message}; write `--jobs {most}`, or add `--oversubscribe`"))
    if found:
        raise RecipeError(found)


def _check_steps(asked: int, option: str, stages: Mapping[str, Stage]) -> Iterator[Problem]:
    for name, stage in stages.items():
        training = getattr(stage, "training", None)
        if not isinstance(training, Mapping):
            continue
        each, times = (
            training.get(key, read_installed_arguments()[key].default)
            for key in ("per_device_train_batch_size", "gradient_accumulation_steps")
        )
        if isinstance(each, int) and isinstance(times, int) and each * times % asked:
            yield Problem(
                f"{option}: a step of stage {name} has {each * times} examples (per_device_train_batch_size "
                f"{each} × gradient_accumulation_steps {times}), which {asked} processes cannot share; "
                f"make their product a multiple of {asked}"
            )


def _check_contexts(parts: int, option: str, stages: Mapping[str, Stage]) -> Iterator[Problem]:
    """Yield stages whose sequences cannot be split: Accelerate drops all masks and uses causal attention."""
    for name, stage in stages.items():
        task = getattr(stage, "task", None)
        if parts == 1 or not hasattr(stage, "training") or task is None:
            continue
        start = f"{option}: context parallel (cp_size {parts}): stage {name}"
        if task.auto_class != "AutoModelForCausalLM" or not task.packed:
            yield Problem(
                f"{start} has the task {task.kind}, which needs another attention mask; write cp_size 1"
            )
        elif task.separates_documents:
            yield Problem(
                f"{start} has documents: separate, whose mask is dropped; delete it, or write cp_size 1"
            )
        elif task.length % (2 * parts):
            yield Problem(f"{start} has the length {task.length}; write a multiple of {2 * parts}")


def _count_room(*, cpu: bool) -> tuple[int, str]:
    """Return how many processes the machine has room for, and the unit counted; at least two on a CPU."""
    import torch

    from hfpipe.modeling.performance import count_cores

    devices = 0 if cpu else torch.cuda.device_count()
    if devices:
        return devices, "GPU" if devices == 1 else "GPUs"
    return max(2, count_cores()), "processor cores"


def divide_machine(launch: Launch) -> list[dict[str, str]]:
    """Return the environment variables of each job: its GPUs, or its threads on a CPU."""
    import torch

    from hfpipe.modeling.performance import count_cores

    file = read_accelerate_file(launch.config) if launch.config is not None else None
    processes = file.layout.world if file is not None else launch.processes or 1
    count = 0 if file is not None and file.settings.get("use_cpu") else torch.cuda.device_count()
    devices = list_devices(os.environ, count)
    return divide_devices(launch.jobs, processes, devices, count_cores(), os.environ)


def start(launch: Launch, folder: Path, stop: StopRequest, share: DeviceShare | None = None) -> None:
    """Run one stage in other processes and wait for them; `share` is the part of the machine that a job gets.

    Raises StageError when a process fails or dies, Interrupted when they were stopped.
    """
    command, environ, asked = _make_command(launch)
    if share is not None:
        environ |= {**share.environ, "TTY_COMPATIBLE": "0", "PYTHONUNBUFFERED": "1"}
        environ.pop("FORCE_COLOR", None)
    elif sys.stderr.isatty():
        environ |= {"TTY_COMPATIBLE": "1", "COLUMNS": str(get_terminal_size().columns)}
    with coordinate(asked) as started:
        environ |= {ASKED: str(asked), **started.environ}
        whole = [*command, "-m", "hfpipe", "stage", str(folder)]
        code = run_launcher(whole, environ, started, stop, share.name if share is not None else "")
    if code != 0:
        if stop.number is not None:
            raise Interrupted(stop.number, started.cause)
        cause = started.cause or f"a process ended with code {code}"
        raise StageError(f"{cause}; the log is {folder / 'stage.log'}")


def _make_command(launch: Launch) -> tuple[list[str], dict[str, str], int]:
    """Return the command of a launcher or a single process, its environment and the number of processes."""
    environ = dict(os.environ)
    if launch.here:
        return [sys.executable], environ, 1
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    if launch.config is not None:
        file = read_accelerate_file(launch.config)
        command += ["--config_file", str(launch.config)]
        asked = file.get_number("num_processes")
        if file.settings.get("use_cpu"):
            environ["ACCELERATE_USE_CPU"] = "true"  # accelerate sets it for a single process only
    else:
        asked = launch.processes or 1
        command += ["--multi_gpu", "--num_processes", str(asked), "--num_machines", "1"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return command, environ, asked
