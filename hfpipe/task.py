"""The settings of a task, and everything that is known about it before a library is loaded."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from hfpipe.contract import Settings
from hfpipe.errors import Problem
from hfpipe.references.places import Code
from hfpipe.report import DataFacts

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hfpipe.runtime import TaskRuntime


@dataclass(frozen=True)
class Requirements:
    """What a task requires of its model and its tokenizer; checked before anything runs."""

    mask_token: bool = False
    """A mask token that replaces hidden tokens, such as `[MASK]`."""
    sentinels: bool = False
    """Sentinel tokens `<extra_id_0>`, `<extra_id_1>` …, one per hidden span."""
    chat_template: bool = False
    """A chat template, which formats conversations."""
    style: str = "bert"
    """Style of a tokenizer stage that has these tokens; error messages suggest it if they are missing."""
    token_types: str | None = None
    """Setting of the task that requires a model with two token types, one for each sentence of a pair."""
    prompt: bool = False
    """Whether the task has a `prompt`, which a decoder needs and an encoder-decoder does not."""


class TaskConfig(Settings, ABC):
    """A learning task as a recipe states it; `runtime` builds the objects that run it.

    Everything that is known without torch is declared here: columns, requirements, checks.
    """

    version: ClassVar[int] = 1
    """Incremented when the same settings give a different output; part of the key of stages with the task."""
    kind: str
    """Name of the task, as in Transformers' pipelines; a user-defined task is written `file.py:Class`."""
    stages: ClassVar[frozenset[str]] = frozenset({"finetune"})
    """Kinds of stage that accept the task (`pretrain`, `finetune`)."""
    length: int
    """Maximum number of tokens per example."""
    shared: ClassVar[int] = 0
    """Number of tokens that consecutive packed examples share: the last of one and the first of the next."""
    later: ClassVar[tuple[str, ...]] = ()
    """Settings added in later versions: at their default they are not in the key, so nothing is rerun."""

    @model_serializer(mode="wrap")
    def _dump_without_later(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields, found = type(self).model_fields, written(self)
        usual = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in found.items() if name not in usual}

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the trivial baselines in the `runtime`, which an evaluate stage may request."""
        return ()

    @property
    @abstractmethod
    def auto_class(self) -> str:
        """Name of the Transformers auto class that builds the model, such as `AutoModelForMaskedLM`."""

    @property
    def requires(self) -> Requirements:
        """What the task requires of model and tokenizer in addition to `auto_class`."""
        return Requirements()

    @property
    def pipeline(self) -> str | None:
        """Name of the Transformers pipeline that runs the trained model on this task; None without one."""
        return None

    @property
    def opened_by(self) -> str | None:
        """The pipeline to recommend to users; for a user-defined task, only one that it declares itself."""
        own = (cls for cls in type(self).__mro__ if not cls.__module__.startswith("hfpipe."))
        return self.pipeline if self.code is None or any("pipeline" in vars(cls) for cls in own) else None

    @property
    def continued_length(self) -> int:
        """Maximum number of tokens per example in addition to `length`, such as the text after a prompt."""
        return 0

    @property
    def packed(self) -> bool:
        """Whether training examples are cut from the concatenation of all documents, without padding."""
        return False

    @property
    def best_fit(self) -> bool:
        """Whether a packed task fills its examples with whole documents, as far as they fit."""
        return False

    @property
    def separates_documents(self) -> bool:
        """Whether documents of a packed example are masked from each other, by `_documents` of `collate`."""
        return False

    @property
    def code(self) -> Code | None:
        """The file and class of a user-defined task, None for a built-in one."""
        return Code(self.kind) if re.fullmatch(Code.pattern, self.kind) else None

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns that the data set must have."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that a prediction needs; the other columns hold the targets."""
        return self.columns[:1]

    @property
    def optional(self) -> tuple[str, ...]:
        """Columns that may hold null; a null in any other column is an error."""
        return ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns that must hold texts."""
        return ()

    @property
    def group_column(self) -> str | None:
        """Column whose equal values make rows depend on one another, such as the context of questions."""
        return None

    @property
    def templates(self) -> Mapping[str, str]:
        """Texts that surround the columns in the input of the model, by the setting that holds them.

        A text is empty where the setting has no effect.
        """
        return {}

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        """Yield each problem of the data set for this task, with paths relative to the task."""
        for column in self.columns:
            kind = facts.columns.get(column)
            if kind is None:
                there = f"it has {', '.join(sorted(facts.columns))}; rename one by 'columns' in its stage"
                yield Problem(f"the data set has no column {column!r}; {there}")
            elif column in self.texts and kind != "string":
                yield Problem(f"column {column!r} holds {kind} values, no texts; name a column of texts")

    def check_settings(self) -> Iterator[Problem]:
        """Yield problems that do not depend on the data, such as a missing package; imports nothing heavy."""
        return iter(())

    def head(self, facts: DataFacts) -> dict[str, Any]:
        """Return the entries of the model's config that depend on the data, such as `num_labels`."""
        return {}

    @property
    def prediction_task(self) -> dict[str, Any]:
        """Settings of the task used for prediction; another task if this one is only for training."""
        return self.model_dump(mode="json")

    @property
    def weighted_column(self) -> str | None:
        """Column of classes (or, for regression, numbers) whose loss may have weights; None if it may not.

        `labels` of a batch and `logits` of the outputs then have the shapes that `WeightedLoss` reads.
        """
        return None

    @property
    def taught_unit(self) -> Literal["row", "word", "token"] | None:
        """Unit for which a teacher predicts probabilities; None if the task cannot have a teacher.

        `row`: classes of a row; `word`: classes of each word, by the column `word` of its examples; `token`:
        the vocabulary, if the loss is a cross-entropy. By default `row` for a classifier of rows.
        """
        rows = self.auto_class == "AutoModelForSequenceClassification" and self.weighted_column is not None
        return "row" if rows else None

    def with_thresholds(self, thresholds: Mapping[str, float]) -> TaskConfig:
        """Return the task with the thresholds saved with a model: class → probability above which it counts.

        Thresholds in the task's settings are kept. By default there are no thresholds.
        """
        return self

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        """Return what a trained model's config contains about its data: column types, class names."""
        return DataFacts(columns=dict.fromkeys(self.columns, "string"), splits={})

    @abstractmethod
    def runtime(self) -> TaskRuntime:
        """Return the objects that run the task; the only method that imports torch."""
