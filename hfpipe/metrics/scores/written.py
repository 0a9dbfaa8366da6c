"""Scores of texts that a model wrote: ROUGE by rouge-score, exact matches, and how long they are."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from hfpipe.metrics.metric import Mean, Metric, Share, ratio
from hfpipe.metrics.scores.overlap import list_references
from hfpipe.metrics.scores.segmentation import nearly_all_ascii, space_words, split_words

if TYPE_CHECKING:
    from hfpipe.types import Columns

ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


ENGLISH = "rouge-score"
"""Name of rouge-score's own tokenizer, which is made for English."""


def summary_scores(*, stem: bool = True, tokenize: str = ENGLISH) -> list[Metric]:
    """Return ROUGE-1, -2, -L and -Lsum, from 0 to 1.

    They read `prediction` (n,) and `reference` (n,), object arrays: a text, and a text or a list of texts.
    `tokenize` is `rouge-score` for its own tokenizer, or `unicode` for texts of any script.
    """
    return [Rouge(name, stem=stem, tokenize=tokenize) for name in ROUGES]


def rouge_tokenizer(reference: Iterable[str | list[str]]) -> str:
    """Return the tokenizer that suits the references: rouge-score's own for English, else `unicode`."""
    texts = (text for each in reference for text in list_references(each))
    return ENGLISH if nearly_all_ascii(texts) else "unicode"


def writing() -> list[Metric]:
    """Return exact matches, words an output, and the share of outputs that were cut off.

    They read `prediction` and `reference` as above, and `cut` (bool, shape (n,)): whether the text ended only
    because it had reached the length limit.
    """
    return [ExactMatch(), Words(), CutOff()]


class UnicodeTokenizer(Tokenizer):  # type: ignore[misc] # rouge-score is untyped
    """Splits texts of any script into the words that ROUGE counts.

    rouge-score's own tokenizer deletes every letter but a-z. On ASCII text this one returns the same: words
    in lower case, English ones of more than three letters stemmed.
    """

    def __init__(self, *, stem: bool) -> None:
        self._english = DefaultTokenizer(use_stemmer=stem)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        return [token for word in split_words(text.lower()) for token in self._tokens(word)]

    def _tokens(self, word: str) -> list[str]:
        return self._english.tokenize(word) if word.isascii() else [word]


class Rouge(Metric):
    """Mean F-measure of one ROUGE (Lin, 2004) over rows; of several references the best counts.

    Words are those of `UnicodeTokenizer`, or with `tokenize="rouge-score"` of rouge-score's own tokenizer,
    which knows only a-z and 0-9 as letters. Sentences of -Lsum stand on lines of their own.
    """

    bounds = (0.0, 1.0)

    def __init__(self, name: str, *, stem: bool, tokenize: str = ENGLISH) -> None:
        self.name = name
        self.stem = stem
        self.tokenize = tokenize
        # rouge-score would choose the same tokenizer by default, and log that it did.
        english = DefaultTokenizer(use_stemmer=stem)
        tokenizer = english if tokenize == ENGLISH else UnicodeTokenizer(stem=stem)
        self._scorer = RougeScorer(ROUGES, tokenizer=tokenizer)

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
        return ratio(sums[..., ROUGES.index(self.name)], sums[..., -1])


class ExactMatch(Share):
    """Share of outputs that equal a reference, except for space at the ends."""

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
    """Words an output has, whatever tokens its system writes: those between spaces, or characters.

    Each character of a script without spaces counts as a word.
    """

    name = "words"

    def each(self, columns: Columns) -> np.ndarray:
        return np.asarray([len(space_words(prediction)) for prediction in columns["prediction"]])


class CutOff(Share):
    """Share of outputs that hit the length limit before the model had ended them."""

    name = "cut_off"
    higher_is_better = False

    def each(self, columns: Columns) -> np.ndarray:
        return columns["cut"]
