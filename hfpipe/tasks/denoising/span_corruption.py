"""Noise for denoising: selects the tokens to hide from the encoder and builds the decoder's targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hfpipe.advice import advise
from hfpipe.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Frame(NamedTuple):
    """The special tokens that a tokenizer adds before and after a text; the last one ends it."""

    before: list[int]
    after: list[int]

    def wrap(self, ids: np.ndarray) -> np.ndarray:
        """Return `ids` with the special tokens before and after them, int64."""
        return np.concatenate([self.before, ids, self.after]).astype(np.int64)


def get_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """Return the special tokens around a text. Raises StageError when the tokenizer has no end token."""
    ids = tokenizer("a", return_special_tokens_mask=True)
    text = [place for place, special in enumerate(ids["special_tokens_mask"]) if not special]
    before, after = ids["input_ids"][: text[0]], ids["input_ids"][text[-1] + 1 :]
    if not after and tokenizer.eos_token_id is None:
        raise StageError("denoising needs an end token, and this tokenizer has none; use another tokenizer")
    return Frame(before, after or [tokenizer.eos_token_id])


def get_sentinel_ids(tokenizer: PreTrainedTokenizerBase, number: int) -> np.ndarray:
    """Return the ids of <extra_id_0>, <extra_id_1> …, the sentinels of hidden spans, int64 (number,).

    Raises StageError when the tokenizer has fewer.
    """
    ids: Any = tokenizer.convert_tokens_to_ids([f"<extra_id_{place}>" for place in range(number)])
    known = [each for each in ids if each is not None and each != tokenizer.unk_token_id]
    if len(known) < number:
        raise StageError(
            f"denoising needs {number} tokens <extra_id_0> … for the spans it hides, and this tokenizer has "
            f"{len(known)}; add {advise(style='t5')} to its stage, lower length, or write "
            f"{advise(noise='infilling')}"
        )
    return np.array(known, dtype=np.int64)


def count_hidden(length: int, share: float, span: float) -> tuple[int, int]:
    """Return how many of `length` tokens are hidden and in how many spans, as in T5's reference code.

    At least one token is hidden, at least one is not, and visible text precedes each span.
    """
    length = max(length, 2)
    hidden = min(max(round(length * share), 1), length - 1)
    return hidden, min(max(round(hidden / span), 1), length - hidden)


def draw_spans(length: int, share: float, span: float, random: np.random.Generator) -> np.ndarray:
    """Draw the mask of hidden tokens, bool (length,), as `random_spans_noise_mask` of T5's reference code.

    Visible and hidden spans alternate, beginning with a visible one. The lengths of each kind are drawn
    uniformly from all partitions of its tokens (Raffel et al., 2020, section 3.1.4).
    """
    hidden, number = count_hidden(length, share, span)
    kept = _draw_partition(max(length, 2) - hidden, number, random)
    turns = np.stack([kept, _draw_partition(hidden, number, random)], axis=1).reshape(-1)
    mask: np.ndarray = np.repeat(np.arange(2 * number) % 2 == 1, turns)
    return mask[:length]


def _draw_partition(items: int, parts: int, random: np.random.Generator) -> np.ndarray:
    """Draw a partition of `items` into `parts` parts of at least one item each; sizes, int64 (parts,)."""
    cuts = np.sort(random.permutation(items - 1)[: parts - 1]) + 1
    return np.diff(cuts, prepend=0, append=items)


def hide(ids: np.ndarray, mask: np.ndarray, stand_ins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets: each holds the spans that the other lacks, with sentinels in their place."""
    return _replace_spans(ids, mask, stand_ins), _replace_spans(ids, ~mask, stand_ins)


def _replace_spans(ids: np.ndarray, mask: np.ndarray, stand_ins: np.ndarray) -> np.ndarray:
    starts = np.diff(mask.astype(np.int8), prepend=0) > 0
    numbered = stand_ins[np.maximum(np.cumsum(starts) - 1, 0)]
    return np.where(starts, numbered, ids)[~mask | starts]


def infill(
    ids: np.ndarray, share: float, span: float, mask_id: int, random: np.random.Generator
) -> np.ndarray:
    """Replace each hidden span by one mask: text infilling (Lewis et al., 2020, section 2.2).

    Span lengths are drawn from Poisson(`span`) until the share of tokens is hidden; the last span is
    shortened to fit. A span of length 0 inserts a mask without hiding a token. Spans may be adjacent.
    """
    if len(ids) < 2:
        return ids
    hidden, _ = count_hidden(len(ids), share, span)
    lengths = random.poisson(span, hidden + 1)
    while lengths.sum() < hidden:
        lengths = np.append(lengths, random.poisson(span, hidden))
    ends = np.minimum(np.cumsum(lengths), hidden)
    lengths = np.diff(ends[: np.searchsorted(ends, hidden) + 1], prepend=0)
    gaps = np.sort(random.integers(0, len(ids) - hidden + 1, len(lengths)))
    kept = np.ones(len(ids), dtype=bool)
    kept[np.repeat(gaps, lengths) + np.arange(hidden)] = False
    starts = gaps + np.cumsum(lengths) - lengths
    return np.insert(ids, starts, mask_id)[np.insert(kept, starts, True)]
