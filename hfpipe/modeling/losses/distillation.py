"""Distillation: a classifier or tagger also learns from the class probabilities of teachers (soft targets).

The teachers' probabilities are computed once, before training, so that a teacher may have another tokenizer
and costs nothing per step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.modeling.losses.training_loss import TrainingLoss
from hfpipe.types import Counted

if TYPE_CHECKING:
    from hfpipe.runtime import Objective
    from hfpipe.types import Batch

BATCH_ENTRY = "_soft_targets"
"""Entry of a batch: the teachers' probabilities, float32 (targets, classes)."""


@dataclass(frozen=True)
class DistillationLoss(TrainingLoss):
    """`(1 - weight)` times the loss of the labels, plus `weight · T²` times the divergence from the teachers.

    The divergence is Kullback-Leibler's of the probabilities at temperature `T` (Hinton, Vinyals and Dean,
    2015, section 2); for each class separately if a row has several labels. Both are sums over the same
    targets, and `T²` keeps the size of the gradients when `T` changes.
    """

    labels: Objective
    """The loss of the labels."""
    soft_targets: np.ndarray
    """Probabilities of the teachers at the temperature: float32 (train examples or words, classes)."""
    temperature: float
    weight: float
    words: Sequence[np.ndarray] | None = None
    """Rows of `soft_targets` for the targets of each train example, int64; None for its own index."""

    def get_targets(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Return the soft targets of each of some train examples, float32 (targets, classes)."""
        rows = [[index] if self.words is None else self.words[index] for index in indices]
        return [self.soft_targets[each] for each in rows]

    def add_entries(self, batch: Batch, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """Return the batch of some encoded examples with their soft targets."""
        targets = self.get_targets([example["index"] for example in examples])
        return batch | {BATCH_ENTRY: torch.from_numpy(np.concatenate(targets))}

    def count(self, batch: Batch) -> Tensor:
        return self.labels.count(batch)

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        total, targets = self.labels.loss(outputs, batch, smoothing)
        logits, soft = outputs.logits.float() / self.temperature, batch[BATCH_ENTRY]
        if batch["labels"].dim() == 2 and not batch["labels"].is_floating_point():
            logits = logits[batch["labels"] != IGNORED]  # (rows, length, classes) of a tagger
        if batch["labels"].is_floating_point():
            cross = F.binary_cross_entropy_with_logits(logits, soft, reduction="sum")
            entropy = F.binary_cross_entropy(soft, soft, reduction="sum")
            divergence = cross - entropy
        else:
            divergence = F.kl_div(F.log_softmax(logits, dim=-1), soft, reduction="sum")
        squared = self.temperature**2
        return Counted((1 - self.weight) * total + self.weight * squared * divergence, targets)
