"""Filling blanks: predict the word in a blank, or classify by the likeliest word in a pattern's blank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from hfpipe.advice import advise_classes
from hfpipe.errors import Problem
from hfpipe.report import DataFacts
from hfpipe.task import Requirements, TaskConfig
from hfpipe.tasks.shared.templates import find_template_columns

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hfpipe.runtime import TaskRuntime


class FillMask(TaskConfig):
    """Learns to predict the words in blanks.

    A blank is encoded as one mask token per token of its answer. Its candidates are those in `choices`.
    Without `choices`, they are all answers of the train split if `answer` is a column of classes, and
    otherwise any words. With `pattern` and `verbalizer` the task classifies: the prediction is the class
    whose word is likeliest in the pattern's blank (Schick and Schütze, 2021).
    """

    kind: Literal["fill-mask"] = "fill-mask"
    text: str = "text"
    """Column of the texts, each with one blank."""
    blank: str = Field(default="[MASK]", min_length=1)
    """String that marks the blank in a text or pattern."""
    answer: str = "answer"
    """Column of the correct words for the blanks: texts or classes."""
    choices: str | None = None
    """Column with the list of candidates for each blank."""
    pattern: str | None = None
    """Pattern for classification: column names in braces and a blank, as in `{text} It was [MASK].`."""
    verbalizer: dict[str, str] | None = None
    """Class → the word that represents it in the pattern's blank."""
    label: str = "label"
    """Column of the class, used with `pattern`."""
    length: int = Field(default=128, ge=8)
    """Maximum number of tokens; longer texts lose the tokens farthest from the blank, and the ledger counts
    them."""

    @field_validator("pattern")
    @classmethod
    def _check_columns(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            find_template_columns(pattern)
        return pattern

    @model_validator(mode="after")
    def _check_pattern(self) -> Self:
        if (self.pattern is None) != (self.verbalizer is None):
            raise ValueError("`pattern` and `verbalizer` need each other; write both or neither")
        if self.pattern is not None and self.pattern.count(self.blank) != 1:
            raise ValueError(f"`pattern` needs one blank {self.blank!r}; write it where the word belongs")
        if len(set(self.class_words)) < len(self.class_words):
            raise ValueError(
                "`verbalizer` has the same word for two classes; use a different word for each class"
            )
        return self

    @model_validator(mode="after")
    def _check_unused_settings(self) -> Self:
        names = ("label",) if self.pattern is None else ("text", "answer", "choices")
        idle = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if idle:
            case = "without" if self.pattern is None else "with"
            raise ValueError(f"{case} `pattern`, {' and '.join(idle)} would have no effect; leave that out")
        return self

    @property
    def pattern_columns(self) -> tuple[str, ...]:
        """Columns that the pattern refers to."""
        return find_template_columns(self.pattern) if self.pattern is not None else ()

    @property
    def class_words(self) -> list[str]:
        """Words that represent classes."""
        return list((self.verbalizer or {}).values())

    @property
    def auto_class(self) -> str:
        return "AutoModelForMaskedLM"

    @property
    def requires(self) -> Requirements:
        return Requirements(mask_token=True)

    @property
    def pipeline(self) -> str | None:
        return "fill-mask" if self.pattern is None else None  # no pipeline classifies by a pattern

    @property
    def baselines(self) -> tuple[str, ...]:
        return ("majority", "tfidf") if self.pattern is not None else ("frequent",)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.pattern_columns or tuple(name for name in (self.text, self.choices) if name is not None)

    @property
    def templates(self) -> Mapping[str, str]:
        return {"pattern": self.pattern or ""}

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.pattern is None else ()

    @property
    def columns(self) -> tuple[str, ...]:
        if self.pattern is not None:
            return (*self.pattern_columns, self.label)
        return (self.text, self.answer, *([self.choices] if self.choices else []))

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        yield from super().check(facts)
        kind = facts.columns.get(self.answer, "string")
        if self.pattern is None and kind not in ("string", "label"):
            yield Problem(f"column {self.answer!r} holds {kind} values, not words; name a column of words")
        kind = facts.columns.get(self.choices or "", "strings")
        if kind not in ("strings", "labels"):
            yield Problem(f"column {self.choices!r} holds {kind} values; it should list words", ("choices",))
        if self.verbalizer is None or self.label not in facts.columns:
            return
        classes = facts.labels.get(self.label)
        if classes is None or facts.columns[self.label] != "label":
            fix = advise_classes(self.label, facts.columns[self.label]) or "; name one that does"
            yield Problem(f"column {self.label!r} holds no classes{fix}", ("label",))
        elif set(classes) != set(self.verbalizer):
            there, named = ", ".join(classes), ", ".join(self.verbalizer)
            yield Problem(f"the classes are {there}; the verbalizer has {named}", ("verbalizer",))

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        if self.verbalizer is None:
            columns = {self.text: "string", self.answer: "string"}
            return DataFacts(columns=columns | ({self.choices: "strings"} if self.choices else {}), splits={})
        columns = dict.fromkeys(self.pattern_columns, "string") | {self.label: "label"}
        return DataFacts(columns=columns, splits={}, labels={self.label: list(self.verbalizer)})

    def runtime(self) -> TaskRuntime:
        from hfpipe.tasks.fill_mask.runtime import compose_fill_mask

        return compose_fill_mask(self)
