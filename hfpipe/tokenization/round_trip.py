"""Whether tokens give back the text that they were made of, which a score per byte of the text needs."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def lost_bytes(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], ids: Sequence[Sequence[int]]
) -> list[int]:
    """Return the UTF-8 bytes of each text that its ids do not give back, 0 for one that they do.

    Case, accents, unknown characters or spaces that a tokenizer drops are never predicted. A text that is not
    given back as it was counts as a whole, as it is not known which bits would restore it.
    """
    decoded = (
        tokenizer.decode(list(each), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for each in ids
    )
    return [0 if one == text else len(text.encode()) for one, text in zip(decoded, texts, strict=True)]
