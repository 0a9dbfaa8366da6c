"""Distillation: a classifier also learns the class probabilities of trained teachers, its soft targets.

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

from hfpipe.modeling.losses.training_loss import TrainingLoss
from hfpipe.types import Counted

if TYPE_CHECKING:
    from hfpipe.runtime import Objective
    from hfpipe.types import Batch

BATCH_ENTRY = "_soft_targets"
"""Entry of a batch: the teachers' probabilities, float32 (rows, classes)."""


@dataclass(frozen=True)
class DistillationLoss(TrainingLoss):
    """`(1 - weight)` times the loss of the labels, plus `weight · T²` times the divergence from the teachers.

    The divergence is Kullback-Leibler's of the probabilities at temperature `T` (Hinton, Vinyals and Dean,
    2015, section 2); of each class on its own where a row has several labels. Both are sums over the same
    targets, and `T²` keeps the size of the gradients when `T` changes.
    """

    labels: Objective
    """The loss of the labels."""
    soft_targets: np.ndarray
    """Probabilities of the teachers at the temperature, by train example: float32 (examples, classes)."""
    temperature: float
    weight: float

    def add_entries(self, batch: Batch, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """Return the batch of some encoded examples with their soft targets."""
        targets = self.soft_targets[[example["index"] for example in examples]]
        return batch | {BATCH_ENTRY: torch.from_numpy(targets)}

    def count(self, batch: Batch) -> Tensor:
        return self.labels.count(batch)

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        total, targets = self.labels.loss(outputs, batch, smoothing)
        logits, soft = outputs.logits.float() / self.temperature, batch[BATCH_ENTRY]
        if batch["labels"].is_floating_point():
            cross = F.binary_cross_entropy_with_logits(logits, soft, reduction="sum")
            entropy = F.binary_cross_entropy(soft, soft, reduction="sum")
            divergence = cross - entropy
        else:
            divergence = F.kl_div(F.log_softmax(logits, dim=-1), soft, reduction="sum")
        squared = self.temperature**2
        return Counted((1 - self.weight) * total + self.weight * squared * divergence, targets)
