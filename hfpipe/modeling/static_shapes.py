"""Pads the positions of targets to a few sizes, so that a compiled step is compiled once.

Where a loss needs the logits at some positions only, their number changes from batch to batch, and finding
them on an accelerator makes the host wait for it. Here they are found on the host, and padded.
"""

from __future__ import annotations

import torch

SIZES = 16
"""How many numbers of positions there can be; the fewer, the more logits are computed without need."""


def static_positions(labels: torch.Tensor, ignored: int) -> torch.Tensor:
    """Return the flat positions with a target, int64, padded with a position that has none.

    `labels` has shape (rows, length). The number of positions is a multiple of a 16th of all, and all of them
    where more than half have a target.
    """
    flat = labels.reshape(-1)
    found = (flat != ignored).nonzero().squeeze(-1)
    if 2 * len(found) > len(flat):
        return torch.arange(len(flat))
    step = -(-len(flat) // SIZES)
    size = min(max(1, -(-len(found) // step)) * step, len(flat))
    filling = (flat == ignored).nonzero()[0]
    return torch.cat([found, filling.expand(size - len(found))])
