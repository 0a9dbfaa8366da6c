"""Measures the speed of a model on this CPU: rows per second in batches, and the latency of single rows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.evaluation.loop import batch_rows
from hfpipe.modeling.read_positions import skip_unread_positions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hfpipe.encoding.encoded import Examples
    from hfpipe.evaluation.loop import ModelReader

SECONDS = 3.0
"""Maximum duration of timing batches, and of timing single rows; at least one of each is timed."""
WARM_UP = 2
"""Number of batches, and of single rows, run before timing."""


def measure_speed(model: Any, reader: ModelReader, examples: Examples, batch_size: int) -> dict[str, float]:
    """Return `rows_per_second` in batches of `batch_size`, and `p50_ms` and `p95_ms` of single rows.

    Batches are those of an evaluation, sampled evenly over all lengths. Padding and the forward pass are
    timed, encoding is not. The model is moved to the CPU.
    """
    cpu = torch.device("cpu")
    model = model.to(cpu).eval()

    def timed(groups: list[np.ndarray]) -> Iterator[tuple[int, float]]:
        """Yield number of rows and seconds of each group, until the time limit."""
        begun = time.perf_counter()
        for number, group in enumerate([*groups[:WARM_UP], *groups]):
            started = time.perf_counter()
            reader.predict_batch(model, examples, group, cpu)
            if number >= min(WARM_UP, len(groups)):
                yield len(np.unique(examples.rows[group])), time.perf_counter() - started
                if time.perf_counter() - begun > SECONDS:
                    return

    with torch.inference_mode(), skip_unread_positions(model, training=False):
        batches = [*timed(_mix_lengths(batch_rows(examples.rows, examples.lengths, batch_size)))]
        singles = [*timed(_mix_lengths(batch_rows(examples.rows, examples.lengths, 1)))]
    milliseconds = 1000 * np.array([each for _, each in singles])
    return {
        "rows_per_second": sum(rows for rows, _ in batches) / sum(each for _, each in batches),
        "p50_ms": float(np.quantile(milliseconds, 0.5)),
        "p95_ms": float(np.quantile(milliseconds, 0.95)),
    }


def _mix_lengths(groups: list[np.ndarray]) -> list[np.ndarray]:
    """Return the groups, which are sorted by length, in an order whose beginning covers all lengths."""
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(groups))
    return [groups[number] for number in order]
