"""The loss of a language model by the position of a token and by its frequency in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from hfpipe.evaluation.loop import batch_rows
from hfpipe.modeling.losses.losses import find_target_positions, forward, select_target_logits

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

    from hfpipe.encoding.encoded import Examples
    from hfpipe.evaluation.loop import ModelReader
    from hfpipe.report import DataFacts
    from hfpipe.runtime import TaskRuntime

EXAMPLES = 512
"""Maximum number of examples to measure, sampled evenly over all lengths."""
COUNTED = 20_000
"""Maximum number of train rows in which tokens are counted, sampled evenly."""
AT_ONCE = 1000
"""Number of rows encoded together."""


def has_token_losses(task: TaskRuntime) -> bool:
    """Return whether the loss of a task is a sum over the tokens of a text."""
    return task.objective.loss_is_cross_entropy and task.generator is None


def count_tokens(
    task: TaskRuntime, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, facts: DataFacts
) -> np.ndarray:
    """Return the count of each token in rows, int64, shape (vocabulary,), from at most `COUNTED` rows."""
    if len(rows) > COUNTED:
        rows = rows.select(np.linspace(0, len(rows) - 1, COUNTED).astype(int))
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    for start in range(0, len(rows), AT_ONCE):
        encoded = task.encoder.encode(rows[start : start + AT_ONCE], tokenizer, facts)
        for ids in encoded["input_ids"]:
            counts += np.bincount(np.asarray(ids, dtype=np.int64), minlength=len(counts))
    return counts


def measure_token_losses(
    model: Any,
    reader: ModelReader,
    examples: Examples,
    counts: np.ndarray | None,
    batch_size: int,
    device: torch.device,
) -> dict[str, Any]:
    """Return the mean loss of the tokens in groups: by position in the example, and by count in training.

    `positions` and `frequencies` are lists of `[low, high, mean loss in nats, tokens]`, both ends included;
    `tokens` is the number of measured tokens. `counts` is what `count_tokens` returns, or None.
    """
    with torch.inference_mode():
        found = list(_iterate_losses(model.to(device).eval(), reader, examples, batch_size, device))
    losses, positions, targets = (np.concatenate([part[number] for part in found]) for number in range(3))
    measured = {"tokens": len(losses), "positions": _average_by_group(losses, positions + 1, 2)}
    if counts is not None:
        seen = np.append(counts, 0)[np.minimum(targets, len(counts))]
        measured["frequencies"] = _average_by_group(losses, seen, 10)
    return measured


def _iterate_losses(
    model: Any, reader: ModelReader, examples: Examples, batch_size: int, device: torch.device
) -> Iterator[Sequence[np.ndarray]]:
    """Yield loss in nats, position in the example and id of each target, for some examples at a time."""
    chosen = np.unique(np.linspace(0, len(examples) - 1, EXAMPLES).astype(int))
    for group in batch_rows(np.arange(len(chosen)), examples.lengths[chosen], batch_size):
        batch = {name: each.to(device) for name, each in reader.make_batch(examples, chosen[group]).items()}
        labels = batch["labels"]
        outputs = forward(model, batch, reader.task.objective.positions(batch))
        places = find_target_positions(labels)
        targets = labels.reshape(-1)[places]
        losses = F.cross_entropy(select_target_logits(outputs.logits, places), targets, reduction="none")
        yield [each.cpu().numpy() for each in (losses.double(), places % labels.shape[1], targets)]


def _average_by_group(losses: np.ndarray, values: np.ndarray, base: int) -> list[list[float]]:
    """Return the mean loss in groups of values: 0, and from each power of a base to the next."""
    ends = [0, *(base**power for power in range(64) if base**power <= max(values.max(initial=0), 1))]
    groups = np.digitize(values, ends[1:])
    found = []
    for number in np.unique(groups).tolist():
        inside = groups == number
        low, high = int(values[inside].min()), int(values[inside].max())
        found.append([low, high, float(losses[inside].mean()), int(inside.sum())])
    return found
