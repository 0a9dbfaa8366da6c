"""Parts of the page about predictions: a picture, a table, a matrix or examples under a heading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 10
"""Number of examples of each kind on the page."""
CHARACTERS = 400
"""Maximum number of characters of a text on the page."""


@dataclass(frozen=True)
class Span:
    """A part of a text; `kind` is its mark, empty for plain text."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Example:
    """A row with its prediction."""

    inputs: list[tuple[str, list[Span]]]
    """Name of a column and its text."""
    answers: list[tuple[str, list[Span]]]
    """Prediction, reference and confidence of the model."""


@dataclass(frozen=True)
class Block:
    """A part of the page under a heading: a picture, a table or examples."""

    title: str
    note: str = ""
    picture: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    matrix: Matrix | None = None
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: rows are references, columns predictions."""

    names: list[str]
    cells: list[list[tuple[int, int]]]
    """Count and shade (0 to `LEVELS`, by the share of its row) of each cell."""


def holds_texts(frame: pd.DataFrame, column: str) -> bool:
    """Return whether a column exists and contains texts."""
    return column in frame and isinstance(frame[column].iloc[0], str)


def holds_lists(value: Any) -> bool:
    """Return whether a value is a list, as pandas reads it from a file."""
    import numpy as np

    return isinstance(value, list | np.ndarray)


def get_inputs(frame: pd.DataFrame, row: Any) -> list[tuple[str, list[Span]]]:
    """Return the inputs of a row: column names and their texts."""
    names = frame.attrs.get("inputs", [])
    columns = [f"input_{name}" if f"input_{name}" in frame else name for name in names]  # as in older files
    return [
        (name, [Span(clip_text(_format_plain(row[column])))])
        for name, column in zip(names, columns, strict=True)
    ]


def _format_plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_format_plain(each)}" for name, each in value.items())
    return " ".join(_format_plain(each) for each in value) if holds_lists(value) else str(value)


def clip_text(text: str) -> str:
    """Return a text, truncated if it is too long for the page."""
    text = str(text)
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…"
