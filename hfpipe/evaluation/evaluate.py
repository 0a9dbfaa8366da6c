"""Evaluates systems on one split: models in every process, trivial baselines once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hfpipe.distributed.sharding import keep_models_whole
from hfpipe.encoding.encoded import ROWS_AT_ONCE
from hfpipe.evaluation.loop import ModelReader, score
from hfpipe.evaluation.predictions_file import Inputs, Predictions, write_joined
from hfpipe.evaluation.row_groups import group_rows
from hfpipe.metrics.scores.row_weighted import add_row_weights
from hfpipe.metrics.tally import Tally
from hfpipe.modeling.performance import runs_on_cpu
from hfpipe.modeling.read_positions import skip_unread_positions
from hfpipe.store.artifacts import CLUSTER, get_predictions_path
from hfpipe.tokenization.loading import set_pad_token_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.encoding.encoded import Examples
    from hfpipe.evaluation.class_alignment import Alignment
    from hfpipe.metrics.metric import Metric
    from hfpipe.metrics.resampling import RowWeights, Sample
    from hfpipe.report import DataFacts
    from hfpipe.runtime import TaskRuntime
    from hfpipe.types import Columns, Rows


def create_accelerator() -> Accelerator:
    """Return an Accelerator for full precision, independent of earlier trainings in this process."""
    # Otherwise Accelerate rejects a second precision, and keeps the sharding of an earlier training.
    AcceleratorState._reset_state(reset_partial_state=True)
    with keep_models_whole():
        return Accelerator(mixed_precision="no", cpu=runs_on_cpu())


@dataclass(frozen=True)
class EvaluationSetup:
    """Data and settings of an evaluation, shared by all systems."""

    rows: datasets.Dataset
    facts: DataFacts
    seed: int
    resamples: int
    batch_size: int
    classes: Alignment
    """Alignment of the classes, also for other splits of the same data."""
    cluster: str | None = None
    """Column whose equal values mark dependent rows; None if rows are independent."""
    row_weights: RowWeights | None = None
    """Weights of the rows in weighted scores; None without weights."""

    def read_ids(self, positions: Sequence[int]) -> list[str]:
        """Return the ids of some rows; positions, if the data set has no ids."""
        if "id" not in self.rows.column_names:
            return [str(position) for position in positions]
        return self._ids[list(positions)]["id"]

    @cached_property
    def _ids(self) -> datasets.Dataset:
        return self.rows.select_columns("id")

    @cached_property
    def sample(self) -> Sample:
        """The units in which rows are resampled."""
        return replace(group_rows(self.rows, self.cluster), weights=self.row_weights)

    def read_groups(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return the group of some rows as a column of predictions; empty if rows are independent."""
        return {} if self.cluster is None else {CLUSTER: self.sample.units[positions]}

    def create_tally(self, metrics: Sequence[Metric]) -> Tally:
        """Return an empty tally of metrics, including weighted ones if rows have weights."""
        column = None if self.row_weights is None else self.row_weights.column
        return Tally(add_row_weights(metrics, column), self.resamples, self.seed, self.sample)


def measure_model(
    model: PreTrainedModel,
    task: TaskRuntime,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    setup: EvaluationSetup,
    accelerator: Accelerator,
    out: Path,
    advance: Callable[[int], None],
) -> Tally:
    """Return the counts of a model over the split, and write its predictions to `out`.

    Raises StageError when a row was not counted exactly once.
    """
    set_pad_token_id(model, tokenizer)
    parts = [out.with_suffix(f".{rank}.part") for rank in range(accelerator.num_processes)]
    inputs, classes = Inputs(setup.rows, task.config.inputs), task.evaluator.class_order(setup.facts)
    writing = Predictions(parts[accelerator.process_index], inputs, classes)
    with writing as predictions, skip_unread_positions(model, training=False):

        def keep(positions: np.ndarray, columns: Columns) -> None:
            if len(positions):
                shown = task.evaluator.encode_predictions(columns, setup.facts)
                columns = {**shown, **setup.read_groups(positions)}
                predictions.add(setup.read_ids(positions.tolist()), positions, columns)

        total = score(
            model.to(accelerator.device),
            examples,
            ModelReader(task, setup.facts, tokenizer, setup.seed),
            setup.create_tally(task.evaluator.metrics(setup.facts)),
            accelerator,
            batch_size=setup.batch_size,
            keep=keep,
            advance=advance,
        )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_joined(parts, out)
        for part in parts:
            part.unlink(missing_ok=True)
    return total


def join_predictions(folder: Path, trainings: Sequence[str], system: str) -> None:
    """Join the predictions of several trainings, each for its own rows, into one file."""
    parts = [get_predictions_path(folder, name) for name in trainings]
    write_joined(parts, get_predictions_path(folder, system))
    for part in parts:
        part.unlink(missing_ok=True)


def fit_baseline(
    task: TaskRuntime,
    name: str,
    split: datasets.Dataset,
    facts: DataFacts,
    tokenizer: PreTrainedTokenizerBase,
    held_out: np.ndarray | None,
) -> Callable[[Rows], Columns]:
    """Return a trivial baseline fitted on all rows of a split except the held-out rows."""
    if held_out is not None:
        split = split.select(np.setdiff1d(np.arange(len(split)), held_out))
    train = {column: split[column] for column in split.column_names}  # read lazily
    return task.baseline(name).fit(train, facts, tokenizer)


def measure_baseline(
    fitted: Sequence[tuple[Callable[[Rows], Columns], np.ndarray | None]],
    task: TaskRuntime,
    tally: Tally,
    setup: EvaluationSetup,
    out: Path,
    advance: Callable[[int], None],
) -> Tally:
    """Return `tally` with a trivial baseline's predictions for the split, which are written to `out`.

    `fitted` lists baselines with the positions of the rows that each predicts, None for all; with several
    folds there are several.
    """
    inputs, classes = Inputs(setup.rows, task.config.inputs), task.evaluator.class_order(setup.facts)
    with Predictions(out, inputs, classes) as predictions:
        for prediction, chosen in fitted:
            rows = np.arange(len(setup.rows)) if chosen is None else chosen
            for start in range(0, len(rows), ROWS_AT_ONCE):
                positions = rows[start : start + ROWS_AT_ONCE]
                whole = chosen is None  # contiguous rows are read faster
                batch = setup.rows[start : start + ROWS_AT_ONCE] if whole else setup.rows[positions.tolist()]
                columns = prediction(batch)
                tally.add(positions, columns)
                shown = {
                    **task.evaluator.encode_predictions(columns, setup.facts),
                    **setup.read_groups(positions),
                }
                predictions.add(setup.read_ids(positions.tolist()), positions, shown)
                advance(len(positions))
    return tally


def save_tally(tally: Tally, path: Path) -> None:
    """Save a tally's sums for the processes that run the models."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, *tally.get_arrays())


def load_tally(tally: Tally, path: Path) -> Tally:
    """Return a tally of the same metrics with the sums stored in `path`."""
    with np.load(path, allow_pickle=False) as arrays:
        kept: Sequence[np.ndarray] = [arrays[name] for name in arrays.files]
    return tally.merge(kept)
