"""Multiple choice: select the correct ending of a context, as in SWAG."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hfpipe.errors import Problem
from hfpipe.report import DataFacts
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hfpipe.runtime import TaskRuntime


class MultipleChoice(TaskConfig):
    """Selects the correct ending of a context; the model scores each pair of context and ending."""

    kind: Literal["multiple-choice"] = "multiple-choice"
    auto_class: ClassVar[str] = "AutoModelForMultipleChoice"
    baselines: ClassVar[tuple[str, ...]] = ("chance", "longest")
    context: str = "context"
    """Column of the text that the endings continue."""
    start: str | None = None
    """Column of the words that every ending begins with, such as SWAG's `sent2`."""
    endings: str | list[str] = "endings"
    """Column with a list of endings per row, or a list of columns with one ending each, such as
    `[ending0, ending1]`."""
    label: str = "label"
    """Column of the index of the correct ending, counted from 0."""
    length: int = Field(default=128, ge=4)
    """Maximum number of tokens of a context with one ending; the ledger counts the truncated tokens."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.inputs, self.label)

    @property
    def inputs(self) -> tuple[str, ...]:
        endings = (self.endings,) if isinstance(self.endings, str) else tuple(self.endings)
        return (self.context, *([] if self.start is None else [self.start]), *endings)

    @property
    def texts(self) -> tuple[str, ...]:
        return self.inputs[:-1] if isinstance(self.endings, str) else self.inputs

    def check_settings(self) -> Iterator[Problem]:
        if not isinstance(self.endings, str) and len(self.endings) < 2:
            yield Problem("endings: name at least two columns, or one column of lists", ("endings",))

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        yield from super().check(facts)
        if isinstance(self.endings, str) and facts.columns.get(self.endings, "strings") != "strings":
            yield Problem(
                f"column {self.endings!r} holds {facts.columns[self.endings]} values, not lists "
                "of texts; name the columns of single endings in a list",
                ("endings",),
            )
        kind = facts.columns.get(self.label, "int")
        strange = [name for name in facts.labels.get(self.label, []) if not name.isdecimal()]
        if strange or kind not in ("int", "label"):
            found = f"the class {strange[0]!r}" if strange else f"{kind} values"
            yield Problem(
                f"column {self.label!r} holds {found}, not the index of an ending, counted from 0",
                ("label",),
            )

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        columns = dict.fromkeys(self.inputs, "string") | {self.label: "int"}
        if isinstance(self.endings, str):
            columns[self.endings] = "strings"
        return DataFacts(columns=columns, splits={})

    def runtime(self) -> TaskRuntime:
        from hfpipe.tasks.multiple_choice.runtime import compose_multiple_choice

        return compose_multiple_choice(self)
