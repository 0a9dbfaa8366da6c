"""Computes a micro-batch of a training: outputs of the model and loss of the task, eager or compiled.

A compiled step is compiled once: the batches of a packed task have one shape, (rows, length), and their
targets' positions have few sizes (see `Collator`). The one batch per epoch that contains the end of the text
is padded or shorter; it runs eagerly, because compiling for it would take longer than many steps.

On a CPU, and on a GPU if its logits do not fit into memory, the output layer is skipped in the model and
applied by the loss, in chunks, if the model allows it.
The teachers of a language model process each batch before the model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import extract_model_from_parallel

from hfpipe.errors import StageError
from hfpipe.modeling.attention.masks import omit_masks, runs_without_masks
from hfpipe.modeling.attention.separate_documents import SeparateDocuments, choose_attention, find_separation
from hfpipe.modeling.losses.chunked_loss import compute_linear_cross_entropy, compute_softmax_gradient
from hfpipe.modeling.losses.head_loss import (
    compute_head_loss,
    find_separable_head,
    get_product_dtype,
    skip_head,
)
from hfpipe.modeling.losses.liger_loss import choose_linear_loss
from hfpipe.modeling.losses.losses import forward
from hfpipe.modeling.losses.token_distillation import TokenDistillation
from hfpipe.modeling.performance import compile_loss, compile_model, run_uncompiled
from hfpipe.recipe.training.compile_modes import GRAPH_MODES

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from hfpipe.modeling.attention.unpadding import Unpadding
    from hfpipe.modeling.losses.liger_loss import LinearLoss
    from hfpipe.runtime import Objective, TaskRuntime
    from hfpipe.types import Batch, Counted


log = logging.getLogger(__name__)

Autocast = Callable[[], AbstractContextManager[Any]]
"""Returns the context in which a model computes in the dtype of the training."""


def separate_documents(
    task: TaskRuntime, model: PreTrainedModel, device: torch.device, *, chosen: bool = False
) -> SeparateDocuments | None:
    """Return a runner that separates the documents of a task's examples on a device, None if they may mix.

    The model's attention is replaced by the fastest implementation, unless the recipe has `chosen` it. Raises
    StageError when the model cannot separate documents.
    """
    if not task.config.separates_documents:
        return None
    found = find_separation(model)
    if found is None:
        raise StageError(f"{model.config.model_type} cannot separate packed documents; use another model")
    if not chosen:
        found = choose_attention(model, found, task.config.length, device)
    log.info("separate documents: by %s, attention %s", found.by, found.attention)
    return SeparateDocuments(model, found)


class TrainingStep:
    """Computes a micro-batch eagerly."""

    def __init__(
        self,
        task: TaskRuntime,
        smoothing: float,
        autocast: Autocast = nullcontext,
        *,
        chunked: bool = False,
        separate: SeparateDocuments | Unpadding | None = None,
        objective: Objective | None = None,
    ) -> None:
        """`chunked` lets the loss apply the output layer in chunks; its weights must not be sharded.

        `separate` separates the documents of an example, or the examples of a batch without padding.
        `objective` replaces that of the task.
        """
        self.task = task
        self._separate = separate
        self.smoothing = smoothing
        self._autocast = autocast
        self.teaching = objective if isinstance(objective, TokenDistillation) else None
        self._chunked = chunked and (objective is None or self.teaching is not None)
        self.objective = objective or task.objective
        self._linear_loss: LinearLoss | None = None
        self._head: nn.Linear | None = None

    def __call__(self, model: Any, batch: Batch) -> tuple[Any, Counted]:
        """Return the outputs of the model, which may be wrapped, and the summed loss with its count.

        If the loss applies the output layer, the outputs hold hidden states instead of logits.
        """
        batch = self.add_teacher_outputs(batch)
        head, positions = self.find_head(model, batch), self.objective.positions(batch)
        if head is None or positions is None:
            with self.isolate_documents(batch) as inputs:
                outputs = forward(model, inputs, positions)
            return outputs, self.objective.loss(outputs, batch, self.smoothing)
        with self._autocast(), skip_head(head):
            with self.isolate_documents(batch) as inputs:
                outputs = forward(model, inputs, None)
            return outputs, self.head_loss(outputs, head, batch)

    def add_teacher_outputs(self, batch: Batch) -> Batch:
        """Return the batch with the outputs of the teachers of a language model."""
        if self.teaching is None:
            return batch
        with self._autocast():
            return self.teaching.with_teachers(batch)

    def isolate_documents(self, batch: Batch) -> AbstractContextManager[Batch]:
        """Return the context in which a model separates documents; it yields the inputs of the model."""
        return nullcontext(batch) if self._separate is None else self._separate(batch)

    def find_head(self, model: Any, batch: Batch) -> nn.Linear | None:
        """Return the output layer that the loss applies; None if the model returns logits."""
        if self._chunked:
            self._chunked = False
            bare = extract_model_from_parallel(model)
            with run_uncompiled(bare), self._autocast():
                self._head = find_separable_head(self.task, bare, batch)
        return self._head

    def head_loss(
        self, outputs: Any, head: nn.Linear, batch: Batch, loss: LinearLoss | None = None
    ) -> Counted:
        """Return the loss of the hidden states that a model without its output layer returned.

        `loss` replaces the loss that is fastest without compiling.
        """
        hidden, positions = outputs.logits, self.objective.positions(batch)
        dtype = get_product_dtype(head, hidden.device)
        assert positions is not None
        if self.teaching is not None:
            return self.teaching.head_loss(hidden, head, batch, self.smoothing, dtype=dtype)
        if loss is None:
            if self._linear_loss is None:
                self._linear_loss = choose_linear_loss(hidden.device, dtype, self.smoothing)
            loss = self._linear_loss
        return compute_head_loss(hidden, head, batch, positions, self.smoothing, dtype=dtype, loss=loss)


class CompiledStep:
    """Computes micro-batches of one shape with model and loss compiled, and any other batch eagerly."""

    def __init__(
        self,
        eager: TrainingStep,
        model: PreTrainedModel,
        rows: int,
        autocast: Autocast,
        mode: str = "default",
    ) -> None:
        """`rows` is the number of examples of a micro-batch, `mode` that of torch.compile."""
        self._eager = eager
        self._model = model
        self._shape = (rows, eager.task.config.length)
        self._autocast = autocast
        loss = eager.objective.loss
        self._loss = compile_loss(loss, mode) if eager.teaching is None else loss  # a loop over chunks
        kernel = torch.compile(compute_softmax_gradient, dynamic=False, mode=mode)
        self._linear_loss = partial(compute_linear_cross_entropy, kernel=kernel)
        self._records_graphs = mode in GRAPH_MODES
        self._without_masks: bool | None = None
        compile_model(model, static=True, mode=mode)

    def __call__(self, model: Any, batch: Batch) -> tuple[Any, Counted]:
        """Return the same as `TrainingStep`."""
        if self._records_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # the outputs of the last step may be overwritten
        if "_original_forward" in vars(self._model):
            # Accelerate would return the logits in float32, as large as everything else; the loss converts
            # them where they are used.
            extract_model_from_parallel(self._model, keep_fp32_wrapper=False)
        with self._autocast():
            if "attention_mask" in batch or tuple(batch["input_ids"].shape) != self._shape:
                with run_uncompiled(self._model):
                    return self._eager(model, batch)
            batch = self._eager.add_teacher_outputs(batch)
            head = self._eager.find_head(model, batch)
            with self._select_attention(batch), self._eager.isolate_documents(batch) as inputs:
                if head is None:
                    outputs = forward(model, inputs, self._eager.objective.positions(batch))
                else:
                    with skip_head(head):
                        outputs = forward(model, inputs, None)
            if head is not None:
                return outputs, self._eager.head_loss(outputs, head, batch, self._linear_loss)
        return outputs, self._loss(outputs, batch, self._eager.smoothing)

    def _select_attention(self, batch: Batch) -> AbstractContextManager[None]:
        """Return the context in which the model computes a batch, without masks if it needs none."""
        if "position_ids" in batch:  # they separate documents by masks
            return nullcontext()
        if self._without_masks is None:
            with run_uncompiled(self._model):
                self._without_masks = runs_without_masks(self._model, batch["input_ids"][:1])
        return omit_masks(self._model) if self._without_masks else nullcontext()
