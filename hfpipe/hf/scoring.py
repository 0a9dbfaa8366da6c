"""One streaming pass over a split: every example counted once, on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.errors import StageError
from hfpipe.hf.losses import forward
from hfpipe.metrics.tally import Tally

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.contract import Columns, Task
    from hfpipe.hf.encoding import Examples

Keep = Callable[[np.ndarray, "Columns"], None]
"""Called with the indices and columns of each batch, to write predictions."""


def score(
    model: Any,
    examples: Examples,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    tally: Tally,
    accelerator: Accelerator,
    *,
    batch_size: int,
    seed: int,
    keep: Keep | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Tally:
    """Return `tally` with every example of all processes counted, the same in each process.

    Rows of the data set are counted and resampled; a long one may have been cut into several examples.
    Raises StageError when an example was counted twice or not at all.
    """
    bare = accelerator.unwrap_model(model)
    model.eval()
    rows = examples.rows
    first = np.concatenate([[True], rows[1:] != rows[:-1]])
    counted = 0
    # Not inference_mode: what FSDP gathers and models cache in it could not be trained with afterwards.
    with torch.no_grad(), accelerator.autocast():
        for index, columns in _passes(model, bare, examples, task, tokenizer, accelerator, batch_size, seed):
            tally.add(rows[index], columns, first[index])
            counted += len(index)
            if keep is not None:
                keep(index, columns)
            advance(len(index))
    total = tally.merged([_summed(array, accelerator) for array in tally.arrays()])
    everywhere = int(_summed(np.array([counted]), accelerator)[0])
    if everywhere != len(examples):
        raise StageError(f"{everywhere} examples were counted of {len(examples)}; this is a fault of hfpipe")
    return total


def _passes(
    model: Any,
    bare: PreTrainedModel,
    examples: Examples,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[np.ndarray, Columns]]:
    """Yield this process' share, longest first.

    Every process runs the same number of forward passes, as a sharded model needs; one that has no batch
    left repeats another and yields none of it, so that its columns still tell the shape of the sums.
    """
    ordered = np.argsort(-examples.lengths, kind="stable")
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    for turn in range(-(-len(batches) // accelerator.num_processes)):
        number = turn * accelerator.num_processes + accelerator.process_index
        index = batches[min(number, len(batches) - 1)]
        batch = task.collate(
            examples.__getitems__([(0, i) for i in index.tolist()]), tokenizer, seed, train=False
        )
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        outputs = forward(model, batch, task.positions(batch), bare.get_output_embeddings())
        columns = {name: tensor.cpu().numpy() for name, tensor in task.columns_out(outputs, batch).items()}
        if number < len(batches):
            yield index, columns
        else:
            yield index[:0], {name: column[:0] for name, column in columns.items()}


def _summed(array: np.ndarray, accelerator: Accelerator) -> np.ndarray:
    tensor = torch.from_numpy(array).to(accelerator.device)
    total: torch.Tensor = accelerator.reduce(tensor, reduction="sum")
    return total.cpu().numpy()
