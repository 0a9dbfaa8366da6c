"""Prompts and conversations → ids, and which of them are to be learned: answers, each to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hfpipe.errors import StageError
from hfpipe.tasks.shared.prompts import encode_prompt, end_token
from hfpipe.tokenization.chat import ASSISTANT, Chat, Messages, Tools
from hfpipe.tokenization.encoding import encode_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.tokenization.text import Text


class Piece(NamedTuple):
    """One example."""

    ids: list[int]
    learned: list[bool]
    """Which of the ids the model is to say by itself."""
    prompt: int
    """How many ids come before the last answer."""
    lost: int
    """Tokens that were cut."""


class Limits(NamedTuple):
    """Tokens at most."""

    prompt: int
    answer: int


def completion(tokenizer: PreTrainedTokenizerBase, prompt: Text, answer: str, limits: Limits) -> Piece:
    """Return a prompt and the answer that goes on from it, ended.

    Raises StageError when the tokenizer has no token that ends a text.
    """
    said = [*encode_plain(tokenizer, [answer])[0], end_token(tokenizer)]
    return _piece(tokenizer, encode_prompt(tokenizer, prompt), said, limits)


def conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, limits: Limits, tools: Tools = None
) -> list[Piece]:
    """Return the examples of a conversation that has an answer; every answer in it is learned once.

    What the chat template writes is found by writing the conversation up to each answer, and on to its end.
    One example holds them all where the template writes an answer alike whatever follows, and it is short
    enough; otherwise, as with templates that leave earlier reasoning out, each answer is an example with
    what came before it. Raises StageError when the template has no place where an answer begins.
    """
    turns = [number for number, message in enumerate(messages) if message["role"] == ASSISTANT]
    chat = Chat(tokenizer, messages, tools)
    befores = [chat.write(messages[:number], asking=True) for number in turns]
    afters = [chat.write(messages[: number + 1], asking=False) for number in turns]
    for before, after in zip(befores, afters, strict=True):
        if not after.startswith(before):
            raise StageError(
                "chat template: an answer does not begin where its add_generation_prompt ends; fix the "
                "template, or set chat: false and a template of your own"
            )
    if all(afters[-1].startswith(after) for after in afters):
        piece = _together(tokenizer, chat, befores, afters)
        if len(piece.ids) <= sum(limits) and piece.prompt <= limits.prompt:
            return [piece]
    return [
        _piece(
            tokenizer,
            _ids(tokenizer, chat, before),
            _answer(tokenizer, chat, after[len(before) :])[0],
            limits,
        )
        for before, after in zip(befores, afters, strict=True)
    ]


def question(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, limits: Limits, tools: Tools = None
) -> Piece:
    """Return what a model is asked by a conversation, the answer that it may end with left aside."""
    while messages and messages[-1]["role"] == ASSISTANT:
        messages = messages[:-1]
    chat = Chat(tokenizer, messages, tools)
    return _piece(tokenizer, _ids(tokenizer, chat, chat.write(messages, asking=True)), [], limits)


def _together(tokenizer: PreTrainedTokenizerBase, chat: Chat, befores: list[str], afters: list[str]) -> Piece:
    """Return one example with every answer, cut into ids at the same places where generation begins."""
    ids: list[int] = []
    learned: list[bool] = []
    behind: list[int] = []
    start = prompt = 0
    for before, after in zip(befores, afters, strict=True):
        given = [*behind, *_ids(tokenizer, chat, before[start:])]
        said, behind = _answer(tokenizer, chat, after[len(before) :])
        prompt = len(ids) + len(given)
        ids += [*given, *said]
        learned += [False] * len(given) + [True] * len(said)
        start = len(after)
    return Piece(ids, learned, prompt, 0)


def _answer(tokenizer: PreTrainedTokenizerBase, chat: Chat, text: str) -> tuple[list[int], list[int]]:
    """Return the ids of an answer to the token that ends its turn, and those of the space behind that."""
    ids = _ids(tokenizer, chat, text)
    ends = [number + 1 for number, token in enumerate(ids) if token == tokenizer.eos_token_id]
    end = ends[-1] if ends else len(ids)
    return ids[:end], ids[end:]


def _piece(tokenizer: PreTrainedTokenizerBase, prompt: list[int], answer: list[int], limits: Limits) -> Piece:
    """Return an example cut to the limits: a prompt at its beginning, an answer at its end."""
    kept = prompt
    if len(prompt) > limits.prompt:
        opening = prompt[:1] if prompt[0] == tokenizer.bos_token_id else []
        kept = [*opening, *prompt[len(prompt) - limits.prompt + len(opening) :]]
    said = answer[: limits.answer]
    lost = len(prompt) - len(kept) + len(answer) - len(said)
    return Piece([*kept, *said], [False] * len(kept) + [True] * len(said), len(kept), lost)


def _ids(tokenizer: PreTrainedTokenizerBase, chat: Chat, text: str) -> list[int]:
    return encode_plain(tokenizer, [chat.parts(text)])[0]
