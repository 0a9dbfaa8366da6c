"""Extractive question answering: find the span of a text that answers a question, as in SQuAD."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hfpipe.errors import Problem
from hfpipe.report import DataFacts
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hfpipe.runtime import TaskRuntime


class QuestionAnswering(TaskConfig):
    """Finds the answer to a question in a text, with the columns and scores of SQuAD."""

    kind: Literal["question-answering"] = "question-answering"
    baselines: ClassVar[tuple[str, ...]] = ("sentence",)
    question: str = "question"
    """Column of the question."""
    context: str = "context"
    """Column of the text that contains the answer."""
    answer: str = "answers"
    """Column of the reference answers: objects of two lists, `text` and `answer_start` (in characters).

    A text, an object with one text, and a list of texts or objects are accepted too. Without a position, the
    text must occur exactly once in the context.
    """
    length: int = Field(default=384, ge=16)
    """Maximum number of tokens of a question with one window of its text; longer texts are split into several
    windows."""
    stride: int = Field(default=128, ge=0)
    """Tokens that consecutive windows share; fewer if a long question leaves too little room."""
    max_answer_length: int = Field(default=30, ge=1)
    """Maximum number of tokens per answer."""
    version_2: bool = False
    """Whether a question may have no answer, as in SQuAD 2.0; an empty prediction means no answer."""

    @property
    def auto_class(self) -> str:
        return "AutoModelForQuestionAnswering"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.question, self.context, self.answer)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.question, self.context)

    @property
    def group_column(self) -> str:
        return self.context

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        yield from super().check(facts)
        for key, column, kinds, what in (
            ("question", self.question, ("string",), "text"),
            ("context", self.context, ("string",), "text"),
            (
                "answer",
                self.answer,
                ("nested", "string", "strings"),
                "objects {text: [...], answer_start: [...]}",
            ),
        ):
            found = facts.columns.get(column)
            if found not in (None, *kinds):
                yield Problem(f"column {column!r} holds {found}, not {what}", (key,))

    def head(self, facts: DataFacts) -> dict[str, Any]:
        return {"num_labels": 2}

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        kinds = {self.question: "string", self.context: "string", self.answer: "nested"}
        return DataFacts(columns=kinds, splits={})

    def runtime(self) -> TaskRuntime:
        from hfpipe.tasks.question_answering.runtime import compose_question_answering

        return compose_question_answering(self)
