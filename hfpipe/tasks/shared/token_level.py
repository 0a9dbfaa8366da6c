"""Base of the tasks whose targets are tokens: a summed loss, and counts of correct predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hfpipe.task import Task
from hfpipe.types import Counted

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hfpipe.types import Batch


class TokenTargets(Task):
    """Trained by cross-entropy over tokens; `collate` returns `labels`, aligned with the logits, or -100."""

    def positions(self, batch: Batch) -> torch.Tensor:
        from hfpipe.modeling.losses.losses import target_positions

        return batch["_positions"] if "_positions" in batch else target_positions(batch["labels"])

    @property
    def loss_is_cross_entropy(self) -> bool:
        return type(self).loss is TokenTargets.loss  # not overridden by a user's task

    def count(self, batch: Batch) -> torch.Tensor:
        from hfpipe.modeling.losses.losses import IGNORED

        return (batch["labels"] != IGNORED).sum()

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        from hfpipe.modeling.losses.losses import token_loss

        return token_loss(outputs.logits, batch["labels"], smoothing, batch.get("_positions"))

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Batch:
        from hfpipe.modeling.losses.losses import token_columns

        return token_columns(outputs.logits, batch["labels"])


def utf8(texts: Sequence[str]) -> np.ndarray:
    """Return the number of UTF-8 bytes of each text: int64, shape (n,)."""
    import numpy as np

    return np.array([len(text.encode()) for text in texts], dtype=np.int64)


def at_first(values: Sequence[int], rows: Sequence[int]) -> list[int]:
    """Return each row's value at its first example and 0 at its other examples, in order."""
    before = (None, *rows)
    return [0 if row == last else values[row] for row, last in zip(rows, before, strict=False)]


class RunningText(TokenTargets):
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
