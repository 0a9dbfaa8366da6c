"""Scores of texts that a model wrote: ROUGE by rouge-score, exact matches, and how long they are."""

from __future__ import annotations

from collections.abc import Hashable
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from hfpipe.metrics.metric import Mean, Metric, ratio
from hfpipe.metrics.overlap import several

if TYPE_CHECKING:
    from hfpipe.contract import Columns

ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def summary_scores(*, stem: bool = True) -> list[Metric]:
    """Return ROUGE-1, -2, -L and -Lsum, from 0 to 1.

    They read `guess` (n,) and `gold` (n,), object arrays: a text, and a text or a list of texts.
    """
    return [Rouge(name, stem=stem) for name in ROUGES]


def writing() -> list[Metric]:
    """Return exact matches, words an output, and the share of outputs that were cut off.

    They read `guess` and `gold` as above, and `cut` (bool, shape (n,)): whether the text ended only because
    it had reached the length limit.
    """
    return [ExactMatch(), Words(), CutOff()]


class Rouge(Metric):
    """Mean F-measure of one ROUGE (Lin, 2004) over rows; of several references the best counts.

    rouge-score knows only a-z and 0-9 as letters, and takes sentences of -Lsum to stand on lines of their
    own.
    """

    def __init__(self, name: str, *, stem: bool) -> None:
        self.name = name
        self.stem = stem
        # The same tokenizer by default, of which rouge-score then says so in the log.
        self._scorer = RougeScorer(ROUGES, tokenizer=DefaultTokenizer(use_stemmer=stem))

    @property
    def family(self) -> Hashable:
        return ("rouge", self.stem)

    @property
    def signature(self) -> str:
        stem = "porter" if self.stem else "no"
        return f"{self.name}|average:examples|score:f|stem:{stem}|rouge-score:{version('rouge-score')}"

    def stats(self, columns: Columns) -> np.ndarray:
        each = [
            self._scorer.score_multi(several(gold), guess)
            for guess, gold in zip(columns["guess"], columns["gold"], strict=True)
        ]
        rows = [[*(scores[name].fmeasure for name in ROUGES), 1.0] for scores in each]
        return np.asarray(rows, dtype=np.float64).reshape(-1, len(ROUGES) + 1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., ROUGES.index(self.name)], sums[..., -1])


class ExactMatch(Mean):
    """Share of outputs that equal a reference, but for space at the ends."""

    name = "exact_match"

    def each(self, columns: Columns) -> np.ndarray:
        pairs = zip(columns["guess"], columns["gold"], strict=True)
        return np.asarray([guess.strip() in map(str.strip, several(gold)) for guess, gold in pairs])


class Words(Mean):
    """Words an output has, between spaces: what can be said of any system, whatever it cuts texts into."""

    name = "words"

    def each(self, columns: Columns) -> np.ndarray:
        return np.asarray([len(guess.split()) for guess in columns["guess"]])


class CutOff(Mean):
    """Share of outputs that hit the length limit before the model had ended them."""

    name = "cut_off"
    higher_is_better = False

    def each(self, columns: Columns) -> np.ndarray:
        return columns["cut"]
