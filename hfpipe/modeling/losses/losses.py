"""Losses as a sum and a count, so that they do not depend on how a batch is split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.nn import functional as F

from hfpipe.errors import HfpipeError, StageError, format_one_line, is_out_of_memory
from hfpipe.types import Counted

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hfpipe.types import Batch

IGNORED = -100
"""Label of a position without a target, as in Transformers."""


def find_target_positions(labels: Tensor) -> Tensor:
    """Return the flattened positions with a target: labels (rows, length) → int64 (targets,)."""
    return (labels.reshape(-1) != IGNORED).nonzero().squeeze(-1)


def forward(model: Any, batch: Batch, positions: Tensor | None) -> Any:
    """Run the model on all inputs except the labels; if `positions` is given, compute only these logits.

    `positions` are flattened, int64 (targets,). The model's output embedding then receives hidden states
    (targets, hidden) instead of (rows, length, hidden). The loss is the same, while the largest matrix
    product and tensor of the step shrink by the fraction of positions without a target. A model that computes
    its logits in another way computes all of them. The decoder of an encoder-decoder reads the shifted
    labels.
    """
    bare = extract_model_from_parallel(model)
    head = bare.get_output_embeddings()
    inputs: dict[str, Any] = {
        name: tensor for name, tensor in batch.items() if name != "labels" and not name.startswith("_")
    }
    decoder = head is not None or getattr(bare, "reads_decoder_ids", False)
    if decoder and bare.config.is_encoder_decoder:
        inputs.setdefault("decoder_input_ids", shift_labels(batch["labels"], bare.config))
    if bare.can_generate():
        inputs["use_cache"] = False  # no generation here, and a cache hides packed documents
    if positions is None or head is None:
        with translate_model_errors(bare):
            return model(**inputs)
    selection = _get_selection(head)
    selection.positions = positions
    try:
        with translate_model_errors(bare):
            return model(**inputs)
    finally:
        selection.positions = None


class _Selection:
    """Restricts the input of an output embedding to some positions.

    It stays registered, because a new hook would make torch compile the model again.
    """

    positions: Tensor | None = None

    def __call__(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.positions is None:
            return arguments
        hidden, *others = arguments
        return hidden.reshape(-1, hidden.shape[-1])[self.positions], *others


def _get_selection(head: nn.Module) -> _Selection:
    """Return the selection of a head; registers it at the first call."""
    for hook in head._forward_pre_hooks.values():
        if isinstance(hook, _Selection):
            return hook
    selection = _Selection()
    head.register_forward_pre_hook(selection)
    return selection


@contextmanager
def translate_model_errors(model: Any) -> Iterator[None]:
    """Convert an error inside a model, such as one due to an inconsistent config, to a StageError."""
    try:
        yield
    except HfpipeError:
        raise
    except Exception as error:  # a model may raise any exception
        if is_out_of_memory(error):
            raise
        cause = format_one_line(error)
        raise StageError(
            f"the model ({type(model).__name__}) cannot process a batch: {cause}; "
            "correct its config.json; the traceback is in stage.log"
        ) from error


def shift_labels(labels: Tensor, config: PretrainedConfig) -> Tensor:
    """Return the decoder inputs for `labels`, int64 (rows, length): the labels shifted right by one.

    Raises StageError when the config has no decoder start token.
    """
    start = config.decoder_start_token_id
    if start is None:
        raise StageError(
            "model: its config has no decoder_start_token_id; add the token that a decoder begins with"
        )
    before = labels.roll(1, dims=1)
    before[:, 0] = start
    return before.masked_fill(before == IGNORED, config.pad_token_id)


def select_target_logits(logits: Tensor, positions: Tensor) -> Tensor:
    """Return float32 logits at `positions`, (targets, vocabulary), from all logits or from only those."""
    if logits.dim() == 3:
        logits = logits.reshape(-1, logits.shape[-1])[positions]
    return logits.float()


def compute_token_loss(
    logits: Tensor, labels: Tensor, smoothing: float = 0.0, positions: Tensor | None = None
) -> Counted:
    """Return the summed cross-entropy in nats over the positions with a target.

    `logits` has shape (rows, length, vocabulary) or (positions, vocabulary), `labels` (rows, length).
    `positions`, int64, include all positions with a target; others are ignored.
    """
    if positions is None:
        positions = find_target_positions(labels)
    targets = labels.reshape(-1)[positions]
    total = F.cross_entropy(
        select_target_logits(logits, positions),
        targets,
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )
    return Counted(total, (labels != IGNORED).sum())


def compute_token_columns(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return nats, tokens and correct predictions of each row: float64 and int64, shape (rows,)."""
    positions = find_target_positions(labels)
    rows = positions // labels.shape[1]
    targets = labels.reshape(-1)[positions]
    logits = select_target_logits(logits, positions)
    nll = F.cross_entropy(logits, targets, reduction="none").double()
    correct = (logits.argmax(-1) == targets).long()
    counts = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
    return {
        "nll": nll.new_zeros(len(labels)).index_add(0, rows, nll),
        "tokens": counts.index_add(0, rows, torch.ones_like(rows)),
        "correct": counts.index_add(0, rows, correct),
    }


def compute_label_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Counted:
    """Return the summed loss of labels; dtype and shape of the labels determine the loss.

    int64 (rows,): cross-entropy; float (rows, classes): binary cross-entropy, counted per class;
    float (rows,): squared error against logits of shape (rows, 1).
    """
    logits = logits.float()
    count = torch.tensor(labels.numel(), device=labels.device)
    if not labels.is_floating_point():
        return Counted(F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing), count)
    if labels.dim() == 2:
        return Counted(F.binary_cross_entropy_with_logits(logits, labels, reduction="sum"), count)
    return Counted(F.mse_loss(logits.squeeze(-1), labels, reduction="sum"), count)


def compute_label_columns(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return reference, prediction, scores and nats of each row, in the format of classification metrics."""
    logits = logits.float()
    if not labels.is_floating_point():
        scores = logits.softmax(-1)
        nll = F.cross_entropy(logits, labels, reduction="none")
        return {"reference": labels, "prediction": logits.argmax(-1), "scores": scores, "nll": nll}
    if labels.dim() == 2:
        nll = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(-1)
        return {
            "reference": labels.long(),
            "prediction": (logits > 0).long(),
            "scores": logits.sigmoid(),
            "nll": nll,
        }
    prediction = logits.squeeze(-1)
    return {
        "reference": labels,
        "prediction": prediction,
        "nll": F.mse_loss(prediction, labels, reduction="none"),
    }
