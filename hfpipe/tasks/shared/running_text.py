"""Settings of the tasks that pretrain on unlabeled texts; imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from hfpipe.contract import Settings


class RunningText(Settings):
    """Pretrains on unlabeled texts, which are concatenated in training."""

    stages: ClassVar[frozenset[str]] = frozenset({"pretrain", "finetune"})
    later: ClassVar[tuple[str, ...]] = ("packing",)
    text: str = "text"
    """Column of the texts."""
    packing: Literal["wrapped", "bfd"] = "wrapped"
    """How documents are packed into training examples.

    `wrapped`: the concatenation of all documents is cut every `length` tokens; there is no padding, and most
    examples begin inside a document. `bfd` (best-fit decreasing): examples consist of whole documents, and
    some are padded; only a document longer than `length` is split and continued in the next example.
    """

    @property
    def packed(self) -> bool:
        return True

    @property
    def best_fit(self) -> bool:
        return self.packing == "bfd"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,)
