"""The folder of a data set, for the stages that read one."""

from __future__ import annotations

from pathlib import Path

from hfpipe.advice import advise
from hfpipe.contract import RunContext
from hfpipe.errors import StageError
from hfpipe.references.places import DataPlace, locate_place


def get_data_folder(data: DataPlace, ctx: RunContext) -> Path:
    """Return the folder of a data set. Raises StageError for a Hub id, which a dataset stage loads."""
    path = locate_place(data, ctx.base, ctx.inputs)
    if path is None:
        name, revision = data.hub or (str(data), None)
        source = {"hub": name} if revision is None else {"hub": name, "revision": revision}
        raise StageError(
            f"stage {ctx.name}: {data} is on the Hub; load it in a dataset stage with {advise(source=source)}"
        )
    return path
