"""Finds the rows whose documents are in a packed example, which packing does not record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.encoding.best_fit import locate_documents
from hfpipe.encoding.encoded import ROWS_AT_ONCE
from hfpipe.encoding.io import open_split, read_facts
from hfpipe.encoding.origins import name_row
from hfpipe.encoding.row_batches import iterate_batches
from hfpipe.encoding.shards import Batch
from hfpipe.errors import HfpipeError
from hfpipe.references.places import Place, locate_place
from hfpipe.store.store import StageFile

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

    from hfpipe.report import DataFacts
    from hfpipe.task import TaskConfig

MOST = 3
"""Maximum number of rows of an example that are named."""


def name_packed_rows(
    crash: Path,
    file: StageFile,
    data: Place,
    task: TaskConfig,
    tokenizer: PreTrainedTokenizerBase,
    wanted: Sequence[int],
) -> Mapping[int, str]:
    """Return the locations of the rows in some packed examples: number of the example → file and lines.

    Documents are encoded again up to the last of these examples. Empty if the data set no longer exists.
    """
    folder = _find_data_folder(crash, file, data)
    if folder is None:
        return {}
    rows, encoder = open_split(folder, "train"), task.runtime().encoder
    documents = _encode_rows(rows, task, tokenizer, read_facts(folder))
    if task.best_fit:
        opening = encoder.opening_ids(tokenizer)
        placed = islice(locate_documents(documents, task.length, task.shared, opening), max(wanted) + 1)
        found = {number: each for number, each in enumerate(placed) if number in wanted}
    else:
        found = _locate_end_to_end(documents, task.length, task.shared, wanted)
    return {number: _format_names(rows, sorted(each)) for number, each in found.items()}


def _encode_rows(
    rows: datasets.Dataset, task: TaskConfig, tokenizer: PreTrainedTokenizerBase, known: DataFacts
) -> Iterator[Batch]:
    encode = task.runtime().encoder.encode
    for positions, batch in iterate_batches(rows, ROWS_AT_ONCE):
        ids = encode(batch, tokenizer, known)["input_ids"]
        yield Batch({"input_ids": ids, "row": positions}, len(positions))


def _locate_end_to_end(
    documents: Iterator[Batch], length: int, shared: int, wanted: Sequence[int]
) -> dict[int, list[int]]:
    """Return the rows in examples that are cut from the concatenation of all documents."""
    step = length - shared
    spans = {number: (number * step, number * step + length, list[int]()) for number in wanted}
    start, last = 0, max(end for _, end, _ in spans.values())
    for batch in documents:
        for row, ids in zip(batch.columns["row"], batch.columns["input_ids"], strict=True):
            for first, end, found in spans.values():
                if start < end and start + len(ids) > first:
                    found.append(row)
            start += len(ids)
        if start >= last:
            break
    return {number: found for number, (_, _, found) in spans.items()}


def _find_data_folder(crash: Path, file: StageFile, data: Place) -> Path | None:
    """Return the folder of the data set, None if it was moved or removed."""
    run = crash.absolute().parent.parent
    inputs = {name: run / folder for name, folder in file.folders.items()}
    try:
        folder = locate_place(data, Path(file.base), inputs)
    except HfpipeError:
        return None
    return folder if folder is not None and folder.is_dir() else None


def _format_names(rows: datasets.Dataset, found: Sequence[int]) -> str:
    names = [name_row(rows, row) for row in found[:MOST]]
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return "; ".join([*names, *more])
