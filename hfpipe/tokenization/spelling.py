"""A copy of a tokenizer in which control tokens have secret names, so that no text can contain one."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerBase

from hfpipe.tokenization.text import Format, Text, Verbatim, get_parts

_TOKENS = "_hfpipe_tokens"
_COPY = "_hfpipe_copy"
"""Attributes of a tokenizer that cache results, which take a second to compute for a large vocabulary."""
OPENING, CLOSING = "\ufdd0", "\ufdd1"
"""Enclose the number at the beginning of a secret name; these code points are noncharacters."""
SENTINEL = "<extra_id_[0-9]+>"
"""Pattern of the sentinel tokens, which replace hidden spans in T5's denoising."""


@dataclass(frozen=True)
class KnownTokens:
    """The tokens of a tokenizer that only a format may contain, in the order of their ids."""

    control: Sequence[str]
    """Special tokens and the sentinels of denoising; never part of a text."""
    template: Sequence[str]
    """Tokens that are not special but occur in the chat template, such as `<think>`."""

    @cached_property
    def any_control(self) -> re.Pattern[str]:
        """Matches a control token in a text."""
        return _compile_pattern(self.control)

    @cached_property
    def any_template(self) -> re.Pattern[str]:
        """Matches a token of the template in a text."""
        return _compile_pattern(self.template)

    @cached_property
    def any_known(self) -> re.Pattern[str]:
        """Matches a control token or a token of the template in a text."""
        return _compile_pattern([*self.control, *self.template])


def _compile_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the tokens, the longest first; without tokens it never matches."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def find_known_tokens(tokenizer: PreTrainedTokenizerBase) -> KnownTokens:
    """Return the control tokens of a tokenizer and those of its chat template.

    The result is recomputed when tokens are added, or when special tokens or the template change.
    """
    template = getattr(tokenizer, "chat_template", None)
    key = len(tokenizer), tokenizer.all_special_tokens, template
    kept = vars(tokenizer).get(_TOKENS)
    if kept is None or kept[0] != key:
        kept = vars(tokenizer)[_TOKENS] = key, _find_tokens(tokenizer, template)
    found: KnownTokens = kept[1]
    return found


def _find_tokens(tokenizer: PreTrainedTokenizerBase, template: Any) -> KnownTokens:
    added = [token for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    special = [token.content for token in added if token.special or re.fullmatch(SENTINEL, token.content)]
    control = [token for token in dict.fromkeys([*special, *tokenizer.all_special_tokens]) if token]
    taken = set(control)
    source = "\0".join(template.values()) if isinstance(template, dict) else template or ""
    found = (token.content for token in added if len(token.content.strip()) > 1 and token.content in source)
    return KnownTokens(control, [token for token in found if token not in taken])


def find_unused_mark(opening: str, closing: str, texts: Iterable[str]) -> str:
    """Return the first numbered mark that occurs in none of the texts."""
    numbers = {
        found
        for text in texts
        if opening in text
        for found in re.findall(f"{opening}([0-9]+){closing}", text)
    }
    number = next(number for number in range(len(numbers) + 1) if str(number) not in numbers)
    return f"{opening}{number}{closing}"


@dataclass(frozen=True)
class Spelling:
    """A tokenizer with secret names, and the conversion of texts for it."""

    tokenizer: Any
    """Encodes like the original, with the same ids; must not be saved."""
    known: KnownTokens
    names: Mapping[str, str]
    """Every renamed token → its secret name."""

    def write(self, texts: Sequence[Text]) -> list[str]:
        """Return each text as one string, with secret names for the tokens that are meant as tokens.

        In a row's text these are the tokens of the template; in a `Verbatim` text there are none.
        """
        if not self.known.template and {*map(type, texts)} == {str}:
            return cast("list[str]", list(texts))  # the usual case: no tokens are meant
        return ["".join(map(self._write_part, get_parts(text))) for text in texts]

    def _write_part(self, part: str) -> str:
        if isinstance(part, Format):
            return self.known.any_known.sub(self._rename_token, part)
        if isinstance(part, Verbatim) or not self.known.template:
            return part
        return self.known.any_template.sub(self._rename_token, part)

    def _rename_token(self, found: re.Match[str]) -> str:
        return self.names.get(found[0], found[0])


def get_spelling(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Spelling | None:
    """Return the copy of a tokenizer whose secret names occur in none of the texts.

    A single-character token keeps its name, since it also encodes that character. None if there is no backend
    of the library Tokenizers to copy.
    """
    backend = getattr(tokenizer, "_tokenizer", None)
    if not isinstance(backend, Backend):
        return None
    known, mark = find_known_tokens(tokenizer), find_unused_mark(OPENING, CLOSING, texts)
    kept = vars(tokenizer).get(_COPY)
    if kept is None or kept[0] is not known or kept[1] != mark:
        names = {token: mark + token for token in [*known.control, *known.template] if len(token) > 1}
        renamed = _rename_tokens(tokenizer, backend, names)
        found = None if renamed is None else Spelling(renamed, known, names)
        kept = vars(tokenizer)[_COPY] = known, mark, found
    made: Spelling | None = kept[2]
    return made


def _rename_tokens(tokenizer: PreTrainedTokenizerBase, backend: Backend, names: Mapping[str, str]) -> Any:
    """Return a copy of a tokenizer with other names for some tokens; None if it cannot be copied."""
    try:
        state = json.loads(backend.to_str())
    except Exception:  # Tokenizers raises bare Exceptions; Python components cannot be copied
        return None
    state["truncation"] = state["padding"] = None
    for token in state["added_tokens"]:
        if token["content"] in names:
            token.update(content=names[token["content"]], normalized=False, single_word=False)
    _rename_entries(state["model"], names)
    renamed = copy.copy(tokenizer)
    for kept in (_TOKENS, _COPY):
        vars(renamed).pop(kept, None)
    renamed._tokenizer = Backend.from_str(json.dumps(state))
    renamed.split_special_tokens = False
    renamed._in_target_context_manager = True  # the original is switched between languages, not the copy
    return renamed


def _rename_entries(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename entries of a model's vocabulary, and drop the merges that would produce one from a text."""
    vocab = model["vocab"]
    if isinstance(vocab, list):
        model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    else:
        model["vocab"] = {names.get(token, token): number for token, number in vocab.items()}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
        model["merges"] = [
            [left, right] for left, right in pairs if not _is_renamed(left, right, prefix, names)
        ]


def _is_renamed(left: str, right: str, prefix: int, names: Mapping[str, str]) -> bool:
    """Return whether a merge reads or produces a renamed token; a vocabulary may have 250,000 merges."""
    return left in names or right in names or left + right in names or left + right[prefix:] in names
