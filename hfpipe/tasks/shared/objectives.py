"""Objectives for tasks to compose: cross-entropy over tokens, and losses of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hfpipe.modeling.losses.losses import (
    IGNORED,
    compute_label_loss,
    compute_token_loss,
    find_target_positions,
)
from hfpipe.runtime import Objective

if TYPE_CHECKING:
    from hfpipe.types import Batch, Counted


@dataclass(frozen=True)
class TokenCrossEntropy(Objective):
    """Cross-entropy over the vocabulary; `labels` are aligned with the logits, or -100."""

    predicted_share: float = 1.0

    @property
    def loss_is_cross_entropy(self) -> bool:
        return type(self).loss is TokenCrossEntropy.loss  # not overridden by a user's objective

    def positions(self, batch: Batch) -> torch.Tensor | None:
        return batch["_positions"] if "_positions" in batch else find_target_positions(batch["labels"])

    def count(self, batch: Batch) -> torch.Tensor:
        return (batch["labels"] != IGNORED).sum()

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        return compute_token_loss(outputs.logits, batch["labels"], smoothing, batch.get("_positions"))


class TokenLabelLoss(Objective):
    """Cross-entropy over the classes of tokens; `labels` have a class per token, or -100."""

    def count(self, batch: Batch) -> torch.Tensor:
        return (batch["labels"] != IGNORED).sum()

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        return compute_token_loss(outputs.logits, batch["labels"], smoothing)


class LabelLoss(Objective):
    """Loss of one class, several classes or a number per row; the labels' dtype and shape determine which."""

    def count(self, batch: Batch) -> torch.Tensor:
        return torch.tensor(batch["labels"].numel())

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        return compute_label_loss(outputs.logits, batch["labels"], smoothing)
