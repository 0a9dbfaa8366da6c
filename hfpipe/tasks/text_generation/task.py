"""Text generation: answer a prompt, or take part in a conversation."""

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
"""What a model may write before its answer, and is not part of it."""
TOOLS = "tools"
"""What data sets of conversations call the column of tools."""


class TextGeneration(Writing):
    """Answers a prompt; only answers are learned, each to the token that ends it."""

    kind: Literal["text-generation"] = "text-generation"
    baselines: ClassVar[tuple[str, ...]] = ("majority",)
    pipeline: ClassVar[str] = "text-generation"
    answer: ClassVar[str] = "generated_text"
    template: str = "{prompt}"
    """What the model reads, with names of columns in braces, as `{instruction}\\n{context}\\n`.

    Where it names several columns, null in one of them is an empty text, as in Alpaca's `input`.
    """
    completion: str = "completion"
    """Column of the answer."""
    messages: str | None = None
    """Column of whole conversations, lists of {role, content}, in place of template and completion."""
    tools: str | None = None
    """With `messages`: column of the tools that may be called, lists of definitions for the chat template.

    Null where there are none.
    """
    chat: bool = False
    """Write prompt and answer as the tokenizer's chat template does a conversation; `messages` always are."""
    length: int = Field(default=512, ge=4)
    """Tokens of the prompt at most, cut at its beginning; the ledger says what longer ones lost."""
    target_length: int = Field(default=256, ge=4)
    """Tokens of an answer at most, its end included; the ledger counts what is cut here, too."""
    generation: Sampling = Sampling()
    """How it writes; as many new tokens as `target_length` where max_new_tokens is not set."""
    tokenize: BleuTokenizer = "auto"
    """BLEU's tokenizer, as sacrebleu calls it. `auto` goes by the answers: `zh` for Chinese, `char` for
    Japanese, Korean, Thai and other scripts without spaces, else `13a`; the signature names it."""

    rouge_tokenize: RougeTokenizer = "auto"
    """How ROUGE finds words: `rouge-score` as that library, which knows only the letters a-z; `unicode` in
    texts of any script, with characters for words where a script has no spaces. `auto` takes `rouge-score`
    where the answers are English as far as their letters tell, else `unicode`; the signature names it."""

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
        # A trained model's own facts have no splits: nothing is to be learned, the rows are only asked.
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
        """Return what the model reads, in parts. Raises DataError where there is nothing to read."""
        given = {name: row[name] if row[name] is not None else "" for name in self.inputs}
        if not any(given.values()) and self.optional:
            raise DataError(f"{', '.join(given)} are all empty; fill one in, or take the row out")
        return parts_of_template(self.template, given)

    def _said(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a row as a conversation. Raises DataError when it is none."""
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
        # Where it is still `auto`, only the names are used; `configure_metrics` decides before anything is
        # scored.
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
    """Return a conversation; a text alone is what its user says."""
    return [{"role": "user", "content": said}] if isinstance(said, str) else said


def _is_message(message: Any) -> bool:
    """Tell whether there is a role, and a text or calls of tools."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    calls = message.get("tool_calls") or message.get("function_call")
    return isinstance(content, str) or (content is None and bool(calls))


def _last_answer(messages: str | Sequence[Mapping[str, Any]]) -> str:
    """Return the text that the assistant says last, or nothing where it calls a tool or has yet to answer."""
    said = (each.get("content") for each in reversed(_turns(messages)) if each["role"] == "assistant")
    return next(said, "") or ""
