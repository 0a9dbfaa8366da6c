"""Distillation of language models: a student also learns the token probabilities of its teachers.

The probabilities of a vocabulary for every token of a split would fill a disk, so the teachers read each
batch of the student, without gradients. If their logits are the output of their output layer, this layer is
applied to one chunk of positions at a time, as for the student (see `chunked_loss`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hfpipe.modeling.losses.chunked_loss import (
    ChunkLoss,
    compute_chunked_linear_loss,
    compute_chunked_loss,
    compute_softmax_gradient,
)
from hfpipe.modeling.losses.head_loss import find_separable_head, get_product_dtype, skip_head
from hfpipe.modeling.losses.losses import IGNORED, forward
from hfpipe.modeling.losses.training_loss import TrainingLoss
from hfpipe.types import Counted

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from hfpipe.modeling.attention.separate_documents import SeparateDocuments
    from hfpipe.runtime import Objective, TaskRuntime
    from hfpipe.types import Batch

BATCH_ENTRY = "_teacher_{}"
"""Entry of a batch for each teacher: the input of its output layer at the target positions, or its logits."""


class Teacher:
    """A trained language model that reads the batches of its student."""

    def __init__(
        self,
        place: str,
        model: PreTrainedModel,
        task: TaskRuntime,
        separate: SeparateDocuments | None = None,
    ) -> None:
        """`place` is a folder or a name on the Hub; `separate` separates the documents of an example."""
        self.place = place
        self._model: Any = model.eval().requires_grad_(False)
        self._task = task
        self._separate = separate
        self._head: nn.Linear | None = None
        self._has_read = False

    def compute_states(self, batch: Batch, positions: Tensor) -> Tensor:
        """Return the input of the output layer at positions, or logits: (positions, size or vocabulary)."""
        device = batch["input_ids"].device
        if self._model.device != device:
            self._model.to(device)
        with torch.no_grad():
            if not self._has_read:
                self._head, self._has_read = find_separable_head(self._task, self._model, batch), True
            head = self._head
            with self._separate_documents(batch) as inputs:
                if head is None:
                    found = forward(self._model, inputs, positions).logits
                else:
                    with skip_head(head):
                        found = forward(self._model, inputs, None).logits
        if found.dim() == 3:
            found = found.reshape(-1, found.shape[-1])[positions]
        states: Tensor = found if head is None else found.to(get_product_dtype(head, device))
        return states

    def _separate_documents(self, batch: Batch) -> AbstractContextManager[Batch]:
        return nullcontext(batch) if self._separate is None else self._separate(batch)

    def get_output_layer(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None] | None:
        """Return weight and bias that turn `states` into logits, None if these are logits already."""
        if self._head is None:
            return None
        weight, bias = (getattr(self._head, name) for name in ("weight", "bias"))
        return weight.to(dtype), bias.to(dtype) if bias is not None else None


@dataclass(frozen=True, eq=False)
class TokenDistillation(TrainingLoss):
    """`(1 - weight)` times the cross-entropy, plus `weight · T²` times the divergence from the teachers.

    The divergence is Kullback-Leibler's of the probabilities of the vocabulary at temperature `T` (Hinton,
    Vinyals and Dean, 2015, section 2), over the same positions as the cross-entropy; those without a target
    do not count. The probabilities of several teachers are averaged.
    """

    tokens: Objective
    """The cross-entropy of the tokens."""
    teachers: tuple[Teacher, ...]
    temperature: float
    weight: float

    def __getstate__(self) -> Mapping[str, Any]:
        """Return the state without the teachers, which no worker of a data loader needs."""
        return vars(self) | {"teachers": ()}

    def add_entries(self, batch: Batch, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """Return the batch unchanged; `with_teachers` adds entries on the device of the models."""
        return batch

    def with_teachers(self, batch: Batch) -> Batch:
        """Return the batch with the outputs of each teacher."""
        positions = self._find_positions(batch)
        read = (teacher.compute_states(batch, positions) for teacher in self.teachers)
        return batch | {BATCH_ENTRY.format(number): states for number, states in enumerate(read)}

    def positions(self, batch: Batch) -> Tensor | None:
        return self.tokens.positions(batch)

    def count(self, batch: Batch) -> Tensor:
        return self.tokens.count(batch)

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        logits = outputs.logits
        if logits.dim() == 3:
            logits = logits.reshape(-1, logits.shape[-1])[self._find_positions(batch)]
        return Counted(
            compute_chunked_loss(logits, self._create_chunk_loss(batch, smoothing)), self.count(batch)
        )

    def head_loss(
        self, hidden: Tensor, head: nn.Linear, batch: Batch, smoothing: float, *, dtype: torch.dtype
    ) -> Counted:
        """Return the value of `loss` from hidden states (rows, length, size) instead of logits."""
        hidden = hidden.reshape(-1, hidden.shape[-1])[self._find_positions(batch)]
        of_chunk = self._create_chunk_loss(batch, smoothing)
        total = compute_chunked_linear_loss(hidden, head.weight, head.bias, of_chunk, dtype=dtype)
        return Counted(total, self.count(batch))

    def _find_positions(self, batch: Batch) -> Tensor:
        positions = self.positions(batch)
        assert positions is not None  # checked before: the loss is the cross-entropy at positions
        return positions

    def _create_chunk_loss(self, batch: Batch, smoothing: float) -> ChunkLoss:
        targets = batch["labels"].reshape(-1)[self._find_positions(batch)]
        states = [batch[BATCH_ENTRY.format(number)] for number in range(len(self.teachers))]
        layers = [one.get_output_layer(each.dtype) for one, each in zip(self.teachers, states, strict=True)]

        def of_chunk(logits: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
            soft = torch.zeros_like(logits, dtype=torch.float32)
            for each, layer in zip(states, layers, strict=True):
                taught = each[chunk] if layer is None else F.linear(each[chunk], *layer)
                soft += fit_columns(taught.float() / self.temperature, logits.shape[-1]).softmax(-1)
            soft /= len(states)
            return compute_distillation_gradient(
                logits, targets[chunk], soft, self.temperature, self.weight, smoothing
            )

        return of_chunk


def fit_columns(logits: Tensor, columns: int) -> Tensor:
    """Return logits (rows, columns): truncated, or padded with logits of probability 0.

    Models with the same tokenizer may have vocabularies that are padded to different sizes.
    """
    return F.pad(logits, (0, columns - logits.shape[-1]), value=-torch.inf)


def compute_distillation_gradient(
    logits: Tensor, targets: Tensor, soft: Tensor, temperature: float, weight: float, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the summed loss of logits (positions, vocabulary), and its gradient in their shape and dtype.

    `targets` have shape (positions,), int64, -100 where there is none; `soft` are the probabilities of the
    teachers at the temperature, float32 (positions, vocabulary).
    """
    counted = targets != IGNORED
    scaled = (logits.float() / temperature).log_softmax(-1)
    divergence = ((torch.xlogy(soft, soft) - soft * scaled).sum(-1) * counted).sum()
    towards = (scaled.exp() - soft) * counted[:, None]
    labels, gradient = compute_softmax_gradient(logits.float(), targets, smoothing, IGNORED)
    total = (1 - weight) * labels + weight * temperature**2 * divergence
    gradient = (1 - weight) * gradient + weight * temperature * towards
    return total, gradient.to(logits.dtype)
