"""What several stages open in the same way."""

from __future__ import annotations

from pathlib import Path

from hfpipe.contract import RunContext
from hfpipe.errors import StageError
from hfpipe.places import DataPlace, locate


def folder_of(data: DataPlace, ctx: RunContext) -> Path:
    """Return the folder of a data set. Raises StageError for a Hub id, which a dataset stage loads."""
    path = locate(data, ctx.base, ctx.inputs)
    if path is None:
        raise StageError(
            f"stage {ctx.name}: {data} is on the Hub; load it in a dataset stage, source: {{hub: {data}}}"
        )
    return path
