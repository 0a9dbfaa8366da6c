"""Where words begin among tokens, told by the tokens themselves: a packed stream knows no word ids."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hfpipe.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACES = {"Ġ", "▁"}
"""What stands for the space before a word, in byte-level vocabularies and in those of SentencePiece."""


class Edges(NamedTuple):
    """What each token of a vocabulary says of the words round it: bool, shape (tokens,)."""

    opens: np.ndarray
    """A word begins with it, whatever stands before."""
    closes: np.ndarray
    """The next token begins a word."""


def word_numbers(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the number of the word that each token belongs to: int64, shape (length,), ascending from 0.

    Pieces join as the vocabulary says: `##` goes on in WordPiece, `Ġ` and `▁` begin a word in byte-level
    and SentencePiece vocabularies, where a punctuation mark is a word of its own as in WordPiece. Special
    tokens are words too. Raises StageError when the vocabulary has no such marks.
    """
    opens, closes = edges(tokenizer, len(tokenizer))
    begins = opens[ids]
    begins[1:] |= closes[ids[:-1]]
    begins[:1] = False
    return np.cumsum(begins)


@lru_cache(maxsize=2)
def edges(tokenizer: PreTrainedTokenizerBase, size: int) -> Edges:
    """Return where words begin and end, for a vocabulary of `size` tokens."""
    pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(list(range(size)))]
    special = np.zeros(size, dtype=bool)
    special[[number for number in tokenizer.all_special_ids if number < size]] = True
    inside, bytes_, texts = (_marked(pieces, mark) for mark in ("##", "Ġ", "▁"))
    if max(inside.sum(), bytes_.sum(), texts.sum()) < size / 100:
        raise StageError("whole_words needs a vocabulary that marks where words begin: ##, Ġ or ▁")
    if inside.sum() >= size / 100:
        return Edges(~inside | special, special)
    parts = _parts_bytes if bytes_.sum() > texts.sum() else _parts_text
    opens = np.array([parts(piece[:1]) for piece in pieces])
    # A mark alone is nothing but the space before the word that follows.
    closes = np.array([parts(piece[-1:]) and piece not in SPACES for piece in pieces])
    return Edges(opens | special, closes | special)


def _marked(pieces: list[str], mark: str) -> np.ndarray:
    return np.array([piece.startswith(mark) for piece in pieces])


def _parts_bytes(character: str) -> bool:
    """Say whether words part at a byte: letters beyond ASCII are several, written as any character."""
    blank = "\u0100" <= character <= "\u0120"  # bytes 0 to 32, the white space among them
    return blank or (character.isascii() and not character.isalnum())


def _parts_text(character: str) -> bool:
    """Say whether words part at a character: white space, punctuation or a symbol."""
    return character in SPACES or unicodedata.category(character or " ")[0] in "PSZC"
