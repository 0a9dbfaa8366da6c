"""Times micro-batches of a training on its device, with its model and batches but without training.

Only forward and backward passes are run. Gradients, buffers and random states are restored, so that the
training that follows is not changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.encoding.padding import Collator, list_forward_passes
from hfpipe.encoding.sampler import BatchLayout, Key, StepBatches
from hfpipe.modeling.attention.cpu import use_eager_kernels
from hfpipe.modeling.heap import keep_memory
from hfpipe.modeling.performance import run_uncompiled
from hfpipe.training.speed.memory import ModeTiming
from hfpipe.training.speed.timing import TimingComparison, compare_timings, time_calls
from hfpipe.training.step import CompiledStep, TrainingStep, separate_documents

if TYPE_CHECKING:
    from hfpipe.encoding.padding import Batches
    from hfpipe.training.trainer import Training

AnyStep = TrainingStep | CompiledStep

CPU = torch.device("cpu")
SAMPLE = 50
"""Number of batches from which the one that is run is selected."""
PART, WHOLE = 4, 2048
"""Divisor of the rows of a micro-batch in the comparison of dtypes, if the micro-batch has more tokens than
`WHOLE`: the slower dtype then costs less time and memory."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Compiling:
    """Result of compiling a model."""

    eager: float
    """Seconds of an eager micro-batch, alternating with the compiled one."""
    compiled: float
    """Seconds of a compiled micro-batch."""
    took: float
    """Seconds of compiling."""
    busy: bool
    """Whether other processes used the cores meanwhile."""


@dataclass(frozen=True)
class ModeComparison:
    """Timings of some modes of torch.compile."""

    modes: dict[str, ModeTiming]
    busy: bool
    """Whether other processes used the cores meanwhile."""


def measure_gemm_speeds(rows: int, size: int) -> tuple[dict[str, float], bool]:
    """Return dtype → GFLOP/s of (rows, size) times (size, 4 size), as in a feed-forward layer.

    The second value is whether the machine was busy.
    """
    found = compare_timings({name: _create_product(rows, size, dtype) for name, dtype in DTYPES.items()})
    operations = 8 * rows * size * size
    return {name: operations / seconds / 1e9 for name, seconds in found.seconds.items()}, found.busy


def _create_product(rows: int, size: int, dtype: torch.dtype) -> Callable[[int], torch.Tensor]:
    left, right = torch.ones(rows, size, dtype=dtype), torch.ones(size, 4 * size, dtype=dtype)
    return lambda _: left @ right


class Trial:
    """A batch of a training, to run with several settings. The model must be on the device."""

    def __init__(
        self,
        parts: Training,
        shares: BatchLayout,
        seed: int,
        smoothing: float,
        device: torch.device = CPU,
        *,
        head_in_loss: bool = False,
    ) -> None:
        """`head_in_loss` lets the loss apply the output layer in chunks also on a GPU."""
        self._parts = parts
        self._shares = shares
        self._seed = seed
        self._smoothing = smoothing
        self._device = device
        self._chunked = head_in_loss or device.type == "cpu"

    def time_first(self, dtype: str) -> float:
        """Return the seconds of the first micro-batch, which takes longer than later ones."""
        batch, part = self._create_part()
        with self._prepare_eager_passes():
            return part * time_calls(partial(self._run_pass, self._create_step(dtype), batch, dtype)).seconds

    def time_eager(self, dtypes: list[str]) -> TimingComparison:
        """Return the seconds of a micro-batch in each dtype, extrapolated from a part of it."""
        batch, part = self._create_part()
        passes = {name: self._make_pass(self._create_step(name), batch, name) for name in dtypes}
        with self._prepare_eager_passes():
            found = compare_timings(passes)
        return replace(found, seconds={name: part * each for name, each in found.seconds.items()})

    def time_compiled(self, dtype: str) -> Compiling:
        """Compile the model, and time it. Raises any exception of the compiler.

        Compiled code stays in PyTorch's caches.
        """
        batch = self._create_batch(static=True)
        model, eager = self._parts.model, self._create_step(dtype)
        step = self._create_compiled_step(dtype, "default")
        plain = self._make_pass(eager, batch, dtype)

        def uncompiled_pass(number: int) -> None:
            with run_uncompiled(model), use_eager_kernels(model):
                plain(number)

        passes = {"eager": uncompiled_pass, "compiled": self._make_pass(step, batch, dtype)}
        with restore_model(model), keep_memory():
            first = time_calls(partial(self._run_pass, step, batch, dtype))
            found = compare_timings(passes)
        eager_seconds, compiled = found.seconds["eager"], found.seconds["compiled"]
        took = max(first.seconds - compiled, 1e-3)
        return Compiling(eager_seconds, compiled, took, busy=found.busy or first.busy)

    def time_modes(self, dtype: str, modes: Sequence[str]) -> ModeComparison:
        """Compile the model in each mode, and time them in turn. Raises any exception of the compiler.

        Compiled code stays in PyTorch's caches.
        """
        batch = self._create_batch(static=True)
        model: Any = self._parts.model
        first, passes = {}, {}
        with restore_model(model), keep_memory():
            for mode in modes:
                step = self._create_compiled_step(dtype, mode)
                run = self._make_pass(step, batch, dtype)
                passes[mode] = partial(_run_compiled, model, model._compiled_call_impl, run)
                first[mode] = time_calls(partial(passes[mode], 0))
            found = compare_timings(passes)
        timings = {
            mode: ModeTiming(seconds=each, compiling=max(first[mode].seconds - each, 1e-3))
            for mode, each in found.seconds.items()
        }
        return ModeComparison(timings, busy=found.busy or any(each.busy for each in first.values()))

    @contextmanager
    def _prepare_eager_passes(self) -> Iterator[None]:
        """Use kernels and memory as in an eager training, and restore the model afterwards."""
        model = self._parts.model
        with restore_model(model), keep_memory(model), use_eager_kernels(model):
            yield

    def _create_compiled_step(self, dtype: str, mode: str) -> CompiledStep:
        autocast = partial(self._create_autocast, dtype)
        return CompiledStep(self._create_step(dtype), self._parts.model, self._shares.micro, autocast, mode)

    def _make_pass(self, step: AnyStep, batch: Batches, dtype: str) -> Callable[[int], None]:
        """Return a function that runs a batch, and ignores the number of the pass."""
        return lambda _: self._run_pass(step, batch, dtype)

    def _create_step(self, dtype: str) -> TrainingStep:
        parts = self._parts
        chosen = parts.attention_is_chosen
        return TrainingStep(
            parts.task,
            self._smoothing,
            partial(self._create_autocast, dtype),
            chunked=self._chunked,
            separate=separate_documents(parts.task, parts.model, self._device, chosen=chosen),
            objective=parts.training_loss,
        )

    def _run_pass(self, step: AnyStep, batches: Batches, dtype: str) -> None:
        for batch in list_forward_passes(batches):
            moved = {name: tensor.to(self._device) for name, tensor in batch.items()}
            with self._create_autocast(dtype):
                total = step(self._parts.model, moved)[1].total.sum()
            total.backward()
        self._parts.model.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _create_autocast(self, dtype: str) -> Any:
        half = torch.bfloat16 if dtype == "float32" else getattr(torch, dtype)
        return torch.autocast(self._device.type, half, enabled=dtype != "float32")

    def _create_part(self) -> tuple[Batches, float]:
        """Return a part of a batch of any shape, and the ratio of rows of the batch to rows of the part."""
        rows, length = self._shares.micro, float(self._parts.train.lengths.mean())
        some = -(-rows // PART) if rows * length > WHOLE else rows
        return self._create_batch(static=False, rows=some), rows / some

    def _create_batch(self, *, static: bool, rows: int | None = None) -> Batches:
        """Return the batch whose rows are nearest to the mean length, of the first ones, or its first rows.

        If `static`, it has the shape of batches without the end of the text.
        """
        parts = self._parts
        lengths = parts.train.lengths
        order = StepBatches(lengths, self._shares, 0, self._seed, grouped=not parts.task.config.packed)
        whole = (keys for keys in cycle(order) if not static or self._are_full(keys))
        nearest = min(
            islice(whole, SAMPLE), key=lambda keys: abs(_compute_mean(lengths, keys) - lengths.mean())
        )
        cut = not parts.task.config.packed
        loss = parts.training_loss
        collate = Collator(
            parts.task, parts.tokenizer, self._seed, static=static, cut=cut, training_loss=loss
        )
        return collate(parts.train.__getitems__(nearest[:rows]))

    def _are_full(self, keys: list[tuple[int, int]]) -> bool:
        config, lengths = self._parts.task.config, self._parts.train.lengths
        return config.best_fit or bool((lengths[[index for _, index in keys]] == config.length).all())


def _compute_mean(lengths: np.ndarray, keys: list[Key]) -> float:
    """Return the mean length of the examples of a batch."""
    return float(lengths[[index for _, index in keys]].mean())


def _run_compiled(model: Any, compiled: Any, run: Callable[[int], None], number: int) -> None:
    """Run a pass with one of several compiled versions of a model."""
    model._compiled_call_impl = compiled
    run(number)


@contextmanager
def restore_model(model: torch.nn.Module) -> Iterator[None]:
    """Restore model and random states after a block that trains."""
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
