"""Chunked loss of a model's output layer: the model returns hidden states, the loss applies the layer.

Whether a model supports this is tested by running it, not by its name: the logits of the model must be the
output of its output layer (some models scale or cap them) and, with the layer skipped, the layer's input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from hfpipe.errors import StageError
from hfpipe.modeling.losses.liger_loss import LinearLoss
from hfpipe.modeling.losses.losses import IGNORED, forward
from hfpipe.types import Counted

if TYPE_CHECKING:
    from hfpipe.runtime import TaskRuntime
    from hfpipe.types import Batch


def find_separable_head(task: TaskRuntime, model: Any, batch: Batch) -> nn.Linear | None:
    """Return the output layer of a model if the task's loss can apply it in chunks, otherwise None.

    Runs the model twice on the first example of the batch; random states are restored.
    """
    bare = extract_model_from_parallel(model)
    head = bare.get_output_embeddings()
    if not task.objective.loss_is_cross_entropy or type(head) is not nn.Linear or "forward" in vars(head):
        return None
    rows = len(batch["labels"])
    first = {name: each[:1] for name, each in batch.items() if each.dim() and len(each) == rows}
    training = bare.training
    bare.eval()
    try:
        with torch.no_grad():
            return head if _is_last(bare, head, first) else None
    finally:
        bare.train(training)


def _is_last(model: Any, head: nn.Linear, batch: Batch) -> bool:
    """Return whether the logits are the layer's output and, with the layer skipped, the layer's input."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = head.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    try:
        logits = getattr(forward(model, batch, None), "logits", None)
    finally:
        hook.remove()
    if not isinstance(logits, Tensor) or len(seen) != 1 or not _are_equal(logits, seen[0][1]):
        return False
    try:
        with skip_head(head):
            hidden = forward(model, batch, None).logits
    except (StageError, RuntimeError, TypeError, ValueError):  # for example, if logits are reshaped
        return False
    return _are_equal(hidden, seen[0][0])


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.float(), other.float())


@contextmanager
def skip_head(head: nn.Linear) -> Iterator[None]:
    """Make a model return the input of its output layer as its logits."""
    vars(head)["forward"] = _return_hidden
    try:
        yield
    finally:
        del vars(head)["forward"]


def _return_hidden(hidden: Tensor) -> Tensor:
    return hidden


def get_product_dtype(head: nn.Linear, device: torch.device) -> torch.dtype:
    """Return the dtype in which an output layer is applied: that of autocast, or of its weights."""
    kind = device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype


def compute_head_loss(
    hidden: Tensor,
    head: nn.Linear,
    batch: Batch,
    positions: Tensor,
    smoothing: float,
    *,
    dtype: torch.dtype,
    loss: LinearLoss,
) -> Counted:
    """Return the value of `compute_token_loss` from hidden states (rows, length, size) instead of logits."""
    labels = batch["labels"]
    total = loss(
        hidden.reshape(-1, hidden.shape[-1])[positions],
        head.weight,
        head.bias,
        labels.reshape(-1)[positions],
        smoothing=smoothing,
        ignored=IGNORED,
        dtype=dtype,
    )
    return Counted(total, (labels != IGNORED).sum())
