"""Trivial text classifiers and regressions of scikit-learn, as baselines.

scikit-learn is imported by what fits one, because trainings load this module and not its second of imports.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hfpipe.errors import StageError, get_first_line
from hfpipe.metrics.scores.segmentation import extract_terms, is_nearly_ascii

if TYPE_CHECKING:
    from hfpipe.types import Columns


class TextBaseline(ABC):
    """Predicts with a simple estimator, in the columns that the metrics of a model read.

    `kind` is the type of the label in the data set's facts: `label` (one class), `labels` (any number) or
    `float`.
    """

    name: str

    def __init__(self, kind: str, classes: int) -> None:
        self.kind = kind
        self.classes = classes

    @abstractmethod
    def create_estimator(self, texts: Sequence[str], reference: np.ndarray) -> Any:
        """Return the unfitted estimator that predicts `reference` from a list of texts."""

    def fit(self, texts: Sequence[str], reference: np.ndarray) -> None:
        """Learn from texts and their class ids (n,), 0 and 1 (n, classes), or floats (n,).

        Raises StageError when scikit-learn fails, for example when no text has a word.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for labels that no text or every text has
            try:
                self._fitted = self.create_estimator(texts, reference).fit(list(texts), reference)
            except ValueError as error:
                raise StageError(
                    f"baseline {self.name}: cannot learn from the train split: {get_first_line(error)}"
                ) from error

    def predict(self, texts: Sequence[str], reference: np.ndarray) -> Columns:
        """Return `reference`, `prediction` and, for classes, `scores` (n, classes) and `nll` (n,)."""
        if self.kind == "float":
            return {"reference": reference, "prediction": self._fitted.predict(list(texts))}
        scores = self._predict_probabilities(list(texts))
        # A class missing from the train split has probability 0, which is clipped as in scikit-learn's
        # log_loss.
        eps = np.finfo(np.float64).eps
        sure = np.clip(scores, eps, 1 - eps)
        if self.kind == "label":
            nll = -np.log(sure[np.arange(len(reference)), reference])
            return {"reference": reference, "prediction": scores.argmax(axis=1), "scores": scores, "nll": nll}
        nll = -np.where(reference > 0, np.log(sure), np.log1p(-sure)).sum(axis=1)
        prediction = (scores > 0.5).astype(np.int64)
        return {
            "reference": reference.astype(np.int64),
            "prediction": prediction,
            "scores": scores,
            "nll": nll,
        }

    def _predict_probabilities(self, texts: list[str]) -> np.ndarray:
        if not hasattr(self._fitted, "predict_proba"):  # frequencies of labels, which Majority predicts
            return self._fitted.predict(texts).reshape(len(texts), self.classes)
        found = self._fitted.predict_proba(texts)
        if self.kind == "labels":
            return found[:, -self.classes :]  # for a single label, both probabilities are returned
        scores = np.zeros((len(texts), self.classes))
        scores[:, self._fitted.classes_] = found
        return scores


class Majority(TextBaseline):
    """The most frequent class, the frequencies of labels, or the mean, independent of the text."""

    name = "majority"

    def create_estimator(self, texts: Sequence[str], reference: np.ndarray) -> Any:
        from sklearn.dummy import DummyClassifier, DummyRegressor

        return DummyClassifier(strategy="prior") if self.kind == "label" else DummyRegressor()


class Tfidf(TextBaseline):
    """Logistic regression on TF-IDF of terms, one per label for several labels; ridge regression for numbers.

    Terms are words and emoji, and character n-grams in scripts without spaces, as in `segmentation.terms`; if
    the train split is English, words are those of scikit-learn. Words of one letter count in languages other
    than English, and if only they distinguish examples of two labels.
    """

    name = "tfidf"

    def create_estimator(self, texts: Sequence[str], reference: np.ndarray) -> Any:
        from sklearn.dummy import DummyClassifier
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.pipeline import make_pipeline

        english = is_nearly_ascii(texts)
        chosen = extract_terms if _need_one_letter(texts, reference, english=english) else _extract_terms
        words = TfidfVectorizer(sublinear_tf=True, analyzer=partial(chosen, english=english))
        if self.kind == "float":
            return make_pipeline(words, Ridge())
        if self.kind == "label" and len(np.unique(reference)) == 1:
            return DummyClassifier(strategy="prior")  # a logistic regression needs two classes
        # Chosen on validation text: scikit-learn's default C=1 is three points worse, not a fair baseline.
        classifier = LogisticRegression(C=10, max_iter=1000)
        return make_pipeline(words, classifier if self.kind == "label" else OneVsRestClassifier(classifier))


def _extract_terms(text: str, *, english: bool) -> list[str]:
    """Return the terms of a text that `_filter_terms` keeps."""
    return _filter_terms(extract_terms(text, english=english), english=english)


def _filter_terms(every: list[str], *, english: bool) -> list[str]:
    """Return terms without single letters and digits, unless there are no others.

    In languages other than English, only ASCII ones are removed.
    """
    single = (term for term in every if len(term) == 1 and (english or term.isascii()))
    left_out = {term for term in single if term.isalnum() or term == "_"}
    return [term for term in every if term not in left_out] or every


def _need_one_letter(texts: Sequence[str], reference: np.ndarray, *, english: bool) -> bool:
    """Return whether two texts with different labels differ only in terms of one letter."""
    seen: dict[int, tuple[int, bytes]] = {}
    for text, label in zip(texts, np.asarray(reference), strict=True):
        every = sorted(extract_terms(text, english=english))
        one = hash(tuple(every)), label.tobytes()
        other = seen.setdefault(hash(tuple(_filter_terms(every, english=english))), one)
        if one[0] != other[0] and one[1] != other[1]:
            return True
    return False
