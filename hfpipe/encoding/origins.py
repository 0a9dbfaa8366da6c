"""Stores where each row of a data set was read, so that errors in later stages name file and line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

FILE = "origins.arrow"
"""File next to the Arrow files of a split, with one entry per row, in the order of the rows."""
ORIGIN, NUMBER = "hfpipe: origin", "hfpipe: number"
"""Columns of a data set while it is written; they are moved to a separate file at the end."""
_DERIVED_ID = re.compile(r"[0-9a-f]{32}(-\d+)?")
"""An id that is not from the source; it is not shown in messages."""


def make_origin_columns(origins: Sequence[str], numbers: Sequence[int]) -> dict[str, pa.Array]:
    """Return the origins of rows as columns; an origin is what the number counts, such as `a.jsonl, line`."""
    names = pa.array(origins if len({*origins}) > 1 else origins[:1], pa.string()).dictionary_encode()
    if len(names) < len(origins):  # the usual case: all rows are from one file
        names = pa.DictionaryArray.from_arrays(
            pa.nulls(len(origins), pa.int32()).fill_null(0), names.dictionary
        )
    return {
        ORIGIN: names,
        NUMBER: pa.array(numbers, pa.int64()),
    }


def drop_origins(table: pa.Table) -> pa.Table:
    """Return the table without the columns of origins."""
    return table.drop_columns([ORIGIN, NUMBER])


def write_origins(table: pa.Table, folder: Path) -> None:
    """Write the origins of all rows of a split next to its Arrow files, in batches."""
    origins = table.select([ORIGIN, NUMBER]).rename_columns(["origin", "number"])
    with pa.ipc.new_stream(str(folder / FILE), origins.schema) as stream:
        stream.write_table(origins)


def read_origins(rows: datasets.Dataset) -> pa.Table | None:
    """Return the origins of a split, memory-mapped, or None if they are unknown."""
    if not rows.cache_files:
        return None
    path = Path(rows.cache_files[0]["filename"]).with_name(FILE)
    if not path.is_file():
        return None
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all()
    return table if len(table) == len(rows) else None  # else a subset of a split, or reordered


def name_row(rows: datasets.Dataset, position: int) -> str:
    """Return the name of a row in messages: its location, and its id if the source has ids."""
    origins = read_origins(rows)
    if origins is not None:
        place = f"{origins['origin'][position].as_py()} {origins['number'][position].as_py()}"
    else:
        place = f"{rows.split or 'the data'}, row {position + 1}"
    own: Any = rows[position]["id"] if "id" in rows.column_names else None
    return place if own is None or _DERIVED_ID.fullmatch(str(own)) else f"{place} (id {str(own)!r:.60})"
