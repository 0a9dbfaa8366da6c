"""Finds held-out rows whose text also occurs in texts that a model was trained on.

A row overlaps if its normalized text is equal, if 30 % of its word 13-grams occur in these texts (after Brown
et al., 2020, appendix C), or if its 5-grams and those of one text have a Jaccard similarity of 0.5. MinHash
estimates this similarity; here it is computed exactly, for the few texts that share enough 5-grams. Words are
compared without case, punctuation and line breaks. A row of fewer than 13 words may be equal by chance and is
therefore counted separately.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

from hfpipe.data.cleaning.near import WORD

LONG, SHORT = 13, 5
"""Number of words in the n-grams that detect excerpts, and in those that detect near duplicates."""
EXCERPT = 0.3
"""Minimum fraction of a row's 13-grams for an overlap."""
NEARLY = 0.5
"""Minimum Jaccard similarity of the 5-grams of two texts for near duplicates."""
_FACTOR = 0x9E3779B97F4A7C15
"""An odd number: hashes weighted by its powers, modulo 2⁶⁴, depend on the order of words."""


LabelledText = tuple[str, Any]


@dataclass(frozen=True)
class Overlap:
    """Held-out rows that overlap with some texts, bool, shape (rows,) each; the first four are disjoint."""

    exact: np.ndarray
    """Rows with an equal text."""
    excerpt: np.ndarray
    """Rows that share at least 30 % of their 13-grams."""
    near: np.ndarray
    """Rows with a near duplicate."""
    short: np.ndarray
    """Rows of fewer than 13 words with an equal text."""
    conflict: np.ndarray
    """Rows with an equal text of any length but a different label."""

    @property
    def any(self) -> np.ndarray:
        """Rows that overlap beyond chance: all except the short ones."""
        return self.exact | self.excerpt | self.near


class HeldOut:
    """Texts of held-out rows with their labels, indexed by n-grams: 16 bytes per word and n-gram size.

    A row is a text and a label, which is None without labels.
    """

    def __init__(self, rows: Iterable[LabelledText]) -> None:
        texts, self._labels = zip(*rows, strict=True)
        words = [_hash_words(text) for text in texts]
        self._rows_of: dict[bytes, list[int]] = {}
        for row, each in enumerate(words):
            if len(each):
                self._rows_of.setdefault(each.tobytes(), []).append(row)
        self._lengths = np.array([len(each) for each in words], dtype=np.int64)
        self._excerpts, self._near = _Index(words, LONG), _Index(words, SHORT)

    def find_overlap(self, texts: Iterable[LabelledText]) -> Overlap:
        """Return which rows overlap with these texts, which are read once and not kept in memory."""
        same, near, conflict = np.zeros((3, len(self._lengths)), dtype=bool)
        seen = np.zeros(len(self._excerpts.keys), dtype=bool)
        for text, label in texts:
            words = _hash_words(text)
            for row in self._rows_of.get(words.tobytes(), []):
                same[row] = True
                conflict[row] |= None not in (label, self._labels[row]) and label != self._labels[row]
            seen[self._excerpts.find_positions(_hash_grams(words, LONG))] = True
            near[self._near.find_similar(np.unique(_hash_grams(words, SHORT)))] = True
        long = self._lengths >= LONG
        exact = same & long
        excerpt = (self._excerpts.compute_shares(seen) >= EXCERPT) & long & ~exact
        return Overlap(exact, excerpt, near & long & ~exact & ~excerpt, same & ~long, conflict)


class _Index:
    """The distinct n-grams of rows, each with the rows that contain it."""

    def __init__(self, words: Sequence[np.ndarray], size: int) -> None:
        grams = [np.unique(_hash_grams(each, size)) for each in words]
        self._sizes = np.array([len(each) for each in grams], dtype=np.int64)
        together = np.concatenate([np.empty(0, dtype=np.uint64), *grams])
        rows = np.repeat(np.arange(len(words)), self._sizes)
        order = np.argsort(together, kind="stable")
        self.keys, starts = np.unique(together[order], return_index=True)
        self._rows, self._starts = rows[order], np.append(starts, len(order))

    def find_positions(self, grams: np.ndarray) -> np.ndarray:
        """Return the positions in the index of those n-grams that the rows contain: int64, shape (found,)."""
        if not len(self.keys) or not len(grams):
            return np.empty(0, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.keys, grams), len(self.keys) - 1)
        return places[self.keys[places] == grams]

    def compute_shares(self, seen: np.ndarray) -> np.ndarray:
        """Return the fraction of each row's n-grams that are `seen`, bool (keys,): float64, shape (rows,)."""
        counted = np.repeat(seen, np.diff(self._starts))
        found = np.bincount(self._rows, weights=counted, minlength=len(self._sizes))
        return np.divide(found, self._sizes, out=np.zeros(len(found)), where=self._sizes > 0)

    def find_similar(self, grams: np.ndarray) -> np.ndarray:
        """Return the rows whose set of n-grams is similar to these distinct n-grams: int64, (found,)."""
        places = self.find_positions(grams)
        # A row with a Jaccard similarity of `NEARLY` contains at least this fraction of the n-grams.
        if not len(grams) or len(places) < NEARLY * len(grams):
            return np.empty(0, dtype=np.int64)
        rows = np.concatenate([self._rows[self._starts[each] : self._starts[each + 1]] for each in places])
        shared = np.bincount(rows, minlength=len(self._sizes))
        return np.flatnonzero(shared >= NEARLY * (len(grams) + self._sizes - shared))


def flatten_text(value: Any) -> str:
    """Return all texts in a value, such as a list of words or messages, one per line."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "\n".join(map(flatten_text, value.values()))
    return "\n".join(map(flatten_text, value)) if isinstance(value, list | tuple) else ""


def _hash_words(text: str) -> np.ndarray:
    """Return a hash for each word of a text: uint64, shape (words,)."""
    words = WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return np.array([_hash(word) for word in words], dtype=np.uint64)


@lru_cache(maxsize=2**18)
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _hash_grams(words: np.ndarray, size: int) -> np.ndarray:
    """Return a hash for each n-gram: uint64, shape (max(0, words - size + 1),)."""
    if len(words) < size:
        return np.empty(0, dtype=np.uint64)
    powers = np.array([pow(_FACTOR, place, 2**64) for place in range(size)], dtype=np.uint64)
    return (np.lib.stride_tricks.sliding_window_view(words, size) * powers).sum(axis=1, dtype=np.uint64)
