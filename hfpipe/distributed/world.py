"""Rank and world size of this process, as set by a launcher.

Only this module reads them from the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from hfpipe.errors import Problem, RecipeError, StageError

ASKED = "HFPIPE_PROCESSES"
"""Environment variable with the requested number of processes."""
SILENCE = "HFPIPE_SILENCE"
"""Environment variable: timeout in seconds after which a machine that does not answer is lost."""
RENDEZVOUS = "HFPIPE_RENDEZVOUS"
"""Environment variable: seconds that the processes of a run wait for each other at its start."""
_MANY = 10**6
_SET = {  # in the order in which they are checked
    "WORLD_SIZE": (1, _MANY),
    "LOCAL_WORLD_SIZE": (1, _MANY),
    "RANK": (0, _MANY),
    "LOCAL_RANK": (0, _MANY),
    "MASTER_PORT": (0, 65535),
    ASKED: (1, _MANY),
    SILENCE: (1, 3600),
    RENDEZVOUS: (1, 86_400),
}
"""Variable that launchers or users set → its minimum and maximum."""


def is_launched() -> bool:
    """Return whether a launcher (accelerate, torchrun) started this process as one of several."""
    return get_world_size() > 1


def get_world_size(environ: Mapping[str, str] = os.environ) -> int:
    """Return the number of processes that a launcher started, 1 without a launcher."""
    return _read_number(environ, "WORLD_SIZE", 1)


def get_local_world_size() -> int:
    """Return the number of processes on this machine; by default all."""
    return _read_number(os.environ, "LOCAL_WORLD_SIZE", get_world_size())


def get_silence_timeout() -> int:
    """Return the timeout for answers of other machines, in seconds."""
    return _read_number(os.environ, SILENCE, 30)


def get_rendezvous_timeout() -> int:
    """Return the time in seconds that processes wait for each other at the start of a run."""
    return _read_number(os.environ, RENDEZVOUS, 600)


def get_local_rank() -> int:
    """Return the rank of this process on its machine."""
    return _read_number(os.environ, "LOCAL_RANK", 0) if is_launched() else 0


def get_rank() -> int:
    """Return the rank of this process."""
    return _read_number(os.environ, "RANK", 0) if is_launched() else 0


def _read_number(environ: Mapping[str, str], name: str, default: int) -> int:
    """Return a whole number that a launcher sets. Raises RecipeError outside the range of `_SET`."""
    text = environ.get(name, str(default))
    least, most = _SET[name]
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        message = f"the environment has {name}={text[:40]!r}, not a whole number from {least} to {most}"
        start = "" if name in (SILENCE, RENDEZVOUS) else ", or start by accelerate launch, which sets it"
        raise RecipeError([Problem(f"{message}; unset {name}{start}")])
    return int(text)


def is_first_process() -> bool:
    """Return whether this process has rank 0, and therefore prints."""
    return get_rank() == 0


def is_first_of_machine() -> bool:
    """Return whether this process has local rank 0."""
    return get_local_rank() == 0


def check_world(environ: Mapping[str, str] = os.environ) -> None:
    """Compare the requested processes with those that started. Raises StageError when they differ.

    Raises RecipeError when a variable of a launcher has an invalid value.

    Accelerate 1.15 silently starts a single process for `--cpu --num_processes 2`; this is detected by a
    rendezvous port without a world size.
    """
    for name in _SET:
        if name in environ:
            _read_number(environ, name, 1)
    there = get_world_size(environ)
    if _read_number(environ, "RANK", 0) >= there > 1:
        message = f"the environment has RANK={environ['RANK']} and WORLD_SIZE={there}; ranks count from 0"
        raise RecipeError([Problem(f"{message}; unset both, or start by accelerate launch, which sets them")])
    asked = _read_number(environ, ASKED, there)
    if asked != there:
        raise StageError(f"{asked} processes were requested, {there} started; check the Accelerate config")
    silent = (
        "ACCELERATE_MIXED_PRECISION" in environ and "MASTER_PORT" in environ and "WORLD_SIZE" not in environ
    )
    if silent:
        raise StageError(
            "accelerate launch started one process instead of several, as it does with --cpu; "
            "use --multi_gpu (which runs on CPU too), recipes/accelerate/ddp-cpu.yaml, "
            "or hfpipe run --processes N"
        )
