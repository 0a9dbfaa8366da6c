"""How long a micro-batch of a training takes on this CPU: real model, real batches, nothing is trained.

Only forward and backward passes are run. Gradients, buffers and random states are put back, so that the
training that follows is the one that would have been without.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.hf.batches import Shares, StepBatches
from hfpipe.hf.collating import Collator, parts_of
from hfpipe.hf.step import CompiledStep, Step
from hfpipe.modeling.cpu_attention import eager_kernels

if TYPE_CHECKING:
    from hfpipe.contract import Batch
    from hfpipe.hf.trainer import Training

PASSES = 3
"""Passes of each kind; the fastest counts, and the first only warms up."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def gemm_speed(rows: int, size: int, dtype: torch.dtype) -> float:
    """Return the GFLOP/s of the product of (rows, size) with (size, 4 size), as in a feed-forward layer."""
    left, right = (torch.ones(shape, dtype=dtype) for shape in ((rows, size), (size, 4 * size)))
    seconds = min(_timed(lambda: left @ right) for _ in range(1 + PASSES))
    return 8 * rows * size * size / seconds / 1e9


class Trial:
    """The first batches of a training, to be run in several ways."""

    def __init__(self, parts: Training, shares: Shares, seed: int, smoothing: float) -> None:
        self._parts = parts
        self._shares = shares
        self._seed = seed
        self._smoothing = smoothing

    def eager(self, dtypes: list[str]) -> dict[str, float]:
        """Return the seconds of a micro-batch in each dtype, in turn so that all see the same machine."""
        batches = self._batches(static=False)
        times: dict[str, list[float]] = {name: [] for name in dtypes}
        steps = {name: self._step(name) for name in dtypes}
        with _restored(self._parts.model), eager_kernels(self._parts.model):
            for batch in batches:
                for name, step in steps.items():
                    times[name].append(_timed(partial(self._pass, step, batch, name)))
        return {name: min(found[1:]) for name, found in times.items()}

    def compiled(self, dtype: str) -> tuple[float, float]:
        """Return the seconds of a micro-batch of the compiled model, and those that compiling it took.

        What was compiled stays in the caches of PyTorch. Raises whatever the compiler does.
        """
        batches = self._batches(static=True)
        step = CompiledStep(
            self._step(dtype), self._parts.model, self._shares.micro, partial(_autocast, dtype)
        )
        with _restored(self._parts.model):
            first, *times = (_timed(partial(self._pass, step, batch, dtype)) for batch in batches)
        return min(times), max(first - min(times), 1e-3)

    def _step(self, dtype: str) -> Step:
        return Step(self._parts.task, self._smoothing, partial(_autocast, dtype), chunked=True)

    def _pass(self, step: Callable[..., Any], batch: Batch, dtype: str) -> None:
        with _autocast(dtype):
            total = step(self._parts.model, batch)[1].total.sum()
        total.backward()
        self._parts.model.zero_grad(set_to_none=True)

    def _batches(self, *, static: bool) -> list[Batch]:
        """Return a batch for each pass; padding at the end of the text would need a pass of its own."""
        parts = self._parts
        order = StepBatches(parts.train.lengths, self._shares, 0, self._seed, grouped=not parts.task.packed)
        whole = (keys for keys in cycle(order) if not static or self._whole(keys))
        collate = Collator(parts.task, parts.tokenizer, self._seed, static=static)
        found = (collate(parts.train.__getitems__(keys)) for keys in islice(whole, PASSES))
        return [batch for each in found for batch in parts_of(each)]

    def _whole(self, keys: list[tuple[int, int]]) -> bool:
        return bool(
            (self._parts.train.lengths[[index for _, index in keys]] == self._parts.task.length).all()
        )


def _autocast(dtype: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")


def _timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return max(time.perf_counter() - started, 1e-9)


@contextmanager
def _restored(model: torch.nn.Module) -> Iterator[None]:
    """Train for a while, and leave model and random states as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(training)
        model.zero_grad(set_to_none=True)
        model._compiled_call_impl = None
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers and buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
