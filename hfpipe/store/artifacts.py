"""Names of what lies in a stage's folder, for the stages that write it and the commands that read it."""

from __future__ import annotations

from pathlib import Path

from hfpipe.references.places import slug

MODEL = "model"
"""Name of the model among the systems of an evaluate stage."""

HISTORY = ".work/history.jsonl"
"""What a stage that still trains has logged, a line an entry, inside its folder."""

TRAINED = ("pretrain", "finetune")
"""Kinds of stage that make a model."""


def predictions_path(folder: Path, system: str) -> Path:
    """Return the file in which an evaluate stage keeps the predictions of its model or a baseline."""
    tail = "" if system == MODEL else f"-{slug(system)}"
    return folder / f"predictions{tail}.parquet"
