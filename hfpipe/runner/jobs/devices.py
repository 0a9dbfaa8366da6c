"""Divides the devices of a machine among the jobs that run at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable with the GPUs that a process may use."""
THREADS = "OMP_NUM_THREADS"
"""Environment variable with the threads that a process computes with on a CPU."""


@dataclass(frozen=True)
class DeviceShare:
    """What one of several jobs gets."""

    name: str = ""
    """The stage, which stands in front of each line of the job's output."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Variables of its processes."""


def list_devices(environ: Mapping[str, str], count: int) -> list[str]:
    """Return the GPUs of this process as CUDA_VISIBLE_DEVICES names them; `count` is how many there are."""
    named = [name.strip() for name in environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] if len(named) >= count else [str(number) for number in range(count)]


def divide_devices(
    jobs: int, processes: int, devices: Sequence[str], cores: int, environ: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the variables of each of so many jobs, of so many processes each.

    Every job has as many of the `devices` as processes. If there are fewer, jobs share them in turn. Threads
    are those that `environ` says, or an equal part of the cores. A launcher of several processes sets the
    number of their threads itself.
    """
    found = []
    for job in range(jobs):
        own: dict[str, str] = {}
        if devices:
            first = job * processes
            numbers = dict.fromkeys((first + each) % len(devices) for each in range(processes))
            own[VISIBLE] = ",".join(devices[number] for number in numbers)
        if processes == 1 and THREADS not in environ:
            own[THREADS] = str(max(1, cores // jobs))
        found.append(own)
    return found
