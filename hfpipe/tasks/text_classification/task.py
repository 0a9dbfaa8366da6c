"""Text classification: one label, several labels, sentence pairs, or regression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hfpipe.advice import advise_classes
from hfpipe.errors import Problem
from hfpipe.modeling.loading.class_names import create_class_entries, get_class_names, get_problem_type
from hfpipe.recipe.messages import suggest
from hfpipe.report import DataFacts
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hfpipe.runtime import TaskRuntime

PROBLEM_TYPES = {
    "label": "single_label_classification",
    "labels": "multi_label_classification",
    "float": "regression",
}
"""Type of the label column → Transformers' `get_problem_type`."""


class TextClassification(TaskConfig):
    """Classifies a text or a pair of texts; regression when the label is a float."""

    kind: Literal["text-classification"] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    baselines: ClassVar[tuple[str, ...]] = ("majority", "tfidf")
    pipeline: ClassVar[str | None] = "text-classification"
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text, for sentence pairs."""
    label: str = "label"
    """Column of the label: a class, a list of classes, or a float for regression."""
    length: int = Field(default=256, ge=4)
    """Maximum number of tokens; longer texts are truncated, and the ledger counts the lost tokens."""
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    """Class → probability above which it is predicted, if rows have lists of classes.

    The defaults are the thresholds that `calibrate` saved with the model, otherwise 0.5.
    """
    later: ClassVar[tuple[str, ...]] = ("thresholds",)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text, self.label) if self.text_pair is None else (self.text, self.text_pair, self.label)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns[:-1]

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    @property
    def weighted_column(self) -> str:
        return self.label

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        yield from super().check(facts)
        kind = facts.columns.get(self.label)
        if kind is not None and kind not in PROBLEM_TYPES:
            yield Problem(
                f"column {self.label!r} holds {kind} values, not labels{advise_classes(self.label, kind)}",
                ("label",),
            )

        yield from self._check_thresholds(kind, facts.labels.get(self.label, []))
        if len(facts.labels.get(self.label, ("", ""))) < 2:
            yield Problem(
                f"column {self.label!r} has a single class; a classifier needs at least two", ("label",)
            )

    def _check_thresholds(self, kind: str | None, names: Sequence[str]) -> Iterator[Problem]:
        if self.thresholds is not None and kind in ("label", "float"):
            what = "one class" if kind == "label" else "a number"
            yield Problem(f"column {self.label!r} holds {what} per row; delete thresholds", ("thresholds",))
        elif kind == "labels":
            for name in (self.thresholds or {}).keys() - {*names}:
                message = f"column {self.label!r} has no class {name!r}{suggest(name, names)}"
                yield Problem(message, ("thresholds", name))

    def with_thresholds(self, thresholds: Mapping[str, float]) -> TextClassification:
        kept = self.thresholds is not None or not thresholds
        return self if kept else self.model_copy(update={"thresholds": dict(thresholds)})

    def threshold(self, name: str) -> float:
        """Return the probability above which a class is predicted, if rows have lists of classes."""
        return (self.thresholds or {}).get(name, 0.5)

    def head(self, facts: DataFacts) -> dict[str, Any]:
        names = facts.labels.get(self.label, ["LABEL_0"])
        return create_class_entries(names) | {"problem_type": PROBLEM_TYPES[facts.columns[self.label]]}

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        names = get_class_names(config)
        problem = get_problem_type(config)
        kind = next(kind for kind, known in PROBLEM_TYPES.items() if known == problem)
        columns = {**dict.fromkeys(self.inputs, "string"), self.label: kind}
        return DataFacts(columns=columns, splits={}, labels={} if kind == "float" else {self.label: names})

    def runtime(self) -> TaskRuntime:
        from hfpipe.tasks.text_classification.runtime import compose_text_classification

        return compose_text_classification(self)
