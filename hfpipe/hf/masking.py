"""Masks for masked-lm: a pure function of seed, epoch and example, never of a generator's past."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hfpipe.hf.losses import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EVALUATION = 2**32 - 1
"""Stands for the epoch where there is none."""


def generator(seed: int, epoch: int | None, index: int) -> np.random.Generator:
    """Return the random numbers of one example in one epoch (counter-based: Salmon et al., 2011)."""
    key = (seed, EVALUATION if epoch is None else epoch)
    return np.random.Generator(np.random.Philox(key=key, counter=(0, 0, 0, index)))


def mask(
    ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, share: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Hide a share of the pieces: 80 % become the mask, 10 % a random piece, 10 % stay (Devlin et al., 2019).

    `ids` int (length,). Special tokens are never hidden; the number hidden is exact, at least one where
    there is anything to hide. Returns new ids and labels, int64 (length,) each.
    """
    ids = ids.astype(np.int64)
    labels = np.full_like(ids, IGNORED)
    free = np.flatnonzero(~np.isin(ids, tokenizer.all_special_ids))
    if len(free) == 0:
        return ids, labels
    chosen = free[np.argsort(random.random(len(free)), kind="stable")[: max(1, round(share * len(free)))]]
    fate = random.random(len(chosen))
    labels[chosen] = ids[chosen]
    ids[chosen[fate < 0.8]] = tokenizer.mask_token_id
    swapped = chosen[fate >= 0.9]
    ids[swapped] = random.integers(0, len(tokenizer), len(swapped))
    return ids, labels
