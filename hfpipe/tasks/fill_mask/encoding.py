"""Encodes texts with a blank: mask tokens in the blank, with the answer's tokens as targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.encoding.padding import pad, pad_inputs
from hfpipe.errors import DataError, StageError
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.tokenization.encoding import encode_plain, encode_texts
from hfpipe.tokenization.text import Format, get_parts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.tokenization.text import Text
    from hfpipe.types import Batch


COLUMNS = ("input_ids", "target", "blank", "choices", "sizes", "reference", "truncated", "row")
"""Columns of an encoded blank."""


def encode_blanks(
    texts: Sequence[tuple[Text, Text]],
    answers: Sequence[str],
    choices: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
) -> dict[str, list[Any]]:
    """Encode each text with as many mask tokens in its blank as its answer has tokens.

    A text is a pair: the part before its blank and the part after it, as returned by `split_at_blank`.
    The space before a blank belongs to the word in the blank. A text longer than `length` loses the tokens
    farthest from the blank, so that the longest of answer and choices fits. `choices` holds the candidates of
    each row, and is empty if any filling is allowed; duplicates and candidates without tokens are dropped.

    Returns `input_ids`, `target` (the answer's tokens), `blank` (position of the first mask), `choices`
    (their tokens, concatenated) with their `sizes`, `reference` (index of the answer among the choices, -1
    for none), `truncated` and `row`. Raises StageError when there is no mask token or no room for the masks.
    """
    if tokenizer.mask_token is None:
        raise StageError("fill-mask needs a mask token, and this tokenizer has none; use another tokenizer")
    spell = _make_speller(tokenizer)
    rows = [
        {**_encode_text(*given, spell, tokenizer, length), "row": row}
        for row, given in enumerate(zip(texts, answers, choices, strict=True))
    ]
    return {name: [each[name] for each in rows] for name in COLUMNS}


def _encode_text(
    text: tuple[Text, Text],
    answer: str,
    words: Sequence[str],
    spell: Callable[[str], list[int]],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
) -> dict[str, Any]:
    """Return the columns of one text; raises the errors of `encode_blanks`."""
    before, after = (list(get_parts(side)) for side in text)
    lead = " " if "".join(before)[-1:].isspace() else ""
    target = spell(lead + answer) if answer else []
    candidates = {word: pieces for word in words if word and (pieces := spell(lead + word))}
    longest = max(1, len(target), *map(len, candidates.values()))
    whole = [*_strip_end(before), Format(tokenizer.mask_token), *after]
    ids, place, lost = _truncate(whole, tokenizer, length, longest)
    known = answer in candidates and tokenizer.unk_token_id not in target
    return {
        "input_ids": [*ids[:place], *[tokenizer.mask_token_id] * max(1, len(target)), *ids[place + 1 :]],
        "target": target,
        "blank": place,
        "choices": [piece for pieces in candidates.values() for piece in pieces],
        "sizes": [len(pieces) for pieces in candidates.values()],
        "reference": list(candidates).index(answer) if known else -1,
        "truncated": lost,
    }


def _make_speller(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    @cache
    def spell(word: str) -> list[int]:
        return encode_plain(tokenizer, [word])[0]

    return spell


def split_at_blank(text: str, blank: str) -> tuple[str, str]:
    """Split a text at its blank. Raises DataError unless it has exactly one blank."""
    before, found, after = text.partition(blank)
    if not found or blank in after:
        raise DataError(
            f"{text[:60]!r} has {text.count(blank)} blanks {blank!r} instead of one; set `blank` to what "
            "the texts contain, or drop such rows"
        )
    return before, after


def _strip_end(parts: list[str]) -> list[str]:
    """Return the parts of a text without its trailing white space."""
    *others, last = parts or [""]
    shorter = type(last)(last.rstrip())
    return [*others, shorter] if shorter or not others else _strip_end(others)


def _truncate(
    text: Text, tokenizer: PreTrainedTokenizerBase, length: int, longest: int
) -> tuple[list[int], int, int]:
    """Return the ids of a text with one mask, the mask's position, and how many tokens were cut off.

    `longest` masks fit in `length`; equally many tokens are kept on both sides, if there are enough.
    """
    encoded = encode_texts(tokenizer, [text], return_special_tokens_mask=True, verbose=False)
    [ids], [special] = encoded["input_ids"], encoded["special_tokens_mask"]
    if ids.count(tokenizer.mask_token_id) != 1:
        raise DataError(
            f"{''.join(get_parts(text))[:60]!r} has a mask token and a blank; write the blank once"
        )
    place = ids.index(tokenizer.mask_token_id)
    start = next((n for n in range(place) if not special[n]), place)
    end = next((n for n in range(len(ids), place + 1, -1) if not special[n - 1]), place + 1)
    room = length - start - (len(ids) - end) - longest
    if room < 0:
        raise StageError(f"length {length} has no room for a mask of {longest} tokens; raise it")
    left, right = place - start, end - place - 1
    kept_left = min(left, max(room // 2, room - right))
    kept_right = min(right, room - kept_left)
    kept = [*ids[:start], *ids[place - kept_left : place + 1 + kept_right], *ids[end:]]
    return kept, start + kept_left, left + right - kept_left - kept_right


def collate_blanks(examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Pad encoded blanks into tensors; the answer's tokens are the labels at the masks."""
    batch = pad_inputs([example["input_ids"] for example in examples], tokenizer)
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for row, example in zip(labels, examples, strict=True):
        target = torch.from_numpy(np.array(example["target"], dtype=np.int64))  # an empty list has no dtype
        row[int(example["blank"]) :][: len(target)] = target
    numbers = {
        name: torch.tensor([int(example[name]) for example in examples]) for name in ("blank", "reference")
    }
    return batch | {
        "labels": labels,
        "_blank": numbers["blank"],
        "_gold": numbers["reference"],
        "_choices": pad([example["choices"] for example in examples], IGNORED),
        "_sizes": pad([example["sizes"] for example in examples], 0),
    }
