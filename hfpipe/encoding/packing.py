"""Concatenates documents and cuts them into examples of one length, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hfpipe.encoding.shards import Batch
from hfpipe.tokenization.ragged import Ragged


def pack(batches: Iterator[Batch], length: int, shared: int, rest: Sequence[int]) -> Iterator[Batch]:
    """Yield the ids of all documents as examples of `length`; only the last may be shorter.

    Consecutive examples share `shared` ids. `rest` are the ids at the beginning of the first example.
    """
    left = np.array(rest, dtype=np.int32)
    step = length - shared
    for batch in batches:
        ids = batch.columns["input_ids"]
        documents = ids if isinstance(ids, Ragged) else Ragged.from_rows(ids)
        stream = np.concatenate([left, documents.values])
        count = max(0, len(stream) - shared) // step
        left = stream[count * step :]
        yield Batch({"input_ids": _cut_examples(stream, count, length, step)}, batch.rows, rest=left)
    last = [left] if len(left) > shared else []
    yield Batch({"input_ids": Ragged.from_rows(last)}, rows=0)


def _cut_examples(stream: np.ndarray, count: int, length: int, step: int) -> Ragged:
    offsets = np.arange(count + 1, dtype=np.int64) * length
    if not count:
        return Ragged(stream[:0], offsets)
    whole = np.lib.stride_tricks.sliding_window_view(stream, length)[: count * step : step]
    return Ragged(np.ascontiguousarray(whole).reshape(-1), offsets)
