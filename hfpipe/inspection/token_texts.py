"""Formats single tokens as text with visible spaces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hfpipe.number_format import make_visible

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACE = "▁"
"""Represents a space, as in SentencePiece."""
PART = "\ufffd"
"""Replacement character for an incomplete character."""


class TokenTexts:
    """The texts of the tokens of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def write(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each id, with spaces as `▁`, and incomplete characters as in the vocabulary."""
        return [self._known.setdefault(number, self._write(number)) for number in ids]

    def _write(self, number: int) -> str:
        piece = str(self._tokenizer.convert_ids_to_tokens([number])[0])
        text = str(self._tokenizer.decode([number]))
        if not text or PART in text:
            text = piece
        if piece.startswith(SPACE) and not text.startswith((" ", SPACE)):
            text = f" {text}"
        return make_visible(text.replace("\n", "\\n").replace(" ", SPACE))
