"""The stage that lists the copies of a recipe stage made by a `matrix`, with their scores."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from hfpipe import number_format
from hfpipe.contract import RunContext, Stage
from hfpipe.references.places import Place
from hfpipe.report import Report
from hfpipe.store.store import read_report

COUNTED = ("parameters", "tokens", "steps")
"""Facts of a training to list with its scores."""
TIMES = ("runtime", "samples_per_second", "steps_per_second")
"""Entries that Trainer adds to the scores of a validation."""


class Tabulated(Stage, ABC):
    """A stage with scores, whose copies for the combinations of a matrix are listed in one table."""

    def make_table(
        self, combinations: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Mapping[str, Any]]
    ) -> Stage | None:
        members = {name: Place(f"stage:{name}") for name in combinations}
        return MatrixTable(of=self.kind, members=members, combinations=combinations, settings=settings)


class MatrixTable(Stage):
    """Lists the scores of the copies of a stage; computes nothing."""

    version: ClassVar[int] = 1
    immediate: ClassVar[bool] = True
    kind: Literal["matrix"] = "matrix"
    of: str
    """Kind of the copies."""
    members: dict[str, Place]
    """Stage of each copy → its place."""
    combinations: Mapping[str, Mapping[str, Any]]
    """Stage of each copy → the axes of the matrix with their values."""
    settings: Mapping[str, Mapping[str, Any]]
    """Stage of each copy → the varied settings with their values."""

    def run(self, ctx: RunContext) -> Report:
        rows = [self._create_row(name, read_report(ctx.inputs[name])) for name in self.members]
        return Report(kind=self.kind, summary=_summarize(rows), facts={"matrix": rows})

    def _create_row(self, name: str, report: Report) -> dict[str, Any]:
        return {
            "stage": name,
            "combination": self.combinations[name],
            "settings": self.settings[name],
            "counts": {fact: report.facts[fact] for fact in COUNTED if fact in report.facts},
            "scores": dict(_collect_scores(report)),
        }


def _collect_scores(report: Report) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the scores of a stage: of an evaluation, or of a training on the validation split."""
    for score in report.scores:
        spread = {"sd": score.spread.sd} if score.spread is not None else {}
        yield score.metric, {"value": score.value, "low": score.low, "high": score.high} | spread
    for metric, found in report.facts.get("spread", {}).items():  # of trainings for several seeds
        yield metric, {"value": found["mean"], "sd": found["sd"]}
    for metric, value in report.facts.get("validation", {}).items():
        if isinstance(value, int | float) and metric not in TIMES:
            yield metric, {"value": value}


def _summarize(rows: list[dict[str, Any]]) -> str:
    """Return the number of combinations and the range of the first score, as text."""
    text = f"{len(rows)} combinations"
    metric = next(iter(rows[0]["scores"]), None)
    values = [
        (row["scores"][metric]["value"], row["stage"].partition("@")[2])
        for row in rows
        if metric in row["scores"]
    ]
    if len(values) < 2:
        return text
    low, high = min(values), max(values)
    shown = [f"{number_format.format_number(value)} ({name})" for value, name in (low, high)]
    return f"{text}: {metric} {shown[0]} to {shown[1]}"
