"""Names of the files in a stage's folder, for the stages that write it and the commands that read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hfpipe.references.places import slug

MODEL = "model"
"""Name of the model among the systems of an evaluate stage."""

CARD = "README.md"
"""The model card of a training stage."""

METRICS = "metrics.jsonl"
"""What a training stage logs while it trains, a line an entry; it stays in the finished folder."""

EXPLANATIONS = "explanations.json"
"""What `report --explain` writes into the folder of an evaluate stage, for the page of the run."""

SAMPLES = "samples.jsonl"
"""What a model generated each time it was validated, a line a time; it stays in the finished folder."""

FILLS = "fills.jsonl"
"""What a masked language model fills in for hidden words of the evaluated texts, a line for each."""

EXPORT = "export.json"
"""What `transformers.exporters` writes next to an exported model: its format and files."""

CLUSTER = "resampling_group"
"""Column of predictions: the number of the group that a row is resampled with, where rows are in groups."""

TRAINED = ("pretrain", "finetune")
"""Kinds of stage that train a model."""

MODELS = (*TRAINED, "export")
"""Kinds of stage whose folder holds a model."""

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


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return what a stage has logged in training."""
    return read_lines(folder / METRICS)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects in the lines of a file; a line that is still being written is left out."""
    entries = []
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]
