"""Names of the files in a stage's folder, for the stages that write it and the commands that read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hfpipe.references.places import make_slug

MODEL = "model"
"""Name of the model among the systems of an evaluate stage."""

CARD = "README.md"
"""The model card of a training stage."""

METRICS = "metrics.jsonl"
"""Log of a training stage, one entry per line; it stays in the finished folder."""

EXPLANATIONS = "explanations.json"
"""File that `report --explain` writes into the folder of an evaluate stage, for the page of the run."""

SAMPLES = "samples.jsonl"
"""Texts that a model generated in each validation, one validation per line; stays in the finished folder."""

FILLS = "fills.jsonl"
"""What a masked language model fills in for hidden words of the evaluated texts, a line for each."""

EXPORT = "export.json"
"""File of `transformers.exporters` next to an exported model, with its format and files."""

CLUSTER = "resampling_group"
"""Column of predictions: the number of the resampling group of a row, if rows are grouped."""

TRAINED = ("pretrain", "finetune")
"""Kinds of stage that train a model."""

MODELS = (*TRAINED, "export")
"""Kinds of stage whose folder contains a model."""

OLD_COLUMNS = {
    "gold": "reference",
    "guess": "prediction",
    "nats": "nll",
    "next_sentence_nats": "next_sentence_nll",
}
"""Name of a column of predictions in earlier versions → its name."""


def find_renamed_columns(columns: Iterable[str], inputs: Sequence[str]) -> dict[str, str]:
    """Return the columns of a file of predictions that were renamed: old name → new name.

    An input with the new name of such a column becomes `input_NAME`, as in new files.
    """
    found = {old: new for old, new in OLD_COLUMNS.items() if old in columns and old not in inputs}
    return found | {name: f"input_{name}" for name in inputs if name in found.values()}


def get_predictions_path(folder: Path, system: str) -> Path:
    """Return the file with the predictions of the model, or of a baseline, of an evaluate stage."""
    tail = "" if system == MODEL else f"-{make_slug(system)}"
    return folder / f"predictions{tail}.parquet"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the entries that a stage logged during training."""
    return read_lines(folder / METRICS)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects in the lines of a file; an incomplete line is skipped."""
    entries = []
    with suppress(OSError):
        # Not splitlines(), which also splits at characters that a text in JSON may contain, such as U+2028.
        for line in path.read_text(encoding="utf-8").split("\n"):
            with suppress(ValueError):
                entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]
