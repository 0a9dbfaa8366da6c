"""Cross-entropy of an output layer by Liger's kernel, where it is installed and gives the right result.

It is used where the loss applies the output layer on a GPU and is not compiled: Liger then reads the logits
of a chunk once, hfpipe's loss six times. Compiled, hfpipe's loss is one loop too, and never waits for the
GPU, which Liger's does twice per call. Neither has been timed on a GPU.

Interfaces and results of kernels change between versions, so the kernel is compared with hfpipe's loss on a
few random numbers before it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from hfpipe.errors import format_one_line
from hfpipe.modeling.losses.chunked_loss import compute_linear_cross_entropy

log = logging.getLogger(__name__)

LinearLoss = Callable[..., Tensor]
"""`compute_linear_cross_entropy`, or a function with the same arguments and result."""
TOLERANCE = {torch.float32: 1e-4}
"""Dtype of the products → largest deviation of loss and gradients, relative to the largest gradient."""
TOLERANCE_OF_HALF = 5e-2
"""The same for bfloat16: each kernel rounds at other places."""
SAMPLE = (64, 128, 1000)
"""Positions, hidden size and classes of the comparison."""


def choose_linear_loss(device: torch.device, dtype: torch.dtype, smoothing: float) -> LinearLoss:
    """Return the loss of an output layer that is applied in the loss, for code that is not compiled."""
    if device.type != "cuda":
        return compute_linear_cross_entropy
    found = load_liger_loss(device, dtype, smoothing)
    log.info("loss: the output layer in chunks, by %s", "hfpipe" if found is None else "Liger's kernel")
    return found or compute_linear_cross_entropy


def load_liger_loss(device: torch.device, dtype: torch.dtype, smoothing: float) -> LinearLoss | None:
    """Return Liger's loss, None if it is not installed, fails on the device, or gives other results."""
    try:
        deviation = _compute_deviation(compute_liger_loss, device, dtype, smoothing)
    except ImportError:
        return None
    except Exception as error:  # of the kernel's compiler, or of another version
        log.info("loss: Liger's kernel failed and is not used: %s", format_one_line(error))
        return None
    if not deviation <= TOLERANCE.get(dtype, TOLERANCE_OF_HALF):  # which NaN is not either
        log.info("loss: Liger's kernel deviates by %.2g and is not used", deviation)
        return None
    return compute_liger_loss


def compute_liger_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    smoothing: float = 0.0,
    ignored: int = -100,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return `compute_linear_cross_entropy` by Liger's kernel, which sums gradients in float32."""
    if not len(hidden):  # Liger would divide by the size of a chunk, 0
        return compute_linear_cross_entropy(hidden, weight, bias, targets, dtype=dtype)
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(
        ignore_index=ignored, label_smoothing=smoothing, reduction="sum", accum_dtype=torch.float32
    )
    with torch.autocast(hidden.device.type, enabled=False):
        shift = None if bias is None else bias.to(dtype)
        total: Tensor = loss(weight.to(dtype), hidden.to(dtype), targets, shift)
    return total


def _compute_deviation(loss: LinearLoss, device: torch.device, dtype: torch.dtype, smoothing: float) -> float:
    """Return the largest deviation of a loss and its gradients from hfpipe's own."""
    mine, other = (
        _compute_sample(each, device, dtype, smoothing) for each in (compute_linear_cross_entropy, loss)
    )
    deviations = [(one - two).abs().max() / one.abs().max() for one, two in zip(mine, other, strict=True)]
    return float(torch.stack(deviations).max())


def _compute_sample(
    loss: LinearLoss, device: torch.device, dtype: torch.dtype, smoothing: float
) -> list[Tensor]:
    """Return the loss of random numbers, and the gradients of hidden states, weights and bias."""
    random = torch.Generator().manual_seed(17)
    rows, size, classes = SAMPLE
    targets = torch.randint(classes, (rows,), generator=random)
    targets[::7] = -100
    shapes = ((rows, size), (classes, size), (classes,))
    hidden, weight, bias = (
        torch.randn(shape, generator=random).to(device).requires_grad_() for shape in shapes
    )
    with torch.enable_grad():
        total = loss(hidden, weight, bias, targets.to(device), smoothing=smoothing, dtype=dtype)
        gradients = torch.autograd.grad(0.5 * total, (hidden, weight, bias))
    return [total.detach().float(), *(each.float() for each in gradients)]
