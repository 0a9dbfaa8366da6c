"""Chooses the mode of torch.compile for a long training, by measuring, where the recipe does not set it.

In mode `max-autotune-no-cudagraphs`, compiling times several kernels for each matrix product, which takes
minutes. It is tried only if a training is expected to save more. The default mode is timed first: it
is compiled in any case, and PyTorch's caches keep it. A mode that fails, or needs too much memory, is
skipped. Nothing is trained meanwhile. The measurement is stored for the next run of the same model, and the
choice in the stage's folder, so that all processes and a resumed run use it.

Modes that record CUDA graphs are used only if the recipe names them: they have not been tried on a GPU, and
give wrong gradients if micro-batches are accumulated (PyTorch issues #96693 and #169545). On a CPU there is
nothing to choose: products with weights that are trained have no other kernels (see tests/bench/README.md).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils.memory import clear_device_cache

from hfpipe.contract import Settings
from hfpipe.errors import StageError, format_one_line
from hfpipe.library_output import silence_libraries
from hfpipe.recipe.training import compile_modes
from hfpipe.training.speed.choice import HOPEFUL, Length, Speed, describe_pass, has_one_shape
from hfpipe.training.speed.decision import decide_once
from hfpipe.training.speed.memory import (
    Compilation,
    Measured,
    ModeTiming,
    compute_key,
    estimate_mode,
    get_memory_file,
    get_processor_name,
    load_measurement,
    store_measurement,
)
from hfpipe.training.speed.micro_batch import MemoryTrial, MicroBatch
from hfpipe.training.speed.trial import CPU, Trial

if TYPE_CHECKING:
    from hfpipe.encoding.sampler import BatchLayout
    from hfpipe.training.speed.gpu import Device
    from hfpipe.training.trainer import Training

log = logging.getLogger(__name__)

DEFAULT = "default"
CANDIDATES: dict[str, tuple[str, ...]] = {"cpu": (), "cuda": ("max-autotune-no-cudagraphs",)}
"""Type of device → modes to compare with the default, in this order."""
USUAL = Compilation(seconds=150.0, saved=0.05)
"""Expected cost and gain of a mode if none was compared on this machine before: assumed, not measured."""
CLEARLY = 0.97
"""Maximum ratio of times that counts as faster; passes of one shape on a GPU vary by less than that."""


class ModeChoice(Settings):
    """The mode of torch.compile of a training."""

    mode: str
    modes: dict[str, ModeTiming] = {}
    """The measurements behind the choice."""


def check_mode(speed: Speed, shares: BatchLayout, device: str) -> None:
    """Raise StageError if the mode that a recipe names would give wrong gradients."""
    graphs = speed.compile_mode in compile_modes.GRAPH_MODES
    if graphs and device == "cuda" and shares.accumulation > 1:
        raise StageError(
            f"training.torch_compile_mode: {speed.mode} records CUDA graphs, which give wrong gradients if "
            f"micro-batches are accumulated, here {shares.accumulation}; write max-autotune-no-cudagraphs"
        )


def choose_mode(trial: ModeTrial, folder: Path) -> Speed:
    """Return the speed of a training with the mode stored in `folder`, which the first process chooses.

    A speed for which there is nothing to choose is returned unchanged.
    """
    if not trial.has_choice:
        return trial.speed
    chosen = decide_once(folder / "compile_mode.json", ModeChoice, trial.choose)
    measured = (trial.speed.measured or Measured()).model_copy(update={"modes": chosen.modes})
    return trial.speed.model_copy(update={"mode": chosen.mode, "measured": measured})


class ModeTrial:
    """Times the passes of a compiled training in several modes of torch.compile."""

    def __init__(
        self,
        training: Mapping[str, Any],
        parts: Training,
        fit: MicroBatch,
        seed: int,
        speed: Speed,
        length: Length,
        device: Device | None,
    ) -> None:
        """`device` is the GPU, None on a CPU."""
        self.speed = speed
        self._training, self._parts, self._fit, self._length = training, parts, fit, length
        self._device = device
        place = CPU if device is None else device.place
        smoothing = training.get("label_smoothing_factor", 0.0)
        chunked = fit.head_in_loss
        self._trial = Trial(parts, fit.shares, seed, smoothing, place, head_in_loss=chunked)
        self._memory = MemoryTrial(training, parts, fit.shares, seed, speed, device) if device else None
        self._candidates = CANDIDATES[place.type]
        self._dtype = "float16" if training.get("fp16") else "bfloat16" if speed.bf16 else "float32"
        name = get_processor_name() if device is None else device.name
        self._machine = compute_key(
            {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": name}
        )
        self._key = compute_key(
            describe_pass(parts, fit.shares)
            | {"device": name, "dtype": self._dtype}
            | {"checkpointing": fit.checkpointing, "head_in_loss": fit.head_in_loss}
        )
        self._file = get_memory_file()

    @property
    def has_choice(self) -> bool:
        """Whether the model is compiled for batches of one shape and the recipe does not set the mode."""
        named = self._training.get(compile_modes.NAME) is not None
        possible = self.speed.compiled and bool(self._candidates) and not named
        return possible and has_one_shape(self._parts, self._fit.shares)

    def choose(self) -> ModeChoice:
        """Return the fastest mode that makes up for its compilation in this training."""
        known = load_measurement(self._file, self._key)
        measured = self._measure(known)
        if measured != known:
            store_measurement(self._file, self._key, self._machine, measured)
        mode = self._find_fastest(known, measured)
        if measured.modes:
            log.info("%s", self._describe_choice(mode, measured, remembered=measured == known))
        return ModeChoice(mode=mode, modes=measured.modes)

    def _measure(self, known: Measured) -> Measured:
        """Return the measurement with the modes that may pay and are not known yet."""
        with silence_libraries(), self._hold_conditions():
            found = known if DEFAULT in known.modes else self._compare(known, [DEFAULT])
            for mode in self._candidates:
                if mode not in found.modes and self._may_save_time(mode, found):
                    found = self._compare(found, [DEFAULT, mode])
        return found

    def _hold_conditions(self) -> AbstractContextManager[None]:
        if self._memory is None:
            return nullcontext()
        return self._memory.hold_conditions(checkpointing=self._fit.checkpointing)

    def _compare(self, known: Measured, modes: list[str]) -> Measured:
        """Return the measurement with some modes, or unchanged if one of them fails."""
        try:
            found = self._trial.time_modes(self._dtype, modes)
        except Exception as error:  # for example, out of memory, or an error of the compiler
            log.info("torch.compile: mode %s failed and is skipped: %s", modes[-1], format_one_line(error))
            clear_device_cache(garbage_collection=True)
            return known
        compiled_before = {name: known.modes[name].compiling for name in modes if name in known.modes}
        timings = {
            name: each.model_copy(update={"compiling": compiled_before.get(name, each.compiling)})
            for name, each in found.modes.items()
        }
        return known.model_copy(update={"modes": known.modes | timings, "busy": known.busy or found.busy})

    def _may_save_time(self, mode: str, found: Measured) -> bool:
        """Return whether a mode, not yet tried with this model, may save time in this training."""
        default = found.modes.get(DEFAULT)
        if default is None:
            return False
        expected = estimate_mode(self._file, self._machine, mode, DEFAULT) or USUAL
        saved = self._count_passes(default) * default.seconds * expected.saved
        return saved > HOPEFUL * expected.seconds

    def _find_fastest(self, known: Measured, measured: Measured) -> str:
        """Return the fastest mode; one of an earlier run must make up for compiling it once more."""
        default = measured.modes.get(DEFAULT)
        if default is None:
            return DEFAULT
        paying = {DEFAULT: default.seconds}
        for mode in self._candidates:
            each = measured.modes.get(mode)
            if each is None or each.seconds >= CLEARLY * default.seconds:
                continue
            saved = self._count_passes(default) * (default.seconds - each.seconds)
            if mode not in known.modes or saved > each.compiling:
                paying[mode] = each.seconds
        return min(paying, key=paying.__getitem__)

    def _count_passes(self, default: ModeTiming) -> float:
        return self._length.count_passes(self._fit.shares.accumulation, default.seconds)

    def _describe_choice(self, mode: str, measured: Measured, *, remembered: bool) -> str:
        """Return the log line with the choice and the measurements."""
        times = [
            f"{name} {each.seconds:.3g} after {each.compiling:.0f} s of compiling"
            for name, each in measured.modes.items()
        ]
        where = get_processor_name() if self._device is None else self._device.name.partition(",")[0]
        when = "measured before" if remembered else "measured"
        busy = "; other processes used the cores meanwhile, so this is not stored" if measured.busy else ""
        return (
            f"speed: torch.compile in mode {mode}; {when} on {where}: seconds per micro-batch: "
            f"{', '.join(times)}{busy}"
        )
