"""One micro-batch of a training: the outputs of the model and the loss of the task, eager or compiled.

A compiled step is compiled once: the batches of a packed task have one shape, (rows, task.length), and their
targets' positions have few sizes (see `Collator`). The one batch an epoch that holds the end of the text is
padded or shorter; it runs eagerly, because compiling for it would take longer than many steps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accelerate.utils import extract_model_from_parallel

from hfpipe.hf.losses import forward
from hfpipe.hf.speed import compile_loss, compile_model, uncompiled
from hfpipe.modeling.attention import attention_without_masks, runs_without_masks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfpipe.contract import Batch, Counted, Task


@dataclass(frozen=True)
class Step:
    """Computes a micro-batch as it comes."""

    task: Task
    smoothing: float

    def __call__(self, model: Any, batch: Batch) -> tuple[Any, Counted]:
        """Return the outputs of the model, which may be wrapped, and the summed loss with its count."""
        outputs = forward(model, batch, self.task.positions(batch))
        return outputs, self.task.loss(outputs, batch, self.smoothing)


class CompiledStep:
    """Computes micro-batches of one shape with model and loss compiled, and any other batch eagerly."""

    def __init__(
        self,
        eager: Step,
        model: PreTrainedModel,
        rows: int,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._eager = eager
        self._model = model
        self._shape = (rows, eager.task.length)
        self._autocast = autocast
        self._loss = compile_loss(eager.task.loss)
        self._without_masks: bool | None = None
        compile_model(model, static=True)

    def __call__(self, model: Any, batch: Batch) -> tuple[Any, Counted]:
        """Return what `Step` does."""
        if "_original_forward" in vars(self._model):
            # Accelerate would return the logits in float32, as large as everything else; the loss converts
            # them where they are used.
            extract_model_from_parallel(self._model, keep_fp32_wrapper=False)
        with self._autocast():
            if "attention_mask" in batch or tuple(batch["input_ids"].shape) != self._shape:
                with uncompiled(self._model):
                    return self._eager(model, batch)
            with self._attention(batch):
                outputs = forward(model, batch, self._eager.task.positions(batch))
        return outputs, self._loss(outputs, batch, self._eager.smoothing)

    def _attention(self, batch: Batch) -> AbstractContextManager[None]:
        """Return the context in which the model computes a batch: without masks, where it needs none."""
        if "position_ids" in batch:  # they tell documents apart, by masks
            return nullcontext()
        if self._without_masks is None:
            with uncompiled(self._model):
                self._without_masks = runs_without_masks(self._model, batch["input_ids"][:1])
        return attention_without_masks(self._model) if self._without_masks else nullcontext()
