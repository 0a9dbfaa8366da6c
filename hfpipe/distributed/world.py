"""The processes of a run as a launcher describes them to each: how many there are, and which one this is.

The only module that reads rank and world size from the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from hfpipe.errors import Problem, RecipeError, StageError

ASKED = "HFPIPE_PROCESSES"
"""Environment variable that tells a launched process how many there should be."""
SILENCE = "HFPIPE_SILENCE"
"""Environment variable: seconds without an answer of another machine after which it is taken for lost."""
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
"""Numbers that launchers and people set, with the least and the greatest that they may be."""


def is_launched() -> bool:
    """Tell whether a launcher (accelerate, torchrun) started this process as one of several."""
    return world_size() > 1


def world_size(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many processes a launcher started, 1 without one."""
    return _number(environ, "WORLD_SIZE", 1)


def local_world_size() -> int:
    """Return how many of the processes are on this machine; all of them if the launcher does not say."""
    return _number(os.environ, "LOCAL_WORLD_SIZE", world_size())


def silence() -> int:
    """Return how many seconds another machine may give no answer."""
    return _number(os.environ, SILENCE, 30)


def rendezvous() -> int:
    """Return how many seconds the processes of a run wait for each other at its start."""
    return _number(os.environ, RENDEZVOUS, 600)


def local_rank() -> int:
    """Return this process' number among those of its machine, 0 for the first."""
    return _number(os.environ, "LOCAL_RANK", 0) if is_launched() else 0


def rank() -> int:
    """Return this process' number among all, 0 for the first."""
    return _number(os.environ, "RANK", 0) if is_launched() else 0


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    """Return a whole number that a launcher sets. Raises RecipeError outside the range of `_SET`."""
    text = environ.get(name, str(default))
    least, most = _SET[name]
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        message = f"the environment has {name}={text[:40]!r}, not a whole number from {least} to {most}"
        start = "" if name in (SILENCE, RENDEZVOUS) else ", or start by accelerate launch, which sets it"
        raise RecipeError([Problem(f"{message}; unset {name}{start}")])
    return int(text)


def first_process() -> bool:
    """Tell whether this process is the only one or the first of several, and so the one that prints."""
    return rank() == 0


def is_first_of_machine() -> bool:
    """Tell whether this process is the only one or the first on its machine."""
    return local_rank() == 0


def check_world(environ: Mapping[str, str] = os.environ) -> None:
    """Compare the requested processes with those that started. Raises StageError when they differ.

    Raises RecipeError when a variable that a launcher sets does not hold such a number.

    Accelerate 1.15 starts a single process for `--cpu --num_processes 2`, without a word; what gives it
    away is a rendezvous port with no world size.
    """
    for name in _SET:
        if name in environ:
            _number(environ, name, 1)
    there = world_size(environ)
    if _number(environ, "RANK", 0) >= there > 1:
        message = f"the environment has RANK={environ['RANK']} and WORLD_SIZE={there}; ranks count from 0"
        raise RecipeError([Problem(f"{message}; unset both, or start by accelerate launch, which sets them")])
    asked = _number(environ, ASKED, there)
    if asked != there:
        raise StageError(f"{asked} processes were asked for, {there} started; check the Accelerate config")
    silent = (
        "ACCELERATE_MIXED_PRECISION" in environ and "MASTER_PORT" in environ and "WORLD_SIZE" not in environ
    )
    if silent:
        raise StageError(
            "accelerate launch was asked for several processes but started one, as it does with --cpu; "
            "use --multi_gpu (which runs on CPU too), recipes/accelerate/ddp-cpu.yaml, "
            "or hfpipe run --processes N"
        )
