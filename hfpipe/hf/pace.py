"""How many steps fit into a time: a few are taken on a copy and timed."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

import torch

from hfpipe.hf.batches import Shares, StepBatches
from hfpipe.hf.losses import forward

if TYPE_CHECKING:
    from hfpipe.hf.training import Training

WARM_UP, TIMED = 3, 8
"""Forward and backward passes that are run, and how many of them count."""


def steps_within(seconds: float, parts: Training, shares: Shares, seed: int, *, bf16: bool) -> int:
    """Return the optimizer steps that this machine takes in about `seconds`, at least one.

    The passes run on a copy of the model and the first batches of the first epoch; nothing is trained.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    copied = copy.deepcopy(parts.model)
    model: torch.nn.Module = copied
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    batches = iter(StepBatches(parts.train.lengths, shares, 0, seed, grouped=not parts.task.packed))
    head = copied.get_output_embeddings()
    started = time.monotonic()
    for number in range(WARM_UP + TIMED):
        if number == WARM_UP:
            started = time.monotonic()
        keys = next(batches, None)
        if keys is None:
            break
        batch = parts.task.collate(parts.train.__getitems__(keys), parts.tokenizer, seed, train=True)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            outputs = forward(model, batch, parts.task.positions(batch), head)
            parts.task.loss(outputs, batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    pace = (time.monotonic() - started) / TIMED * shares.accumulation
    return max(1, int(seconds / max(pace, 1e-6)))
