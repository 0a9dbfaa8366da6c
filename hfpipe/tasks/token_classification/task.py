"""Token classification: one tag per word, such as named entities or parts of speech."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from hfpipe.advice import advise, advise_classes
from hfpipe.errors import Problem
from hfpipe.modeling.loading.class_names import create_class_entries, get_class_names
from hfpipe.report import DataFacts
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hfpipe.runtime import TaskRuntime

PREFIXES = {
    "IOB1": "IB",
    "IOB2": "IB",
    "IOE1": "IE",
    "IOE2": "IE",
    "IOBES": "BIES",
    "BMES": "BMES",
    "BILOU": "BILU",
}
"""Scheme → the prefixes of its entity tags."""


class TokenClassification(TaskConfig):
    """Tags the words of a sentence; with tags such as `B-PER`, whole entities are scored."""

    kind: Literal["token-classification"] = "token-classification"
    baselines: ClassVar[tuple[str, ...]] = ("gazetteer",)
    pipeline: ClassVar[str | None] = "token-classification"
    taught_unit: ClassVar[Literal["word"]] = "word"
    words: str = "words"
    """Column of the words, as lists of strings."""
    tags: str = "tags"
    """Column of the tags, as lists of classes, one per word."""
    length: int = Field(default=128, ge=8)
    """Maximum number of tokens per window; longer sentences are split into several windows, without loss."""
    stride: int = Field(default=32, ge=0)
    """Tokens that consecutive windows share; a word is tagged in the window where it has the most context."""
    scheme: Literal["IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BMES", "BILOU"] | None = None
    """Count only entities that conform to this scheme, as in seqeval's strict mode; by default, count as
    conlleval does."""

    @model_validator(mode="after")
    def _check_stride(self) -> Self:
        if self.stride > self.length // 2:
            raise ValueError("`stride` is more than half of `length`; lower it")
        return self

    @property
    def auto_class(self) -> str:
        return "AutoModelForTokenClassification"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.words, self.tags)

    @property
    def weighted_column(self) -> str:
        return self.tags

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        yield from super().check(facts)
        for key, column, kind, what in (
            ("words", self.words, "strings", "lists of words"),
            ("tags", self.tags, "labels", "lists of classes"),
        ):
            found = facts.columns.get(column)
            if found not in (None, kind):
                fix = advise_classes(column, str(found)) if (key, found) == ("tags", "strings") else ""
                yield Problem(f"column {column!r} holds {found}, not {what}{fix}", (key,))
        yield from self._check_tag_names(facts.labels.get(self.tags, []))

    def _check_tag_names(self, names: Sequence[str]) -> Iterator[Problem]:
        bmes = any(name.startswith("M-") for name in names)
        fits = PREFIXES[self.scheme or ("BMES" if bmes else "IOBES")]
        strange = [name for name in names if not re.fullmatch(rf"O|[{fits}](-.+)?", name)]
        if strange and (self.scheme is not None or self.marks_entities(names)):
            begin = ", ".join(f"{letter}-" for letter in fits)
            bilou = self.scheme is None and re.match("[LU]-", strange[0])
            fix = f"; write {advise(scheme='BILOU')}" if bilou else ""
            yield Problem(f"tag {strange[0]!r} is not O and does not begin with {begin}{fix}", ("tags",))

    def marks_entities(self, names: Sequence[str]) -> bool:
        """Return whether tags mark entities by prefixes, such as `B-`."""
        bare = {*names} <= {*"OBIES"} or {"B"} <= {*names} <= {*"OBMES"}
        return bare or any(re.match("[BIMESLU]-", name) for name in names)

    def head(self, facts: DataFacts) -> dict[str, Any]:
        return create_class_entries(facts.labels[self.tags])

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        return DataFacts(
            columns={self.words: "strings", self.tags: "labels"},
            splits={},
            labels={self.tags: get_class_names(config)},
        )

    def runtime(self) -> TaskRuntime:
        from hfpipe.tasks.token_classification.runtime import compose_token_classification

        return compose_token_classification(self)
