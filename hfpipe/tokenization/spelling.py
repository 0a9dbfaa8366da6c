"""A copy of a tokenizer whose control tokens have secret names, so that no text can spell one."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerBase

from hfpipe.tokenization.text import Format, Verbatim

_KEPT = "_hfpipe_spelling"
"""Attribute under which a tokenizer keeps its copy: made from a large vocabulary, one takes a second."""


OPENING, CLOSING = "\ufdd0", "\ufdd1"
"""Round the number that begins a secret name; Unicode assigns no characters to them."""
SENTINEL = "<extra_id_[0-9]+>"
"""Pattern of the tokens that stand for hidden spans in T5's denoising."""


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the tokens that no text holds: the special ones, and the sentinels of denoising."""
    added = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or re.fullmatch(SENTINEL, token.content)
    ]
    return [token for token in dict.fromkeys([*added, *tokenizer.all_special_tokens]) if token]


def template_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the added tokens that are not special but which the chat template writes, as `<think>`."""
    templates: Any = getattr(tokenizer, "chat_template", None) or ""
    source = templates if isinstance(templates, str) else "\0".join(templates.values())
    special = set(control_tokens(tokenizer))
    added = (token.content for token in tokenizer.added_tokens_decoder.values())
    return [token for token in added if len(token.strip()) > 1 and token not in special and token in source]


def unused_mark(opening: str, closing: str, texts: Iterable[str]) -> str:
    """Return the first numbered mark that stands in none of the texts."""
    numbers = {
        found
        for text in texts
        if opening in text
        for found in re.findall(f"{opening}([0-9]+){closing}", text)
    }
    number = next(number for number in range(len(numbers) + 1) if str(number) not in numbers)
    return f"{opening}{number}{closing}"


def any_of(tokens: Iterable[str]) -> str:
    """Return a regular expression for any of some tokens, the longest first."""
    return "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))


@dataclass(frozen=True)
class Spelling:
    """A tokenizer with secret names, and how texts are written for it."""

    tokenizer: Any
    """Encodes as the original does, with the same ids; not to be saved."""
    names: Mapping[str, str]
    """Every renamed token → its secret name."""
    ordinary: frozenset[str]
    """Those that are no control tokens, and so are meant in every text but a `Verbatim` one."""

    def join(self, parts: Sequence[str]) -> str:
        """Return the parts as one text, with secret names for the tokens that are meant."""
        return "".join(self._written(part) for part in parts)

    def _written(self, part: str) -> str:
        if isinstance(part, Verbatim):
            return str(part)
        meant = self.names if isinstance(part, Format) else self.ordinary
        if not meant or not part:
            return str(part)
        return re.sub(any_of(meant), lambda found: self.names[found[0]], part)


def spelling(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Spelling | None:
    """Return the copy of a tokenizer whose secret names occur in none of the texts.

    A token of a single character keeps its name, as it is also how that character is encoded. None where
    there is no backend of the library Tokenizers to copy.
    """
    backend = getattr(tokenizer, "_tokenizer", None)
    if not isinstance(backend, Backend):
        return None
    mark = unused_mark(OPENING, CLOSING, texts)
    ordinary = template_tokens(tokenizer)
    names = {token: mark + token for token in [*control_tokens(tokenizer), *ordinary] if len(token) > 1}
    key = tuple(names.items()), len(tokenizer)
    kept = vars(tokenizer).get(_KEPT)
    if kept is None or kept[0] != key:
        twin = _twin(tokenizer, backend, names)
        if twin is None:
            return None
        kept = key, Spelling(twin, names, frozenset(ordinary))
        vars(tokenizer)[_KEPT] = kept
    found: Spelling = kept[1]
    return found


def _twin(tokenizer: PreTrainedTokenizerBase, backend: Backend, names: Mapping[str, str]) -> Any:
    try:
        state = json.loads(backend.to_str())
    except Exception:  # Tokenizers raises bare ones; a part written in Python cannot be copied
        return None
    state["truncation"] = state["padding"] = None
    for token in state["added_tokens"]:
        if token["content"] in names:
            token.update(content=names[token["content"]], normalized=False, single_word=False)
    _rename(state["model"], names)
    twin = copy.copy(tokenizer)
    vars(twin).pop(_KEPT, None)
    twin._tokenizer = Backend.from_str(json.dumps(state))
    twin.split_special_tokens = False
    twin._in_target_context_manager = True  # the original is switched between languages, not the copy
    return twin


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename entries of a model's vocabulary, and drop the merges by which a text would come to one."""
    vocab = model["vocab"]
    if isinstance(vocab, list):
        model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    else:
        model["vocab"] = {names.get(token, token): number for token, number in vocab.items()}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [
            [left, right]
            for left, right in pairs
            if not {left, right, left + right, left + right[prefix:]} & names.keys()
        ]
