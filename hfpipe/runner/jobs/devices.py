"""Divides the devices of a machine among concurrent jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable with the GPUs that a process may use."""
THREADS = "OMP_NUM_THREADS"
"""Environment variable with the number of CPU threads of a process."""


@dataclass(frozen=True)
class DeviceShare:
    """The part of the machine that one of several jobs gets."""

    name: str = ""
    """The stage, with which each line of the job's output is prefixed."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of its processes."""


def list_devices(environ: Mapping[str, str], count: int) -> list[str]:
    """Return the GPUs of this process as named in CUDA_VISIBLE_DEVICES; `count` is their number."""
    named = [name.strip() for name in environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] if len(named) >= count else [str(number) for number in range(count)]


def divide_devices(
    jobs: int, processes: int, devices: Sequence[str], cores: int, environ: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the environment variables of each of `jobs` jobs with `processes` processes each.

    Every job has one of the `devices` per process; if there are fewer, jobs share them in turn. The number of
    threads is that in `environ`, or an equal part of the cores. A launcher of several processes sets their
    number of threads itself.
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
