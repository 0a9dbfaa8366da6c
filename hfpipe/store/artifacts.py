"""Names of what lies in a stage's folder, for the stages that write it and the commands that read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hfpipe.references.places import slug

MODEL = "model"
"""Name of the model among the systems of an evaluate stage."""

HISTORY = ".work/history.jsonl"
"""What a stage that still trains has logged, a line an entry, inside its folder."""

TRAINED = ("pretrain", "finetune")
"""Kinds of stage that make a model."""

OLD_COLUMNS = {
    "gold": "reference",
    "guess": "prediction",
    "nats": "nll",
    "next_sentence_nats": "next_sentence_nll",
}
"""Columns of predictions as earlier versions named them, and their names now."""


def renamed_columns(columns: Iterable[str], inputs: Sequence[str]) -> dict[str, str]:
    """Return the columns of a file of predictions that have another name now, each with that name.

    An input whose name a prediction has now becomes `input_NAME`, as it is in a new file.
    """
    found = {old: new for old, new in OLD_COLUMNS.items() if old in columns and old not in inputs}
    return found | {name: f"input_{name}" for name in inputs if name in found.values()}


def predictions_path(folder: Path, system: str) -> Path:
    """Return the file in which an evaluate stage keeps the predictions of its model or a baseline."""
    tail = "" if system == MODEL else f"-{slug(system)}"
    return folder / f"predictions{tail}.parquet"
