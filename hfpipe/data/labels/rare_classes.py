"""Removes rare classes after all rows are written, since only then are all classes counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hfpipe.data.labels.labels import Label
from hfpipe.data.ledger import Ledger
from hfpipe.data.write import Writer


def name_rare_class_reason(label: Label) -> str:
    """Return the ledger's name for rows dropped because of a rare class."""
    return f"min_count of {label.column}: {label.settings.min_count}"


def remove_rare_classes(labels: Sequence[Label], writer: Writer, ledger: Ledger) -> None:
    """Drop the rows of classes with fewer training rows than `min_count`, or merge these classes.

    Reads only the label columns, in batches, until no class is rare; then rewrites the remaining rows.
    Keeps one bit per row in memory.
    """
    wanted = [label for label in labels if label.settings.min_count is not None and label.kind != "number"]
    dropping = [label for label in wanted if label.settings.rare == "drop"]
    kept = {split: np.ones(rows, bool) for split, rows in writer.count_rows().items()} if dropping else {}
    while rare := {label.column: found for label in dropping if (found := _find_rare(label))}:
        for label in dropping:
            label.ids.drop(rare.get(label.column, ()))
        for split, keep in kept.items():
            _mark_dropped(split, keep, rare, labels, writer, ledger)
    if any(not keep.all() for keep in kept.values()):
        writer.keep(kept)
    for label in wanted:
        if label.settings.rare != "drop":
            label.ids.merge(_find_rare(label), label.settings.rare)


def _find_rare(label: Label) -> set[int]:
    return label.ids.find_rare(label.settings.min_count or 1)


def _mark_dropped(
    split: str,
    keep: np.ndarray,
    rare: Mapping[str, set[int]],
    labels: Sequence[Label],
    writer: Writer,
    ledger: Ledger,
) -> None:
    """Mark the rows with a rare class as dropped, and remove them from all counts."""
    start = 0
    classes = [label for label in labels if label.kind != "number"]
    for batch in writer.read_batches(split):
        part = keep[start : start + batch.num_rows]
        characters = writer.get_characters(split)[start : start + batch.num_rows]
        for label in classes:
            if label.column not in rare:
                continue
            gone = _find_rows_with(batch.column(label.column), rare[label.column]) & part
            part &= ~gone
            for number in np.flatnonzero(gone):
                ledger.take_back(split, name_rare_class_reason(label), int(characters[number]))
                for other in classes:
                    ids = batch.column(other.column)[int(number)].as_py()
                    other.ids.remove_count(ids if isinstance(ids, list) else [ids], split)
        start += batch.num_rows


def _find_rows_with(column: pa.Array, rare: set[int]) -> np.ndarray:
    """Return whether each row has one of the classes, bool, shape (rows,)."""
    values = pa.array(sorted(rare), pa.int64())
    if not pa.types.is_list(column.type):
        return pc.is_in(column, value_set=values).to_numpy(zero_copy_only=False)
    found = np.zeros(len(column), bool)
    inside = pc.is_in(pc.list_flatten(column), value_set=values).to_numpy(zero_copy_only=False)
    found[pc.list_parent_indices(column).to_numpy()[inside]] = True
    return found
