"""Scores of generated texts: ROUGE by rouge-score, exact matches, lengths and truncation.

rouge-score is imported when a text is scored: it imports nltk with scikit-learn, a second and 59 MB, which a
training that only names the scores does not need.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from hfpipe.metrics.metric import Mean, Metric, Share, divide_or_zero
from hfpipe.metrics.scores.overlap import list_references
from hfpipe.metrics.scores.segmentation import is_nearly_ascii, split_at_spaces, split_words

if TYPE_CHECKING:
    from hfpipe.types import Columns

ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


ENGLISH = "rouge-score"
"""Name of rouge-score's default tokenizer, which is for English."""


def create_summary_metrics(*, stem: bool = True, tokenize: str = ENGLISH) -> list[Metric]:
    """Return ROUGE-1, -2, -L and -Lsum, from 0 to 1.

    They read `prediction` (n,) and `reference` (n,), object arrays: a text, and a text or a list of texts.
    `tokenize` is `rouge-score` for its own tokenizer, or `unicode` for texts of any script.
    """
    return [Rouge(name, stem=stem, tokenize=tokenize) for name in ROUGES]


def select_rouge_tokenizer(reference: Iterable[str | list[str]]) -> str:
    """Return the tokenizer for the references: that of rouge-score for English, else `unicode`."""
    texts = (text for each in reference for text in list_references(each))
    return ENGLISH if is_nearly_ascii(texts) else "unicode"


def create_text_metrics() -> list[Metric]:
    """Return the metrics of exact matches, words per output, and the fraction of truncated outputs.

    They read `prediction` and `reference` as above, and `cut` (bool, shape (n,)): whether the text was
    truncated by the length limit.
    """
    return [ExactMatch(), Words(), CutOff()]


class UnicodeTokenizer:
    """Splits texts of any script into the words that ROUGE counts.

    rouge-score's default tokenizer deletes all letters except a-z. On ASCII text this one returns the same:
    lower-case words, with English words of more than three letters stemmed.
    """

    def __init__(self, *, stem: bool) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._english = DefaultTokenizer(use_stemmer=stem)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        return [token for word in split_words(text.lower()) for token in self._tokenize_word(word)]

    def _tokenize_word(self, word: str) -> list[str]:
        return self._english.tokenize(word) if word.isascii() else [word]


class Rouge(Metric):
    """Mean F-measure of a ROUGE variant (Lin, 2004) over rows; the best of several references counts.

    Words are those of `UnicodeTokenizer`, or with `tokenize="rouge-score"` those of rouge-score's tokenizer,
    which keeps only a-z and 0-9. For -Lsum, sentences are on separate lines.
    """

    bounds = (0.0, 1.0)

    def __init__(self, name: str, *, stem: bool, tokenize: str = ENGLISH) -> None:
        self.name = name
        self.stem = stem
        self.tokenize = tokenize

    @cached_property
    def _scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        # rouge-score would use the same tokenizer by default, but log a message.
        english = DefaultTokenizer(use_stemmer=self.stem)
        tokenizer = english if self.tokenize == ENGLISH else UnicodeTokenizer(stem=self.stem)
        return RougeScorer(ROUGES, tokenizer=tokenizer)

    @property
    def family(self) -> Hashable:
        return ("rouge", self.stem, self.tokenize)

    @property
    def signature(self) -> str:
        stem = "porter" if self.stem else "no"
        how = f"score:f|tok:{self.tokenize}|stem:{stem}|rouge-score:{version('rouge-score')}"
        return f"{self.name}|average:examples|{how}"

    def stats(self, columns: Columns) -> np.ndarray:
        each = [
            self._scorer.score_multi(list_references(reference), prediction)
            for prediction, reference in zip(columns["prediction"], columns["reference"], strict=True)
        ]
        rows = [[*(scores[name].fmeasure for name in ROUGES), 1.0] for scores in each]
        return np.asarray(rows, dtype=np.float64).reshape(-1, len(ROUGES) + 1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return divide_or_zero(sums[..., ROUGES.index(self.name)], sums[..., -1])


class ExactMatch(Share):
    """Fraction of outputs that equal a reference, except for white space at the ends."""

    name = "exact_match"

    def each(self, columns: Columns) -> np.ndarray:
        pairs = zip(columns["prediction"], columns["reference"], strict=True)
        return np.asarray(
            [
                prediction.strip() in map(str.strip, list_references(reference))
                for prediction, reference in pairs
            ]
        )


class Words(Mean):
    """Mean number of words per output, independent of its tokens: separated by spaces, or characters.

    Each character of a script without spaces counts as a word.
    """

    name = "words"

    def each(self, columns: Columns) -> np.ndarray:
        return np.asarray([len(split_at_spaces(prediction)) for prediction in columns["prediction"]])


class CutOff(Share):
    """Fraction of outputs that reached the length limit before their end."""

    name = "cut_off"
    higher_is_better = False

    def each(self, columns: Columns) -> np.ndarray:
        return columns["cut"]
