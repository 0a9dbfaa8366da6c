"""Scores of answers taken from a text, by the rules of the official SQuAD scripts.

Rajpurkar et al. (2016) for version 1.1, where every question has an answer; Rajpurkar et al. (2018) for
version 2.0, where a system may have to say that there is none.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from hfpipe.metrics.metric import Metric, ratio
from hfpipe.metrics.scores.segmentation import sentences, space_words, without_foreign_punctuation

if TYPE_CHECKING:
    from hfpipe.types import Columns

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
Questions = Literal["has_answer", "no_answer"]


def answering(*, version_2: bool = False) -> list[Metric]:
    """Return exact match and F1, in percent as the official scripts give them; for version 2 broken down.

    They read `reference` (object array of shape (n,), each entry the list of right answers, empty where there
    is none) and `prediction` (strings of shape (n,), empty for no answer).
    """
    both: list[Metric] = [SpanScore("exact_match", version_2), SpanScore("f1", version_2)]
    if not version_2:
        return both
    parts: tuple[Questions, ...] = ("has_answer", "no_answer")
    return [*both, *(SpanScore(what, version_2, of) for of in parts for what in ("exact_match", "f1"))]


def normalize_answer(text: str) -> str:
    """Return a text in lower case, without punctuation, English articles and spare white space.

    The official scripts know only ASCII punctuation; here that of other scripts goes too, as in MLQA's
    script (Lewis et al., 2020).
    """
    bare = without_foreign_punctuation(text.lower().translate(PUNCTUATION))
    return " ".join(ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, reference: str) -> float:
    """Return whether two answers are the same once normalized, as 1 or 0."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def f1(prediction: str, reference: str, *, version_2: bool = False) -> float:
    """Return the F1 of the words two answers share, from 0 to 1.

    In a script without spaces each character counts as a word, as in MLQA's script.
    Answers that normalize to nothing share no word in version 1.1; in version 2 two of them agree.
    """
    predicted, right = space_words(normalize_answer(prediction)), space_words(normalize_answer(reference))
    if version_2 and not (predicted and right):
        return float(predicted == right)
    shared = sum((Counter(predicted) & Counter(right)).values())
    return 2 * shared / (len(predicted) + len(right)) if shared else 0.0


def best(prediction: str, references: Sequence[str], *, version_2: bool = False) -> tuple[float, float]:
    """Return exact match and F1 against the right answer that suits each best.

    Without any right answer the right thing to say is nothing. So it is in version 2 where all normalize to
    nothing.
    """
    wanted = (
        [reference for reference in references if normalize_answer(reference)] if version_2 else references
    )
    wanted = wanted or [""]
    return (
        max(exact_match(prediction, reference) for reference in wanted),
        max(f1(prediction, reference, version_2=version_2) for reference in wanted),
    )


def nearest_sentence(question: str, context: str) -> str:
    """Return the sentence that has most words of the question, the first of equal ones: a trivial answer."""
    asked = set(space_words(normalize_answer(question)))
    return max(sentences(context), key=lambda text: len(asked & {*space_words(normalize_answer(text))}))


class SpanScore(Metric):
    """Exact match or F1 of answers, over all questions, or those that have an answer or none."""

    bounds = (0.0, 100.0)
    scale = 100.0

    def __init__(
        self, what: Literal["exact_match", "f1"], version_2: bool, of: Questions | None = None
    ) -> None:
        self.name = what if of is None else f"{what}[{of}]"
        self.version_2 = version_2
        self.is_proportion = what == "exact_match"
        # Statistics: exact matches, F1 and questions, of those with an answer, then of those without.
        self._column = 0 if what == "exact_match" else 1
        self._groups = [0, 3] if of is None else [0 if of == "has_answer" else 3]

    @property
    def family(self) -> Hashable:
        return ("spans", self.version_2)

    @property
    def signature(self) -> str:
        return f"{self.name}|rule:squad-{'2.0' if self.version_2 else '1.1'}|tok:unicode|unit:percent"

    def stats(self, columns: Columns) -> np.ndarray:
        rows = np.zeros((len(columns["reference"]), 6))
        for row, reference, prediction in zip(rows, columns["reference"], columns["prediction"], strict=True):
            first = 0 if len(reference) else 3
            row[first : first + 3] = *best(prediction, reference, version_2=self.version_2), 1
        return rows

    def value(self, sums: np.ndarray) -> np.ndarray:
        return self.scale * ratio(*self.proportion(sums))

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        above = sum(sums[..., group + self._column] for group in self._groups)
        below = sum(sums[..., group + 2] for group in self._groups)
        return np.asarray(above), np.asarray(below)
