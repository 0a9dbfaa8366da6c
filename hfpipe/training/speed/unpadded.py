"""Decides whether a training with `padding_free` can run without padding; one line says why it cannot."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from hfpipe.modeling.attention.cpu import use_eager_kernels
from hfpipe.modeling.attention.layout import TAIL
from hfpipe.modeling.attention.unpadding import Unpadding, find_unpadding
from hfpipe.modeling.read_positions import skip_unread_positions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from hfpipe.training.trainer import TaskTrainer

log = logging.getLogger(__name__)


def choose_unpadding(trainer: TaskTrainer) -> Unpadding | None:
    """Return what runs the model of a training without padding; if it cannot, log why and return None."""
    reason = _find_reason(trainer)
    found = find_unpadding(trainer.bare) if reason is None else None
    if found is None:
        reason = reason or f"{trainer.bare.config.model_type} cannot run without padding"
        log.warning("training.padding_free: true has no effect here: %s", reason)
        return None
    found.choose_kernel(trainer.bare)
    log.info("padding: none in the layers, attention by %s", found.attention)
    return found


def _find_reason(trainer: TaskTrainer) -> str | None:
    """Return why batches keep their padding, whatever the model; None if they need not."""
    if trainer.task.config.packed:
        return f"examples of {trainer.task.config.kind} have one length, and no padding"
    if trainer.split or trainer.layout.context > 1:
        return "processes hold parts of the model or of the examples"
    if trainer.args.neftune_noise_alpha is not None:
        return "the noise of neftune_noise_alpha depends on padding"
    return None


def get_multiple(unpadding: Unpadding | None, device: torch.device) -> int:
    """Return the number of which the tokens of a batch without padding are a multiple, 0 with padding.

    On a GPU the row is filled up so that there are few shapes to compile, and matrices that its tensor cores
    like.
    """
    if unpadding is None:
        return 0
    return 1 if device.type == "cpu" else TAIL


@contextmanager
def use_kernels(model: PreTrainedModel, unpadding: Unpadding | None, *, eager: bool) -> Iterator[None]:
    """Use the kernels of a training, `eager` those of an uncompiled model on a CPU."""
    with ExitStack() as stack:
        if eager:
            stack.enter_context(use_eager_kernels(model))
        if unpadding is not None:
            stack.enter_context(unpadding.use_attention())  # for layers that the backward pass recomputes
        elif eager:
            skipping = stack.enter_context(skip_unread_positions(model, training=True))
            if skipping:
                log.info("last layer: only the first position, from %s on", " and ".join(skipping))
        yield
