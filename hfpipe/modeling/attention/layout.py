"""Where the tokens of a padded batch are in one row without padding, and back.

A tail of at least one token follows the tokens. Padding is filled with copies of the last token of the tail,
and the tail with padding, so that both directions are gathers. Neither is read by a loss, so that both have a
gradient of exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hfpipe.types import Batch

PACKED, PADDED, BOUNDS = "_packed", "_padded", "_packed_bounds"
"""Entries of a batch with its layout, see `Layout`."""
TAIL = 64
"""Largest number of tokens in a tail."""


@dataclass(frozen=True)
class Layout:
    """The layout of a batch."""

    packed: Tensor
    """Flattened position in the padded batch of each token in the row, int64 (tokens,)."""
    padded: Tensor
    """Position in the row of each position of the padded batch, int64 (rows * length,)."""
    bounds: Tensor
    """Start of each example in the row, then of the tail, and the end: int32 (rows + 2,)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and length of the padded batch."""
        rows = self.bounds.shape[0] - 2
        return rows, self.padded.shape[0] // rows

    @property
    def longest(self) -> int:
        """Maximum number of tokens between two bounds."""
        return max(self.shape[1], TAIL)

    @property
    def tokens(self) -> Tensor:
        """Where the padded batch has tokens, bool (rows, length)."""
        return (self.padded < self.bounds[-2]).reshape(self.shape)

    def pack(self, values: Tensor) -> Tensor:
        """Return values (rows, length, …) without padding: (1, tokens, …)."""
        flat = values.reshape(-1, *values.shape[2:])
        return _gather(flat, self.packed, self.padded).unsqueeze(0)

    def pad(self, values: Tensor) -> Tensor:
        """Return values (1, tokens, …) with padding: (rows, length, …)."""
        found = _gather(values[0], self.padded, self.packed)
        return found.reshape(*self.shape, *values.shape[2:])


def read_layout(batch: Batch) -> Layout | None:
    """Return the layout of a batch, None if it has none."""
    return Layout(batch[PACKED], batch[PADDED], batch[BOUNDS]) if PACKED in batch else None


def make_layout(mask: Tensor, multiple: int = 1) -> Batch:
    """Return the entries of a batch for its layout; none if it has no padding.

    `mask`, int64 (…, length), is 0 at padding, which follows the tokens. The row has a multiple of `multiple`
    tokens, at most `TAIL`.
    """
    there = mask.reshape(-1, mask.shape[-1]) != 0
    flat = there.reshape(-1)
    tokens, filling = flat.nonzero().squeeze(-1), (~flat).nonzero().squeeze(-1)
    if not len(filling):
        return {}
    size = -(-(len(tokens) + 1) // multiple) * multiple
    padded = torch.full_like(flat, size - 1, dtype=torch.int64)
    padded[tokens] = torch.arange(len(tokens))
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), there.sum(-1).cumsum(0), torch.tensor([size])])
    tail = filling[-1:].expand(size - len(tokens))
    return {PACKED: torch.cat([tokens, tail]), PADDED: padded, BOUNDS: bounds.to(torch.int32)}


def _gather(values: Tensor, index: Tensor, back: Tensor) -> Tensor:
    """Return the rows `index` of values; `back` is the inverse.

    torch.compile instantiates autograd functions, which torch itself warns of; it gets a plain selection.
    """
    if torch.compiler.is_compiling():
        return values.index_select(0, index)
    found: Tensor = _Gather.apply(values, index, back)
    return found


class _Gather(torch.autograd.Function):
    """Selects rows by `index`; gradients are selected by the inverse `back`, without adding any up."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return values.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (back,) = ctx.saved_tensors
        return grads[0].index_select(0, back), None, None
