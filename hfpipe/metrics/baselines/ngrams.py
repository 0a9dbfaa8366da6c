"""N-gram language models over token ids, as baselines that use only short contexts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

TOKENS_AT_ONCE = 2**20
"""Minimum number of tokens counted together; their n-grams take 8 MB."""
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts if there are too few n-grams to estimate them, as in KenLM."""

Ids = Sequence[int]


class NGrams:
    """An interpolated modified Kneser-Ney model of any small order; a smoothed unigram model for order 1.

    The formulas are those of Chen & Goodman (1998): each order has one discount each for counts of 1, 2 and
    more, estimated from the counts, and unigrams are interpolated with the uniform distribution. Lower orders
    count the ids that precede an n-gram; one that begins a document has none and keeps its own count
    (Heafield et al., 2013). For any context, the probabilities of the ids 0 … vocabulary - 1 sum to 1.

    Time is dominated by sorting; memory is a few numbers per distinct n-gram. Raises ValueError when an
    n-gram does not fit into 63 bits, or an id is not in the vocabulary.
    """

    def __init__(self, order: int, vocabulary: int) -> None:
        self.order = order
        self.vocabulary = vocabulary
        self._begin = vocabulary  # precedes a document; never predicted
        self._base = vocabulary + 1
        if self._base**order >= 2**63:
            raise ValueError(f"{order}-grams over {vocabulary} ids cannot be numbered in 63 bits")
        self._levels: list[_Level] = []

    def fit(self, documents: Iterable[Ids]) -> NGrams:
        """Learn from documents, lists of ids including an end token if any; return the model."""
        grams, counts = np.empty(0, np.int64), np.empty(0, np.int64)
        waiting: list[Ids] = []
        tokens = 0
        for ids in documents:
            waiting.append(ids)
            tokens += len(ids)
            if tokens >= max(TOKENS_AT_ONCE, len(grams)):  # so that known n-grams are rarely sorted again
                grams, counts = self._count_grams(waiting, grams, counts)
                waiting, tokens = [], 0
        grams, counts = self._count_grams(waiting, grams, counts)
        self._levels = [*self._make_levels(grams, counts)][::-1]
        return self

    def compute_nll(self, documents: Sequence[Ids]) -> list[np.ndarray]:
        """Return -log p of every id of each document after the ids before it: float64, shape (length,)."""
        grams = self._number_grams(documents)
        probability = np.full(len(grams), 1 / self.vocabulary)
        for order, level in enumerate(self._levels, start=1):
            probability = level.interpolate(probability, grams % self._base**order)
        return np.split(-np.log(probability), np.cumsum([len(ids) for ids in documents], dtype=int))[:-1]

    def _number_grams(self, documents: Sequence[Ids]) -> np.ndarray:
        """Return the n-gram that ends at each id of the documents, encoded as a number."""
        begin = np.full(self.order - 1, self._begin)
        parts = [part for ids in documents for part in (begin, np.asarray(ids, np.int64))]
        stream = np.concatenate([np.empty(0, np.int64), *parts])
        ends = np.flatnonzero(stream != self._begin)
        if len(ends) < sum(map(len, documents)) or stream.max(initial=0) > self._begin or (stream < 0).any():
            raise ValueError(f"an id is not from 0 to {self.vocabulary - 1}")
        grams = np.zeros(len(ends), np.int64)
        for back in reversed(range(self.order)):
            grams = grams * self._base + stream[ends - back]
        return grams

    def _count_grams(
        self, documents: Sequence[Ids], grams: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        more = self._number_grams(documents)
        return _sum_by_number(np.concatenate([grams, more]), np.concatenate([counts, np.ones_like(more)]))

    def _make_levels(self, grams: np.ndarray, counts: np.ndarray) -> Iterator[_Level]:
        """Yield the levels from the highest order down; none when there are no n-grams."""
        if not len(grams):
            return
        yield _Level(grams, counts, self._base)
        for order in range(self.order - 1, 0, -1):
            shorter = grams % self._base**order
            begins = shorter // self._base ** (order - 1) == self._begin
            grams, counts = _sum_by_number(shorter, np.where(begins, counts, 1))
            yield _Level(grams, counts, self._base)


class _Level:
    """The n-grams of one order, and the probability mass that their contexts leave to the lower order."""

    def __init__(self, grams: np.ndarray, counts: np.ndarray, base: int) -> None:
        self._base = base
        self._grams = grams
        taken = np.array([0, *estimate_discounts(counts)])[np.minimum(counts, 3)]
        self._kept = counts - taken
        self._contexts, starts = np.unique(grams // base, return_index=True)
        self._totals = np.add.reduceat(counts, starts)
        self._left = np.add.reduceat(taken, starts) / self._totals

    def interpolate(self, below: np.ndarray, grams: np.ndarray) -> np.ndarray:
        """Return p of each n-gram's last id after the others, given the probabilities of the order below."""
        context, known = _find_numbers(self._contexts, grams // self._base)
        gram, seen = _find_numbers(self._grams, grams)
        here = np.where(seen, self._kept[gram] / self._totals[context], 0) + self._left[context] * below
        return np.where(known, here, below)


def estimate_discounts(counts: np.ndarray) -> tuple[float, ...]:
    """Return the discounts of n-grams seen once, twice and more often: D1, D2 and D3+ of Chen & Goodman."""
    one, two, three, four = (int((counts == number).sum()) for number in (1, 2, 3, 4))
    if not (one and two and three):
        return FALLBACK
    share = one / (one + 2 * two)
    found = (1 - 2 * share * two / one, 2 - 3 * share * three / two, 3 - 4 * share * four / three)
    usable = all(0 < each <= seen for seen, each in enumerate(found, start=1))
    return found if usable else FALLBACK


def _sum_by_number(numbers: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct numbers, ascending, and the sum of each one's counts."""
    order = np.argsort(numbers, kind="stable")
    distinct, starts = np.unique(numbers[order], return_index=True)
    return distinct, np.add.reduceat(counts[order], starts) if len(starts) else counts


def _find_numbers(there: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of each wanted number in ascending ones (any if missing), and whether it exists."""
    place = np.searchsorted(there, wanted).clip(max=len(there) - 1)
    return place, there[place] == wanted
