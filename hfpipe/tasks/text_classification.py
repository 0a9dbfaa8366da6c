"""Text classification: one label, several, sentence pairs, or a number."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hfpipe.contract import Task


class TextClassification(Task):
    """Sorts a text, or a pair of texts, into classes; regression when the label is a float."""

    kind: Literal["text-classification"] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    text: str = "text"
    """Column to read."""
    text_pair: str | None = None
    """Column of the second text, for sentence pairs."""
    label: str = "label"
    """Column of the label: a class, a list of classes, or a float for regression."""
    length: int = Field(default=256, ge=4)
    """Tokens at most; longer texts are cut, and the ledger says how many tokens that cost."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text, self.label) if self.text_pair is None else (self.text, self.text_pair, self.label)
