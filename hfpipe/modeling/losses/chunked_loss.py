"""Losses of an output layer without materializing all logits, in forward and backward.

The logits of one chunk of positions at a time are computed, reduced to their loss, and overwritten by their
gradient, which is added to the gradients of hidden states and weights at once; backward only multiplies these
by the gradient of the loss. The same method as Liger-Kernel's fused linear cross-entropy (Hsu et al., 2024),
in plain PyTorch. Where a model has already computed its logits, `compute_chunked_loss` reduces them in the
same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS = 2**24
"""Maximum number of logits in memory: 32 MiB in bfloat16."""
BLOCK = 2**18
"""Number of logits that are reduced at a time on a CPU without compilation: 1 MiB in float32. A chunk of
1,024 × 16,384 took a fourth of the time that it took as a whole (EPYC, bfloat16, one thread)."""

Kernel = Callable[[Tensor, Tensor, float, int], tuple[Tensor, Tensor]]
"""`compute_softmax_gradient_eagerly`, or the compiled `compute_softmax_gradient`."""
ChunkLoss = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""Logits of a chunk, (rows, classes), and its place among all positions → summed loss, and its gradient in
shape and dtype of the logits, which it may overwrite."""


def compute_linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    smoothing: float = 0.0,
    ignored: int = -100,
    dtype: torch.dtype = torch.float32,
    kernel: Kernel | None = None,
) -> Tensor:
    """Return the summed cross-entropy in nats of `hidden @ weight.T + bias`, float32, 0-d.

    `hidden` has shape (positions, size), `weight` (classes, size), `bias` (classes,), `targets` (positions,),
    int64; targets equal to `ignored` do not count. The products are computed in `dtype`, softmax and sums
    in float32. Supports first derivatives only, and a single backward pass.
    """
    compute = kernel or compute_softmax_gradient_eagerly

    def of_chunk(logits: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        return compute(logits, targets[chunk], smoothing, ignored)

    return compute_chunked_linear_loss(hidden, weight, bias, of_chunk, dtype=dtype)


def compute_chunked_linear_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, of_chunk: ChunkLoss, *, dtype: torch.dtype
) -> Tensor:
    """Return the sum of a loss over chunks of `hidden @ weight.T + bias`, float32, 0-d.

    `hidden` has shape (positions, size), `weight` (classes, size), `bias` (classes,). The products are
    computed in `dtype`. Supports first derivatives only, and a single backward pass.
    """
    total: Tensor = _LinearLoss.apply(hidden, weight, bias, of_chunk, dtype)
    return total


def compute_chunked_loss(logits: Tensor, of_chunk: ChunkLoss) -> Tensor:
    """Return the sum of a loss over chunks of logits (positions, classes), float32, 0-d.

    Only one chunk at a time is computed in float32; the gradient has the dtype of the logits. Supports first
    derivatives only, and a single backward pass.
    """
    total: Tensor = _LogitsLoss.apply(logits, of_chunk)
    return total


def compute_softmax_gradient(
    logits: Tensor, targets: Tensor, smoothing: float, ignored: int
) -> tuple[Tensor, Tensor]:
    """Return the summed loss of logits (positions, classes) and its gradient, in their shape and dtype.

    Does not write to parts of a tensor, so that a compiler can fuse it into one loop.
    """
    scores = logits.float()
    named, counted = targets.clamp(min=0)[:, None], targets != ignored
    norm = scores.logsumexp(-1, keepdim=True)
    total = _sum_loss(scores, norm, named, counted, smoothing)
    classes = scores.shape[-1]
    own = torch.arange(classes, device=scores.device) == named
    gradient = (scores - norm).exp() - own * (1 - smoothing) - smoothing / classes
    return total, (gradient * counted[:, None]).to(logits.dtype)


def compute_softmax_gradient_eagerly(
    logits: Tensor, targets: Tensor, smoothing: float, ignored: int
) -> tuple[Tensor, Tensor]:
    """Compute the same as `compute_softmax_gradient`, with fewer passes over memory when not compiled.

    The logits are overwritten by the gradient, on a CPU some rows at a time, which stay in the caches.
    """
    rows = max(1, BLOCK // logits.shape[-1]) if logits.device.type == "cpu" else max(1, len(logits))
    total = logits.new_zeros((), dtype=torch.float32)
    for block, some in zip(logits.split(rows), targets.split(rows), strict=True):
        total += _replace_by_gradient(block, some, smoothing, ignored)
    return total, logits


def _replace_by_gradient(logits: Tensor, targets: Tensor, smoothing: float, ignored: int) -> Tensor:
    """Return the summed loss of logits (positions, classes), and overwrite them by their gradient."""
    named, counted = targets.clamp(min=0)[:, None], targets != ignored
    gradient = logits.softmax(-1, dtype=torch.float32)
    # The largest probability, at least 1 / classes, tells the norm without another sum of exponentials.
    norm = logits.amax(-1, keepdim=True).float() - gradient.amax(-1, keepdim=True).log()
    total = _sum_loss(logits, norm, named, counted, smoothing)
    if smoothing:
        gradient -= smoothing / gradient.shape[-1]
    gradient.scatter_add_(1, named, gradient.new_full(named.shape, smoothing - 1))
    gradient *= counted[:, None]
    logits.copy_(gradient)
    return total


def _sum_loss(scores: Tensor, norm: Tensor, named: Tensor, counted: Tensor, smoothing: float) -> Tensor:
    """Return the summed loss of the `counted` positions; `norm` and `named` have shape (positions, 1)."""
    losses = (1 - smoothing) * (norm - scores.gather(1, named).float())
    if smoothing:
        losses = losses + smoothing * (norm - scores.mean(-1, keepdim=True, dtype=torch.float32))
    return (losses.squeeze(-1) * counted).sum()


def choose_chunk_size(positions: int, classes: int) -> int:
    """Return the chunk size: a divisor of the number of positions, so that all chunks have the same shape.

    If the only divisors are far too small, the last chunk is smaller instead.
    """
    least = max(1, -(-positions * classes // LOGITS))
    fitting = (number for number in range(least, 2 * least + 1) if positions % number == 0)
    return max(1, -(-positions // next(fitting, least)))


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        of_chunk: ChunkLoss,
        dtype: torch.dtype,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[:3]
        of_hidden = torch.empty_like(hidden) if wanted[0] else None
        of_weight: Tensor | None = None
        of_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        total, kind = hidden.new_zeros((), dtype=torch.float32), weight.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            weight = weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
            for rows in _split_into_chunks(len(hidden), len(weight)):
                chunk = hidden[rows].to(dtype)
                logits = torch.nn.functional.linear(chunk, weight, bias)
                loss, gradient = of_chunk(logits, rows)
                total += loss
                if of_hidden is not None:
                    of_hidden[rows] = gradient @ weight
                if of_bias is not None:
                    # A product with ones: on a CPU it is ten times as fast as a sum over columns.
                    of_bias += (gradient.new_ones(1, len(gradient)) @ gradient)[0]
                product = gradient.t() @ chunk if wanted[1] else None
                del logits, gradient  # before more is allocated
                if product is not None:
                    of_weight = product.to(kind) if of_weight is None else of_weight.add_(product)
        if wanted[1] and of_weight is None:  # there are no positions
            of_weight = torch.zeros_like(weight, dtype=kind)
        ctx.gradients = of_hidden, of_weight, of_bias
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        scaled = (None if each is None else each.mul_(factor) for each in gradients)
        return (*scaled, None, None)


class _LogitsLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, of_chunk: ChunkLoss) -> Tensor:
        ctx.gradient = torch.empty_like(logits)
        total = logits.new_zeros((), dtype=torch.float32)
        with torch.autocast(logits.device.type, enabled=False):
            for rows in _split_into_chunks(*logits.shape):
                loss, gradient = of_chunk(logits[rows].clone(), rows)
                total += loss
                ctx.gradient[rows] = gradient
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None
        return gradient.mul_(factor), None


def _split_into_chunks(positions: int, classes: int) -> Iterator[slice]:
    """Yield the chunks of all positions, in order."""
    rows = choose_chunk_size(positions, classes)
    return (slice(start, start + rows) for start in range(0, positions, rows))
