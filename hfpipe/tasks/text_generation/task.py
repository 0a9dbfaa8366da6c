"""Text generation: complete a prompt or answer in a conversation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from hfpipe.advice import advise
from hfpipe.errors import DataError, Problem
from hfpipe.report import DataFacts
from hfpipe.task import Requirements
from hfpipe.tasks.shared.generation_config import Sampling
from hfpipe.tasks.shared.generative import BleuTokenizer, RougeTokenizer, Writing, check_sacrebleu_tokenizer
from hfpipe.tasks.shared.templates import columns_of, parts_of_template

if TYPE_CHECKING:
    import numpy as np
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.tasks.text_generation.chat import Piece
    from hfpipe.types import Batch, Columns, Rows

REASONING = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)
"""Reasoning that a model may generate before its answer, and that is not part of the answer."""
TOOLS = "tools"
"""Usual name of the column of tools in data sets of conversations."""


class TextGeneration(Writing):
    """Generates the answer to a prompt; only answers and their end tokens are learned."""

    kind: Literal["text-generation"] = "text-generation"
    baselines: ClassVar[tuple[str, ...]] = ("majority",)
    pipeline: ClassVar[str] = "text-generation"
    answer: ClassVar[str] = "generated_text"
    template: str = "{prompt}"
    """Prompt, with column names in braces, such as `{instruction}\\n{context}\\n`.

    If it names several columns, a null in one of them is an empty text, as in Alpaca's `input`.
    """
    completion: str = "completion"
    """Column of the answer."""
    messages: str | None = None
    """Column of conversations, lists of {role, content}, in place of `template` and `completion`."""
    tools: str | None = None
    """With `messages`: column of the available tools, lists of definitions for the chat template.

    A null means no tools.
    """
    chat: bool = False
    """Format prompt and answer with the tokenizer's chat template; `messages` are always formatted by it."""
    length: int = Field(default=512, ge=4)
    """Maximum number of prompt tokens; longer prompts are truncated at the beginning, and the ledger counts
    the tokens that are lost."""
    target_length: int = Field(default=256, ge=4)
    """Maximum number of answer tokens, including the end token; the ledger counts the tokens lost by
    truncation."""
    generation: Sampling = Sampling()
    """Generation settings; `max_new_tokens` is by default `target_length`."""
    tokenize: BleuTokenizer = "auto"
    """BLEU's tokenizer, by its name in sacrebleu. `auto` selects by the script of the answers: `zh` for
    Chinese, `char` for Japanese, Korean, Thai and other scripts without spaces, else `13a`; the signature
    names it."""

    rouge_tokenize: RougeTokenizer = "auto"
    """How ROUGE splits texts into words: `rouge-score` as in that library, which keeps only a-z and 0-9;
    `unicode` for any script, with single characters as words in scripts without spaces. `auto` selects
    `rouge-score` if the answers appear to be English by their letters, else `unicode`; the signature names
    the choice."""

    @field_validator("template")
    @classmethod
    def _names_columns(cls, template: str) -> str:
        columns_of(template)
        return template

    @model_validator(mode="after")
    def _one_source(self) -> TextGeneration:
        fields = type(self).model_fields
        also = [name for name in ("template", "completion") if getattr(self, name) != fields[name].default]
        if self.messages is not None and also:
            raise ValueError(f"messages hold prompts and answers; delete {' and '.join(also)}")
        if self.tools is not None and self.messages is None:
            raise ValueError("tools go with messages; name the column of conversations, or delete tools")
        if self.messages is None and self.completion in self.inputs:
            raise ValueError(f"template: {{{self.completion}}} is the answer itself; leave it out")
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        if self.messages is not None:
            return (self.messages,) if self.tools is None else (self.messages, self.tools)
        return columns_of(self.template)

    @property
    def requires(self) -> Requirements:
        return Requirements(chat_template=self.messages is not None or self.chat)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.inputs if self.messages is not None else (*self.inputs, self.completion)

    @property
    def optional(self) -> tuple[str, ...]:
        if self.messages is not None:
            return self.inputs[1:]
        return self.inputs if len(self.inputs) > 1 else ()

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        yield from super().check(facts)
        wanted = ("string", "texts") if self.messages is None else ("nested", "lists of {role, content}")
        for column in self.columns:
            kind = facts.columns.get(column, wanted[0])
            if kind != wanted[0]:
                yield Problem(f"column {column!r} holds {kind} values where {wanted[1]} belong; name another")
        if self.messages is not None and self.tools is None and facts.columns.get(TOOLS) == "nested":
            yield Problem(
                f"the data set has a column {TOOLS!r}, which no prompt would hold; add "
                f"{advise(tools=TOOLS)} to the task, or leave the column out of the data set"
            )

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        kind = "string" if self.messages is None else "nested"
        return DataFacts(columns=dict.fromkeys(self.columns, kind), splits={})

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        # The facts of a trained model have no splits: the rows are only predicted, not learned.
        learning = bool(facts.splits)
        count = len(rows[self.columns[0]])
        pieces = [
            (row, piece)
            for row in range(count)
            for piece in self._pieces({name: rows[name][row] for name in self.columns}, tokenizer, learning)
        ]
        return {
            "input_ids": [piece.ids for _, piece in pieces],
            "learned": [piece.learned for _, piece in pieces],
            "prompt": [piece.prompt for _, piece in pieces],
            "truncated": [piece.lost for _, piece in pieces],
            "row": [row for row, _ in pieces],
        }

    def _pieces(self, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, learning: bool) -> list[Piece]:
        from hfpipe.tasks.text_generation.chat import Limits, completion, conversation, question
        from hfpipe.tokenization.chat import ASSISTANT

        limits = Limits(self.length, self.target_length)
        if self.messages is None and not self.chat:
            return [completion(tokenizer, self._prompt(row), row[self.completion], limits)]
        messages = self._said(row)
        tools = row[self.tools] if self.tools is not None else None
        if not learning:
            return [question(tokenizer, messages, limits, tools)]
        if not any(message["role"] == ASSISTANT for message in messages):
            raise DataError(f"column {self.messages!r}: {messages!r:.80} has no answer; take such rows out")
        return conversation(tokenizer, messages, limits, tools)

    def _prompt(self, row: dict[str, Any]) -> list[str]:
        """Return the prompt in parts. Raises DataError when it is empty."""
        given = {name: row[name] if row[name] is not None else "" for name in self.inputs}
        if not any(given.values()) and self.optional:
            raise DataError(f"{', '.join(given)} are all empty; fill one in, or take the row out")
        return parts_of_template(self.template, given)

    def _said(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the conversation of a row. Raises DataError when it is not one."""
        if self.messages is None:
            asked, said = "".join(self._prompt(row)).strip(), row[self.completion]
            return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        said = _turns(row[self.messages])
        if not said or not all(map(_is_message, said)):
            raise DataError(
                f"column {self.messages!r} holds {said!r:.80} where messages {{role, content}} belong; take "
                "such rows out"
            )
        return [
            {"content": ""} | {key: value for key, value in message.items() if value is not None}
            for message in said
        ]

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        import numpy as np
        import torch

        from hfpipe.encoding.padding import inputs, pad
        from hfpipe.modeling.losses.losses import IGNORED

        ids = [example["input_ids"] for example in examples]
        batch = inputs(ids, tokenizer)
        said = [
            np.where(example["learned"], each, IGNORED) for example, each in zip(examples, ids, strict=True)
        ]
        batch["labels"] = pad([np.append(each[1:], IGNORED) for each in said], IGNORED)
        if not train:
            asked = [each[: int(example["prompt"])] for example, each in zip(examples, ids, strict=True)]
            batch |= {f"_{name}": tensor for name, tensor in inputs(asked, tokenizer).items()}
            batch["_drawn"] = torch.tensor([[seed, example["index"]] for example in examples])
        return batch

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        import numpy as np

        from hfpipe.metrics.metric import objects

        if "prediction" not in columns:
            return super().columns_by_row(columns, row_index, rows, facts)
        last = np.append(np.flatnonzero(np.diff(row_index)), len(row_index) - 1)
        answers = objects(map(_spoken, columns["prediction"]))
        return {name: column[last] for name, column in {**columns, "prediction": answers}.items()} | {
            "reference": self.reference(rows)
        }

    def reference(self, rows: Rows) -> np.ndarray:
        from hfpipe.metrics.metric import objects

        said = rows[self.completion] if self.messages is None else map(_last_answer, rows[self.messages])
        return objects(map(_spoken, said))

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.overlap import Bleu, Chrf
        from hfpipe.metrics.scores.written import Rouge, writing

        match, *others = writing()
        # While it is still `auto`, only the metrics' names are used; `configure_metrics` resolves it before
        # anything is scored.
        tokenize = "13a" if self.tokenize == "auto" else self.tokenize
        rouge = "unicode" if self.rouge_tokenize == "auto" else self.rouge_tokenize
        overlap = Bleu(tokenize=tokenize), Chrf(), Rouge("rougeL", stem=True, tokenize=rouge)
        return [match, *overlap, *others]

    def check_settings(self) -> Iterator[Problem]:
        return check_sacrebleu_tokenizer(self.tokenize)

    def configure_metrics(self, rows: Rows) -> TextGeneration:
        from hfpipe.metrics.scores.overlap import tokenizer_for
        from hfpipe.metrics.scores.written import rouge_tokenizer

        if "auto" not in (self.tokenize, self.rouge_tokenize):
            return self
        reference = self.reference(rows)
        suited = {"tokenize": tokenizer_for(reference), "rouge_tokenize": rouge_tokenizer(reference)}
        left = {name: value for name, value in suited.items() if getattr(self, name) == "auto"}
        return self.model_copy(update=left)

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        [(common, _)] = Counter(self.reference(train).tolist()).most_common(1)
        return lambda rows: self.untold([common] * len(rows[self.inputs[0]]), rows)


def _spoken(text: str) -> str:
    """Return an answer without the reasoning before it."""
    return REASONING.sub("", text, count=1)


def _turns(said: Any) -> Any:
    """Return a conversation; a single text is a message of the user."""
    return [{"role": "user", "content": said}] if isinstance(said, str) else said


def _is_message(message: Any) -> bool:
    """Return whether a message has a role, and a text or tool calls."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    calls = message.get("tool_calls") or message.get("function_call")
    return isinstance(content, str) or (content is None and bool(calls))


def _last_answer(messages: str | Sequence[Mapping[str, Any]]) -> str:
    """Return the assistant's last message; an empty text if it calls a tool or there is no answer yet."""
    said = (each.get("content") for each in reversed(_turns(messages)) if each["role"] == "assistant")
    return next(said, "") or ""
