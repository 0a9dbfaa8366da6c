"""Chooses once per training, from the recipe or by measuring, whether to use bfloat16 and torch.compile.

`compile_mode` then chooses the mode of torch.compile.

On a CPU, neither is always faster, and this cannot be known from the processor's name. Long trainings
therefore measure both if the cost is small compared to the gain, and store the result for the next run. Short
ones (below `LEAST_PASSES` or `LEAST_SECONDS`) run in float32 and eagerly.

While other processes use the cores, more passes are timed, up to a limit. If none was undisturbed, the
fastest passes decide for this training only, and the log says so.

The choice is stored in the stage's folder, so that all processes and a resumed run use the one of the first.

The number of threads is not chosen: torch uses the physical cores, or OMP_NUM_THREADS. A micro-batch is not
split: for BERT 4 × 256, 32 × 128, bfloat16, two halves took 2 % less time and four quarters 15 % more.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hfpipe.contract import Settings
from hfpipe.encoding.sampler import BatchLayout
from hfpipe.errors import format_one_line
from hfpipe.library_output import silence_libraries
from hfpipe.modeling.performance import (
    is_compiling_worthwhile,
    is_sharded,
    runs_on_cpu,
    supports_bf16,
)
from hfpipe.recipe.training import compile_modes
from hfpipe.training.speed.decision import decide_once
from hfpipe.training.speed.memory import (
    Compilation,
    Measured,
    compute_key,
    estimate_compilation,
    get_memory_file,
    get_processor_name,
    load_measurement,
    store_measurement,
)
from hfpipe.training.speed.trial import DTYPES, Trial, measure_gemm_speeds

if TYPE_CHECKING:
    from hfpipe.training.trainer import Training

log = logging.getLogger(__name__)

LEAST_SECONDS = 60.0
"""Duration of a training below which nothing is measured: a small gain does not justify different
rounding."""
LEAST_PASSES = 60
"""Number of micro-batches below which nothing is measured. Measuring takes 1 to 7 passes, at most a ninth; if
all 7 are run, because bfloat16 products are faster, the gain was 37 % (BERT 4 × 256, EPYC)."""
COMPILED_SECONDS = 300.0
"""Minimum time budget for compiling a model on a GPU."""
CLEARLY = 0.9
"""Maximum ratio of times that counts as faster: less than a tenth does not justify different rounding, and
the best of two passes varies by up to BUSY even on an idle machine."""
USUAL = Compilation(seconds=35.0, saved=0.05)
"""Expected cost and gain of compiling if no model was compiled before, in bfloat16, with empty caches: 29 to
37 s to save 0.08 of a micro-batch of BERT 4 × 256, 0.04 of GPT-2 6 × 384 and nothing of BERT 6 × 512 (two
cores, EPYC)."""
HOPEFUL = 2.0
"""Compiling is tried if it is expected to save this many times its own duration: models differ by that factor
from the usual savings."""


class Speed(Settings):
    """Settings of a training that change its speed, and its results only by rounding."""

    bf16: bool
    """Whether products are computed in bfloat16."""
    compiled: bool
    """Whether the model is compiled."""
    mode: str = "default"
    """Mode of torch.compile."""
    measured: Measured | None = None
    """The measurements behind the choice, if any."""

    @property
    def compile_mode(self) -> str | None:
        """The mode of torch.compile, None for a model that is not compiled."""
        return self.mode if self.compiled else None

    @property
    def saved(self) -> float:
        """Seconds by which a compiled micro-batch is faster than an eager one; 0 if that is not known."""
        dtype = "bfloat16" if self.bf16 else "float32"
        if self.measured is None or not self.compiled or dtype not in self.measured.compiled:
            return 0.0
        return self.measured.eager[dtype] - self.measured.compiled[dtype]


@dataclass(frozen=True)
class Length:
    """Length of a training: a number of steps, or seconds."""

    steps: int | None
    seconds: float | None

    def count_passes(self, accumulation: int, each: float) -> float:
        """Return the number of micro-batches, each of which takes some seconds."""
        return (self.seconds or 0.0) / each if self.steps is None else float(self.steps * accumulation)


def choose_speed(
    training: Mapping[str, Any], parts: Training, shares: BatchLayout, seed: int, length: Length, folder: Path
) -> Speed:
    """Return the choice stored in `folder`; the first process chooses, the others wait."""
    chosen = decide_once(
        folder / "speed.json", Speed, lambda: _Choice(training, parts, shares, seed, length).make()
    )
    return chosen.model_copy(update={"mode": training.get(compile_modes.NAME) or "default"})


def describe_pass(parts: Training, shares: BatchLayout) -> dict[str, Any]:
    """Return the properties other than the processor that determine the duration of a micro-batch."""
    lengths = parts.train.lengths
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "model": type(parts.model).__name__,
        "weights": [[list(each.shape), each.requires_grad] for each in parts.model.parameters()],
        "attention": parts.model.config._attn_implementation,
        "task": parts.task.config.model_dump(mode="json"),
        "batch": [shares.micro, round(float(lengths.mean()), -1)],
    }


def has_one_shape(parts: Training, shares: BatchLayout) -> bool:
    """Return whether a compiled training has batches of one shape, as in `TaskTrainer`."""
    config, lengths = parts.task.config, parts.train.lengths
    whole = config.best_fit or int((lengths == config.length).sum()) >= shares.micro
    return whole and config.packed and config.auto_class != "AutoModelForSeq2SeqLM" and not is_sharded()


class _Choice:
    """Makes the choice of one training."""

    def __init__(
        self, training: Mapping[str, Any], parts: Training, shares: BatchLayout, seed: int, length: Length
    ) -> None:
        self._bf16 = False if training.get("fp16") else training.get("bf16", "auto")
        named = training.get(compile_modes.NAME) is not None
        self._compile = training.get("compile", True if named else "auto")
        self._parts, self._shares, self._length = parts, shares, length
        self._trial = Trial(parts, shares, seed, training.get("label_smoothing_factor", 0.0))
        self._machine = compute_key({"torch": torch.__version__, "threads": torch.get_num_threads()})
        self._key = compute_key(describe_pass(parts, shares))
        self._file = get_memory_file()

    def make(self) -> Speed:
        """Return the choice."""
        if not runs_on_cpu():
            return self._choose_on_accelerator()
        if "auto" not in (self._bf16, self._compile) or not self._is_long():
            return Speed(bf16=self._bf16 is True, compiled=self._compile is True)
        known = load_measurement(self._file, self._key)
        with silence_libraries():
            if self._estimate_seconds(known) < LEAST_SECONDS:
                return Speed(bf16=self._bf16 is True, compiled=self._compile is True)
            measured = self._measure_eager(known)
            bf16 = self._is_faster_in_bf16(measured) if self._bf16 == "auto" else bool(self._bf16)
            measured, compiled = self._decide_compiling(measured, "bfloat16" if bf16 else "float32")
        if measured != known:
            store_measurement(self._file, self._key, self._machine, measured)
        log.info("%s", _describe_choice(bf16, compiled, measured, remembered=measured == known))
        return Speed(bf16=bf16, compiled=compiled, measured=measured)

    def _choose_on_accelerator(self) -> Speed:
        """Return the choice on a GPU, by fixed rules."""
        bf16 = supports_bf16() if self._bf16 == "auto" else bool(self._bf16)
        seconds = self._length.seconds
        long = (
            is_compiling_worthwhile(self._count_tokens()) if seconds is None else seconds >= COMPILED_SECONDS
        )
        return Speed(bf16=bf16, compiled=long if self._compile == "auto" else bool(self._compile))

    def _count_tokens(self) -> int:
        """Return the number of tokens of the training, or of an epoch if its length is a time."""
        lengths = self._parts.train.lengths
        seen = (self._length.steps or 0) * self._shares.total or len(lengths)
        return int(lengths.mean() * seen)

    def _is_long(self) -> bool:
        """Return whether the training may be long enough for measurements."""
        if self._length.steps is None:
            return (self._length.seconds or 0.0) >= LEAST_SECONDS
        return self._length.steps * self._shares.accumulation >= LEAST_PASSES

    def _estimate_seconds(self, known: Measured) -> float:
        """Return the maximum duration of the training in seconds."""
        if self._length.steps is None:
            return self._length.seconds or 0.0
        first = "bfloat16" if self._bf16 is True else "float32"
        seconds = known.eager[first] if first in known.eager else self._trial.time_first(first)
        return self._count_passes(seconds) * seconds

    def _measure_eager(self, known: Measured) -> Measured:
        """Return the eager times of the dtypes to choose from."""
        wanted = list(DTYPES) if self._bf16 == "auto" else ["bfloat16" if self._bf16 else "float32"]
        if all(name in known.eager for name in wanted):
            return known
        if self._bf16 == "auto" and not known.gemm:
            rows = int(min(self._shares.micro * self._parts.train.lengths.mean(), 4096))
            size = int(getattr(self._parts.model.config.get_text_config(), "hidden_size", 512))
            gemm, busy = measure_gemm_speeds(rows, size)
            known = known.model_copy(update={"gemm": gemm, "busy": busy})
        if known.gemm and known.gemm["float32"] >= CLEARLY * known.gemm["bfloat16"]:
            wanted = [name for name in wanted if name == "float32"] or wanted
        found = self._trial.time_eager(wanted)
        update = {"eager": known.eager | found.seconds, "busy": known.busy or found.busy}
        return known.model_copy(update=update)

    def _is_faster_in_bf16(self, measured: Measured) -> bool:
        eager = measured.eager
        return "bfloat16" in eager and eager["bfloat16"] < CLEARLY * eager["float32"]

    def _decide_compiling(self, measured: Measured, dtype: str) -> tuple[Measured, bool]:
        """Return the measurement, and whether to compile."""
        if self._compile != "auto":
            return measured, bool(self._compile)
        if dtype not in measured.compiled:
            if not has_one_shape(self._parts, self._shares) or not self._may_save_time(measured.eager[dtype]):
                return measured, False
            try:
                found = self._trial.time_compiled(dtype)
            except Exception as error:  # for example, without a C++ compiler
                log.info("torch.compile failed and is not used: %s", format_one_line(error))
                return measured, False
            update: dict[str, Any] = {
                "eager": measured.eager | {dtype: found.eager},
                "compiled": measured.compiled | {dtype: found.compiled},
                "compiling": found.took,
                "busy": measured.busy or found.busy,
            }
            return measured.model_copy(update=update), found.compiled < CLEARLY * found.eager
        eager, compiled = measured.eager[dtype], measured.compiled[dtype]
        gained = self._count_passes(eager) * (eager - compiled)
        return measured, compiled < CLEARLY * eager and gained > (measured.compiling or USUAL.seconds)

    def _may_save_time(self, eager: float) -> bool:
        """Return whether compiling, not yet tried with this model, may save time in this training."""
        expected = estimate_compilation(self._file, self._machine) or USUAL
        return self._count_passes(eager) * eager * expected.saved > HOPEFUL * expected.seconds

    def _count_passes(self, each: float) -> float:
        return self._length.count_passes(self._shares.accumulation, each)


def _describe_choice(bf16: bool, compiled: bool, measured: Measured, *, remembered: bool) -> str:
    """Return the log line with the choice and the measurements."""
    chosen = f"{'bfloat16' if bf16 else 'float32'}, {'compiled' if compiled else 'eager'}"
    gemm = [f"{name} {speed:.0f}" for name, speed in measured.gemm.items()]
    times = [f"{name} {seconds:.3g}" for name, seconds in measured.eager.items()]
    times += [f"{name} compiled {seconds:.3g}" for name, seconds in measured.compiled.items()]
    took = f" after {measured.compiling:.0f} s of compiling" if measured.compiling else ""
    when = "measured before" if remembered else "measured"
    products = f"; matrix products in GFLOP/s: {', '.join(gemm)}" if gemm else ""
    busy = "; other processes used the cores meanwhile, so this is not stored" if measured.busy else ""
    return (
        f"speed: {chosen}; {when} on {get_processor_name()}, {torch.get_num_threads()} threads: "
        f"seconds per micro-batch: {', '.join(times)}{took}{products}{busy}"
    )
