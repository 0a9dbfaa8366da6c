"""The objects that run a task: they encode rows, compute the loss, and turn outputs into scores.

`TaskConfig.runtime` composes them. Each has one interface: `Encoder` (rows → examples → batches), `Objective`
(outputs → loss), `Evaluator` (outputs → columns → scores) and, where outputs are decoded, `Generator`.
They keep no state, so that one may be used in several processes and for several models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hfpipe.errors import Problem, StageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.metrics.whole import WholeMetric
    from hfpipe.report import DataFacts
    from hfpipe.task import TaskConfig
    from hfpipe.types import Batch, Columns, Counted, Rows


@dataclass(frozen=True)
class Encoder(ABC):
    """Turns rows into examples, and examples into batches."""

    config: TaskConfig
    """The task's settings."""

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
        encoded, length = self.encode(rows, tokenizer, facts), self.config.length
        windows = [
            (row, ids[start : start + length])
            for row, ids in zip(encoded["row"], encoded["input_ids"], strict=True)
            for start in range(0, max(1, len(ids)), length)
        ]
        return {"input_ids": [ids for _, ids in windows], "row": [row for row, _ in windows]}

    @abstractmethod
    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        """Pad a list of encoded examples into tensors; a pure function.

        Each example has `index` (its position in the encoded split) and `epoch`. Randomness must be a
        function of (seed, epoch, index) in training and of (seed, index) in evaluation.
        The model receives all entries except `labels` and those whose names begin with `_`.
        """

    def opening_ids(self, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
        """Return the ids at the start of an example of whole documents, before the first document."""
        return ()

    def placeholder(self, column: str, rows: Rows, facts: DataFacts) -> Sequence[Any]:
        """Return placeholder values for a column that is not among `inputs`, used in prediction."""
        empty: Mapping[str, Any] = {"label": 0, "labels": [], "int": 0, "float": 0.0, "string": ""}
        return [empty[facts.columns[column]]] * len(rows[self.config.inputs[0]])


@dataclass(frozen=True)
class MappedEncoder(Encoder):
    """Encodes the result of a function for each value of a column instead of the value."""

    inner: Encoder
    column: str
    function: Callable[[Any], Any]

    def _map_rows(self, rows: Rows) -> Rows:
        return {**rows, self.column: [self.function(value) for value in rows[self.column]]}

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        return self.inner.encode(self._map_rows(rows), tokenizer, facts)

    def encode_windows(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        return self.inner.encode_windows(self._map_rows(rows), tokenizer, facts)

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        return self.inner.collate(examples, tokenizer, seed, train=train)

    def opening_ids(self, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
        return self.inner.opening_ids(tokenizer)

    def placeholder(self, column: str, rows: Rows, facts: DataFacts) -> Sequence[Any]:
        return self.inner.placeholder(column, rows, facts)


class Objective(ABC):
    """The loss of a task: a sum over targets, and their number."""

    @property
    def predicted_share(self) -> float:
        """Fraction of tokens whose vocabulary logits the loss needs; determines the memory of training."""
        return 1.0

    @property
    def loss_is_cross_entropy(self) -> bool:
        """Whether `loss` is exactly the cross-entropy of the vocabulary logits at `positions`.

        The loss may then be computed from hidden states, without materializing the logits of all positions.
        """
        return False

    def positions(self, batch: Batch) -> torch.Tensor | None:
        """Return the flattened positions whose vocabulary logits the loss needs, int64; None for all."""
        return None

    @abstractmethod
    def count(self, batch: Batch) -> torch.Tensor:
        """Return the number of targets in the batch, as counted by `loss`, without running the model."""

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        """Return the summed loss in nats and its count, never a mean."""


class Generator(ABC):
    """Generates outputs by search or in several forward passes; evaluation then uses these columns."""

    def runs(self, *, training: bool) -> bool:
        """Return whether to generate in evaluation or, with `training`, when validating during training."""
        return True

    @abstractmethod
    def generate(self, model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
        """Return the columns that replace those of the evaluator's `outputs_to_columns`."""


@dataclass(frozen=True)
class Evaluator(ABC):
    """Turns the outputs of a model into columns, and defines the metrics that read them."""

    config: TaskConfig
    """The task's settings."""

    def configure_metrics(self, rows: Rows) -> TaskConfig:
        """Return the task's settings with those of its metrics filled in that depend on the rows to score.

        `rows` are all rows of the split, so that every process and every system uses the same settings.
        """
        return self.config

    @abstractmethod
    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Mapping[str, torch.Tensor | list[Any]]:
        """Return the results of a forward pass per example: one value, or one row of values, per example."""

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        """Return one value per row: the columns that metrics read and `predictions.parquet` stores.

        `columns` holds one value per example. `row_index`, int64 (examples,), ascending, gives each example's
        position in `rows`, the rows of the data set; the examples of a row are consecutive.
        By default numbers are summed over the examples of a row.
        """
        import numpy as np  # `import hfpipe` stays fast

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
        import numpy as np  # `import hfpipe` stays fast

        classes = {name: names for name, names in self.class_names(facts).items() if name in shown}
        ids = {name: {label: number for number, label in enumerate(names)} for name, names in classes.items()}
        return {**shown, **{name: np.array([of[label] for label in shown[name]]) for name, of in ids.items()}}

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        """Return the prediction for each row, JSON-serializable, with the keys of Transformers' pipelines."""
        shown = self.encode_predictions(columns, facts)
        return [{"answer": answer} for answer in shown["prediction"]]


@dataclass(frozen=True)
class Baseline:
    """A trivial baseline, which an evaluated model is compared with."""

    fit: Callable[[Rows, DataFacts, PreTrainedTokenizerBase], Callable[[Rows], Columns]]
    """Fits it on the train split; the result maps rows to the columns that metrics read.

    It receives the rows, the facts of the data set and the tokenizer of the evaluated model.
    """
    metrics: Callable[[DataFacts], list[Metric]] | None = None
    """Returns the metrics whose columns it provides; by default those of the task's evaluator."""


class ModelSetup:
    """Checks a loaded model, and sets what its config needs for the task; by default there is nothing."""

    def check(self, model: PreTrainedModel) -> Iterator[Problem]:
        """Yield reasons why a model cannot run the task with these settings that its config does not show."""
        return iter(())

    def configure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Set the config entries that Transformers reads when it runs the trained model on this task.

        Called before training. Raises StageError when an entry cannot be saved.
        """
        return


@dataclass(frozen=True)
class TaskRuntime:
    """A task that can be trained and evaluated: its settings, and the objects that run it."""

    config: TaskConfig
    encoder: Encoder
    objective: Objective
    evaluator: Evaluator
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    """By name; the settings declare the names."""
    generator: Generator | None = None
    """Generates the evaluated outputs, if they need more than one forward pass."""
    model_setup: ModelSetup = field(default_factory=ModelSetup)

    def map_column(self, column: str, function: Callable[[Any], Any]) -> TaskRuntime:
        """Return the same task with an encoder that reads `function(value)` for each value of a column."""
        return replace(self, encoder=MappedEncoder(self.config, self.encoder, column, function))

    def prediction_columns(self, given: Mapping[str, Sequence[Any]], facts: DataFacts) -> Rows:
        """Return the columns that a prediction needs, with placeholders for those of the targets."""
        others = [name for name in self.config.columns if name not in given]
        return {**given, **{name: self.encoder.placeholder(name, given, facts) for name in others}}

    def baseline(self, name: str) -> Baseline:
        """Return a baseline that the settings declare. Raises StageError if the runtime lacks it."""
        if name not in self.baselines:
            raise StageError(
                f"{self.config.kind} declares the baseline {name!r}, and its runtime has none of that name; "
                "add it to the `baselines` that runtime() returns"
            )
        return self.baselines[name]

    def baseline_metrics(self, name: str, facts: DataFacts) -> list[Metric]:
        """Return the metrics whose columns a trivial baseline provides."""
        return (self.baseline(name).metrics or self.evaluator.metrics)(facts)
