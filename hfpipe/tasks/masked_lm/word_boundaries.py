"""Finds word boundaries from the tokens themselves, since a packed stream has no word ids."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hfpipe.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACES = {"Ġ", "▁"}
"""Marks of the space before a word, in byte-level and SentencePiece vocabularies."""


class Edges(NamedTuple):
    """Whether each token of a vocabulary begins or ends a word: bool, shape (tokens,)."""

    opens: np.ndarray
    """The token begins a word, whatever precedes it."""
    closes: np.ndarray
    """The next token begins a word."""


def number_words(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the index of the word that each token belongs to: int64, shape (length,), ascending from 0.

    Tokens are joined by the marks of the vocabulary: `##` continues a word in WordPiece; `Ġ` and `▁` begin a
    word in byte-level and SentencePiece vocabularies. A punctuation mark is a separate word in all of them.
    Special tokens are words too. Raises StageError when the vocabulary has no such marks.
    """
    opens, closes = find_edges(tokenizer, len(tokenizer))
    begins = opens[ids]
    begins[1:] |= closes[ids[:-1]]
    begins[:1] = False
    return np.cumsum(begins)


@lru_cache(maxsize=2)
def find_edges(tokenizer: PreTrainedTokenizerBase, size: int) -> Edges:
    """Return where words begin and end, for a vocabulary of `size` tokens."""
    pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(list(range(size)))]
    special = np.zeros(size, dtype=bool)
    special[[number for number in tokenizer.all_special_ids if number < size]] = True
    inside, bytes_, texts = (_find_marked(pieces, mark) for mark in ("##", "Ġ", "▁"))
    if max(inside.sum(), bytes_.sum(), texts.sum()) < size / 100:
        raise StageError("whole_words needs a vocabulary that marks where words begin: ##, Ġ or ▁")
    if inside.sum() >= size / 100:
        return Edges(~inside | special, special)
    parts = _is_separator_byte if bytes_.sum() > texts.sum() else _is_separator
    opens = np.array([parts(piece[:1]) for piece in pieces])
    # A mark alone is only the space before the next word.
    closes = np.array([parts(piece[-1:]) and piece not in SPACES for piece in pieces])
    return Edges(opens | special, closes | special)


def _find_marked(pieces: list[str], mark: str) -> np.ndarray:
    return np.array([piece.startswith(mark) for piece in pieces])


def _is_separator_byte(character: str) -> bool:
    """Return whether a byte separates words; bytes of non-ASCII letters do not."""
    blank = "\u0100" <= character <= "\u0120"  # bytes 0 to 32, the white space among them
    return blank or (character.isascii() and not character.isalnum())


def _is_separator(character: str) -> bool:
    """Return whether a character separates words: white space, punctuation or a symbol."""
    return character in SPACES or unicodedata.category(character or " ")[0] in "PSZC"
