"""Text generation: complete a prompt or answer in a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from hfpipe.advice import advise
from hfpipe.errors import Problem
from hfpipe.report import DataFacts
from hfpipe.task import Requirements, TaskConfig
from hfpipe.tasks.shared.generation_config import Sampling
from hfpipe.tasks.shared.generative import (
    BleuTokenizer,
    GenerativeSettings,
    RougeTokenizer,
    check_sacrebleu_tokenizer,
)
from hfpipe.tasks.shared.templates import find_template_columns

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hfpipe.runtime import TaskRuntime

TOOLS = "tools"
"""Usual name of the column of tools in data sets of conversations."""


class TextGeneration(GenerativeSettings, TaskConfig):
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
    the lost tokens."""
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
    def _check_template(cls, template: str) -> str:
        find_template_columns(template)
        return template

    @model_validator(mode="after")
    def _check_source(self) -> TextGeneration:
        fields = type(self).model_fields
        also = [name for name in ("template", "completion") if getattr(self, name) != fields[name].default]
        if self.messages is not None and also:
            raise ValueError(f"messages contain prompts and answers; delete {' and '.join(also)}")
        if self.tools is not None and self.messages is None:
            raise ValueError("tools needs messages; name the column of conversations, or delete tools")
        if self.messages is None and self.completion in self.inputs:
            raise ValueError(f"template: {{{self.completion}}} is the answer; leave it out")
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        if self.messages is not None:
            return (self.messages,) if self.tools is None else (self.messages, self.tools)
        return find_template_columns(self.template)

    @property
    def templates(self) -> Mapping[str, str]:
        return {"template": self.template if self.messages is None else ""}

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
                yield Problem(f"column {column!r} holds {kind} values, not {wanted[1]}; name another")
        if self.messages is not None and self.tools is None and facts.columns.get(TOOLS) == "nested":
            yield Problem(
                f"the data set has a column {TOOLS!r}, which prompts would not include; add "
                f"{advise(tools=TOOLS)} to the task, or leave the column out of the data set"
            )

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        kind = "string" if self.messages is None else "nested"
        return DataFacts(columns=dict.fromkeys(self.columns, kind), splits={})

    def check_settings(self) -> Iterator[Problem]:
        return check_sacrebleu_tokenizer(self.tokenize)

    def runtime(self) -> TaskRuntime:
        from hfpipe.tasks.text_generation.runtime import compose_text_generation

        return compose_text_generation(self)
