"""Selects the examples of each step by seed, epoch and batch size, for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from hfpipe.errors import StageError

WINDOW = 50
"""Number of global batches that fine-tuning sorts by length, as in Transformers' LengthGroupedSampler."""

MOST_TOKENS = 2048
"""Maximum number of tokens per forward pass of fine-tuning on a CPU, unless a single row has more.

Larger passes need more memory and are not faster, as activations exceed the caches.
"""
PASS = 256
"""Fixed cost of a forward and backward pass, in tokens of equal duration."""
GRAIN = 8
"""Rows and lengths of the forward passes of an encoder-decoder on a CPU are multiples of this number where
possible, because their products are compiled for each pair of lengths, and the code is kept.

For T5 4 × 256 on pairs of 8 to 64 tokens there are 10 shapes in three epochs instead of 29. With 6 % more
positions, a step takes 5 % less time, and 400 MB less memory.
"""

Key = tuple[int, int]
"""(epoch, index of the example)."""


@dataclass(frozen=True)
class BatchLayout:
    """How the examples of one optimizer step are distributed; their product is the same on any machine."""

    micro: int
    """Examples per forward pass in each process."""
    accumulation: int
    """Forward passes per step."""
    world: int
    """Number of processes."""

    @property
    def total(self) -> int:
        """Examples per step."""
        return self.micro * self.accumulation * self.world


def compute_batch_layout(per_device: int, accumulation: int, world: int) -> BatchLayout:
    """Distribute the step of one process, `per_device * accumulation` examples, over `world` processes.

    Accumulation is reduced first, so that `per_device` keeps its value as long as possible.
    Raises StageError when the examples cannot be distributed evenly.
    """
    total = per_device * accumulation
    if total % world:
        raise StageError(
            f"a step of {total} examples (per_device_train_batch_size {per_device} × "
            f"gradient_accumulation_steps {accumulation}) cannot be shared by {world} processes; "
            f"make their product a multiple of {world}"
        )
    each = total // world
    micro = max(size for size in range(1, min(per_device, each) + 1) if each % size == 0)
    return BatchLayout(micro, each // micro, world)


def order_examples(lengths: np.ndarray, total: int, seed: int, epoch: int, *, grouped: bool) -> np.ndarray:
    """Return the examples of every step of an epoch: int64, shape (steps, total).

    Every example occurs; the last step is filled up from the beginning of the epoch. `grouped` puts examples
    of similar length into a step, longest first.
    """
    random = np.random.Generator(np.random.Philox(key=(seed, epoch)))
    shuffled = random.permutation(len(lengths))
    steps = -(-len(lengths) // total)
    filled = np.resize(shuffled, steps * total)
    if not grouped:
        return filled.reshape(steps, total)
    window = WINDOW * total
    parts = [filled[start : start + window] for start in range(0, len(filled), window)]
    ordered = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
    return ordered.reshape(steps, total)[random.permutation(steps)]


def cut_by_length(
    lengths: np.ndarray, most: int = MOST_TOKENS, cost: int = PASS, *, multiple: int = 1
) -> list[np.ndarray]:
    """Split the rows of a batch into groups to be padded separately: row indices, int64, longest first.

    `lengths`, int64 (rows,), are the tokens of each row, or int64 (rows, sides) those of its source and its
    target, which are padded on their own. A group has at most `most` tokens, including padding, unless it is
    a single row. The groups minimize the number of tokens plus `cost` per group, where the lengths of a group
    are rounded up to a multiple of `multiple`, and its rows count as if they were.
    """
    sides = lengths.reshape(len(lengths), -1).astype(np.int64)
    rows = np.argsort(-sides.sum(1), kind="stable")
    least, before = np.zeros(len(rows) + 1), np.zeros(len(rows) + 1, dtype=np.int64)
    for end in range(1, len(rows) + 1):
        longest = np.maximum.accumulate(sides[rows[:end]][::-1])[::-1]  # of a group that begins at each row
        length, size = round_up(longest, multiple).sum(1), np.arange(end, 0, -1)
        fits = length * size <= most
        fits[-1] = True
        total = np.where(fits, least[:end] + length * round_up(size, multiple) + cost, np.inf)
        before[end] = total.argmin()
        least[end] = total[before[end]]
    groups: list[np.ndarray] = []
    end = len(rows)
    while end:
        groups.insert(0, rows[before[end] : end])
        end = int(before[end])
    return groups


def round_up(numbers: np.ndarray, multiple: int) -> np.ndarray:
    """Return the next multiple of each number."""
    return -(-numbers // multiple) * multiple


def group_by_tokens(lengths: np.ndarray, most: int = MOST_TOKENS) -> list[np.ndarray]:
    """Split the rows of a batch without padding into groups: row indices, int64, longest first.

    `lengths`, int64 (rows,), are the tokens of each row. A group has at most `most` tokens, unless it is a
    single row.
    """
    rows = np.argsort(-lengths, kind="stable")
    starts, tokens = [0], 0
    for place, row in enumerate(rows):
        if tokens and tokens + lengths[row] > most:
            starts.append(place)
            tokens = 0
        tokens += int(lengths[row])
    return np.split(rows, starts[1:])


class StepBatches(Sampler[list[Key]]):
    """The forward passes of one process, epoch by epoch; resuming skips by index without reading data."""

    def __init__(
        self, lengths: np.ndarray, layout: BatchLayout, rank: int, seed: int, *, grouped: bool
    ) -> None:
        self.lengths = lengths
        self.layout = layout
        self.rank = rank
        self.seed = seed
        self.grouped = grouped
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that is iterated next; called by Trainer."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.layout.total) * self.layout.accumulation

    def __iter__(self) -> Iterator[list[Key]]:
        for step in self._order_steps(self.epoch):
            yield from self._split_step(step, self.epoch)

    def get_step(self, number: int) -> list[list[Key]]:
        """Return the forward passes of one optimizer step, counted from 0 over all epochs."""
        epoch, position = divmod(number, -(-len(self.lengths) // self.layout.total))
        return list(self._split_step(self._order_steps(epoch)[position], epoch))

    def _order_steps(self, epoch: int) -> np.ndarray:
        """Return the examples of an epoch: int64 (steps, accumulation, processes, examples)."""
        layout = self.layout
        steps = order_examples(self.lengths, layout.total, self.seed, epoch, grouped=self.grouped)
        return steps.reshape(-1, layout.accumulation, layout.world, layout.micro)

    def _split_step(self, step: np.ndarray, epoch: int) -> Iterator[list[Key]]:
        for part in step[:, self.rank]:
            yield [(epoch, index) for index in part.tolist()]


class EpochLoader(DataLoader[Any]):
    """A data loader that passes the epoch on to its batch sampler, as Trainer expects."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that is iterated next."""
        assert isinstance(self.batch_sampler, StepBatches)
        self.batch_sampler.set_epoch(epoch)
