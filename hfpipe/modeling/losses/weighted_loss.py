"""Losses in which classes and rows have weights, and focal loss, as a sum and its weighted count.

They follow `reduction="mean"` of torch: cross-entropy is divided by the sum of the weights of its targets,
binary cross-entropy with `pos_weight` by the number of labels. The weight of a row multiplies both the sum
and the count, so that a row of weight 2 is the same as two equal rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.modeling.losses.training_loss import TrainingLoss
from hfpipe.types import Counted

if TYPE_CHECKING:
    from hfpipe.types import Batch

BATCH_ENTRY = "_row_weights"
"""Entry of a batch: the weight of each example, float32 (rows,)."""
SMALLEST = 1e-12
"""Lower limit of `1 - p`, because the gradient of a power below 1 is infinite at 0."""


@dataclass(frozen=True)
class WeightedLoss(TrainingLoss):
    """Computes loss and count of a classifier or tagger, or of a regression whose rows have weights.

    `labels` of the batch are int64 (rows,) or (rows, length), float (rows, classes) for several labels per
    row, or float (rows,) for regression.
    """

    class_weights: Tensor | None = None
    """Weight of each class, float32 (classes,); None where all are 1."""
    focal: float = 0.0
    """Exponent of `1 - p` in focal loss, 0 for plain cross-entropy."""
    row_weights: np.ndarray | None = None
    """Weight of each train example by its index, float32 (examples,); None where all are 1."""

    def add_entries(self, batch: Batch, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """Return the batch of some encoded examples with their weights."""
        if self.row_weights is None:
            return batch
        weights = self.row_weights[[example["index"] for example in examples]]
        return batch | {BATCH_ENTRY: torch.from_numpy(weights)}

    def count(self, batch: Batch) -> Tensor:
        """Return the sum of the weights of the targets, float32, 0-d, without running the model."""
        labels = batch["labels"]
        rows = _get_row_weights(batch)
        if labels.is_floating_point():
            return (rows * labels[0].numel()).sum()
        return (rows * _weigh_targets(labels, self._move_weights(labels))).sum()

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        """Return the weighted sum of the losses in nats (squared errors in regression), and `count`."""
        logits, labels = outputs.logits.float(), batch["labels"]
        rows, weights = _get_row_weights(batch), self._move_weights(labels)
        if not labels.is_floating_point():
            each = _compute_cross_entropy(logits, labels, weights, self.focal, smoothing)
        elif labels.dim() == 2:
            each = _compute_binary_cross_entropy(logits, labels, weights, self.focal)
        else:
            each = F.mse_loss(logits.squeeze(-1), labels, reduction="none")
        return Counted((each * rows).sum(), self.count(batch))

    def _move_weights(self, labels: Tensor) -> Tensor | None:
        return None if self.class_weights is None else self.class_weights.to(labels.device)


def _get_row_weights(batch: Batch) -> Tensor:
    """Return the weights of the examples, in a shape that multiplies the labels."""
    labels = batch["labels"]
    weights = batch.get(BATCH_ENTRY)
    if weights is None:
        weights = torch.ones(len(labels), device=labels.device)
    return weights.reshape(-1, *[1] * (labels.dim() - 1))


def _weigh_targets(labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weight of each target, 0 where there is none: float32, in the shape of the labels."""
    there = labels != IGNORED
    return there.float() if weights is None else weights[labels.clamp(min=0)] * there


def _compute_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None, focal: float, smoothing: float
) -> Tensor:
    """Return the weighted loss of each target, 0 where there is none, in the shape of the labels."""
    flat, targets = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    entropy = partial(F.cross_entropy, flat, targets, ignore_index=IGNORED, reduction="none")
    each = entropy(weight=weights, label_smoothing=smoothing)
    if focal:
        each = each * _compute_focal_factor(-torch.expm1(-entropy()), focal)
    return each.reshape(labels.shape)


def _compute_binary_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None, focal: float
) -> Tensor:
    each = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
    return each * _compute_focal_factor((logits * (1 - 2 * labels)).sigmoid(), focal) if focal else each


def _compute_focal_factor(missing: Tensor, exponent: float) -> Tensor:
    """Return the factor of focal loss, `(1 - p) ** exponent`, where `missing` is `1 - p`."""
    return missing.clamp(min=SMALLEST) ** exponent
