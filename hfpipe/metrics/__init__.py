"""Metrics as sums of per-example statistics, which can be merged, and their confidence intervals."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from hfpipe.errors import DataError

__all__ = ["module_names", "path"]

MODULES = Path(__file__).parent / "modules"


def path(name: str) -> str:
    """Return the path of a metric as a module of `evaluate`: `evaluate.load(path("bits_per_byte"))`.

    Raises DataError when there is no metric of that name.
    """
    names = module_names()
    if name not in names:
        close = get_close_matches(name, names, n=1)
        tail = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
        raise DataError(f"there is no metric {name!r}; {tail}")
    return str(MODULES / f"{name}.py")


def module_names() -> list[str]:
    """Return the names of all metrics that are modules of `evaluate`, sorted."""
    return sorted(file.stem for file in MODULES.glob("[a-z]*.py"))
