"""Computes scores after the pass, from the stored predictions of every system."""

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
from hfpipe.metrics.whole import WholeMetric, compute_whole_series

if TYPE_CHECKING:
    from hfpipe.evaluation.evaluate import EvaluationSetup
    from hfpipe.metrics.named import NamedMetric
    from hfpipe.report import Score


@dataclass(frozen=True)
class DatasetMetrics:
    """The metrics that are computed from stored predictions: of the task, and named in a recipe."""

    whole: Sequence[WholeMetric]
    named: Sequence[NamedMetric]
    classes: Mapping[str, Sequence[str]]
    """Class column of the predictions → class names, from `Evaluator.class_names`."""
    setup: EvaluationSetup

    def compute_scores(
        self, model: Mapping[str, Path], baselines: Mapping[str, Mapping[str, Path]]
    ) -> tuple[list[Score], list[str]]:
        """Return the scores of a model with comparisons to baselines, and reasons for missing values.

        Systems are given as files of predictions, one for each training. A baseline without the inputs of a
        metric is not compared. Raises StageError when a metric of the recipe cannot use the predictions of
        the model.
        """
        if not (self.whole or self.named):
            return [], []
        mine = list(self._compute_system_series(model))
        why = {metric.name: metric.undefined for metric in self.whole}
        left_out = [
            f"{series.name} has no value: {why.get(series.name, 'it is not defined on these rows')}"
            for series in mine
            if not _is_defined(series)
        ]
        theirs = {}
        for name, files in baselines.items():
            failed: list[StageError] = []
            theirs[name] = {series.name: series for series in self._compute_system_series(files, failed)}
            left_out += [f"{name} is not compared: {error}" for error in failed]
        return [_score_with_baselines(series, theirs) for series in mine if _is_defined(series)], left_out

    def _compute_system_series(
        self, files: Mapping[str, Path], failed: list[StageError] | None = None
    ) -> Iterable[Series]:
        """Return every score of a system, averaged over its trainings if there are several."""
        found = {name: list(self._compute_series(path, failed)) for name, path in files.items()}
        return average_scores(found) if len(found) > 1 else next(iter(found.values()))

    def _compute_series(self, path: Path, failed: list[StageError] | None = None) -> Iterator[Series]:
        """Yield every score of one training; errors of named metrics are appended to `failed`, if given."""
        index, columns = read_predictions(path)
        setup = self.setup
        sample = Sample(setup.sample.units[index], setup.sample.cluster)
        yield from compute_whole_series(self.whole, columns, sample, setup.resamples, setup.seed)

        def column(name: str) -> Sequence[Any] | np.ndarray | None:
            if name in columns or name not in setup.rows.column_names:
                return columns.get(name)
            return setup.rows.select_columns(name)[index.tolist()][name]

        for metric in self.named:
            try:
                yield from metric.compute_series(column, self.classes, sample, setup.resamples, setup.seed)
            except StageError as error:
                if failed is None:
                    raise
                failed.append(error)


def _is_defined(series: Series) -> bool:
    return bool(np.isfinite(series.values[0]) and np.isfinite(series.values[1:]).any())


def _score_with_baselines(series: Series, systems: Mapping[str, Mapping[str, Series]]) -> Score:
    """Return the score with comparisons to all baselines."""
    others = {name: found[series.name] for name, found in systems.items() if series.name in found}
    return score_with_comparisons(
        series, {name: other for name, other in others.items() if _is_defined(other)}
    )
