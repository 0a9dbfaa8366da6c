"""The interface of a task: what is learned, how rows become tensors, and outputs a loss and scores."""

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
    """What a task needs of its model and its tokenizer, which is checked before anything runs."""

    mask_token: bool = False
    """A token that stands for what is hidden, as `[MASK]`."""
    sentinels: bool = False
    """The tokens `<extra_id_0>`, `<extra_id_1>` …, each for a hidden span."""
    chat_template: bool = False
    """A chat template, by which conversations are written."""
    style: str = "bert"
    """Style of a tokenizer stage that has these tokens; it is advised where the tokenizer lacks them."""
    token_types: str | None = None
    """Setting of the task that needs a model with two token types, one for each sentence of a pair."""
    prompt: bool = False
    """Whether the task has a `prompt`, with which a decoder does what an encoder-decoder does without."""


class Task(Settings, ABC):
    """What is learned: how rows become tensors, and outputs a loss and scores. One file a task."""

    version: ClassVar[int] = 1
    """Raised when the same settings come to mean another output; part of the key of stages with the task."""
    kind: str
    """Which task this is, as Transformers' pipelines name it; one's own is written `file.py:Class`."""
    stages: ClassVar[frozenset[str]] = frozenset({"finetune"})
    """Kinds of stage that admit it (`pretrain`, `finetune`)."""
    length: int
    """Tokens an example has at most."""
    grouped_by: ClassVar[str | None] = None
    """Setting that names a column whose equal values make rows depend on one another, as `context`."""
    shared: ClassVar[int] = 0
    """Tokens that end one packed example and begin the next as well."""
    later: ClassVar[tuple[str, ...]] = ()
    """Settings that were added later: at their default they are not part of a key, and nothing runs again."""

    @model_serializer(mode="wrap")
    def _without_later(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields, found = type(self).model_fields, written(self)
        usual = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in found.items() if name not in usual}

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the trivial baselines that `fit_baseline` knows, which an evaluate stage may name."""
        return ()

    @property
    @abstractmethod
    def auto_class(self) -> str:
        """Name of the Transformers auto class that builds the model, as `AutoModelForMaskedLM`."""

    @property
    def requires(self) -> Requirements:
        """What the task needs of model and tokenizer beyond what `auto_class` says."""
        return Requirements()

    @property
    def pipeline(self) -> str | None:
        """Name of the pipeline of Transformers that does the task with the trained model, if there is one."""
        return None

    @property
    def opened_by(self) -> str | None:
        """The pipeline named to users; for user code, which may reads otherwise, only one it declares."""
        own = (cls for cls in type(self).__mro__ if not cls.__module__.startswith("hfpipe."))
        return self.pipeline if self.code is None or any("pipeline" in vars(cls) for cls in own) else None

    @property
    def predicted_share(self) -> float:
        """Share of the tokens whose vocabulary logits the loss needs; decides the memory of a training."""
        return 1.0

    @property
    def continued_length(self) -> int:
        """Tokens that an example has at most beyond `length`, as the text that follows a prompt."""
        return 0

    @property
    def packed(self) -> bool:
        """Whether training examples are cut from one stream of all documents, without padding."""
        return False

    @property
    def best_fit(self) -> bool:
        """Whether the examples of a packed task are made of whole documents instead, as far as they fit."""
        return False

    def opening_ids(self, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
        """Return the ids that an example of whole documents begins with, before the first of them."""
        return ()

    @property
    def separates_documents(self) -> bool:
        """Whether no document of a packed example may see another; `collate` then gives `_documents`."""
        return False

    @property
    def code(self) -> Code | None:
        """Where the task comes from, when it is one's own."""
        return Code(self.kind) if re.fullmatch(Code.pattern, self.kind) else None

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns of the data set that must be there."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Those of the columns that a prediction needs; the others hold what is to be learned."""
        return self.columns[:1]

    @property
    def optional(self) -> tuple[str, ...]:
        """Those of the columns that may hold null; every other row with a null is refused."""
        return ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Those of the columns that must hold texts."""
        return ()

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        """Yield what the data set lacks for this task, paths relative to the task."""
        for column in self.columns:
            kind = facts.columns.get(column)
            if kind is None:
                there = ", ".join(sorted(facts.columns))
                yield Problem(
                    f"the data set has no column {column!r}; it has {there}; "
                    "rename one in its stage by 'columns', or name it in the task"
                )
            elif column in self.texts and kind != "string":
                yield Problem(f"column {column!r} holds {kind} values, no texts; name a column of texts")

    def check_settings(self) -> Iterator[Problem]:
        """Yield what is wrong with any data, as a missing package; nothing heavy is imported."""
        return iter(())

    def configure_metrics(self, rows: Rows) -> Task:
        """Return the task with the settings of its metrics that depend on the rows to score.

        `rows` are all rows of the split, so that every process and every system uses the same settings.
        """
        return self

    def head(self, facts: DataFacts) -> dict[str, Any]:
        """Return the entries of the model's config that the data decide, as `num_labels`."""
        return {}

    def check_model(self, model: PreTrainedModel) -> Iterator[Problem]:
        """Yield why a model cannot do the task as it is set, where its config does not tell."""
        return iter(())

    @property
    def prediction_task(self) -> dict[str, Any]:
        """Settings of the task by which a trained model is asked; another where this one only learns."""
        return self.model_dump(mode="json")

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        """Return what a trained model tells of its data: types of the columns, names of the classes."""
        return DataFacts(columns=dict.fromkeys(self.columns, "string"), splits={})

    def placeholder(self, column: str, rows: Rows, facts: DataFacts) -> Sequence[Any]:
        """Return what stands in a column that is not among `inputs` when rows are only predicted."""
        empty: Mapping[str, Any] = {"label": 0, "labels": [], "int": 0, "float": 0.0, "string": ""}
        return [empty[facts.columns[column]]] * len(rows[self.inputs[0]])

    @abstractmethod
    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        """Turn a batch of rows into model inputs; pure. Adds `row`, the position within `rows`.

        `input_ids` is a list of integer lists or arrays, or a `Ragged`; targets take the column names of the
        model's forward. A packed task returns whole documents; anything else is cut to the task's length here
        and counts what it cuts in an integer column `truncated` (tokens a row), or gives a long row as
        several examples, which follow one another and have its `row`.
        Further columns are kept with the examples, for `collate`.
        """

    def encode_windows(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        """Turn a batch of rows into what a packed task is measured on; pure, in the form of `encode`.

        By default the documents that `encode` returns, cut every `length` tokens. Every row has an example.
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
        """Pad a list of encoded examples into tensors; pure.

        Each example carries `index` (its position in the encoded split) and `epoch`: anything random
        is a function of (seed, epoch, index) in training and of (seed, index) in evaluation.
        The model is given all entries but `labels` and those whose names begin with `_`.
        """

    def positions(self, batch: Batch) -> torch.Tensor | None:
        """Return the flat positions whose vocabulary logits the loss needs, int64; None for all."""
        return None

    @property
    def loss_is_cross_entropy(self) -> bool:
        """Whether `loss` is the cross-entropy of the vocabulary logits at `positions` and nothing else.

        It may then be computed from hidden states, without the logits of all positions at once.
        """
        return False

    @abstractmethod
    def count(self, batch: Batch) -> torch.Tensor:
        """Return the number of targets in the batch, as `loss` counts them, without running the model."""

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        """Return the summed loss in nats and its count, never a mean."""

    @abstractmethod
    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Mapping[str, torch.Tensor | list[Any]]:
        """Return what a forward pass says of each example: one value, or row of values, an example."""

    def configure_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Set in a model, before it is trained, what plain Transformers reads to use it as this task does.

        Raises StageError when that cannot be saved.
        """
        return

    def generates(self, *, training: bool) -> bool:
        """Tell whether the model is measured by what it generates, in evaluation or during training."""
        return False

    def generate(self, model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
        """Return what stands in for `outputs_to_columns` where the task `generates`."""
        raise NotImplementedError

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        """Return one value a row: what metrics read and predictions keep.

        `columns` holds one value an example. `row_index`, int64 (examples,), ascending, tells for each its
        place in `rows`, the data set's own rows; all examples of a row come together.
        Numbers add up over the examples of a row, unless a task knows better.
        """
        import numpy as np

        starts = np.flatnonzero(np.diff(row_index, prepend=-1))
        if len(starts) == len(row_index):
            return columns
        return {name: np.add.reduceat(column, starts) for name, column in columns.items()}

    @abstractmethod
    def metrics(self, facts: DataFacts) -> list[Metric]:
        """Return the metrics that read `columns_by_row`'s columns."""

    def validation_metrics(self, facts: DataFacts) -> list[Metric]:
        """Return the metrics of the validation split during training."""
        return self.metrics(facts)

    def whole_metrics(self, facts: DataFacts) -> list[WholeMetric]:
        """Return the metrics of an evaluation that need every row at once; they read what
        `encode_predictions` returns."""
        return []

    def baseline_metrics(self, name: str, facts: DataFacts) -> list[Metric]:
        """Return those of the metrics whose columns a trivial baseline gives."""
        return self.metrics(facts)

    def class_names(self, facts: DataFacts) -> Mapping[str, Sequence[str]]:
        """Return the columns that hold ids of classes, each with the names that the ids mean."""
        return {}

    def class_order(self, facts: DataFacts) -> Mapping[str, Sequence[str]]:
        """Return the columns that hold a value for each class, each with the class names in their order."""
        return {}

    def encode_predictions(self, columns: Columns, facts: DataFacts) -> Mapping[str, Any]:
        """Return the columns as `predictions.parquet` holds them, classes by name."""
        classes = {name: names for name, names in self.class_names(facts).items() if name in columns}
        named = {name: [names[number] for number in columns[name]] for name, names in classes.items()}
        return {**columns, **named}

    def decode_predictions(self, shown: Columns, facts: DataFacts) -> Columns:
        """Return the columns that `encode_predictions` was made from."""
        import numpy as np

        classes = {name: names for name, names in self.class_names(facts).items() if name in shown}
        ids = {name: {label: number for number, label in enumerate(names)} for name, names in classes.items()}
        return {**shown, **{name: np.array([of[label] for label in shown[name]]) for name, of in ids.items()}}

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        """Return what a prediction says of each row, ready for JSON, named as Transformers' pipelines do."""
        shown = self.encode_predictions(columns, facts)
        return [{"answer": answer} for answer in shown["prediction"]]

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        """Fit one of `baselines` on the train split; the result turns rows into the columns metrics read.

        `tokenizer` is the measured model's.
        """
        raise NotImplementedError
