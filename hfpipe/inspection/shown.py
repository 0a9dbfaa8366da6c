"""What `hfpipe show` returns: tokens with marks, texts before and after cleaning, and the templates used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Mark = Literal["target", "masked", "ignored", "padding"]
Outcome = Literal["kept", "changed", "dropped"]
MARKS: dict[Mark, str] = {
    "target": "learned as it stands",
    "masked": "learned in place of what the model reads there",
    "ignored": "read, not learned",
    "padding": "neither read nor learned",
}
"""Mark of a token → what it means."""


@dataclass(frozen=True)
class ShownToken:
    """A position of a sequence."""

    text: str
    """The token that the model reads there; empty where it only predicts one."""
    mark: Mark
    target: str = ""
    """What is learned there, where it is not the token itself: another token, or a class."""
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
    """Where it is in the training, and which row of the data it was made of."""
    sequences: list[ShownSequence]
    targets: list[tuple[str, str]] = field(default_factory=list)
    """What is learned of the example as a whole: name and value."""


@dataclass(frozen=True)
class ShownRow:
    """A row of a data set and what cleaning did to it."""

    place: str
    """Where the row was read, as `a.csv, line 12`."""
    outcome: Outcome
    split: str
    """The split that it went to; empty for a row that was dropped."""
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
    """What the rows are: name and value."""
    templates: list[tuple[str, str]] = field(default_factory=list)
    """Templates that the examples were made with: name and text."""
    examples: list[ShownExample] = field(default_factory=list)
    rows: list[ShownRow] = field(default_factory=list)
