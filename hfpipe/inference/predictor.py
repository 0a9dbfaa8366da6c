"""Runs a trained model on rows with the same code as in evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from hfpipe.encoding.encoded import encode
from hfpipe.encoding.nested import to_dataset
from hfpipe.errors import DataError, HfpipeError, StageError
from hfpipe.evaluation.calibration import apply_calibration
from hfpipe.evaluation.evaluate import create_accelerator
from hfpipe.evaluation.lazy_rows import LazyRows
from hfpipe.evaluation.loop import ModelReader, iterate_shared
from hfpipe.library_output import silence_libraries
from hfpipe.modeling.loading.checkpoint_files import check_model_files
from hfpipe.modeling.loading.embeddings import check_rows, get_embedding_rows
from hfpipe.modeling.loading.models import load_model, read_config, translate_loading_errors
from hfpipe.modeling.max_length import find_refusals
from hfpipe.modeling.read_positions import skip_unread_positions
from hfpipe.references.places import Place
from hfpipe.report import replace_not_finite
from hfpipe.tokenization.loading import load_tokenizer, set_pad_token_id

if TYPE_CHECKING:
    from hfpipe.encoding.encoded import Examples
    from hfpipe.runtime import TaskRuntime
    from hfpipe.types import Batch, Rows

log = logging.getLogger(__name__)

T = TypeVar("T")
Asked = Mapping[str, Any]
"""A row with at least the columns that the task reads."""
BATCHES_AT_ONCE = 8
"""Number of batches read before the first is run; their rows are grouped by length."""


def read_architecture(place: Path | Place) -> str:
    """Return the model class named in a config, or "". Raises StageError when there is no config."""
    with translate_loading_errors(place), silence_libraries():
        check_model_files(place)
        config = read_config(place)
    return next(iter(config.architectures or []), "")


class Predictor:
    """A model in memory, ready for prediction."""

    def __init__(
        self, place: Path | Place, task: TaskRuntime, batch_size: int, *, trusts_export: bool = False
    ) -> None:
        tokenizer, auto_class = load_tokenizer(place), task.config.auto_class
        self.accelerator = create_accelerator()
        self.model = load_model(auto_class, place, seed=0, whole=True, trusts_export=trusts_export)
        for name, weights in self.model.named_parameters():
            if not torch.isfinite(weights).all():
                raise StageError(
                    f"model {place}: {name} holds NaN or infinite weights; its training failed, or the file "
                    "is damaged: train it again with a lower learning_rate, or use another"
                )
        self.model.to(self.accelerator.device).eval()
        self._skipping = ExitStack()  # as long as there is the model
        self._skipping.enter_context(skip_unread_positions(self.model, training=False))
        set_pad_token_id(self.model, tokenizer)
        task = apply_calibration(self.model, task.config, place).runtime()
        self.reading = ModelReader(task, task.config.facts_from_config(self.model.config), tokenizer, seed=0)
        check_rows(place, get_embedding_rows(self.model.config), tokenizer)
        for why in find_refusals(task, self.model):
            raise StageError(f"model {place}: {why}")
        self.batch_size = batch_size

    def predict_rows(self, rows: Iterable[tuple[str, Asked]]) -> Iterator[tuple[Asked, dict[str, Any]]]:
        """Yield each row with its prediction, in order, keeping only a few batches in memory.

        `rows` are pairs of a name for messages and a row. Raises DataError at a row that the task cannot
        encode, StageError when a row is too short or its scores are not finite. An exception of `rows` is
        raised after the predictions of the preceding rows.
        """
        examples, truncated = 0, 0
        for chunk in _split_into_chunks(rows, BATCHES_AT_ONCE * self.batch_size):
            found, ledger = self._predict_chunk(chunk, examples)
            examples += ledger["examples"]  # seeds sampling, independently of the batch size
            truncated += ledger["truncated"]
            for (place, row), answer in zip(chunk, found, strict=True):
                if answer is None or replace_not_finite(answer) != answer:
                    raise StageError(
                        f"{place}: the model's scores are not finite numbers, so there is no prediction; its "
                        "weights are too large for float32"
                    )
                yield row, answer
        if truncated:
            length = self.reading.task.config.length
            log.warning("%s tokens of texts longer than %s were truncated; --set length=N", truncated, length)

    def make_batch(self, place: str, row: Asked) -> Batch:
        """Return the batch of a row's example. Raises DataError if the row is split into several."""
        with TemporaryDirectory() as folder:
            examples, _ = self._encode_rows([(place, row)], Path(folder))
            if len(examples) != 1:
                raise DataError(f"{place}: is split into {len(examples)} windows; give a shorter text")
            batch = self.reading.make_batch(examples, np.zeros(1, dtype=np.int64))
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}

    def _encode_rows(
        self, chunk: Sequence[tuple[str, Asked]], folder: Path
    ) -> tuple[Examples, dict[str, int]]:
        reading = self.reading
        return encode(
            reading.task,
            to_dataset(self._create_columns([row for _, row in chunk])),
            reading.tokenizer,
            reading.facts,
            folder / "asked.arrow",
            packed=False,
            advance=lambda _: None,
            name=lambda position: chunk[position][0],
        )

    def _predict_chunk(
        self, chunk: Sequence[tuple[str, Asked]], before: int
    ) -> tuple[list[dict[str, Any] | None], dict[str, int]]:
        with TemporaryDirectory() as folder:
            examples, ledger = self._encode_rows(chunk, Path(folder))
            examples.first = before
            found = dict(self._predict_rows(examples))
        if len(found) < len(chunk):
            raise StageError(f"{len(chunk) - len(found)} of {len(chunk)} rows have no input for the model")
        return [found[number] for number in range(len(chunk))], ledger

    def _create_columns(self, chunk: Sequence[Asked]) -> Rows:
        """Return the columns that the task reads, with placeholders for its targets."""
        task, facts = self.reading.task, self.reading.facts
        return task.prediction_columns(
            {name: [row[name] for row in chunk] for name in task.config.inputs}, facts
        )

    def _predict_rows(self, examples: Examples) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Yield each row's position and prediction; None if the model's outputs for it contain NaN."""
        reading = self.reading
        with torch.inference_mode():
            for positions, columns, _ in iterate_shared(
                self.model, examples, reading, self.accelerator, self.batch_size
            ):
                rows = LazyRows(examples.source, positions)
                answers = reading.task.evaluator.format_predictions(columns, rows, reading.facts)
                odd = np.any([_find_nan_rows(column) for column in columns.values()], axis=0)
                for position, answer, without in zip(positions.tolist(), answers, odd, strict=True):
                    yield position, None if without else answer


def _find_nan_rows(column: np.ndarray) -> np.ndarray:
    """Return whether each value of a column contains NaN: bool, shape (rows,)."""
    if column.dtype == object:
        return np.array([_contains_nan(value) for value in column], dtype=bool)
    if not np.issubdtype(column.dtype, np.floating):
        return np.zeros(len(column), dtype=bool)
    return np.isnan(column).reshape(len(column), -1).any(axis=1)


def _contains_nan(value: Any) -> bool:
    """Return whether a column's value contains NaN: an array, nested lists, a number or a text."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    return isinstance(value, list | tuple) and any(map(_contains_nan, value))


def _split_into_chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    chunk: list[T] = []
    failure: HfpipeError | None = None
    try:
        for row in rows:
            chunk.append(row)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except HfpipeError as error:
        failure = error
    if chunk:
        yield chunk
    if failure is not None:
        raise failure
