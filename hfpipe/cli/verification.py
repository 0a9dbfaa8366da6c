"""`hfpipe verify` on the command line: prints whether files are as they were written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hfpipe.api import load, verify
from hfpipe.cli.console import say, show_checked, show_progress
from hfpipe.errors import StageError
from hfpipe.runs.rerun import rerun


def verify_run(options: argparse.Namespace) -> int:
    """Print the result, and return the exit code. Raises StageError with a line for each difference."""
    if options.again is not None:
        with show_progress() as shown:
            again = rerun(load(options.target), options.again, options.runs, progress=shown)
        say(f"{again.folder.name}: {again.summary}")
        _refuse(again.differences)
        return 0
    found = verify(options.target, options.runs)
    show_checked(found)
    _refuse([line for each in found for line in each.damage])
    return 0


def _refuse(lines: Sequence[str]) -> None:
    if lines:
        raise StageError("\n".join(lines))
