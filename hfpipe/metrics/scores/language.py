"""Scores of masked or causal language models: ratios of sums, never means of means."""

from __future__ import annotations

from collections.abc import Hashable
from math import log
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hfpipe.metrics.metric import Metric, divide_or_zero

if TYPE_CHECKING:
    from hfpipe.types import Columns


def create_language_metrics(
    *, read: str = "", correct_known: bool = True, bytes_known: bool = False
) -> list[Metric]:
    """Return the metrics of a language model.

    They read `nll` (summed loss) and `tokens` (targets), shape (n,) each; with `correct_known` also `correct`
    (correctly predicted targets), with `bytes_known` also `bytes` (UTF-8 bytes of the text, all of whose
    tokens must be targets) and `lost` (bytes of texts that their tokens do not reproduce). `read`, the
    context that the model saw, is added to the signatures.
    """
    metrics: list[Metric] = [Perplexity(read), TokenLoss(read)]
    metrics += [TokenAccuracy(read)] if correct_known else []
    return [*metrics, BitsPerByte(read)] if bytes_known else metrics


def create_pseudo_likelihood_metrics() -> list[Metric]:
    """Return the metrics of a masked model for which every token was hidden once, with all others visible.

    They read the columns of `create_language_metrics`, `bytes` and `lost`.
    """
    return [PseudoPerplexity(), TokenLoss(), TokenAccuracy(), PseudoBitsPerByte()]


class _Language(Metric):
    """Base class of scores that depend on the context that a model saw, which is in their signatures."""

    how: ClassVar[str] = "average:tokens"
    """Entry of the signature that describes the formula."""

    def __init__(self, read: str = "") -> None:
        self.read = read

    @property
    def signature(self) -> str:
        return "|".join(part for part in (self.name, self.how, self.read) if part)


class _PerToken(_Language):
    """Base class of averages over target tokens, which depend on the tokenizer."""

    def units(self, sums: np.ndarray) -> float:
        return float(sums[1])


class _Tokens(_PerToken):
    """Base class of scores from the loss of target tokens."""

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
    """Cross-entropy per target token in nats."""

    higher_is_better = False
    name = "loss"
    how = "unit:nats|average:tokens"

    def value(self, sums: np.ndarray) -> np.ndarray:
        return sums[..., 0] / sums[..., 1]


class TokenAccuracy(_PerToken):
    """Fraction of target tokens predicted correctly."""

    name = "accuracy"
    bounds = (0.0, 1.0)
    is_proportion = True

    def stats(self, columns: Columns) -> np.ndarray:
        return np.stack([columns["correct"], columns["tokens"]], axis=1).astype(np.float64)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return divide_or_zero(*self.proportion(sums))

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sums[..., 0], sums[..., 1]


class BitsPerByte(_Language):
    """Bits per byte of the text, which is comparable between tokenizers.

    All bytes are predicted only if the tokenizer can reproduce every text. With others, such as those that
    lowercase or have unknown tokens, the score would be too good, and is undefined. `lost`, shape (n,), are
    the bytes of texts that are not reproduced; without this column, all texts are assumed to be reproduced.
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
            f"{sums[2] / sums[1]:.2%} of the text is in rows that their tokens do not reproduce (case, "
            "accents, spaces or unknown characters are lost), so that not all of it is predicted"
        )


class PseudoPerplexity(Perplexity):
    """`exp` of the mean nats of a token given all the others (Salazar et al., 2020, section 2.4).

    It is comparable only between masked models with the same tokenizer, and is not a perplexity of the text.
    """

    name = "pseudo_perplexity"


class PseudoBitsPerByte(BitsPerByte):
    """Bits per byte of the pseudo-likelihood; not a code length, as tokens are predicted from later ones."""

    how = "likelihood:pseudo|average:bytes|round_trip:exact"
