"""Encodes source and target texts in the same way as in generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hfpipe.errors import StageError
from hfpipe.tokenization.encoding import encode_plain, encode_texts
from hfpipe.tokenization.text import fill_template

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from hfpipe.tokenization.text import Text

PLACEHOLDER = "{source}"
"""Placeholder of the text in a prompt."""
PLAIN: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}

Ids = list[list[int]]


def get_end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that ends a text. Raises StageError when the tokenizer has none."""
    for end in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if end is not None:
            return end
    raise StageError("this tokenizer has no end token; use one with an eos_token")


def encode_targets(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int, *, alone: bool
) -> tuple[Ids, list[int]]:
    """Return the target ids, at most `length` each with an end token, and how many were cut from each.

    `alone` adds the special tokens that begin a text, as for the decoder of an encoder-decoder; a target that
    follows a prompt has none.
    """
    end = get_end_token(tokenizer)
    found = encode_texts(tokenizer, texts, target=True, add_special_tokens=alone, **PLAIN)["input_ids"]
    whole = [_end_once(ids, end) for ids in found]
    kept = [ids if len(ids) <= length else [*ids[: length - 1], end] for ids in whole]
    return kept, [len(ids) - len(each) for ids, each in zip(whole, kept, strict=True)]


def _end_once(ids: list[int], end: int) -> list[int]:
    """Return ids with exactly one end token, without the language token that MBart adds after it."""
    return ids[: len(ids) - ids[::-1].index(end)] if end in ids[-2:] else [*ids, end]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, template: str, texts: Sequence[str], length: int
) -> tuple[Ids, list[int]]:
    """Return the ids of the template with each text, at most `length`, and how many were cut from each.

    Only the text is truncated, at its end. Raises StageError when the template alone is too long.
    """
    whole = [encode_prompt(tokenizer, fill_template(template, PLACEHOLDER, text)) for text in texts]
    kept = [
        ids if len(ids) <= length else _shorten_source(tokenizer, template, text, length)
        for ids, text in zip(whole, texts, strict=True)
    ]
    return kept, [len(ids) - len(each) for ids, each in zip(whole, kept, strict=True)]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: Text) -> list[int]:
    """Return the ids of a prompt, with the tokenizer's begin token but no end token; never empty."""
    end = get_end_token(tokenizer)
    ids: list[int] = encode_texts(tokenizer, [text], **PLAIN)["input_ids"][0]
    ids = ids[:-1] if ids[-1:] == [end] else ids
    return ids or [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end]


def _shorten_source(tokenizer: PreTrainedTokenizerBase, template: str, text: str, length: int) -> list[int]:
    [pieces] = encode_plain(tokenizer, [text])
    keep = len(pieces)
    while keep > 0:
        # Byte tokens may end inside a character; that rest would decode to an invalid character.
        kept = str(tokenizer.decode(pieces[:keep])).rstrip("\ufffd")
        ids = encode_prompt(tokenizer, fill_template(template, PLACEHOLDER, kept))
        if len(ids) <= length:
            return ids
        keep -= len(ids) - length
    ids = encode_prompt(tokenizer, fill_template(template, PLACEHOLDER, ""))
    if len(ids) > length:
        raise StageError(f"prompt: has {len(ids)} tokens without any text, more than length {length}")
    return ids


def set_languages(tokenizer: PreTrainedTokenizerBase, source: str | None, target: str | None) -> int | None:
    """Set the languages of a multilingual tokenizer; return the token that its targets begin with, if any.

    Raises StageError when the tokenizer is not multilingual or does not have a given language.
    """
    for name, language in (("src_lang", source), ("tgt_lang", target)):
        if language is None:
            continue
        if not hasattr(tokenizer, name):
            raise StageError(f"{name}: this tokenizer has no language tokens; delete it")
        if _find_language_id(tokenizer, language) is None:
            raise StageError(
                f"{name}: this tokenizer has no language {language!r}; write it as the tokenizer does"
            )
        setattr(tokenizer, name, language)
    if target is None:
        return None
    first: int = tokenizer(text_target="a", **PLAIN)["input_ids"][0]
    return first if first == _find_language_id(tokenizer, target) else None


def _find_language_id(tokenizer: PreTrainedTokenizerBase, language: str) -> int | None:
    """Return the id of a language's token; M2M100 needs a special lookup."""
    added = tokenizer.get_added_vocab()
    return added.get(language, added.get(f"__{language}__"))
