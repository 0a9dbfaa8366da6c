"""The interface of a task: it encodes rows, collates batches, and defines the loss and the metrics."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import SerializerFunctionWrapHandler, model_serializer

from hfpipe.contract import Settings
from hfpipe.errors import Problem
from hfpipe.references.places import Code
from hfpipe.report import DataFacts
from hfpipe.types import Counted

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.metrics.whole import WholeMetric
    from hfpipe.types import Batch, Columns, Rows


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


class Task(Settings, ABC):
    """A learning task: encodes rows, collates batches, and defines the loss and the metrics."""

    version: ClassVar[int] = 1
    """Incremented when the same settings give a different output; part of the key of stages with the task."""
    kind: str
    """Name of the task, as in Transformers' pipelines; a user-defined task is written `file.py:Class`."""
    stages: ClassVar[frozenset[str]] = frozenset({"finetune"})
    """Kinds of stage that accept the task (`pretrain`, `finetune`)."""
    length: int
    """Maximum number of tokens per example."""
    grouped_by: ClassVar[str | None] = None
    """Setting that names a column; rows with the same value in it are not independent, such as `context`."""
    shared: ClassVar[int] = 0
    """Number of tokens that consecutive packed examples share: the last of one and the first of the next."""
    later: ClassVar[tuple[str, ...]] = ()
    """Settings added in later versions: at their default they are not in the key, so nothing is rerun."""

    @model_serializer(mode="wrap")
    def _without_later(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields, found = type(self).model_fields, written(self)
        usual = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in found.items() if name not in usual}

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the trivial baselines that `fit_baseline` implements and an evaluate stage may request."""
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
    def predicted_share(self) -> float:
        """Fraction of tokens whose vocabulary logits the loss needs; determines the memory of training."""
        return 1.0

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

    def opening_ids(self, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
        """Return the ids at the start of an example of whole documents, before the first document."""
        return ()

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

    def configure_metrics(self, rows: Rows) -> Task:
        """Return the task with those settings of its metrics filled in that depend on the rows to score.

        `rows` are all rows of the split, so that every process and every system uses the same settings.
        """
        return self

    def head(self, facts: DataFacts) -> dict[str, Any]:
        """Return the entries of the model's config that depend on the data, such as `num_labels`."""
        return {}

    def check_model(self, model: PreTrainedModel) -> Iterator[Problem]:
        """Yield reasons why a model cannot run the task with these settings that its config does not show."""
        return iter(())

    @property
    def prediction_task(self) -> dict[str, Any]:
        """Settings of the task used for prediction; another task where this one is only for training."""
        return self.model_dump(mode="json")

    def with_thresholds(self, thresholds: Mapping[str, float]) -> Task:
        """Return the task with the thresholds saved with a model: class → probability above which it counts.

        Those that the task's settings name stay. By default nothing is decided by a threshold.
        """
        return self

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        """Return what a trained model's config contains about its data: column types, class names."""
        return DataFacts(columns=dict.fromkeys(self.columns, "string"), splits={})

    def placeholder(self, column: str, rows: Rows, facts: DataFacts) -> Sequence[Any]:
        """Return placeholder values for a column that is not among `inputs`, used in prediction."""
        empty: Mapping[str, Any] = {"label": 0, "labels": [], "int": 0, "float": 0.0, "string": ""}
        return [empty[facts.columns[column]]] * len(rows[self.inputs[0]])

    @abstractmethod
    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        """Turn a batch of rows into model inputs; a pure function. Adds `row`, the position within `rows`.

        `input_ids` is a list of integer lists or arrays, or a `Ragged`; targets are named like the arguments
        of the model's forward. A packed task returns whole documents. Any other task truncates to its length
        and counts the lost tokens per row in an integer column `truncated`, or splits a long row into several
        consecutive examples with the same `row`.
        Additional columns are stored with the examples and passed to `collate`.
        """

    def encode_windows(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        """Turn a batch of rows into the evaluation examples of a packed task; pure, same format as `encode`.

        By default the documents that `encode` returns, split every `length` tokens. Every row has an example.
        """
        encoded = self.encode(rows, tokenizer, facts)
        pieces = [
            (row, ids[start : start + self.length])
            for row, ids in zip(encoded["row"], encoded["input_ids"], strict=True)
            for start in range(0, max(1, len(ids)), self.length)
        ]
        return {"input_ids": [ids for _, ids in pieces], "row": [row for row, _ in pieces]}

    @abstractmethod
    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        """Pad a list of encoded examples into tensors; a pure function.

        Each example has `index` (its position in the encoded split) and `epoch`. Randomness must be a
        function of (seed, epoch, index) in training and of (seed, index) in evaluation.
        The model receives all entries except `labels` and those whose names begin with `_`.
        """

    def positions(self, batch: Batch) -> torch.Tensor | None:
        """Return the flattened positions whose vocabulary logits the loss needs, int64; None for all."""
        return None

    @property
    def weighted_column(self) -> str | None:
        """Column of classes (or, for regression, numbers) whose loss may have weights; None if it may not.

        `labels` of a batch and `logits` of the outputs then have the shapes that `WeightedLoss` reads.
        """
        return None

    @property
    def loss_is_cross_entropy(self) -> bool:
        """Whether `loss` is exactly the cross-entropy of the vocabulary logits at `positions`.

        The loss may then be computed from hidden states, without materializing the logits of all positions.
        """
        return False

    @abstractmethod
    def count(self, batch: Batch) -> torch.Tensor:
        """Return the number of targets in the batch, as counted by `loss`, without running the model."""

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        """Return the summed loss in nats and its count, never a mean."""

    @abstractmethod
    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Mapping[str, torch.Tensor | list[Any]]:
        """Return the results of a forward pass per example: one value, or one row of values, per example."""

    def configure_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Set the config entries that Transformers reads when it runs the trained model on this task.

        Called before training. Raises StageError when an entry cannot be saved.
        """
        return

    def generates(self, *, training: bool) -> bool:
        """Return whether generated text is evaluated, in evaluation or, with `training`, during training."""
        return False

    def generate(self, model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
        """Return the columns that replace those of `outputs_to_columns` where the task `generates`."""
        raise NotImplementedError

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        """Return one value per row: the columns that metrics read and `predictions.parquet` stores.

        `columns` holds one value per example. `row_index`, int64 (examples,), ascending, gives each example's
        position in `rows`, the rows of the data set; the examples of a row are consecutive.
        By default numbers are summed over the examples of a row.
        """
        import numpy as np

        starts = np.flatnonzero(np.diff(row_index, prepend=-1))
        if len(starts) == len(row_index):
            return columns
        return {name: np.add.reduceat(column, starts) for name, column in columns.items()}

    @abstractmethod
    def metrics(self, facts: DataFacts) -> list[Metric]:
        """Return the metrics that read the columns of `columns_by_row`."""

    def validation_metrics(self, facts: DataFacts) -> list[Metric]:
        """Return the metrics of the validation split during training."""
        return self.metrics(facts)

    def whole_metrics(self, facts: DataFacts) -> list[WholeMetric]:
        """Return the metrics that need all rows of an evaluation at once; they read the columns of
        `encode_predictions`."""
        return []

    def baseline_metrics(self, name: str, facts: DataFacts) -> list[Metric]:
        """Return the metrics whose columns a trivial baseline provides."""
        return self.metrics(facts)

    def class_names(self, facts: DataFacts) -> Mapping[str, Sequence[str]]:
        """Return the columns that hold class ids, each with the class names in the order of the ids."""
        return {}

    def class_order(self, facts: DataFacts) -> Mapping[str, Sequence[str]]:
        """Return the columns that hold one value per class, each with the class names in that order."""
        return {}

    def encode_predictions(self, columns: Columns, facts: DataFacts) -> Mapping[str, Any]:
        """Return the columns as stored in `predictions.parquet`, with class names in place of ids."""
        classes = {name: names for name, names in self.class_names(facts).items() if name in columns}
        named = {name: [names[number] for number in columns[name]] for name, names in classes.items()}
        return {**columns, **named}

    def decode_predictions(self, shown: Columns, facts: DataFacts) -> Columns:
        """Return the original columns; the inverse of `encode_predictions`."""
        import numpy as np

        classes = {name: names for name, names in self.class_names(facts).items() if name in shown}
        ids = {name: {label: number for number, label in enumerate(names)} for name, names in classes.items()}
        return {**shown, **{name: np.array([of[label] for label in shown[name]]) for name, of in ids.items()}}

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        """Return the prediction for each row, JSON-serializable, with the keys of Transformers' pipelines."""
        shown = self.encode_predictions(columns, facts)
        return [{"answer": answer} for answer in shown["prediction"]]

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        """Fit one of `baselines` on the train split; the result maps rows to the columns that metrics read.

        `tokenizer` is that of the evaluated model.
        """
        raise NotImplementedError
