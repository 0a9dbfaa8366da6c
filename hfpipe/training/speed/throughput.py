"""Estimates the number of steps in a time budget by timing a few steps on a copy of the model."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from contextlib import nullcontext
from itertools import cycle, islice
from typing import TYPE_CHECKING

import torch

from hfpipe.distributed.world import get_local_rank
from hfpipe.encoding.padding import Collator, list_forward_passes
from hfpipe.encoding.sampler import StepBatches
from hfpipe.modeling.attention.cpu import use_eager_kernels
from hfpipe.modeling.performance import runs_on_cpu
from hfpipe.training.muon import create_muon
from hfpipe.training.speed.micro_batch import set_checkpointing
from hfpipe.training.step import TrainingStep, separate_documents

if TYPE_CHECKING:
    from hfpipe.training.speed.choice import Speed
    from hfpipe.training.speed.micro_batch import MicroBatch
    from hfpipe.training.trainer import Training

WARM_UP, TIMED = 3, 8
"""Numbers of untimed and of timed forward and backward passes."""


def estimate_steps(
    seconds: float,
    parts: Training,
    fit: MicroBatch,
    seed: int,
    speed: Speed,
    *,
    muon: Mapping[str, float] | None = None,
) -> int:
    """Return the number of optimizer steps that take about `seconds` on this machine, at least one.

    The passes run on a copy of the model and the first batches of the first epoch; nothing is trained. They
    are eager: the gain of compiling was measured before. `muon` holds the options of Muon; None means AdamW.
    """
    shares = fit.shares
    device = "cpu" if runs_on_cpu() else f"cuda:{get_local_rank()}"
    copied = copy.deepcopy(parts.model)
    model: torch.nn.Module = copied
    model.to(device).train()
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(model.parameters(), lr=0.0)
        if muon is None
        else create_muon(model, learning_rate=0.0, weight_decay=0.0, decayed=(), muon=dict(muon), adamw={})
    )
    batches = cycle(StepBatches(parts.train.lengths, shares, 0, seed, grouped=not parts.task.config.packed))
    separate = separate_documents(parts.task, copied, torch.device(device), chosen=parts.attention_is_chosen)
    chunked = device == "cpu" or fit.head_in_loss
    step = TrainingStep(parts.task, 0.0, chunked=chunked, separate=separate, objective=parts.training_loss)
    collate = Collator(parts.task, parts.tokenizer, seed, training_loss=parts.training_loss)
    started = 0.0
    with (
        use_eager_kernels(model) if device == "cpu" else nullcontext(),
        set_checkpointing(model, wanted=fit.checkpointing),
    ):
        for number, keys in enumerate(islice(batches, WARM_UP + TIMED)):
            if number == WARM_UP:
                started = _time_now(device)
            [batch] = list_forward_passes(collate(parts.train.__getitems__(keys)))
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=speed.bf16):
                total = step(model, batch)[1].total.sum()
            total.backward()
            optimizer.step()
            optimizer.zero_grad()
    pace = ((_time_now(device) - started) / TIMED - speed.saved) * shares.accumulation
    return max(1, int(seconds / max(pace, 1e-6)))


def _time_now(device: str) -> float:
    """Return the time after the device has finished all queued work."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.monotonic()
