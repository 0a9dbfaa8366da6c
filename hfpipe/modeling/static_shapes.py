"""Pads target positions to a few sizes, so that a compiled step is compiled once, and products are reused.

If a loss needs the logits only at some positions, their number varies between batches, and finding them on an
accelerator synchronizes it with the host. Here they are found on the host, and padded.
"""

from __future__ import annotations

import torch

SIZES = 16
"""Number of possible sizes; with fewer sizes, more unnecessary logits are computed."""


def find_static_positions(labels: torch.Tensor, ignored: int) -> torch.Tensor:
    """Return the flattened positions with a target, int64, padded with a position without a target.

    `labels` has shape (rows, length). The number of positions is a multiple of 1/16 of all positions, and all
    positions if more than half have a target.
    """
    flat = labels.reshape(-1)
    found = (flat != ignored).nonzero().squeeze(-1)
    if 2 * len(found) > len(flat):
        return torch.arange(len(flat))
    step = -(-len(flat) // SIZES)
    size = min(max(1, -(-len(found) // step)) * step, len(flat))
    filling = (flat == ignored).nonzero()[0]
    return torch.cat([found, filling.expand(size - len(found))])


def round_positions(labels: torch.Tensor, ignored: int, multiple: int) -> torch.Tensor:
    """Return the flattened positions with a target, int64, padded to a multiple with one without a target.

    `labels` has shape (rows, length). There are at most as many as `labels` has positions.
    """
    flat = labels.reshape(-1)
    found = (flat != ignored).nonzero().squeeze(-1)
    missing = min(-len(found) % multiple, len(flat) - len(found))
    return torch.cat([found, (flat == ignored).nonzero()[:1, 0].expand(missing)]) if missing else found
