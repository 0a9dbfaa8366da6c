"""Checks whether decoding restores the text, which a score per byte of the text requires."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def count_lost_bytes(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], ids: Sequence[Sequence[int]]
) -> list[int]:
    """Return the number of UTF-8 bytes of each text that decoding does not restore, 0 for a lossless one.

    Case, accents, unknown characters or spaces that a tokenizer drops are never predicted. A text that is not
    restored exactly counts in full, since the bits needed to restore it are unknown.
    """
    decoded = (
        tokenizer.decode(list(each), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for each in ids
    )
    return [0 if one == text else len(text.encode()) for one, text in zip(decoded, texts, strict=True)]
