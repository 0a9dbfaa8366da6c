"""Compares evaluated models row by row, on the rows on which all of them were evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.errors import Problem, RecipeError, StageError
from hfpipe.references.places import Code
from hfpipe.references.user_code import Trusted
from hfpipe.report import DataFacts, Record, Score
from hfpipe.runs import dataframes
from hfpipe.runs.lookup import find_stage
from hfpipe.store.artifacts import CLUSTER, MODEL, get_predictions_path
from hfpipe.store.store import read_stage
from hfpipe.task import TaskConfig
from hfpipe.tasks import restore_task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from hfpipe.metrics.resampling import Sample
    from hfpipe.metrics.series import Series


class ComparisonRecord(Record):
    """Scores of the first of several systems, each with those of the others."""

    systems: list[str]
    """The compared systems, as named by the user."""
    n: int
    """Number of rows on which all systems were evaluated."""
    left_out: dict[str, int]
    """System → number of its rows on which not all were evaluated, if there are any."""
    scores: list[Score]
    """Scores of the first system; p is corrected for the number of others by Holm."""

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each metric and system; `difference` is the first system - this one."""
        return dataframes.make_comparison_frame(self.scores, self.systems[0])


@dataclass(frozen=True)
class _System:
    """The predictions of one model, and the settings of its evaluation."""

    name: str
    task: TaskConfig
    facts: DataFacts
    seed: int
    resamples: int
    rows: np.ndarray
    shown: Mapping[str, np.ndarray]
    cluster: str | None
    """Column whose groups were resampled instead of rows."""
    trainings: Mapping[str, Mapping[str, np.ndarray]]
    """Each training → its predictions; `shown` are those of the first."""

    def compute_series(self, places: np.ndarray, sample: Sample, first: _System) -> Iterator[Series]:
        """Yield every score on the rows at some positions, resampled like the first system, by `sample`.

        The score of several trainings is their mean.
        """
        from hfpipe.metrics.repeated import average_scores

        found = {
            name: list(self._compute_series(shown, places, sample, first))
            for name, shown in self.trainings.items()
        }
        yield from average_scores(found) if len(found) > 1 else next(iter(found.values()))

    def _compute_series(
        self, columns: Mapping[str, np.ndarray], places: np.ndarray, sample: Sample, first: _System
    ) -> Iterator[Series]:
        import numpy as np

        from hfpipe.metrics.tally import Tally
        from hfpipe.metrics.whole import compute_whole_series

        shown = {name: column[places] for name, column in columns.items()}
        evaluator, facts = self.task.runtime().evaluator, self.facts
        tally = Tally(evaluator.metrics(facts), first.resamples, first.seed, sample)
        tally.add(np.arange(len(places)), evaluator.decode_predictions(shown, facts))
        yield from map(tally.series, tally.defined)
        yield from compute_whole_series(
            evaluator.whole_metrics(facts), shown, sample, first.resamples, first.seed
        )


def compare_runs(targets: Sequence[str], runs: Path, code: Sequence[str] = ()) -> ComparisonRecord:
    """Compare the first of several evaluated models with the others, on the rows that all of them share.

    Each is a run or a recipe (with `:STAGE` if it evaluates several models), or the folder of an evaluate
    stage. `code` names the tasks that may be executed, as `file.py:Class` relative to the current folder.
    Raises RecipeError when there are fewer than two models, or when they have nothing in common.
    """
    named = _trust_named(code)
    if len(set(targets)) < max(2, len(targets)):
        raise RecipeError([Problem("compare: name two evaluated models or more, each once")])
    systems = [_open_system(target, runs, named) for target in targets]
    first = systems[0]
    places = _align_rows(systems)
    sample = _make_sample(systems, places)
    shared = len(places[0])
    mine, *others = [
        list(system.compute_series(there, sample, first))
        for system, there in zip(systems, places, strict=True)
    ]
    scores = list(_compute_scores(mine, dict(zip(targets[1:], others, strict=True))))
    if not scores:
        raise RecipeError([Problem(f"{', '.join(targets)}: have no score in common; their tasks differ")])
    left_out = {each.name: len(each.rows) - shared for each in systems if len(each.rows) > shared}
    return ComparisonRecord(systems=list(targets), n=shared, left_out=left_out, scores=scores)


def _trust_named(code: Sequence[str]) -> Trusted:
    for each in code:
        if not re.fullmatch(Code.pattern, each):
            raise RecipeError([Problem(f"--task {each}: is not {Code.meant}; other tasks need not be named")])
    return Trusted.from_code(map(Code, code), Path.cwd())


def _open_system(target: str, runs: Path, named: Trusted) -> _System:
    from hfpipe.evaluation.predictions_file import read_predictions

    run, stage = find_stage(target, runs, ["evaluate"], "evaluated model")
    report, folder = run.reports[stage], run.folder(stage)
    if "task" not in report.facts:
        raise StageError(
            f"{folder}: does not state its task; an older hfpipe wrote it; delete it and run its recipe"
        )
    made = read_stage(folder)
    names = report.facts.get("trainings", {}).get(MODEL, [MODEL])
    read = {name: read_predictions(get_predictions_path(folder, name)) for name in names}
    rows, shown = read[names[0]]  # all trainings were evaluated on the same rows
    return _System(
        name=target,
        task=restore_task(
            report.facts["task"], Path(made.base), Trusted(run.trusted.code | named.code), folder
        ),
        facts=DataFacts.model_validate(report.facts["data"]),
        seed=made.identity.seed,
        resamples=made.identity.settings["resamples"],
        rows=rows,
        shown=shown,
        cluster=report.facts.get("cluster", {}).get("column"),
        trainings={name: columns for name, (_, columns) in read.items()},
    )


def _align_rows(systems: Sequence[_System]) -> list[np.ndarray]:
    """Return for each system the positions of the shared rows, in the same order."""
    import numpy as np

    places = [{name: place for place, name in enumerate(system.shown["id"])} for system in systems]
    shared = [name for name in places[0] if all(name in there for there in places)]
    if not shared:
        names = ", ".join(system.name for system in systems)
        raise RecipeError(
            [Problem(f"{names}: have no row in common; evaluate them on one split of the same data")]
        )
    found = [np.array([there[name] for name in shared]) for there in places]
    _check_references(systems, found, shared)
    return found


def _make_sample(systems: Sequence[_System], places: Sequence[np.ndarray]) -> Sample:
    """Return the sample of the shared rows, grouped as in the first system that was resampled in groups."""
    from hfpipe.metrics.resampling import Sample

    for system, there in zip(systems, places, strict=True):
        if system.cluster is not None:
            return Sample(system.shown[CLUSTER][there], system.cluster)
    return Sample(systems[0].rows[places[0]])


def _check_references(systems: Sequence[_System], places: Sequence[np.ndarray], ids: Sequence[str]) -> None:
    """Raise RecipeError when rows with the same id have different references, as in different data sets."""
    if not all("reference" in system.shown for system in systems):
        return
    first, *others = [s.shown["reference"][there].tolist() for s, there in zip(systems, places, strict=True)]
    for system, reference in zip(systems[1:], others, strict=True):
        for name, mine, theirs in zip(ids, first, reference, strict=True):
            if mine != theirs:
                message = f"row {name!r} is {mine!r} in {systems[0].name} and {theirs!r} in {system.name}"
                raise RecipeError([Problem(f"{message}; evaluate them on the same data")])


def _compute_scores(mine: Sequence[Series], others: Mapping[str, Sequence[Series]]) -> Iterator[Score]:
    """Yield each score with the same definition in the first system and in others, with its comparisons."""
    import numpy as np

    from hfpipe.metrics.paired import score_with_comparisons

    there = {
        name: {
            (each.name, each.signature, each.averaged): each for each in found if np.isfinite(each.values[0])
        }
        for name, found in others.items()
    }
    for series in mine:
        definition = (series.name, series.signature, series.averaged)
        alike = {name: found[definition] for name, found in there.items() if definition in found}
        if alike and np.isfinite(series.values[0]):
            yield score_with_comparisons(series, alike)
