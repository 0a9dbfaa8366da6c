"""Near duplicates by MinHash and locality-sensitive hashing (Broder, 1997; 5-grams as Lee et al., 2022)."""

from __future__ import annotations

import re

import numpy as np
from datasketch import MinHash, MinHashLSH

from hfpipe.data.rows import Row

PERMUTATIONS = 128
GRAM = 5
HIGHEST = 0.98
"""Highest threshold of the index: above it, datasketch finds no number of bands."""
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


class NearDuplicates:
    """Index of the texts kept so far; about 5 kB each."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        # The index only proposes candidates, so it favours recall; the MinHashes decide.
        self._index = MinHashLSH(threshold=min(threshold, HIGHEST), num_perm=PERMUTATIONS, weights=(0.1, 0.9))
        self._known: list[np.ndarray] = []

    def is_new(self, row: Row) -> bool:
        """Return whether no earlier text is similar; if so, add the text to the index."""
        sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update_batch(_list_grams("\n".join(row.texts)))
        values = sketch.hashvalues
        if any(
            np.mean(self._known[place] == values) >= self._threshold for place in self._index.query(sketch)
        ):
            return False
        self._index.insert(len(self._known), sketch)
        self._known.append(values)
        return True


def _list_grams(text: str) -> list[bytes]:
    """Return the word 5-grams; in scripts without spaces each character is a word."""
    words = WORD.findall(text.casefold())
    if len(words) < GRAM:
        return [text.casefold().encode("utf-8", "surrogatepass")]
    return list({" ".join(words[i : i + GRAM]).encode() for i in range(len(words) - GRAM + 1)})
