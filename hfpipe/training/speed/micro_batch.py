"""Finds by trial how many examples of a step fit into a GPU at once, and whether layers are recomputed.

A forward and backward pass of the longest examples is run as in the training, with the memory of the
optimizer reserved. If memory runs out and logits take a good part of it, the loss applies the output layer
in chunks. Then half as many examples are tried, with more accumulation: the examples of a step, and thus its
result, remain those of the recipe. If few examples fit, layers are recomputed in the backward pass
(activation checkpointing), unless the recipe sets it.

The result is stored in the stage's folder, so that all processes, and a resumed run on the same kind of
device, use it. A model that is sharded over processes is not tried, because no process can hold it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache

from hfpipe.contract import Settings
from hfpipe.encoding.padding import Collator, list_forward_passes
from hfpipe.encoding.sampler import BatchLayout
from hfpipe.errors import StageError, is_out_of_memory
from hfpipe.training.arguments import CHECKPOINTING, CHECKPOINTINGS
from hfpipe.training.cost import (
    FLOAT,
    Shape,
    compute_optimizer_state,
    estimate_activations,
    estimate_logits,
    measure_shape,
)
from hfpipe.training.speed.decision import decide_once
from hfpipe.training.speed.trial import restore_model
from hfpipe.training.step import CompiledStep, TrainingStep, separate_documents

if TYPE_CHECKING:
    from hfpipe.training.speed.choice import Speed
    from hfpipe.training.speed.gpu import Device
    from hfpipe.training.trainer import Training

log = logging.getLogger(__name__)

FEW_TOKENS = 4096
"""Number of tokens per forward pass below which a GPU is underused, so that recomputing layers costs less."""
SPARE = 0.05
"""Fraction of a device's memory to leave free, because passes allocate in different orders."""
HOPELESS = 2.0
"""Ratio of estimated to available memory above which a trial is skipped; estimates may be off by a factor of
2."""
LARGE = 0.1
"""Fraction of a device's memory that logits and their gradient must take for the loss to compute them in
chunks. Compiling is repeated for each trial, so that one without hope costs most of a minute."""


class Way(Settings):
    """One way to run a micro-batch."""

    micro: int
    """Number of examples per forward pass."""
    checkpointing: bool = False
    """Whether layers are recomputed in the backward pass."""
    head_in_loss: bool = False
    """Whether the loss applies the output layer in chunks, which is always so on a CPU."""


class Fit(Way):
    """The micro-batch that fits into the memory of a device."""

    asked: BatchLayout
    """Layout of a step in the recipe."""
    device: str
    """Name and memory of the device of the trial."""


@dataclass(frozen=True)
class MicroBatch:
    """How a step is split on this device."""

    shares: BatchLayout
    checkpointing: bool = False
    """Whether layers are recomputed although the recipe does not set it."""
    head_in_loss: bool = False
    """Whether the loss applies the output layer in chunks."""


def fit_micro_batch(trial: MemoryTrial, folder: Path) -> MicroBatch:
    """Return how a step is split on a device; the first process finds it by trial and stores it in `folder`.

    Raises StageError when not even one example fits.
    """
    found = decide_once(folder / "memory.json", Fit, trial.find_fit, trial.applies)
    shares = set_micro_batch(trial.shares, found.micro)
    return MicroBatch(shares, found.checkpointing, found.head_in_loss)


def set_micro_batch(shares: BatchLayout, micro: int) -> BatchLayout:
    """Return the same step in forward passes of `micro` examples."""
    return replace(shares, micro=micro, accumulation=shares.micro * shares.accumulation // micro)


def propose_micro_batches(shares: BatchLayout) -> Iterator[int]:
    """Yield possible numbers of examples per forward pass: the recipe's, then at most half as many each."""
    each, micro = shares.micro * shares.accumulation, shares.micro
    while micro:
        yield micro
        micro = max((size for size in range(1, micro // 2 + 1) if each % size == 0), default=0)


class MemoryTrial:
    """Runs a pass of a training on a device, to find out whether it fits."""

    def __init__(
        self,
        training: Mapping[str, Any],
        parts: Training,
        shares: BatchLayout,
        seed: int,
        speed: Speed,
        device: Device,
    ) -> None:
        self.shares, self.device = shares, device
        self._training, self._parts, self._seed, self._speed = training, parts, seed, speed
        self._place, self._memory = device.place, device.memory
        self._shape = _find_shape(parts)

    def find_fit(self) -> Fit:
        """Return the result of the trial to store."""
        return Fit(**dict(self.find_largest()), asked=self.shares, device=self.device.name)

    def applies(self, fit: Fit) -> bool:
        """Return whether a stored result is for the same layout of a step on the same kind of device."""
        return (fit.asked, fit.device) == (self.shares, self.device.name)

    def find_largest(self) -> Way:
        """Return the way with the most examples per pass. Raises StageError when not even one fits."""
        for way in self.propose_ways():
            if self._is_hopeless(way):
                continue
            if self.fits(way):
                if way != Way(micro=self.shares.micro):
                    log.info("%s", self._describe_trial(way))
                return way
        raise StageError(
            f"out of memory: not even one example fits into the {self._memory / 2**30:.1f} GiB of a device; "
            "use a smaller model or a shorter length, or shard the model with "
            "`--accelerate recipes/accelerate/fsdp.yaml`"
        )

    def fits(self, way: Way) -> bool:
        """Return whether a forward and a backward pass fit; nothing is trained."""
        try:
            with self.hold_conditions(checkpointing=way.checkpointing):
                self._run_pass(way)
            return True
        except Exception as error:  # torch has no class of its own for the memory of a CPU
            if not is_out_of_memory(error):
                raise
            if self._speed.compiled:
                torch.compiler.reset()  # which keeps code for few shapes, and then stops compiling
            return False
        finally:
            self._parts.model.zero_grad(set_to_none=True)
            clear_device_cache(garbage_collection=True)

    @contextmanager
    def hold_conditions(self, *, checkpointing: bool) -> Iterator[None]:
        """Hold the model and the memory of the optimizer on the device, and recompute layers, as in training.

        Random states are restored.
        """
        model, device = self._parts.model, self._place
        module: torch.nn.Module = model
        wanted = checkpointing or any(self._training.get(name) for name in CHECKPOINTINGS)
        with (
            restore_model(model),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            set_checkpointing(model, wanted=wanted),
        ):
            module.to(device)
            reserved = torch.empty(int(self._compute_reserved_bytes()), dtype=torch.uint8, device=device)
            yield
            del reserved

    def _run_pass(self, way: Way) -> None:
        model, device = self._parts.model, self._place
        batches, step = self._create_batches(way.micro), self._create_step(way)
        for batch in batches:
            moved = {name: tensor.to(device) for name, tensor in batch.items()}
            with self._create_autocast():
                total = step(model, moved)[1].total.sum()
            total.backward()

    def propose_ways(self) -> Iterator[Way]:
        """Yield trials, fastest first."""
        for micro, checkpointing in self._propose_sizes():
            yield Way(micro=micro, checkpointing=checkpointing)
            if self._has_large_logits(micro):
                yield Way(micro=micro, checkpointing=checkpointing, head_in_loss=True)

    def _has_large_logits(self, micro: int) -> bool:
        """Return whether a loss in chunks may save a good part of the memory of a GPU."""
        parts = self._parts
        refused = self._training.get("fp16") or self._training.get("ddp_find_unused_parameters")
        possible = parts.task.objective.loss_is_cross_entropy and parts.training_loss is None
        if self._place.type == "cpu" or self._shape is None or refused or not possible:
            return False
        logits = estimate_logits(self._shape, micro, self._length, parts.task.objective.predicted_share)
        return logits > LARGE * self._memory

    def _propose_sizes(self) -> Iterator[tuple[int, bool]]:
        """Yield numbers of examples per pass, fastest first, and whether layers are recomputed."""
        sizes = list(propose_micro_batches(self.shares))
        asked = next((name for name in CHECKPOINTINGS if name in self._training), None)
        can = bool(getattr(self._parts.model, "supports_gradient_checkpointing", False))
        if asked is not None or not can:
            yield from ((micro, False) for micro in sizes)  # the trainer applies the recipe's setting
            return
        many = [micro for micro in sizes if micro == sizes[0] or micro * self._length >= FEW_TOKENS]
        yield from ((micro, False) for micro in many)
        yield from ((micro, True) for micro in sizes)

    def _is_hopeless(self, way: Way) -> bool:
        """Return whether a trial is estimated to need far more memory than available."""
        if self._shape is None or way.micro == 1:
            return False
        predicted = 0.0 if way.head_in_loss else self._parts.task.objective.predicted_share
        recomputed = way.checkpointing
        kept = estimate_activations(
            self._shape, way.micro, self._length, predicted, bf16=self._speed.bf16, recomputed=recomputed
        )
        return kept + self._compute_reserved_bytes() > HOPELESS * self._memory

    @property
    def _length(self) -> int:
        return int(self._parts.train.lengths.max())

    def _compute_reserved_bytes(self) -> float:
        """Return the bytes of a step beyond those of a pass: optimizer state, and a copy of the gradients.

        The copy is the communication buffer of DistributedDataParallel.
        """
        trained = self._parts.model.num_parameters(only_trainable=True)
        named = (
            compute_optimizer_state(self._shape, self._training.get("optim"))
            if self._shape is not None
            else None
        )
        state = 2 * FLOAT * trained if named is None else named
        return state + SPARE * self._memory + (FLOAT * trained if self.shares.world > 1 else 0)

    def _create_batches(self, micro: int) -> list[Any]:
        """Return the longest examples as the training's first batch."""
        parts = self._parts
        longest = np.argsort(-parts.train.lengths, kind="stable")
        keys = [(0, int(longest[number % len(longest)])) for number in range(micro)]
        static = self._speed.compiled and self._has_one_shape
        loss = parts.training_loss
        collate = Collator(parts.task, parts.tokenizer, self._seed, static=static, training_loss=loss)
        return list_forward_passes(collate(parts.train.__getitems__(keys)))

    def _create_step(self, way: Way) -> TrainingStep | CompiledStep:
        parts, smoothing = self._parts, self._training.get("label_smoothing_factor", 0.0)
        chosen = parts.attention_is_chosen
        separate = separate_documents(parts.task, parts.model, self._place, chosen=chosen)
        chunked = self._place.type == "cpu" or way.head_in_loss
        eager = TrainingStep(
            parts.task,
            smoothing,
            self._create_autocast,
            chunked=chunked,
            separate=separate,
            objective=parts.training_loss,
        )
        if not self._speed.compiled or not self._has_one_shape:
            return eager
        return CompiledStep(eager, parts.model, way.micro, self._create_autocast, self._speed.mode)

    @property
    def _has_one_shape(self) -> bool:
        config = self._parts.task.config
        return config.packed and config.auto_class != "AutoModelForSeq2SeqLM"

    def _create_autocast(self) -> Any:
        half = torch.float16 if self._training.get("fp16") else torch.bfloat16
        enabled = bool(self._speed.bf16 or self._training.get("fp16"))
        return torch.autocast(self._place.type, half, enabled=enabled)

    def _describe_trial(self, way: Way) -> str:
        shares = set_micro_batch(self.shares, way.micro)
        return (
            f"memory: {shares.micro} examples per forward pass × {shares.accumulation} accumulated, "
            f"instead of {self.shares.micro} × {self.shares.accumulation}"
            + (", layers recomputed in the backward pass" if way.checkpointing else "")
            + (", the output layer applied in chunks by the loss" if way.head_in_loss else "")
        )


def _find_shape(parts: Training) -> Shape | None:
    """Return the shape of the model for estimates, None if its config lacks the needed entries."""
    try:
        return measure_shape(parts.model, parts.model.config)
    except (AttributeError, TypeError):
        return None


@contextmanager
def set_checkpointing(model: Any, *, wanted: bool) -> Iterator[None]:
    """Recompute layers in the backward pass, if `wanted`."""
    if not wanted:
        yield
        return
    getattr(model, f"{CHECKPOINTING}_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(model, f"{CHECKPOINTING}_disable")()
