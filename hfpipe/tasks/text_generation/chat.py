"""Encodes prompts and conversations, and marks the tokens to learn: each answer and its end token."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hfpipe.errors import StageError
from hfpipe.tasks.shared.prompts import encode_prompt, get_end_token
from hfpipe.tokenization.chat import ASSISTANT, Chat, Messages, Tools
from hfpipe.tokenization.encoding import encode_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.tokenization.text import Text


class ChatExample(NamedTuple):
    """One example."""

    ids: list[int]
    learned: list[bool]
    """Whether each id is a target."""
    prompt: int
    """Number of ids before the last answer."""
    lost: int
    """Number of tokens lost by truncation."""


class Limits(NamedTuple):
    """Maximum numbers of tokens."""

    prompt: int
    answer: int


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, answer: str, limits: Limits
) -> ChatExample:
    """Return the example of a prompt and its answer, followed by the end token.

    Raises StageError when the tokenizer has no end token.
    """
    answer_ids = [*encode_plain(tokenizer, [answer])[0], get_end_token(tokenizer)]
    return _truncate_example(tokenizer, encode_prompt(tokenizer, prompt), answer_ids, limits)


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, limits: Limits, tools: Tools = None
) -> list[ChatExample]:
    """Return the examples of a conversation with at least one answer; every answer is learned exactly once.

    Each answer is located by rendering the chat template up to the answer and up to its end. One example
    holds all answers if it is short enough and the template renders an answer in the same way whatever
    follows it. Otherwise, as with templates that drop earlier reasoning, each answer is a separate example
    with the messages before it. Raises StageError when the template does not mark the beginning of an answer.
    """
    turns = [number for number, message in enumerate(messages) if message["role"] == ASSISTANT]
    chat = Chat(tokenizer, messages, tools)
    befores = [chat.write(messages[:number], generation_prompt=True) for number in turns]
    afters = [chat.write(messages[: number + 1], generation_prompt=False) for number in turns]
    for before, after in zip(befores, afters, strict=True):
        if not after.startswith(before):
            raise StageError(
                "chat template: an answer does not begin where its add_generation_prompt ends; fix the "
                "template, or set chat: false and a template of your own"
            )
    if all(afters[-1].startswith(after) for after in afters):
        piece = _encode_chat(tokenizer, chat, befores, afters)
        if len(piece.ids) <= sum(limits) and piece.prompt <= limits.prompt:
            return [piece]
    return [
        _truncate_example(
            tokenizer,
            _tokenize(tokenizer, chat, before),
            _encode_answer(tokenizer, chat, after[len(before) :])[0],
            limits,
        )
        for before, after in zip(befores, afters, strict=True)
    ]


def encode_chat_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, limits: Limits, tools: Tools = None
) -> ChatExample:
    """Return the prompt of a conversation, without its final answer if it has one."""
    while messages and messages[-1]["role"] == ASSISTANT:
        messages = messages[:-1]
    chat = Chat(tokenizer, messages, tools)
    return _truncate_example(
        tokenizer, _tokenize(tokenizer, chat, chat.write(messages, generation_prompt=True)), [], limits
    )


def _encode_chat(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, befores: list[str], afters: list[str]
) -> ChatExample:
    """Return one example with every answer, tokenized in parts that begin where generation begins."""
    ids: list[int] = []
    learned: list[bool] = []
    behind: list[int] = []
    start = prompt = 0
    for before, after in zip(befores, afters, strict=True):
        given = [*behind, *_tokenize(tokenizer, chat, before[start:])]
        answer_ids, behind = _encode_answer(tokenizer, chat, after[len(before) :])
        prompt = len(ids) + len(given)
        ids += [*given, *answer_ids]
        learned += [False] * len(given) + [True] * len(answer_ids)
        start = len(after)
    return ChatExample(ids, learned, prompt, 0)


def _encode_answer(tokenizer: PreTrainedTokenizerBase, chat: Chat, text: str) -> tuple[list[int], list[int]]:
    """Return the ids of an answer up to its end token, and the ids that follow, such as white space."""
    ids = _tokenize(tokenizer, chat, text)
    ends = [number + 1 for number, token in enumerate(ids) if token == tokenizer.eos_token_id]
    end = ends[-1] if ends else len(ids)
    return ids[:end], ids[end:]


def _truncate_example(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], answer: list[int], limits: Limits
) -> ChatExample:
    """Return an example truncated to the limits: a prompt at its beginning, an answer at its end."""
    kept = prompt
    if len(prompt) > limits.prompt:
        opening = prompt[:1] if prompt[0] == tokenizer.bos_token_id else []
        kept = [*opening, *prompt[len(prompt) - limits.prompt + len(opening) :]]
    answer_ids = answer[: limits.answer]
    lost = len(prompt) - len(kept) + len(answer) - len(answer_ids)
    return ChatExample([*kept, *answer_ids], [False] * len(kept) + [True] * len(answer_ids), len(kept), lost)


def _tokenize(tokenizer: PreTrainedTokenizerBase, chat: Chat, text: str) -> list[int]:
    return encode_plain(tokenizer, [chat.split_parts(text)])[0]
