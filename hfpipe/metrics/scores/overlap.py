"""Scores of translations by overlap with the references: sacrebleu's BLEU, chrF and TER.

sacrebleu counts each row; its formulas are reimplemented on arrays, because a thousand resamples would take
it seconds. Tests compare scores and signatures with its command line.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sacrebleu.metrics.bleu import BLEU, MAX_NGRAM_ORDER
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from hfpipe.metrics.metric import Metric, divide_or_zero, to_object_array
from hfpipe.metrics.scores.segmentation import detect_bleu_tokenizer

if TYPE_CHECKING:
    from hfpipe.types import Columns


def create_translation_metrics(
    references: int = 1, tokenize: str = "13a", ter: str = "spaces"
) -> list[Metric]:
    """Return BLEU, chrF and TER in percent, as in sacrebleu; TER may exceed 100.

    They read `prediction` (n,) and `reference` (n,), object arrays: a text, and a text or a list of texts.
    `references` is the number per row; `tokenize` is sacrebleu's name of BLEU's tokenizer. The words of TER
    are separated by `spaces`, as in sacrebleu's command, or are the tokens of `bleu`.
    """
    return [
        Bleu(references, tokenize),
        Chrf(references),
        Ter(references, tokenize if ter == "bleu" else None),
    ]


def list_references(reference: str | list[str]) -> list[str]:
    """Return the reference texts of a row as a list."""
    return [reference] if isinstance(reference, str) else list(reference)


def select_tokenizer(reference: Iterable[str | list[str]]) -> str:
    """Return sacrebleu's name of the tokenizer for the script of the references of all rows."""
    return detect_bleu_tokenizer(text for each in reference for text in list_references(each))


class _Overlap(Metric):
    """Base class of sacrebleu's scores: its statistics per row, and its signature."""

    width: ClassVar[int]
    """Number of statistics."""

    def __init__(self, scorer: Any, references: int) -> None:
        self._scorer = scorer
        self.references = references

    @property
    def signature(self) -> str:
        self._scorer.num_refs = self.references
        return f"{self.name}|{self._scorer.get_signature()}"

    def stats(self, columns: Columns) -> np.ndarray:
        """Return sacrebleu's statistics. Raises ValueError at a row with too many references, or none."""
        texts = [list_references(reference) for reference in columns["reference"]]
        if not texts:
            return np.empty((0, self.width))
        if any(not 0 < len(each) <= self.references for each in texts):
            raise ValueError(f"{self.name}: a row does not have 1 to {self.references} references")
        # sacrebleu ignores a reference that is None, if a row has fewer than others.
        padded = [[*each, *[None] * (self.references - len(each))] for each in texts]
        # Private, but used by its paired tests; no public function returns the counts of chrF.
        rows = self._scorer._extract_corpus_statistics(
            list(columns["prediction"]), list(zip(*padded, strict=True))
        )
        return np.asarray(rows, dtype=np.float64)

    @abstractmethod
    def value(self, sums: np.ndarray) -> np.ndarray: ...


class Bleu(_Overlap):
    """BLEU (Papineni et al., 2002) with sacrebleu's smoothing of orders without a match (Post, 2018)."""

    name = "bleu"
    bounds = (0.0, 100.0)
    width = 2 + 2 * MAX_NGRAM_ORDER

    def __init__(self, references: int = 1, tokenize: str = "13a") -> None:
        # It would warn about each text that ends in " .".
        super().__init__(BLEU(tokenize=tokenize, force=True), references)

    def value(self, sums: np.ndarray) -> np.ndarray:
        ours, theirs = sums[..., 0], sums[..., 1]
        correct, total = np.split(sums[..., 2:], 2, axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            brevity = np.where(ours < theirs, np.exp(1 - theirs / ours), 1.0)
            # The first order without a match counts as half a match, the next as a quarter, and so on.
            halves = 0.5 ** np.cumsum(correct == 0, axis=-1)
            precision = np.where(total > 0, np.where(correct > 0, correct, halves) / total, 0)
            score = 100 * brevity * np.exp(np.log(precision).mean(axis=-1))
        return np.where(correct.any(axis=-1), score, 0.0)


class Chrf(_Overlap):
    """chrF2: F-score of character n-grams up to 6, recall counting twice (Popović, 2015)."""

    name = "chrf"
    bounds = (0.0, 100.0)
    width = 3 * CHRF.CHAR_ORDER

    def __init__(self, references: int = 1) -> None:
        super().__init__(CHRF(), references)

    def value(self, sums: np.ndarray) -> np.ndarray:
        ours, theirs, matches = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
        there = (ours > 0) & (theirs > 0)
        orders = there.sum(axis=-1)
        precision = divide_or_zero((divide_or_zero(matches, ours) * there).sum(axis=-1), orders)
        recall = divide_or_zero((divide_or_zero(matches, theirs) * there).sum(axis=-1), orders)
        factor = CHRF.BETA**2
        return 100 * divide_or_zero((1 + factor) * precision * recall, factor * precision + recall)


class Ter(_Overlap):
    """Translation edit rate (Snover et al., 2006): edits per reference word; a block move is one edit."""

    name = "ter"
    higher_is_better = False
    width = 2

    def __init__(self, references: int = 1, tokenize: str | None = None) -> None:
        super().__init__(TER(), references)
        # Otherwise a sentence in a script without spaces would be a single word.
        self._tokenizer = None if tokenize is None else BLEU(tokenize=tokenize).tokenizer

    @property
    def signature(self) -> str:
        name = "" if self._tokenizer is None else f"|words:{self._tokenizer.signature()}"
        return f"{super().signature}{name}"

    def stats(self, columns: Columns) -> np.ndarray:
        if self._tokenizer is None:
            return super().stats(columns)
        reference = [
            [*map(self._tokenizer, list_references(reference))] for reference in columns["reference"]
        ]
        return super().stats(
            {
                "reference": to_object_array(reference),
                "prediction": to_object_array(map(self._tokenizer, columns["prediction"])),
            }
        )

    def value(self, sums: np.ndarray) -> np.ndarray:
        edits, length = sums[..., 0], sums[..., 1]
        # If all references are empty, any word gives the worst score.
        return 100 * np.where(length > 0, divide_or_zero(edits, length), edits > 0)
