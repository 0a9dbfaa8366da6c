"""Scores made after the pass, from the predictions that every system left behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfpipe.errors import StageError
from hfpipe.evaluation.predictions_file import read_predictions
from hfpipe.metrics.paired import score_with_comparisons
from hfpipe.metrics.repeated import average_scores
from hfpipe.metrics.resampling import Sample
from hfpipe.metrics.series import Series
from hfpipe.metrics.whole import WholeMetric, measured

if TYPE_CHECKING:
    from hfpipe.evaluation.evaluate import EvaluationSetup
    from hfpipe.metrics.named import NamedMetric
    from hfpipe.report import Score


@dataclass(frozen=True)
class DatasetMetrics:
    """The metrics that are computed from predictions: the task's own, and those that a recipe names."""

    whole: Sequence[WholeMetric]
    named: Sequence[NamedMetric]
    classes: Mapping[str, Sequence[str]]
    """Columns of predictions that hold classes → their names, as `Evaluator.class_names` gives them."""
    setup: EvaluationSetup

    def scores(
        self, model: Mapping[str, Path], baselines: Mapping[str, Mapping[str, Path]]
    ) -> tuple[list[Score], list[str]]:
        """Return the scores of a model with those of baselines, and why others have no value.

        All are given as files of predictions, one for each training of a system. A baseline that lacks what
        a metric needs is not compared. Raises StageError when a metric that the recipe names cannot use what
        the model said.
        """
        if not (self.whole or self.named):
            return [], []
        mine = list(self._system(model))
        why = {metric.name: metric.undefined for metric in self.whole}
        left_out = [
            f"{series.name} has no value: {why.get(series.name, 'it is not defined on these rows')}"
            for series in mine
            if not _is_defined(series)
        ]
        theirs = {}
        for name, files in baselines.items():
            failed: list[StageError] = []
            theirs[name] = {series.name: series for series in self._system(files, failed)}
            left_out += [f"{name} is not compared: {error}" for error in failed]
        return [_score_with_baselines(series, theirs) for series in mine if _is_defined(series)], left_out

    def _system(self, files: Mapping[str, Path], failed: list[StageError] | None = None) -> Iterable[Series]:
        """Return every score of a system, the mean over its trainings where there are several."""
        found = {name: list(self._series(path, failed)) for name, path in files.items()}
        return average_scores(found) if len(found) > 1 else next(iter(found.values()))

    def _series(self, path: Path, failed: list[StageError] | None = None) -> Iterator[Series]:
        """Yield every score of one training; named metrics that fail go to `failed`, if there is one."""
        index, columns = read_predictions(path)
        setup = self.setup
        sample = Sample(setup.sample.units[index], setup.sample.cluster)
        yield from measured(self.whole, columns, sample, setup.resamples, setup.seed)

        def column(name: str) -> Sequence[Any] | np.ndarray | None:
            if name in columns or name not in setup.rows.column_names:
                return columns.get(name)
            return setup.rows.select_columns(name)[index.tolist()][name]

        for metric in self.named:
            try:
                yield from metric.measured(column, self.classes, sample, setup.resamples, setup.seed)
            except StageError as error:
                if failed is None:
                    raise
                failed.append(error)


def _is_defined(series: Series) -> bool:
    return bool(np.isfinite(series.values[0]) and np.isfinite(series.values[1:]).any())


def _score_with_baselines(series: Series, systems: Mapping[str, Mapping[str, Series]]) -> Score:
    """Return the score with what each baseline has of it."""
    others = {name: found[series.name] for name, found in systems.items() if series.name in found}
    return score_with_comparisons(
        series, {name: other for name, other in others.items() if _is_defined(other)}
    )
