"""Documents as a causal model reads them: where each begins and ends, and what keeps it to itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.advice import advise
from hfpipe.errors import StageError
from hfpipe.hf.losses import IGNORED
from hfpipe.tokenization.encoding import encode_plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEXTS_AT_ONCE = 1000
PROBE = 6
"""Tokens of each document by which a model is tried."""
ALIKE = 1e-4
"""Largest difference that passes for rounding, as a share of the largest logit."""


def bounds(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the ids that begin and end a document; the same id twice where the tokenizer has only one.

    Raises StageError when it has neither.
    """
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is None and end is None:
        model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
        style = "bart" if type(model).__name__ == "WordPiece" else "gpt"  # which lacks its unknown token
        raise StageError(
            "causal-lm needs a token that begins or ends a document, and this tokenizer has no bos_token and "
            f"no eos_token; give its stage {advise(style=style)}, or take another"
        )
    return (end if begin is None else begin), (begin if end is None else end)


def closed(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the ids of each text and the one that ends it, tokenized a few texts at a time."""
    _, end = bounds(tokenizer)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        yield from ([*ids, end] for ids in encode_plain(tokenizer, texts[start : start + TEXTS_AT_ONCE]))


def windows(ids: Sequence[int], begin: int, length: int, stride: int) -> list[tuple[list[int], list[int]]]:
    """Return what is read and what is to be said next, window by window, so that each id is said once.

    A window reads at most `length` ids, beginning `stride` after the one before it; all but the first say
    only what comes after `length` - `stride` others. Both lists of a pair have the same length. An empty
    text has one window in which nothing is said.
    """
    read, said = [begin, *ids[:-1]], list(ids) or [IGNORED]
    found = []
    for start in range(0, max(1, len(read) - length + stride), stride):
        seen = length - stride if start else 0
        piece = slice(start, start + length)
        found.append((read[piece], [IGNORED] * seen + said[piece][seen:]))
    return found


def following(ids: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Return the id that follows each one of a packed example, int64 (length,).

    Nothing is known to follow the last, and what only ever begins a document is not to be learned.
    """
    labels = np.append(ids[1:], IGNORED).astype(np.int64)
    if begin != end:
        labels[labels == begin] = IGNORED
    return labels


def places(ids: np.ndarray, begin: int) -> np.ndarray:
    """Return each id's place in its own document, int64 (length,), from 0 at every `begin`."""
    here = np.arange(len(ids))
    starts: np.ndarray = np.maximum.accumulate(np.where(ids == begin, here, 0))
    return here - starts


def kept_apart(model: PreTrainedModel) -> bool:
    """Tell whether a model reads a document as if alone where its positions begin again at 0.

    Transformers takes that for packed documents in most models, but some know no positions, or count
    them on by themselves: so it is tried, on two short documents.
    """
    numbers = torch.arange(2 * PROBE, device=model.device).unsqueeze(0)
    ids, again = numbers % model.config.get_text_config().vocab_size, numbers % PROBE
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            together = _logits(model, input_ids=ids, position_ids=again)[:, PROBE:]
            alone = _logits(model, input_ids=ids[:, PROBE:])
    except TypeError:  # knows no position_ids
        return False
    finally:
        model.train(training)
    return bool((together - alone).abs().max() <= ALIKE * alone.abs().max())


def _logits(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits
