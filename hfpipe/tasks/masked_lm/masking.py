"""Masking for masked-lm: selects the tokens to hide and replaces them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.tasks.masked_lm.word_boundaries import number_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def mask_tokens(
    ids: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    share: float,
    random: np.random.Generator,
    *,
    whole_words: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide a share of the tokens: 80 % mask, 10 % random token, 10 % unchanged (Devlin et al., 2019).

    `ids` int (length,). Special tokens are never hidden. The number of hidden tokens is exact, and at least
    one if any token can be hidden. With `whole_words`, all tokens of a word are hidden or none, so the number
    may be exceeded by part of the last word. Returns new ids and labels, int64 (length,) each.
    """
    ids = ids.astype(np.int64)
    labels = np.full_like(ids, IGNORED)
    free = np.flatnonzero(~np.isin(ids, tokenizer.all_special_ids))
    if len(free) == 0:
        return ids, labels
    units = np.unique(number_words(ids, tokenizer)[free], return_inverse=True)[1] if whole_words else None
    chosen = free[_draw_tokens(len(free), units, max(1, round(share * len(free))), random)]
    fate = random.random(len(chosen))
    labels[chosen] = ids[chosen]
    ids[chosen[fate < 0.8]] = tokenizer.mask_token_id
    swapped = chosen[fate >= 0.9]
    ids[swapped] = random.integers(0, len(tokenizer), len(swapped))
    return ids, labels


def _draw_tokens(
    count: int, units: np.ndarray | None, wanted: int, random: np.random.Generator
) -> np.ndarray:
    """Draw `wanted` of `count` tokens; with `units`, the fewest drawn units that contain as many."""
    if units is None:
        return np.argsort(random.random(count), kind="stable")[:wanted]
    place = random.random(units[-1] + 1)
    ordered = np.argsort(place[units], kind="stable")
    ends = np.cumsum(np.bincount(units)[np.argsort(place, kind="stable")])
    return ordered[: ends[np.searchsorted(ends, wanted)]]
