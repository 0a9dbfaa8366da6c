"""The stage that summarizes the trainings of one recipe stage: one per seed or per fold."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from hfpipe.contract import RunContext, Stage
from hfpipe.errors import Problem
from hfpipe.number_format import format_number
from hfpipe.references.places import ModelPlace
from hfpipe.report import DataFacts, Report
from hfpipe.stages.repeats.members import REPEATED, get_owner, remove_encoded
from hfpipe.stages.train import TrainStage
from hfpipe.store.store import read_report

CHECKPOINTS = range(3, 6)
"""Allowed numbers of last evaluations of a training for the variance over its last checkpoints."""


class RepeatedTraining(TrainStage):
    """Summarizes the trainings of a stage with `seeds` or `folds`; does not train."""

    version: ClassVar[int] = 1
    distributed: ClassVar[bool] = False
    immediate: ClassVar[bool] = True
    kind: Literal["pretrain", "finetune"]
    members: dict[str, ModelPlace]
    """Stage of each training → its place."""

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        return iter(())  # all problems are reported for its trainings

    def expand(self, name: str, above: Mapping[str, Stage]) -> dict[str, Stage]:
        return {name: self}

    def list_notices(self, ctx: RunContext, *, alone: bool) -> Iterator[str]:
        return iter(())

    def prepare(self, ctx: RunContext) -> None:
        return

    def run(self, ctx: RunContext) -> Report:
        reports = {name: read_report(ctx.inputs[name]) for name in self.members}
        remove_encoded(ctx.folder.parent, get_owner(ctx.name))
        spread = compute_validation_spread({name: report.facts for name, report in reports.items()})
        what = "seeds" if self.seeds is not None else "folds"
        return Report(
            kind=REPEATED,
            summary=_summarize(f"{len(reports)} {what}", spread),
            facts={"over": what, "members": list(self.members), "spread": spread},
        )


def compute_validation_spread(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return metric → its validation score in each training, their mean and sd, and the sd over checkpoints.

    The standard deviation over checkpoints is that of the last evaluations of a training (Heineman et al.,
    2025, arXiv 2508.13144, call it the noise of a benchmark), the root of its mean square over the trainings.
    """
    found = {}
    histories = [each.get("history") or [] for each in facts.values()]
    validations = {name: each.get("validation") or {} for name, each in facts.items()}
    for metric in next(iter(validations.values()), {}):
        values = {name: scores[metric] for name, scores in validations.items() if metric in scores}
        if len(values) < len(facts) or not all(isinstance(value, (int, float)) for value in values.values()):
            continue
        found[metric] = {
            "values": values,
            "mean": statistics.fmean(values.values()),
            "sd": statistics.stdev(values.values()),
            "checkpoints": measure_checkpoint_noise(histories, metric),
        }
    return {name: entry for name, entry in found.items() if name not in ("runtime", "samples_per_second")}


def measure_checkpoint_noise(histories: Sequence[Sequence[Mapping[str, Any]]], metric: str) -> float | None:
    """Return the standard deviation of a score over the last evaluations of a training.

    These are the evaluations in the second half of its steps, at most the last five. None if a training has
    fewer than three of them.
    """
    variances = []
    for history in histories:
        steps = max((entry.get("step", 0) for entry in history), default=0)
        scores = [
            entry[f"eval_{metric}"]
            for entry in history
            if f"eval_{metric}" in entry and entry.get("step", 0) > steps / 2
        ]
        last = [score for score in scores if isinstance(score, (int, float))][-CHECKPOINTS[-1] :]
        if len(last) < CHECKPOINTS[0]:
            return None
        variances.append(statistics.variance(last))
    return statistics.fmean(variances) ** 0.5 if variances else None


def _summarize(what: str, spread: Mapping[str, Mapping[str, Any]]) -> str:
    shown = [
        f"{metric} {format_number(found['mean'])} ± {format_number(found['sd'])}"
        for metric, found in spread.items()
        if metric in ("loss", "accuracy", "mse")
    ]
    return f"{what}, mean ± sd" + (f": validation {', '.join(shown)}" if shown else "")
