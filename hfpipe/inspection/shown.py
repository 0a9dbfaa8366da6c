"""Results of `hfpipe show`: marked tokens, texts before and after cleaning, and templates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Mark = Literal["target", "masked", "ignored", "padding"]
Outcome = Literal["kept", "changed", "dropped"]
MARKS: dict[Mark, str] = {
    "target": "learned unchanged",
    "masked": "learned instead of the token that the model reads",
    "ignored": "read, not learned",
    "padding": "neither read nor learned",
}
"""Mark of a token → its meaning."""


@dataclass(frozen=True)
class ShownToken:
    """A position of a sequence."""

    text: str
    """The token that the model reads; empty if it only predicts one."""
    mark: Mark
    target: str = ""
    """The target, if it is not the token itself: another token, or a class."""
    opens: bool = False
    """Whether a document of a packed example begins here."""


@dataclass(frozen=True)
class ShownSequence:
    """The tokens of one row of a batch, or of a part of it such as an ending or the text to write."""

    name: str
    tokens: list[ShownToken]


@dataclass(frozen=True)
class ShownExample:
    """An example of a batch."""

    title: str
    """Its position in the training, and its row of the data."""
    sequences: list[ShownSequence]
    targets: list[tuple[str, str]] = field(default_factory=list)
    """Targets of the whole example: name and value."""


@dataclass(frozen=True)
class ShownRow:
    """A row of a data set and what cleaning did to it."""

    place: str
    """Source of the row, as `a.csv, line 12`."""
    outcome: Outcome
    split: str
    """The split of the row; empty for a dropped row."""
    steps: list[str]
    """The cleaning steps that changed it, or the one that dropped it."""
    columns: list[tuple[str, str, str]]
    """Name of a text column, its text before, and its text after."""


@dataclass(frozen=True)
class ShownStage:
    """Some rows of a stage."""

    stage: str
    kind: str
    split: str
    facts: list[tuple[str, str]]
    """Facts about the rows: name and value."""
    templates: list[tuple[str, str]] = field(default_factory=list)
    """Templates of the examples: name and text."""
    examples: list[ShownExample] = field(default_factory=list)
    rows: list[ShownRow] = field(default_factory=list)
