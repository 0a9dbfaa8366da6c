"""Documents as a causal model reads them: where each begins and ends, and what keeps it to itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hfpipe.advice import advise
from hfpipe.encoding.padding import pad
from hfpipe.errors import Problem, StageError
from hfpipe.modeling.attention.separate_documents import separation_of
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.tokenization.encoding import encode_plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.tokenization.ragged import Ragged
    from hfpipe.types import Batch

TEXTS_AT_ONCE = 1000


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


def opening_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id that begins each text that an encoder reads, None where it has none."""
    begin: int | None = tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
    return begin


def check_begins(documents: Ragged, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise StageError where a document does not begin with the token by which documents are told apart."""
    firsts = documents.values[documents.offsets[:-1][documents.lengths > 0]]
    if (firsts != opening_token(tokenizer)).any() or not documents.lengths.all():
        raise StageError(
            "documents: separate needs a token that begins each text, as [CLS] does, and this tokenizer adds "
            f"none; leave it out, or give the tokenizer's stage {advise(style='bert')}"
        )


def encode_with_eos(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the ids of each text and the one that ends it, tokenized a few texts at a time."""
    _, end = bounds(tokenizer)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        yield from ([*ids, end] for ids in encode_plain(tokenizer, texts[start : start + TEXTS_AT_ONCE]))


def document_windows(
    ids: Sequence[int], begin: int, length: int, stride: int
) -> list[tuple[list[int], list[int]]]:
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


def places(ids: np.ndarray, begin: int | None) -> np.ndarray:
    """Return each id's place in its own document, int64 (length,), from 0 at every `begin`."""
    here = np.arange(len(ids))
    starts: np.ndarray = np.maximum.accumulate(np.where(ids == begin, here, 0))
    return here - starts


def separated(ids: Sequence[np.ndarray], begin: int | None) -> Batch:
    """Return `position_ids` and `_documents` of packed examples, int64 (rows, longest).

    Both begin again at every `begin`: positions at 0, documents at the next number from 1. Padding is at 0.
    """
    counted = [places(each, begin) for each in ids]
    return {
        "position_ids": pad(counted, 0),
        "_documents": pad([np.cumsum(each == 0) for each in counted], 0),
    }


def separation_problems(model: PreTrainedModel) -> Iterator[Problem]:
    """Yield what keeps a model from reading packed documents as if each were alone; it is tried on two."""
    if separation_of(model) is None:
        message = "documents: separate needs a model that keeps packed documents apart"
        yield Problem(f"{message}; {model.config.model_type} does not, leave it out", ("documents",))
