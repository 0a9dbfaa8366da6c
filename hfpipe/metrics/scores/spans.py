"""Scores of answers taken from a text, by the rules of the official SQuAD scripts.

Rajpurkar et al. (2016) for version 1.1, where every question has an answer; Rajpurkar et al. (2018) for
version 2.0, where questions may have no answer.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from hfpipe.metrics.metric import Metric, divide_or_zero
from hfpipe.metrics.scores.segmentation import remove_foreign_punctuation, split_at_spaces, split_sentences

if TYPE_CHECKING:
    from hfpipe.types import Columns

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
Questions = Literal["has_answer", "no_answer"]


def create_span_metrics(*, version_2: bool = False) -> list[Metric]:
    """Return exact match and F1 in percent, as in the official scripts; for version 2 also by question kind.

    They read `reference` (object array of shape (n,), each entry the list of correct answers, empty if there
    is none) and `prediction` (strings of shape (n,), empty for no answer).
    """
    both: list[Metric] = [SpanScore("exact_match", version_2), SpanScore("f1", version_2)]
    if not version_2:
        return both
    parts: tuple[Questions, ...] = ("has_answer", "no_answer")
    return [*both, *(SpanScore(what, version_2, of) for of in parts for what in ("exact_match", "f1"))]


def normalize_answer(text: str) -> str:
    """Return a text in lower case, without punctuation, English articles and redundant white space.

    The official scripts remove only ASCII punctuation; here, that of other scripts is removed too, as in
    MLQA's script (Lewis et al., 2020).
    """
    bare = remove_foreign_punctuation(text.lower().translate(PUNCTUATION))
    return " ".join(ARTICLES.sub(" ", bare).split())


def compute_exact_match(prediction: str, reference: str) -> float:
    """Return whether two answers are equal after normalization, as 1 or 0."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def compute_f1(prediction: str, reference: str, *, version_2: bool = False) -> float:
    """Return the F1 of the words two answers share, from 0 to 1.

    In a script without spaces each character counts as a word, as in MLQA's script.
    Answers that normalize to nothing share no word in version 1.1; in version 2 two of them agree.
    """
    predicted, right = (
        split_at_spaces(normalize_answer(prediction)),
        split_at_spaces(normalize_answer(reference)),
    )
    if version_2 and not (predicted and right):
        return float(predicted == right)
    shared = sum((Counter(predicted) & Counter(right)).values())
    return 2 * shared / (len(predicted) + len(right)) if shared else 0.0


def score_best_answer(
    prediction: str, references: Sequence[str], *, version_2: bool = False
) -> tuple[float, float]:
    """Return the best exact match and the best F1 over all correct answers.

    Without a correct answer, the correct prediction is empty; in version 2 also if all normalize to an empty
    text.
    """
    wanted = (
        [reference for reference in references if normalize_answer(reference)] if version_2 else references
    )
    wanted = wanted or [""]
    return (
        max(compute_exact_match(prediction, reference) for reference in wanted),
        max(compute_f1(prediction, reference, version_2=version_2) for reference in wanted),
    )


def find_nearest_sentence(question: str, context: str) -> str:
    """Return the sentence that shares most words with the question, the first in a tie: a trivial answer."""
    asked = set(split_at_spaces(normalize_answer(question)))
    return max(
        split_sentences(context), key=lambda text: len(asked & {*split_at_spaces(normalize_answer(text))})
    )


class SpanScore(Metric):
    """Exact match or F1 of answers, over all questions, or only those with or without an answer."""

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
            row[first : first + 3] = *score_best_answer(prediction, reference, version_2=self.version_2), 1
        return rows

    def value(self, sums: np.ndarray) -> np.ndarray:
        return self.scale * divide_or_zero(*self.proportion(sums))

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        above = sum(sums[..., group + self._column] for group in self._groups)
        below = sum(sums[..., group + 2] for group in self._groups)
        return np.asarray(above), np.asarray(below)
