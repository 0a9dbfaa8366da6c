"""Scores of language models, masked or causal: always a sum over a sum, never a mean of means."""

from __future__ import annotations

from collections.abc import Hashable
from math import log
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hfpipe.metrics.metric import Metric, ratio

if TYPE_CHECKING:
    from hfpipe.types import Columns


def language_modelling(
    *, read: str = "", correct_known: bool = True, bytes_known: bool = False
) -> list[Metric]:
    """Return the metrics of a language model.

    They read `nll` (summed loss) and `tokens` (targets), shape (n,) each; with `correct_known` also
    `correct` (targets guessed right), with `bytes_known` also `bytes` (UTF-8 bytes of the text, all of
    whose tokens must be targets) and `lost` (those of texts that their tokens do not give back). `read` is
    added to the signatures: what the model saw of the text.
    """
    metrics: list[Metric] = [Perplexity(read), TokenLoss(read)]
    metrics += [TokenAccuracy(read)] if correct_known else []
    return [*metrics, BitsPerByte(read)] if bytes_known else metrics


def pseudo_likelihood() -> list[Metric]:
    """Return the metrics of a masked model of which every token was hidden once, all others seen.

    They read the columns of `language_modelling`, `bytes` and `lost`.
    """
    return [PseudoPerplexity(), TokenLoss(), TokenAccuracy(), PseudoBitsPerByte()]


class _Language(Metric):
    """Base of the scores that depend on what a model saw of a text, which their signatures tell."""

    how: ClassVar[str] = "average:tokens"
    """What the signature says of the formula."""

    def __init__(self, read: str = "") -> None:
        self.read = read

    @property
    def signature(self) -> str:
        return "|".join(part for part in (self.name, self.how, self.read) if part)


class _PerToken(_Language):
    """Base of the averages over target tokens, which tokenizers cut as they do."""

    def units(self, sums: np.ndarray) -> float:
        return float(sums[1])


class _Tokens(_PerToken):
    """Base of the scores made from the loss of target tokens."""

    @property
    def family(self) -> Hashable:
        return "tokens"

    def stats(self, columns: Columns) -> np.ndarray:
        return np.stack([columns["nll"], columns["tokens"]], axis=1).astype(np.float64)


class Perplexity(_Tokens):
    """exp of the summed nats over the number of target tokens."""

    higher_is_better = False
    name = "perplexity"

    def value(self, sums: np.ndarray) -> np.ndarray:
        return np.exp(sums[..., 0] / sums[..., 1])


class TokenLoss(_Tokens):
    """Nats a target token."""

    higher_is_better = False
    name = "loss"
    how = "unit:nats|average:tokens"

    def value(self, sums: np.ndarray) -> np.ndarray:
        return sums[..., 0] / sums[..., 1]


class TokenAccuracy(_PerToken):
    """Share of target tokens guessed right."""

    name = "accuracy"
    bounds = (0.0, 1.0)
    is_proportion = True

    def stats(self, columns: Columns) -> np.ndarray:
        return np.stack([columns["correct"], columns["tokens"]], axis=1).astype(np.float64)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(*self.proportion(sums))

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sums[..., 0], sums[..., 1]


class BitsPerByte(_Language):
    """Bits needed for a byte of the text, which compares models over tokenizers.

    Only a tokenizer that gives every text back predicts all of its bytes: with any other, as one that folds
    case or has unknown tokens, the score would be too good, and is left out. `lost`, shape (n,), are the
    bytes of texts that are not given back; without that column all are taken to be.
    """

    higher_is_better = False
    name = "bits_per_byte"
    how = "average:bytes|round_trip:exact"

    def stats(self, columns: Columns) -> np.ndarray:
        lost = columns.get("lost", np.zeros_like(columns["bytes"]))
        return np.stack([columns["nll"], columns["bytes"], lost], axis=1).astype(np.float64)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return sums[..., 0] / sums[..., 1] / log(2)

    def undefined(self, sums: np.ndarray) -> str | None:
        if not sums[2]:
            return None
        return (
            f"{sums[2] / sums[1]:.2%} of the text is in rows that their tokens do not give back (case, "
            "accents, spaces or unknown characters are lost), and what is lost is not predicted"
        )


class PseudoPerplexity(Perplexity):
    """`exp` of the mean nats of a token given all the others (Salazar et al., 2020, section 2.4).

    To be compared between masked models with one tokenizer only: it is not a perplexity of the text.
    """

    name = "pseudo_perplexity"


class PseudoBitsPerByte(BitsPerByte):
    """Bits of the pseudo-likelihood a byte: fewer than any code needs, since each token sees what follows."""

    how = "likelihood:pseudo|average:bytes|round_trip:exact"
