"""`optim: muon` in `training:`: its options in `optim_args`, and the required version of torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hfpipe.errors import Problem
from hfpipe.recipe.messages import Keys, format_keys, suggest

NAME = "muon"
SINCE = (2, 9)
"""First version of torch with `torch.optim.Muon`."""
OPTIONS: dict[str, type[int] | type[float]] = {"momentum": float, "ns_steps": int}
"""Options of `torch.optim.Muon` allowed in `optim_args`, such as `momentum=0.95, ns_steps=5`."""


def parse_options(given: str | None) -> dict[str, int | float]:
    """Return the options in `optim_args`. Raises ValueError for an unknown option or an invalid number."""
    options: dict[str, int | float] = {}
    for part in (given or "").replace(" ", "").split(","):
        name, _, value = part.partition("=")
        if not part:
            continue
        if name not in OPTIONS:
            raise ValueError(
                f"muon has no option {name!r}{suggest(name, OPTIONS)}; it takes momentum and ns_steps"
            )
        try:
            options[name] = OPTIONS[name](value)
        except ValueError:
            raise ValueError(
                f"{name} must be a number, as in momentum=0.95 or ns_steps=5; got {value!r}"
            ) from None
    if not 0 <= options.get("momentum", 0) < 1:
        raise ValueError(f"momentum must be at least 0 and less than 1, got {options['momentum']}")
    if not 1 <= options.get("ns_steps", 1) < 100:
        raise ValueError(f"ns_steps must be from 1 to 99, got {options['ns_steps']}")
    return options


def find_muon_problems(given: Mapping[str, Any], path: Keys) -> Iterator[Problem]:
    """Yield the problems of a training with `optim: muon`."""
    if given.get("optim") != NAME:
        return
    installed = _find_torch_version()
    if installed is not None and installed < SINCE:
        needed = ".".join(map(str, SINCE))
        message = f"'muon' needs torch {needed} or newer; pip install 'torch>={needed}'"
        yield Problem(f"{format_keys((*path, 'optim'))}: {message}", (*path, "optim"))
    options = given.get("optim_args")
    try:
        parse_options(options if isinstance(options, str) else None)
    except ValueError as error:
        yield Problem(f"{format_keys((*path, 'optim_args'))}: {error}", (*path, "optim_args"))


def _find_torch_version() -> tuple[int, ...] | None:
    """Return the installed version of torch, without importing it."""
    try:
        return tuple(int(number) for number in re.findall(r"\d+", version("torch"))[:2])
    except PackageNotFoundError:
        return None
