"""Compares trainings of a recipe at toy size that should give the same loss and the same gradient."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hfpipe.contract import Progress
from hfpipe.diagnosis.separate_packing import NotApplicable, compute_packed_gradients
from hfpipe.diagnosis.toy import EXAMPLES, make_toy
from hfpipe.diagnosis.trials import Trials, compute_distance
from hfpipe.errors import HfpipeError, Problem, RecipeError, format_one_line, format_typed_line
from hfpipe.estimation.local_artifacts import Known
from hfpipe.library_output import silence_libraries
from hfpipe.modeling.performance import runs_on_cpu, supports_bf16
from hfpipe.recipe import Recipe
from hfpipe.runner import plan_recipe
from hfpipe.stages.finetune import Finetune
from hfpipe.stages.pretrain import Pretrain
from hfpipe.stages.repeats.members import get_owner


@dataclass(frozen=True)
class Deviation:
    """The difference between two trainings that should give equal results."""

    stage: str
    check: str
    """Name of the comparison."""
    loss: float = 0.0
    """Difference of the losses, relative to the first."""
    gradient: float = 0.0
    """Norm of the difference of the gradients, relative to the norm of the first.

    For a resumed training, that of the weights after several steps.
    """
    loss_tolerance: float = 0.0
    gradient_tolerance: float = 0.0
    reason: str = ""
    """Reason why they were not compared; empty if they were."""
    failure: str = ""
    """Error with which one of them ended."""
    note: str = ""
    """What replaced data or a tokenizer that do not exist yet."""

    @property
    def passed(self) -> bool | None:
        """Whether both differences are within their tolerances; None if nothing was compared."""
        if self.reason:
            return None
        within = self.loss <= self.loss_tolerance and self.gradient <= self.gradient_tolerance
        return within and not self.failure


@dataclass(frozen=True)
class _Check:
    name: str
    title: str
    compare: Callable[[Trials], tuple[float, float]]
    """Returns the relative differences of loss and gradient. Raises NotApplicable with a reason."""
    loss: float
    """Tolerance of the difference of losses."""
    gradient: float
    """Tolerance of the difference of gradients."""


def examine_recipe(
    recipe: Recipe, runs: Path, stage: str | None, only: Sequence[str], progress: Progress
) -> Iterator[Deviation]:
    """Yield each comparison of each training stage, or of one stage.

    Raises RecipeError when there is no such stage or comparison.
    """
    checks = _choose_checks(only)
    steps = plan_recipe(recipe, runs)
    trained: dict[str, str] = {}
    for step in steps:  # the first of several trainings of a stage
        if isinstance(step.stage, (Pretrain, Finetune)):
            trained.setdefault(get_owner(step.name), step.name)
    if stage is not None and stage not in trained:
        there = f"it has {', '.join(trained)}" if trained else "it has none"
        raise RecipeError([Problem(f"{recipe.path}: has no training stage {stage!r}; {there}")])
    known = Known(recipe.base, steps)
    for name in trained if stage is None else [stage]:
        with TemporaryDirectory(prefix="hfpipe-doctor-") as folder, silence_libraries():
            try:
                toy = make_toy(trained[name], known, Path(folder), recipe.seed, progress)
            except HfpipeError as error:
                if stage is not None:
                    raise
                yield Deviation(name, "every comparison", reason=format_one_line(error))
                continue
            trials = Trials(toy, progress)
            for check in checks:
                yield replace(_run(check, name, trials), note=toy.note)


def _choose_checks(only: Sequence[str]) -> list[_Check]:
    names = [check.name for check in CHECKS]
    if unknown := [name for name in only if name not in names]:
        message = f"--only {unknown[0]}: there is no such comparison; write one of {', '.join(names)}"
        raise RecipeError([Problem(message)])
    return [check for check in CHECKS if not only or check.name in only]


def _run(check: _Check, stage: str, trials: Trials) -> Deviation:
    found = Deviation(stage, check.title, loss_tolerance=check.loss, gradient_tolerance=check.gradient)
    try:
        loss, gradient = check.compare(trials)
    except NotApplicable as reason:
        return replace(found, reason=str(reason))
    except HfpipeError as error:
        return replace(found, failure=format_one_line(error))
    except Exception as error:  # an error of a library is a result as well
        return replace(found, failure=format_typed_line(error))
    return replace(found, loss=loss, gradient=gradient)


FOUR_PASSES = {"per_device_train_batch_size": EXAMPLES // 4, "gradient_accumulation_steps": 4}


def _compare_accumulation(trials: Trials) -> tuple[float, float]:
    return trials.plain.compare(trials.compute_gradient("accumulation", **FOUR_PASSES))


def _compare_processes(trials: Trials) -> tuple[float, float]:
    devices = torch.cuda.device_count()
    if not runs_on_cpu() and devices < 2:
        raise NotApplicable(f"two processes need two GPUs, and there is {devices}")
    return trials.plain.compare(trials.compute_gradient("processes", processes=2))


def _compare_packing(trials: Trials) -> tuple[float, float]:
    alone, together = compute_packed_gradients(trials.toy)
    return alone.compare(together)


def _compare_compiled(trials: Trials) -> tuple[float, float]:
    if runs_on_cpu() and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise NotApplicable("torch.compile needs a C++ compiler on a CPU, and there is none")
    # A batch with the last, shorter example runs eagerly; the other three of four passes do not.
    return trials.plain.compare(trials.compute_gradient("compiled", compile=True, **FOUR_PASSES))


def _compare_bf16(trials: Trials) -> tuple[float, float]:
    if not supports_bf16() and trials.toy.stage.training.get("bf16") is not True:
        what = "processor" if runs_on_cpu() else "GPU"
        raise NotApplicable(
            f"this {what} has no matrix products in bfloat16, and the recipe does not ask for them"
        )
    return trials.plain.compare(trials.compute_gradient("bf16", bf16=True))


def _compare_resumed(trials: Trials) -> tuple[float, float]:
    straight = trials.train_steps("straight")
    resumed = trials.train_steps("resumed", stopped_after=1)
    return abs(resumed.loss / straight.loss - 1), compute_distance(straight.weights, resumed.weights)


CHECKS = (
    _Check("accumulation", "accumulation 1 v 4", _compare_accumulation, 1e-5, 1e-4),
    _Check("processes", "processes 1 v 2", _compare_processes, 1e-5, 1e-4),
    _Check("packing", "packed v separate documents", _compare_packing, 1e-5, 1e-4),
    _Check("compile", "compiled v eager", _compare_compiled, 1e-5, 1e-3),
    _Check("bf16", "bfloat16 v float32", _compare_bf16, 1e-2, 1e-1),
    _Check("resume", "resumed v straight", _compare_resumed, 0.0, 0.0),
)
"""The tolerances allow for rounding: in float32 sums in another order, in bfloat16 products of 8 bits.

A resumed training must give exactly the same result.
"""
