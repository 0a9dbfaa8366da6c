"""Part l: the output layer and its cross-entropy, forward and backward: results, speed, memory of each way.

The ways are all logits at once, compiled with their loss, hfpipe's loss in chunks, Liger's kernel and Apple's
`cut_cross_entropy`, the last two where they are installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from parts.timing import median_seconds, peak_gb, release
from torch import Tensor
from torch.nn import functional as F

from gpu_parts.records import Settings, emit


@dataclass(frozen=True)
class Shape:
    """Sizes of an output layer in a step."""

    name: str
    positions: int
    size: int
    classes: int


SHAPES = (
    Shape("GPT-2, 32 x 1,024", 32 * 1024, 768, 50_304),
    Shape("ModernBERT, 30 % of 32k", 9830, 768, 50_368),
    Shape("Llama 3.2 1B, 8 x 2,048", 8 * 2048, 2048, 128_256),
)
TOY = (Shape("toy", 96, 32, 300),)
SMOOTHING = (0.0, 0.1)
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest deviation that passes, of the loss, and of a gradient as a share of the largest gradient."""
TURNS = 10
LEAST = 12
"""Seconds that have to be left before another measurement is begun."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Hidden states (positions, size) and weight (classes, size) in bfloat16 or float32, and targets → sum."""


def run(settings: Settings) -> None:
    """Check Liger's loss as hfpipe does before it uses it, then measure every way at every shape."""
    torch.set_float32_matmul_precision("high")
    for precision in TOLERANCE:
        for smoothing in SMOOTHING:
            _check_liger(precision, smoothing, settings)
    for shape in TOY if settings.toy else SHAPES:
        for name, loss in _ways(settings).items():
            facts = {"shape": shape.name, "way": name}
            if not settings.toy and settings.left < LEAST:
                emit("l", **facts, skipped="no time left")
                continue
            release()
            try:
                emit("l", **facts, **_measure(shape, loss, settings))
            except ImportError as error:
                emit("l", **facts, skipped=f"{type(error).__name__}: {error}"[:300])
            except Exception as error:
                import traceback

                traceback.print_exc()
                emit("l", **facts, error=f"{type(error).__name__}: {error}"[:500])


def _check_liger(precision: str, smoothing: float, settings: Settings) -> None:
    from hfpipe.modeling.losses.liger_loss import load_liger_loss

    check = f"Liger's loss, {precision}, label smoothing {smoothing}"
    try:
        import liger_kernel.transformers  # noqa: F401
    except ImportError as error:
        emit("l", check=check, skipped=f"{type(error).__name__}: {error}"[:300])
        return
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    found = load_liger_loss(torch.device(settings.device), dtype, smoothing)
    emit("l", check=check, ok=found is not None, tolerance=TOLERANCE[precision])


def _ways(settings: Settings) -> dict[str, Loss]:
    from hfpipe.modeling.losses.chunked_loss import compute_linear_cross_entropy, compute_softmax_gradient
    from hfpipe.modeling.losses.liger_loss import compute_liger_loss

    half = {"dtype": torch.bfloat16}
    backend = "aot_eager" if settings.toy else "inductor"
    kernel = torch.compile(compute_softmax_gradient, dynamic=False, backend=backend)
    chunked = partial(compute_linear_cross_entropy, kernel=kernel, **half)
    return {
        "logits, compiled": torch.compile(_all_logits, dynamic=False, backend=backend),
        "chunks, compiled": lambda hidden, weight, targets: chunked(hidden, weight, None, targets),
        "chunks": lambda hidden, weight, targets: compute_linear_cross_entropy(
            hidden, weight, None, targets, **half
        ),
        "Liger": lambda hidden, weight, targets: compute_liger_loss(hidden, weight, None, targets, **half),
        "cut_cross_entropy": _cut,
    }


def _all_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden.to(torch.bfloat16), weight.to(torch.bfloat16))
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def _cut(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of Apple's package, without leaving out small gradients."""
    from cut_cross_entropy import compute_linear_cross_entropy

    half = hidden.to(torch.bfloat16), weight.to(torch.bfloat16)
    total: Tensor = compute_linear_cross_entropy(*half, targets, reduction="sum", filter_eps=None)
    return total


def _measure(shape: Shape, loss: Loss, settings: Settings) -> dict[str, Any]:
    """Return speed and memory, and the deviations from float32 products on some of the positions."""
    hidden, weight, targets = _make_inputs(shape, settings.device)
    few = slice(0, min(shape.positions, 2048))
    exact = _compute(partial(_exact), hidden[few], weight, targets[few])
    found = _compute(loss, hidden[few], weight, targets[few])
    deviations = [
        float((one - two).abs().max() / two.abs().max()) for one, two in zip(found, exact, strict=True)
    ]
    del exact, found
    release()
    seconds = median_seconds(
        lambda: _compute(loss, hidden, weight, targets), settings.device, 2 if settings.toy else TURNS
    )
    return {
        "positions_s": round(shape.positions / seconds),
        "ms": round(seconds * 1000, 2),
        "peak_gb": peak_gb(),
        "ok": max(deviations) <= TOLERANCE["bf16"],
        "deviations": {
            name: float(f"{each:.3g}")
            for name, each in zip(("loss", "hidden", "weight"), deviations, strict=True)
        },
    }


def _exact(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")


def _make_inputs(shape: Shape, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a layer at its start is given: hidden states of length 1 a number, small weights."""
    random = torch.Generator().manual_seed(17)
    hidden = torch.randn(shape.positions, shape.size, generator=random)
    weight = 0.02 * torch.randn(shape.classes, shape.size, generator=random)
    targets = torch.randint(shape.classes, (shape.positions,), generator=random)
    return hidden.to(device).requires_grad_(), weight.to(device).requires_grad_(), targets.to(device)


def _compute(loss: Loss, hidden: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor]:
    total = loss(hidden, weight, targets)
    return [total.detach().float(), *torch.autograd.grad(total / len(targets), (hidden, weight))]
