"""Documents in causal language modelling: begin and end tokens, windows, and masks between documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hfpipe.advice import advise
from hfpipe.encoding.padding import pad
from hfpipe.errors import Problem, StageError
from hfpipe.modeling.attention.separate_documents import find_separation
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.tokenization.encoding import encode_plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.tokenization.ragged import Ragged
    from hfpipe.types import Batch

TEXTS_AT_ONCE = 1000


def get_boundary_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the ids that begin and end a document; the same id twice if the tokenizer has only one.

    Raises StageError when it has neither.
    """
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is None and end is None:
        model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
        style = "bart" if type(model).__name__ == "WordPiece" else "gpt"  # WordPiece needs [UNK]
        raise StageError(
            "causal-lm needs a token that begins or ends a document, and this tokenizer has no bos_token and "
            f"no eos_token; add {advise(style=style)} to its stage, or use another tokenizer"
        )
    return (end if begin is None else begin), (begin if end is None else end)


def get_opening_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id that begins each text of an encoder model, None if there is none."""
    begin: int | None = tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
    return begin


def check_beginnings(documents: Ragged, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise StageError if a document does not begin with the token that separates documents."""
    firsts = documents.values[documents.offsets[:-1][documents.lengths > 0]]
    if (firsts != get_opening_token(tokenizer)).any() or not documents.lengths.all():
        raise StageError(
            "documents: separate needs a token that begins each text, as [CLS] does, and this tokenizer adds "
            f"none; leave it out, or add {advise(style='bert')} to the tokenizer's stage"
        )


def encode_with_eos(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the ids of each text, followed by the end token; tokenizes a few texts at a time."""
    _, end = get_boundary_ids(tokenizer)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        yield from ([*ids, end] for ids in encode_plain(tokenizer, texts[start : start + TEXTS_AT_ONCE]))


def split_document(
    ids: Sequence[int], begin: int, length: int, stride: int
) -> list[tuple[list[int], list[int]]]:
    """Return the inputs and the targets of each window, so that each id is a target exactly once.

    A window reads at most `length` ids and begins `stride` ids after the previous one. All windows but the
    first have targets only after their first `length` - `stride` ids. Both lists of a pair have the same
    length. An empty text has one window without targets.
    """
    read, learned = [begin, *ids[:-1]], list(ids) or [IGNORED]
    found = []
    for start in range(0, max(1, len(read) - length + stride), stride):
        seen = length - stride if start else 0
        piece = slice(start, start + length)
        found.append((read[piece], [IGNORED] * seen + learned[piece][seen:]))
    return found


def compute_targets(ids: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Return the target of each position of a packed example: the next id, int64 (length,).

    The last position has no target, and a token that only begins documents is not a target.
    """
    labels = np.append(ids[1:], IGNORED).astype(np.int64)
    if begin != end:
        labels[labels == begin] = IGNORED
    return labels


def compute_position_ids(ids: np.ndarray, begin: int | None) -> np.ndarray:
    """Return each id's position in its document, int64 (length,), starting from 0 at every `begin`."""
    here = np.arange(len(ids))
    starts: np.ndarray = np.maximum.accumulate(np.where(ids == begin, here, 0))
    return here - starts


def number_documents(ids: Sequence[np.ndarray], begin: int | None) -> Batch:
    """Return `position_ids` and `_documents` of packed examples, int64 (rows, longest).

    At every `begin`, positions restart at 0 and the document number increases, starting from 1. Padding is 0.
    """
    counted = [compute_position_ids(each, begin) for each in ids]
    return {
        "position_ids": pad(counted, 0),
        "_documents": pad([np.cumsum(each == 0) for each in counted], 0),
    }


def find_separation_problems(model: PreTrainedModel) -> Iterator[Problem]:
    """Yield why a model cannot process packed documents independently; runs the model on two documents."""
    if find_separation(model) is None:
        message = "documents: separate needs a model that keeps packed documents apart"
        yield Problem(f"{message}, and {model.config.model_type} does not; leave it out", ("documents",))
