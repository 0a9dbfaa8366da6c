"""Conversations as a chat template writes them; control tokens that a user typed stay text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from hfpipe.errors import DataError, StageError
from hfpipe.tokenization.spelling import any_of, control_tokens, template_tokens, unused_mark
from hfpipe.tokenization.text import Format, Verbatim

ASSISTANT = "assistant"
OPENING, CLOSING = "\ufdd2", "\ufdd3"
"""Round the numbers of typed tokens while a template is rendered; Unicode assigns no characters to them."""

Messages = Sequence[dict[str, Any]]
"""Mappings with at least `role`, and `content` or calls of tools."""
Tools = Sequence[dict[str, Any]] | None
"""Definitions of tools that a template may write in front of the messages."""


class Chat:
    """Writes one conversation, and prefixes of it, by a tokenizer's chat template.

    A control token in a message is replaced by a mark while the template is rendered, which may strip, split
    and reorder texts, and is put back as text that no token is made of. In messages of the assistant, tokens
    that are not special but known to the template, as `<think>`, keep their meaning.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Tools = None) -> None:
        """Raises StageError when the tokenizer has no chat template."""
        if tokenizer.chat_template is None:
            raise StageError(
                "this tokenizer has no chat template; take one that has, or give prompts by `template` and "
                "answers by `completion`"
            )
        self._tokenizer = tokenizer
        special = control_tokens(tokenizer)
        self._tokens = [*special, *template_tokens(tokenizer)]
        self._of_assistant, self._of_others = (_pattern(each) for each in (special, self._tokens))
        self._tools = list(tools or ())
        texts = list(_strings([*messages, *self._tools]))
        self._mark = unused_mark(OPENING, CLOSING, texts)
        self._foreign = any(OPENING in text for text in texts)

    def write(self, messages: Messages, *, asking: bool) -> str:
        """Return messages as the template writes them, with marks; `asking` goes on to the next answer.

        Raises DataError when the template refuses the messages.
        """
        marked = [self._marked(dict(message)) for message in messages]
        tools: list[Any] | None = [self._marked(tool) for tool in self._tools] or None
        try:
            text = self._tokenizer.apply_chat_template(
                marked, tools=tools, tokenize=False, add_generation_prompt=asking
            )
        except Exception as error:  # a template raises what it likes
            raise DataError(f"the chat template refuses {list(messages)!r:.200}: {error}") from error
        return str(text)

    def parts(self, text: str) -> list[str]:
        """Return what `write` returned, or a part of it, as parts to be encoded.

        Raises DataError where the template has cut a mark, so that it is not known what was typed.
        """
        found = re.split(f"{self._mark}([0-9]+){self._mark}", text)
        if not self._foreign and any(OPENING in part for part in found[::2]):
            raise DataError("the chat template takes control tokens in messages apart; drop such rows")
        return [
            Verbatim(self._tokens[int(part)]) if number % 2 else Format(part)
            for number, part in enumerate(found)
        ]

    def _marked(self, message: dict[str, Any]) -> dict[str, Any]:
        tokens = self._of_assistant if message.get("role") == ASSISTANT else self._of_others
        marked: dict[str, Any] = _mapped(message, lambda text: tokens.sub(self._marked_token, text))
        return marked

    def _marked_token(self, found: re.Match[str]) -> str:
        return f"{self._mark}{self._tokens.index(found[0])}{self._mark}"


def _pattern(tokens: Sequence[str]) -> re.Pattern[str]:
    return re.compile(any_of(tokens) or "(?!)")  # which matches nothing


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _mapped(each, change) for key, each in value.items()}
    return [_mapped(each, change) for each in value] if isinstance(value, (list, tuple)) else value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from (*_strings(key), *_strings(each))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _strings(each)
