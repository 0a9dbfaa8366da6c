"""Near duplicates by MinHash and locality-sensitive hashing (Broder, 1997; 5-grams as Lee et al., 2022)."""

from __future__ import annotations

import re

import numpy as np
from datasketch import MinHash, MinHashLSH

from hfpipe.data.rows import Row

PERMUTATIONS = 128
GRAM = 5
HIGHEST = 0.98
"""Highest threshold of the index: above it, datasketch finds no bands to cut a sketch into."""
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


class NearDuplicates:
    """Remembers the texts that stayed; about 5 kB each."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        # The index only proposes, so it errs on the side of proposing; the sketches decide.
        self._index = MinHashLSH(threshold=min(threshold, HIGHEST), num_perm=PERMUTATIONS, weights=(0.1, 0.9))
        self._known: list[np.ndarray] = []

    def is_new(self, row: Row) -> bool:
        """Return whether no text before is similar, and remember this one if so."""
        sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update_batch(_grams("\n".join(row.texts)))
        values = sketch.hashvalues
        if any(
            np.mean(self._known[place] == values) >= self._threshold for place in self._index.query(sketch)
        ):
            return False
        self._index.insert(len(self._known), sketch)
        self._known.append(values)
        return True


def _grams(text: str) -> list[bytes]:
    """Return the word 5-grams; scripts without spaces count each character as a word."""
    words = WORD.findall(text.casefold())
    if len(words) < GRAM:
        return [text.casefold().encode("utf-8", "surrogatepass")]
    return list({" ".join(words[i : i + GRAM]).encode() for i in range(len(words) - GRAM + 1)})
