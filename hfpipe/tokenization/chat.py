"""Renders conversations with a chat template; control tokens in the messages remain plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from hfpipe.errors import DataError, StageError
from hfpipe.tokenization.spelling import find_known_tokens, find_unused_mark
from hfpipe.tokenization.text import Format, Verbatim

ASSISTANT = "assistant"
OPENING, CLOSING = "\ufdd2", "\ufdd3"
"""Enclose the numbers of typed tokens while a template is rendered; these code points are noncharacters."""

Messages = Sequence[dict[str, Any]]
"""Mappings with at least `role`, and `content` or tool calls."""
Tools = Sequence[dict[str, Any]] | None
"""Definitions of tools, which a template may render before the messages."""


class Chat:
    """Renders one conversation, and prefixes of it, with a tokenizer's chat template.

    A template may strip, split and reorder texts. During rendering, each control token in a message is
    replaced by a mark; afterwards it is restored as text that is never encoded as a token. In messages of the
    assistant, tokens that are not special but used by the template, such as `<think>`, keep their meaning.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Tools = None) -> None:
        """Raises StageError when the tokenizer has no chat template."""
        if tokenizer.chat_template is None:
            raise StageError(
                "this tokenizer has no chat template; use one that has, or set prompts with `template` and "
                "answers with `completion`"
            )
        self._tokenizer = tokenizer
        self._known = find_known_tokens(tokenizer)
        self._tokens = [*self._known.control, *self._known.template]
        texts = list(_list_strings([*messages, *(tools or ())]))
        self._mark = find_unused_mark(OPENING, CLOSING, texts)
        self._has_marks = any(OPENING in text for text in texts)
        self._tools: list[Any] | None = [self._mark_message(tool) for tool in tools or ()] or None

    def write(self, messages: Messages, *, generation_prompt: bool) -> str:
        """Return the rendered messages, with marks, and the generation prompt if requested.

        Raises DataError when the template rejects the messages.
        """
        marked = [self._mark_message(dict(message)) for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                marked, tools=self._tools, tokenize=False, add_generation_prompt=generation_prompt
            )
        except Exception as error:  # a template may raise any exception
            raise DataError(f"the chat template rejects {list(messages)!r:.200}: {error}") from error
        return str(text)

    def split_parts(self, text: str) -> list[str]:
        """Split the output of `write`, or a substring of it, into parts to encode.

        Raises DataError if the template has split a mark, so that the typed token is unknown.
        """
        found = re.split(f"{self._mark}([0-9]+){self._mark}", text)
        if not self._has_marks and any(OPENING in part for part in found[::2]):
            raise DataError("the chat template splits control tokens in messages; drop such rows")
        return [
            Verbatim(self._tokens[int(part)]) if number % 2 else Format(part)
            for number, part in enumerate(found)
        ]

    def _mark_message(self, message: dict[str, Any]) -> dict[str, Any]:
        of_assistant = message.get("role") == ASSISTANT
        tokens = self._known.any_control if of_assistant else self._known.any_known
        marked: dict[str, Any] = _map_strings(message, lambda text: tokens.sub(self._mark_token, text))
        return marked

    def _mark_token(self, found: re.Match[str]) -> str:
        return f"{self._mark}{self._tokens.index(found[0])}{self._mark}"


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _map_strings(each, change) for key, each in value.items()}
    return [_map_strings(each, change) for each in value] if isinstance(value, (list, tuple)) else value


def _list_strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from (*_list_strings(key), *_list_strings(each))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _list_strings(each)
