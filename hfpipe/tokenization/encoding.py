"""Encodes texts so that a control token typed in one is text: only the format writes control tokens.

A user's `<|im_end|>` would otherwise end a turn, and a target `was <s>5</s>` could never be written, since
decoding drops control tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase

from hfpipe.errors import StageError
from hfpipe.tokenization.spelling import known_tokens, spelling
from hfpipe.tokenization.text import Format, Text, parts_of


def encode_texts(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    pairs: Sequence[Text] | None = None,
    *,
    target: bool = False,
    **options: Any,
) -> BatchEncoding:
    """Return what `tokenizer(texts, pairs, **options)` returns, with control tokens in texts read as text.

    Those in a `Format` part are encoded as control tokens. `target` encodes in the language of targets.
    Raises StageError for a text that a tokenizer without a fast backend cannot encode so.
    """
    sides = [[parts_of(text) for text in side] for side in (texts, pairs) if side is not None]
    found = spelling(tokenizer, ("".join(parts) for side in sides for parts in side))
    if found is None:
        return _encode_slowly(tokenizer, sides, target=target, **options)
    written = [[found.join(parts) for parts in side] for side in sides]
    with _language_of(tokenizer, target=target):
        # Tokenizers of several languages set theirs for each of them.
        found.tokenizer._tokenizer.post_processor = _backend(tokenizer).post_processor
    encoded: BatchEncoding = found.tokenizer(*written, **options)
    return encoded


def encode_plain(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> list[list[int]]:
    """Return the ids of each text, without any special tokens."""
    return encode_texts(
        tokenizer,
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]


@contextmanager
def _language_of(tokenizer: Any, *, target: bool) -> Iterator[None]:
    """Switch a tokenizer of several languages to that of its sources or targets, and then back to sources."""
    if not hasattr(tokenizer, "_switch_to_input_mode"):
        yield
        return
    if target:
        tokenizer._switch_to_target_mode()
    else:
        tokenizer._switch_to_input_mode()
    try:
        yield
    finally:
        tokenizer._switch_to_input_mode()


def _backend(tokenizer: Any) -> Any:
    return tokenizer._tokenizer


def _encode_slowly(
    tokenizer: PreTrainedTokenizerBase, sides: list[list[Sequence[str]]], *, target: bool, **options: Any
) -> BatchEncoding:
    """Encode by a tokenizer written in Python, which splits either all control tokens or none."""
    every = (part for side in sides for parts in side for part in parts)
    control = known_tokens(tokenizer).any_control
    found = [part for part in every if control.search(part)]
    typed = [part for part in found if not isinstance(part, Format)]
    if typed:
        options["split_special_tokens"] = True
        if len(typed) < len(found) or any(_reads_control(tokenizer, part) for part in typed):
            raise StageError(
                f"{typed[0]!r:.60} holds a control token, which this tokenizer cannot read as text; "
                "take a fast tokenizer, or drop such rows"
            )
    joined = [["".join(parts) for parts in side] for side in sides]
    names = ("text_target", "text_pair_target") if target else ("text", "text_pair")
    encoded: BatchEncoding = tokenizer(**dict(zip(names, joined, strict=False)), **options)
    return encoded


def _reads_control(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Tell whether a tokenizer reads a control token in a text even with `split_special_tokens`."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return not set(tokenizer.all_special_ids).isdisjoint({*ids} - {tokenizer.unk_token_id})
