"""Metrics as modules of `evaluate`: the inputs of a module are converted to the columns of our metric.

The files in `modules/` select the metric and contain no formula. `evaluate.load` copies such a file into its
cache and imports it from there; the installed package computes. It uses the first class that it finds in the
file, so the files must not import a base class by its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from inspect import getdoc
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import evaluate
import numpy as np
from datasets import Features, List, Value

from hfpipe.metrics.metric import Metric, to_object_array
from hfpipe.metrics.scores.confusion import F1
from hfpipe.metrics.scores.overlap import list_references
from hfpipe.metrics.whole import WholeMetric

if TYPE_CHECKING:
    from hfpipe.types import Columns

INTEGER, NUMBER, TEXT = Value("int64"), Value("float64"), Value("string")
INTEGERS, NUMBERS, TEXTS = List(INTEGER), List(NUMBER), List(TEXT)


class Module(evaluate.Metric, ABC):  # type: ignore[misc] # evaluate is untyped
    """Base of the modules: `compute` returns each score by its metric's name."""

    options: ClassVar[Sequence[Mapping[str, Any]]]
    """Alternative inputs of `compute`: name → type of one entry."""
    metric: ClassVar[Callable[..., Metric | WholeMetric]]
    """Class of the metric, unless `metrics` is overridden."""

    @abstractmethod
    def columns(self, **inputs: list[Any]) -> Columns:
        """Return the inputs of `compute` as the columns that the metrics read."""

    def metrics(self, columns: Columns) -> Sequence[Metric | WholeMetric]:
        """Return the metrics, which may depend on the columns."""
        return [self.metric()]

    def _info(self) -> evaluate.MetricInfo:
        features = [Features(dict(option)) for option in self.options]
        about = getdoc(type(self)) or ""
        return evaluate.MetricInfo(
            description=about, citation="", inputs_description=about, features=features, license="Apache-2.0"
        )

    def _compute(self, **inputs: Any) -> dict[str, float]:
        columns = self.columns(**{name: list(each) for name, each in inputs.items() if each is not None})
        return {metric.name: compute_value(metric, columns) for metric in self.metrics(columns)}


def compute_value(metric: Metric | WholeMetric, columns: Columns) -> float:
    """Return a metric's score over all rows of the columns; NaN if it is not defined."""
    if isinstance(metric, WholeMetric):
        rows = len(columns[metric.reads[0]])
        return float(metric.value(columns, np.ones((rows, 1), dtype=np.uint8))[0])
    return float(metric.value(metric.stats(columns).sum(axis=0)))


class OfClasses(Module):
    """Scores of predicted classes.

    `predictions` and `references` are classes by number or by name, one per example; with several labels per
    example, lists of 0 and 1, one per class.
    """

    options = [
        {"predictions": INTEGER, "references": INTEGER},
        {"predictions": INTEGERS, "references": INTEGERS},
        {"predictions": TEXT, "references": TEXT},
    ]

    def columns(self, **inputs: list[Any]) -> Columns:
        if _has_lists(inputs):
            reference, prediction = (
                _to_indicators("references", inputs),
                _to_indicators("predictions", inputs),
            )
            if reference.shape != prediction.shape:
                theirs, ours = prediction.shape[1], reference.shape[1]
                raise ValueError(f"references have {ours} classes and predictions {theirs}")
            return {"labels": np.arange(reference.shape[1]), "reference": reference, "prediction": prediction}
        prediction, reference = np.asarray(inputs["predictions"]), np.asarray(inputs["references"])
        labels, ids = np.unique(np.concatenate([reference, prediction]), return_inverse=True)
        return {"labels": labels, "reference": ids[: len(reference)], "prediction": ids[len(reference) :]}

    def metrics(self, columns: Columns) -> Sequence[Metric | WholeMetric]:
        return [self.metric(len(columns["labels"]))]


class OfOneLabel(OfClasses):
    """Scores of one predicted class per example.

    `predictions` and `references` are classes by number or by name. Lists are rejected, as in scikit-learn.
    """

    def columns(self, **inputs: list[Any]) -> Columns:
        if _has_lists(inputs):
            raise ValueError(f"{self.name} is defined for one class per example, not for lists of labels")
        return super().columns(**inputs)


def _has_lists(inputs: Mapping[str, list[Any]]) -> bool:
    return any(isinstance(each, list | tuple | np.ndarray) for each in inputs["references"])


def _to_indicators(name: str, inputs: Mapping[str, list[Any]]) -> np.ndarray:
    """Return lists of 0 and 1 as an array (n, classes). Raises ValueError at anything else.

    scikit-learn rejects other lists as well: lists of class numbers have another meaning.
    """
    try:
        marks = np.asarray(inputs[name])
    except ValueError:  # rows of several lengths
        marks = np.empty(0)
    if marks.ndim != 2 or not np.isin(marks, (0, 1)).all():
        raise ValueError(f"{name}: several labels per example are lists of 0 and 1, one per class")
    return marks.astype(np.int64)


class OfLabels(OfClasses):
    """Scores of several predicted labels per example.

    `predictions` and `references` are lists of 0 and 1, one per class.
    """

    options = [{"predictions": INTEGERS, "references": INTEGERS}]

    def metrics(self, columns: Columns) -> Sequence[Metric | WholeMetric]:
        return [self.metric()]


class AveragedF1(OfClasses):
    """F1 averaged over classes.

    The inputs are those of predicted classes. With several labels per example, an absent class counts as 0.
    """

    average: ClassVar[Literal["macro", "micro", "weighted"]]

    def metrics(self, columns: Columns) -> Sequence[Metric | WholeMetric]:
        absent: Literal["zero", "left_out"] = "zero" if columns["reference"].ndim > 1 else "left_out"
        return [F1(self.average, len(columns["labels"]), absent)]


class OfProbabilities(Module):
    """Scores of predicted probabilities.

    `predictions` are a list of probabilities per example, one per class, or one number, that of class 1;
    `references` are the classes by number.
    """

    options = [
        {"predictions": NUMBER, "references": INTEGER},
        {"predictions": NUMBERS, "references": INTEGER},
    ]

    def columns(self, **inputs: list[Any]) -> Columns:
        scores, reference = np.asarray(inputs["predictions"]), np.asarray(inputs["references"])
        if scores.ndim == 1:
            scores = np.stack([1 - scores, scores], axis=1)
        return {"reference": reference, "prediction": scores.argmax(axis=1), "scores": scores}


class OfRanked(OfProbabilities):
    """Scores of the order of predicted probabilities.

    The inputs are those of predicted probabilities. With several labels per example, `references` are lists
    of 0 and 1; each class needs examples with and without it.
    """

    options = [*OfProbabilities.options, {"predictions": NUMBERS, "references": INTEGERS}]

    def columns(self, **inputs: list[Any]) -> Columns:
        if not _has_lists(inputs):
            return super().columns(**inputs)
        reference, scores = _to_indicators("references", inputs), np.asarray(inputs["predictions"])
        if scores.shape != reference.shape:
            raise ValueError(f"predictions: each is a list of {reference.shape[1]} numbers, one per class")
        constant = np.flatnonzero((reference == reference[:1]).all(axis=0)).tolist()
        if constant:
            raise ValueError(f"references: class {constant[0]} is in every example or in none; leave it out")
        return {"reference": reference, "prediction": scores.argmax(axis=1), "scores": scores}

    def metrics(self, columns: Columns) -> Sequence[Metric | WholeMetric]:
        return [self.metric(range(columns["scores"].shape[1]))]


class OfNumbers(Module):
    """Scores of predicted numbers.

    `predictions` and `references` are numbers, one per example.
    """

    options = [{"predictions": NUMBER, "references": NUMBER}]

    def columns(self, **inputs: list[Any]) -> Columns:
        return {
            "reference": np.asarray(inputs["references"]),
            "prediction": np.asarray(inputs["predictions"]),
        }


class OfTexts(Module):
    """Scores of generated texts.

    `predictions` are texts; `references` are texts, or lists of texts that are all correct.
    """

    options = [
        {"predictions": TEXT, "references": TEXT},
        {"predictions": TEXT, "references": TEXTS},
    ]

    def columns(self, **inputs: list[Any]) -> Columns:
        names = {"reference": "references", "prediction": "predictions"}
        return {ours: to_object_array(inputs[theirs]) for ours, theirs in names.items() if theirs in inputs}


class OfTranslations(OfTexts):
    """Scores of translations.

    `predictions` are texts; `references` are texts, or lists of correct texts: sacrebleu's scores depend on
    their number.
    """

    def metrics(self, columns: Columns) -> Sequence[Metric | WholeMetric]:
        return [self.metric(count_references(columns))]


def count_references(columns: Columns) -> int:
    """Return the largest number of references of a row."""
    return max(map(len, map(list_references, columns["reference"])), default=1)


class OfTags(OfTexts):
    """Scores of tagged words.

    `predictions` and `references` are lists of tags, one list per sentence.
    """

    options = [{"predictions": TEXTS, "references": TEXTS}]


class OfAnswers(OfTexts):
    """Scores of answers.

    `predictions` are texts; `references` are lists of correct answers.
    """

    options = [{"predictions": TEXT, "references": TEXTS}]


class OfCounts(Module):
    """Scores of numbers that a model computes for each example.

    Each is given under its own name.
    """

    def columns(self, **inputs: list[Any]) -> Columns:
        return {name: np.asarray(column) for name, column in inputs.items()}
