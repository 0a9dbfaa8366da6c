"""How long a micro-batch of a training takes on this CPU: real model, real batches, nothing is trained.

Only forward and backward passes are run. Gradients, buffers and random states are put back, so that the
training that follows is the one that would have been without.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.encoding.padding import Collator, forward_passes
from hfpipe.encoding.sampler import BatchLayout, StepBatches
from hfpipe.modeling.attention.cpu import eager_kernels
from hfpipe.modeling.performance import uncompiled_model
from hfpipe.training.speed.timing import TimingComparison, compare_timings, time_calls
from hfpipe.training.step import CompiledStep, TrainingStep, separate_documents

if TYPE_CHECKING:
    from hfpipe.encoding.padding import Batches
    from hfpipe.training.trainer import Training

AnyStep = TrainingStep | CompiledStep

BATCHES = 3
"""Batches that are run, in turn."""
PART, WHOLE = 4, 2048
"""Share of a micro-batch's rows that tells which dtype is faster, where all of them have more tokens than
`WHOLE`: time and memory of what is slow are spent on a part."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Compiling:
    """What came of compiling a model."""

    eager: float
    """Seconds of an eager micro-batch, timed in turn with the compiled one."""
    compiled: float
    """Seconds of a compiled micro-batch."""
    took: float
    """Seconds that compiling took."""
    busy: bool
    """Whether other processes had the cores meanwhile."""


def gemm_speeds(rows: int, size: int) -> tuple[dict[str, float], bool]:
    """Return dtype → GFLOP/s of (rows, size) times (size, 4 size), as in a feed-forward layer.

    The second value tells whether the machine was busy.
    """
    found = compare_timings({name: _product(rows, size, dtype) for name, dtype in DTYPES.items()})
    operations = 8 * rows * size * size
    return {name: operations / seconds / 1e9 for name, seconds in found.seconds.items()}, found.busy


def _product(rows: int, size: int, dtype: torch.dtype) -> Callable[[int], torch.Tensor]:
    left, right = torch.ones(rows, size, dtype=dtype), torch.ones(size, 4 * size, dtype=dtype)
    return lambda _: left @ right


class Trial:
    """The first batches of a training, to be run in several ways."""

    def __init__(self, parts: Training, shares: BatchLayout, seed: int, smoothing: float) -> None:
        self._parts = parts
        self._shares = shares
        self._seed = seed
        self._smoothing = smoothing

    def first(self, dtype: str) -> float:
        """Return the seconds of the first micro-batch, which takes longer than those that follow."""
        [batch, *_], part = self._parts_of_batches()
        with unchanged_model(self._parts.model), eager_kernels(self._parts.model):
            return part * time_calls(partial(self._run_pass, self._step(dtype), batch, dtype)).seconds

    def eager(self, dtypes: list[str]) -> TimingComparison:
        """Return the seconds of a micro-batch in each dtype, by those of a part of it."""
        batches, part = self._parts_of_batches()
        with unchanged_model(self._parts.model), eager_kernels(self._parts.model):
            found = compare_timings(
                {name: self._make_pass(self._step(name), batches, name) for name in dtypes}
            )
        return replace(found, seconds={name: part * each for name, each in found.seconds.items()})

    def compiled(self, dtype: str) -> Compiling:
        """Compile the model, and time it. Raises whatever the compiler does.

        What was compiled stays in the caches of PyTorch.
        """
        batches = self._batches(static=True)
        model, eager = self._parts.model, self._step(dtype)
        autocast = partial(_autocast, dtype)
        step = CompiledStep(self._step(dtype), model, self._shares.micro, autocast)
        plain = self._make_pass(eager, batches, dtype)

        def uncompiled_pass(number: int) -> None:
            with uncompiled_model(model), eager_kernels(model):
                plain(number)

        with unchanged_model(model):
            first = time_calls(partial(self._run_pass, step, batches[0], dtype))
            found = compare_timings(
                {"eager": uncompiled_pass, "compiled": self._make_pass(step, batches, dtype)}
            )
        eager_seconds, compiled = found.seconds["eager"], found.seconds["compiled"]
        took = max(first.seconds - compiled, 1e-3)
        return Compiling(eager_seconds, compiled, took, busy=found.busy or first.busy)

    def _make_pass(self, step: AnyStep, batches: list[Batches], dtype: str) -> Callable[[int], None]:
        """Return what runs one of the batches, by the number of the pass."""
        return lambda number: self._run_pass(step, batches[number % len(batches)], dtype)

    def _step(self, dtype: str) -> TrainingStep:
        parts = self._parts
        separate = separate_documents(parts.task, parts.model, torch.device("cpu"))
        return TrainingStep(
            parts.task, self._smoothing, partial(_autocast, dtype), chunked=True, separate=separate
        )

    def _run_pass(self, step: AnyStep, batches: Batches, dtype: str) -> None:
        for batch in forward_passes(batches):
            with _autocast(dtype):
                total = step(self._parts.model, batch)[1].total.sum()
            total.backward()
        self._parts.model.zero_grad(set_to_none=True)

    def _parts_of_batches(self) -> tuple[list[Batches], float]:
        """Return parts of batches of any shape, and how many times as many rows a batch has."""
        rows, length = self._shares.micro, float(self._parts.train.lengths.mean())
        some = -(-rows // PART) if rows * length > WHOLE else rows
        return self._batches(static=False, rows=some), rows / some

    def _batches(self, *, static: bool, rows: int | None = None) -> list[Batches]:
        """Return batches as the training has them, or their first rows.

        They have one shape, that of a batch without the end of the text, if `static`.
        """
        parts = self._parts
        order = StepBatches(
            parts.train.lengths, self._shares, 0, self._seed, grouped=not parts.task.config.packed
        )
        whole = (keys for keys in cycle(order) if not static or self._are_full(keys))
        cut = not parts.task.config.packed
        collate = Collator(parts.task, parts.tokenizer, self._seed, static=static, cut=cut)
        return [collate(parts.train.__getitems__(keys[:rows])) for keys in islice(whole, BATCHES)]

    def _are_full(self, keys: list[tuple[int, int]]) -> bool:
        config, lengths = self._parts.task.config, self._parts.train.lengths
        return config.best_fit or bool((lengths[[index for _, index in keys]] == config.length).all())


def _autocast(dtype: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")


@contextmanager
def unchanged_model(model: torch.nn.Module) -> Iterator[None]:
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
