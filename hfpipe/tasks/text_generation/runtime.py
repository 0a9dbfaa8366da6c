"""Encodes prompts and conversations, and scores the answers that a model generates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.encoding.padding import pad, pad_inputs
from hfpipe.errors import DataError
from hfpipe.metrics.metric import to_object_array
from hfpipe.metrics.scores.overlap import Bleu, Chrf, select_tokenizer
from hfpipe.metrics.scores.written import Rouge, create_text_metrics, select_rouge_tokenizer
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.runtime import Baseline, Encoder, TaskRuntime
from hfpipe.tasks.shared.objectives import TokenCrossEntropy
from hfpipe.tasks.shared.templates import format_template
from hfpipe.tasks.shared.written_text import (
    GeneratedTextEvaluator,
    GenerationSetup,
    TextGenerator,
    TextScoring,
)
from hfpipe.tasks.text_generation.chat import (
    Limits,
    encode_chat_prompt,
    encode_completion,
    encode_conversation,
)
from hfpipe.tokenization.chat import ASSISTANT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.tasks.text_generation.chat import ChatExample
    from hfpipe.tasks.text_generation.task import TextGeneration
    from hfpipe.types import Batch, Columns, Rows

REASONING = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)
"""Reasoning that a model may generate before its answer; it is not part of the answer."""


def compose_text_generation(config: TextGeneration) -> TaskRuntime:
    """Return the task's encoder, objective, evaluator, generator and baselines."""
    scoring = AnswerScoring(config)
    return TaskRuntime(
        config,
        TextGenerationEncoder(config),
        TokenCrossEntropy(),
        GeneratedTextEvaluator(config, config, scoring),
        {"majority": Baseline(partial(_fit_majority, config, scoring))},
        TextGenerator(config),
        GenerationSetup(config.length, config),
    )


@dataclass(frozen=True)
class TextGenerationEncoder(Encoder):
    """Encodes prompts with their answers, or conversations, and marks the tokens to learn."""

    config: TextGeneration

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        # The facts of a trained model have no splits: predictions are made for the rows, but they are not
        # learned.
        learning, columns = bool(facts.splits), self.config.columns
        pieces = [
            (row, piece)
            for row in range(len(rows[columns[0]]))
            for piece in self._encode_row({name: rows[name][row] for name in columns}, tokenizer, learning)
        ]
        return {
            "input_ids": [piece.ids for _, piece in pieces],
            "learned": [piece.learned for _, piece in pieces],
            "prompt": [piece.prompt for _, piece in pieces],
            "truncated": [piece.lost for _, piece in pieces],
            "row": [row for row, _ in pieces],
        }

    def _encode_row(
        self, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, learning: bool
    ) -> list[ChatExample]:
        config = self.config
        limits = Limits(config.length, config.target_length)
        if config.messages is None and not config.chat:
            return [encode_completion(tokenizer, self._build_prompt(row), row[config.completion], limits)]
        messages = self._get_conversation(row)
        tools = row[config.tools] if config.tools is not None else None
        if not learning:
            return [encode_chat_prompt(tokenizer, messages, limits, tools)]
        if not any(message["role"] == ASSISTANT for message in messages):
            raise DataError(f"column {config.messages!r}: {messages!r:.80} has no answer; drop such rows")
        return encode_conversation(tokenizer, messages, limits, tools)

    def _build_prompt(self, row: dict[str, Any]) -> list[str]:
        """Return the prompt in parts. Raises DataError when it is empty."""
        given = {name: row[name] if row[name] is not None else "" for name in self.config.inputs}
        if not any(given.values()) and self.config.optional:
            raise DataError(f"{', '.join(given)} are all empty; fill one in, or remove the row")
        return format_template(self.config.template, given)

    def _get_conversation(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the conversation of a row. Raises DataError when it is not one."""
        config = self.config
        if config.messages is None:
            prompt, answer = "".join(self._build_prompt(row)).strip(), row[config.completion]
            return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        messages = _make_conversation(row[config.messages])
        if not messages or not all(map(_is_message, messages)):
            raise DataError(
                f"column {config.messages!r} holds {messages!r:.80}, not messages {{role, content}}; "
                "drop such rows"
            )
        return [
            {"content": ""} | {key: value for key, value in message.items() if value is not None}
            for message in messages
        ]

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        ids = [example["input_ids"] for example in examples]
        batch = pad_inputs(ids, tokenizer)
        labels = [
            np.where(example["learned"], each, IGNORED) for example, each in zip(examples, ids, strict=True)
        ]
        batch["labels"] = pad([np.append(each[1:], IGNORED) for each in labels], IGNORED)
        if not train:
            asked = [each[: int(example["prompt"])] for example, each in zip(examples, ids, strict=True)]
            batch |= {f"_{name}": tensor for name, tensor in pad_inputs(asked, tokenizer).items()}
            batch["_drawn"] = torch.tensor([[seed, example["index"]] for example in examples])
        return batch


@dataclass(frozen=True)
class AnswerScoring(TextScoring):
    """Compares answers, without the reasoning before them."""

    config: TextGeneration

    def answer(self, text: str) -> str:
        """Return an answer without the reasoning before it."""
        return REASONING.sub("", text, count=1)

    def references(self, rows: Rows) -> np.ndarray:
        config = self.config
        answers = (
            rows[config.completion]
            if config.messages is None
            else map(_get_last_answer, rows[config.messages])
        )
        return to_object_array(map(self.answer, answers))

    def metrics(self) -> list[Metric]:
        match, *others = create_text_metrics()
        # While it is still `auto`, only the metrics' names are used; `configure` resolves it before anything
        # is scored.
        tokenize = "13a" if self.config.tokenize == "auto" else self.config.tokenize
        rouge = "unicode" if self.config.rouge_tokenize == "auto" else self.config.rouge_tokenize
        overlap = Bleu(tokenize=tokenize), Chrf(), Rouge("rougeL", stem=True, tokenize=rouge)
        return [match, *overlap, *others]

    def configure(self, rows: Rows) -> TextGeneration:
        config = self.config
        if "auto" not in (config.tokenize, config.rouge_tokenize):
            return config
        references = self.references(rows)
        suited = {
            "tokenize": select_tokenizer(references),
            "rouge_tokenize": select_rouge_tokenizer(references),
        }
        left = {name: value for name, value in suited.items() if getattr(config, name) == "auto"}
        return config.model_copy(update=left)


def _fit_majority(
    config: TextGeneration,
    scoring: TextScoring,
    train: Rows,
    facts: DataFacts,
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Rows], Columns]:
    [(common, _)] = Counter(scoring.references(train).tolist()).most_common(1)
    return lambda rows: scoring.baseline_columns([common] * len(rows[config.inputs[0]]), rows)


def _make_conversation(given: Any) -> Any:
    """Return a conversation; a single text is a user message."""
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


def _is_message(message: Any) -> bool:
    """Return whether a message has a role, and a text or tool calls."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    calls = message.get("tool_calls") or message.get("function_call")
    return isinstance(content, str) or (content is None and bool(calls))


def _get_last_answer(messages: str | Sequence[Mapping[str, Any]]) -> str:
    """Return the assistant's last message; an empty text if it calls a tool or there is no answer yet."""
    contents = (
        each.get("content") for each in reversed(_make_conversation(messages)) if each["role"] == "assistant"
    )
    return next(contents, "") or ""
