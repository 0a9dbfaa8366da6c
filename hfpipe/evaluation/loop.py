"""A streaming pass over a split that counts every row once, on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.distributed.process_layout import ProcessLayout
from hfpipe.errors import StageError
from hfpipe.evaluation.lazy_rows import LazyRows
from hfpipe.metrics.metric import to_object_array
from hfpipe.metrics.tally import Tally
from hfpipe.modeling.losses.losses import forward

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

    from hfpipe.encoding.encoded import Examples
    from hfpipe.report import DataFacts
    from hfpipe.runtime import TaskRuntime
    from hfpipe.types import Batch, Columns

Keep = Callable[[np.ndarray, "Columns"], None]
"""Callback that receives positions of rows in the split and their columns, to write predictions."""


@dataclass(frozen=True)
class ModelReader:
    """Runs a model on examples, and converts its outputs to columns."""

    task: TaskRuntime
    facts: DataFacts
    tokenizer: PreTrainedTokenizerBase
    seed: int
    training: bool = False
    """Whether this is a validation during training."""

    def predict_batch(
        self, model: Any, examples: Examples, index: np.ndarray, device: torch.device
    ) -> Columns:
        """Return the outputs of the model for some examples: one value per example in each column."""
        batch = {name: tensor.to(device) for name, tensor in self.make_batch(examples, index).items()}
        generator = self.task.generator
        if generator is not None and generator.runs(training=self.training):
            return generator.generate(model, batch, self.tokenizer)
        outputs = forward(model, batch, self.task.objective.positions(batch))
        columns = self.task.evaluator.outputs_to_columns(outputs, batch)
        return {name: _to_array(column) for name, column in columns.items()}

    def make_batch(self, examples: Examples, index: np.ndarray) -> Batch:
        """Return the batch of some examples for the model."""
        keys = [(0, number) for number in index.tolist()]
        return self.task.encoder.collate(examples.__getitems__(keys), self.tokenizer, self.seed, train=False)

    def compute_rows(
        self, outputs: Columns, examples: Examples, index: np.ndarray
    ) -> tuple[np.ndarray, Columns]:
        """Return the positions of the rows of the examples, and the columns by row."""
        positions, row_index = np.unique(examples.rows[index], return_inverse=True)
        rows = LazyRows(examples.source, positions)
        return positions, self.task.evaluator.columns_by_row(outputs, row_index, rows, self.facts)


def score(
    model: Any,
    examples: Examples,
    reader: ModelReader,
    tally: Tally,
    accelerator: Accelerator,
    *,
    batch_size: int,
    layout: ProcessLayout | None = None,
    keep: Keep | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Tally:
    """Return `tally` with the rows of all processes added; the result is the same in each process.

    `layout` defines which processes share a model; by default each has a complete one. Rows of the data set
    are counted and resampled; a long row may consist of several examples. Raises StageError when a row was
    counted twice or not at all.
    """
    model.eval()
    counted = 0
    # Tensors gathered by FSDP or cached by models in inference_mode could not be used in training afterwards.
    reading_only = torch.no_grad() if reader.training else torch.inference_mode()
    with reading_only, accelerator.autocast():
        for positions, columns, passed in iterate_shared(
            model, examples, reader, accelerator, batch_size, layout
        ):
            tally.add(positions, columns)
            counted += len(positions)
            if keep is not None:
                keep(positions, columns)
            advance(passed)
    total = tally.merge([_sum_over_processes(array, accelerator) for array in tally.get_arrays()])
    everywhere = int(_sum_over_processes(np.array([counted]), accelerator)[0])
    there = len(np.unique(examples.rows))
    if everywhere != there:
        raise StageError(f"{everywhere} rows were counted of {there}; this is a bug in hfpipe")
    return total


def iterate_shared(
    model: Any,
    examples: Examples,
    reader: ModelReader,
    accelerator: Accelerator,
    batch_size: int,
    layout: ProcessLayout | None = None,
) -> Iterator[tuple[np.ndarray, Columns, int]]:
    """Yield this process' share of the rows, longest first: positions, columns, number of examples.

    Every process runs the same number of forward passes, as a sharded model requires; a process without
    remaining rows repeats others and yields empty columns, which define the shape of the sums. If several
    processes compute the same rows, one yields them.
    """
    groups = batch_rows(examples.rows, examples.lengths, batch_size)
    layout = layout or ProcessLayout(accelerator.num_processes)
    world, rank = layout.readers, layout.get_reader(accelerator.process_index)
    for turn in range(0, len(groups), world):
        peers = groups[turn : turn + world]
        index = peers[min(rank, len(peers) - 1)]
        passes = max(-(-len(group) // batch_size) for group in peers)
        outputs = []
        for number in range(passes):
            part = index[number * batch_size : (number + 1) * batch_size]
            columns = reader.predict_batch(
                model, examples, part if len(part) else index[:1], accelerator.device
            )
            outputs += [columns] if len(part) else []
        positions, columns = reader.compute_rows(join_parts(outputs), examples, index)
        if rank < len(peers) and layout.is_counted(accelerator.process_index):
            yield positions, columns, len(index)
        else:
            yield positions[:0], {name: column[:0] for name, column in columns.items()}, 0


def batch_rows(rows: np.ndarray, lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return groups of example indices, whole rows each, longest rows first.

    `rows` (n,) ascending and `lengths` (n,) are of the examples. A group has at most `batch_size`
    examples, unless a single row has more.
    """
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    ends = np.append(starts[1:], len(rows))
    longest = np.maximum.reduceat(lengths, starts)
    groups: list[list[np.ndarray]] = []
    room = 0
    for number in np.argsort(-longest, kind="stable").tolist():
        piece = np.arange(starts[number], ends[number])
        if len(piece) > room:
            groups.append([])
            room = batch_size
        groups[-1].append(piece)
        room -= len(piece)
    return [np.sort(np.concatenate(group)) for group in groups]


def join_parts(outputs: list[Columns]) -> Columns:
    """Return the columns of several batches as one."""
    return {name: np.concatenate([columns[name] for columns in outputs]) for name in outputs[0]}


def _to_array(column: torch.Tensor | list[Any]) -> np.ndarray:
    return column.cpu().numpy() if isinstance(column, torch.Tensor) else to_object_array(column)


def _sum_over_processes(array: np.ndarray, accelerator: Accelerator) -> np.ndarray:
    if not array.size:
        return array
    tensor = torch.from_numpy(array).to(accelerator.device)
    total: torch.Tensor = accelerator.reduce(tensor, reduction="sum")
    return total.cpu().numpy()
