"""Finds the rows of a data set whose documents a packed example holds; packing keeps no record of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.encoding.encoded import ROWS_AT_ONCE
from hfpipe.encoding.io import facts, open_split
from hfpipe.encoding.origins import name_row
from hfpipe.encoding.row_batches import batches_of
from hfpipe.errors import HfpipeError
from hfpipe.references.places import Place, locate_place
from hfpipe.store.store import StageFile

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

    from hfpipe.task import TaskConfig

MOST = 3
"""Rows of an example that are named."""


def name_packed_rows(
    crash: Path,
    file: StageFile,
    data: Place,
    task: TaskConfig,
    tokenizer: PreTrainedTokenizerBase,
    wanted: Sequence[int],
) -> Mapping[int, str]:
    """Return the places of the rows in some packed examples: number of the example → file and lines.

    Documents are encoded again up to the last of these examples. Empty where documents were packed by best
    fit, whose order is not that of the rows, and where the data set is no longer there.
    """
    folder = _data_folder(crash, file, data)
    if task.best_fit or folder is None:
        return {}
    rows, known = open_split(folder, "train"), facts(folder)
    encode = task.runtime().encoder.encode
    step = task.length - task.shared
    spans = {number: (number * step, number * step + task.length, list[int]()) for number in wanted}
    start, last = 0, max(end for _, end, _ in spans.values())
    for positions, batch in batches_of(rows, ROWS_AT_ONCE):
        for row, ids in zip(positions, encode(batch, tokenizer, known)["input_ids"], strict=True):
            for first, end, found in spans.values():
                if start < end and start + len(ids) > first:
                    found.append(row)
            start += len(ids)
        if start >= last:
            break
    return {number: _names(rows, found) for number, (_, _, found) in spans.items()}


def _data_folder(crash: Path, file: StageFile, data: Place) -> Path | None:
    """Return the folder of the data set, None where it was moved or removed since."""
    run = crash.absolute().parent.parent
    inputs = {name: run / folder for name, folder in file.folders.items()}
    try:
        folder = locate_place(data, Path(file.base), inputs)
    except HfpipeError:
        return None
    return folder if folder is not None and folder.is_dir() else None


def _names(rows: datasets.Dataset, found: Sequence[int]) -> str:
    names = [name_row(rows, row) for row in found[:MOST]]
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return "; ".join([*names, *more])
