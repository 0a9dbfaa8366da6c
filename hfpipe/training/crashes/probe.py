"""Recomputes micro-batches to find the first output or gradient that is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hfpipe.encoding.padding import list_forward_passes

if TYPE_CHECKING:
    from hfpipe.encoding.padding import Batches
    from hfpipe.training.trainer import TaskTrainer


@dataclass
class NotFinite:
    """The first value in a forward and backward pass that is not finite."""

    loss: float | None = None
    """The loss, if it is not finite."""
    module: str | None = None
    """Name of the first module that returned a value that is not finite; empty for the whole model."""
    parameter: str | None = None
    """Name of the first parameter, in the order of the backward pass, whose gradient is not finite."""
    largest: str | None = None
    """Name of the parameter with the largest gradient, if all are finite but their norm is not."""

    def __bool__(self) -> bool:
        return any(each is not None for each in (self.loss, self.parameter, self.largest))


def probe_batches(trainer: TaskTrainer, batches: Batches, targets: Tensor) -> NotFinite:
    """Compute loss and gradients of a micro-batch, split or not, with an unsharded model in this process.
    Gradients are computed only if the loss is finite, and discarded.
    """
    model = trainer.bare
    found = NotFinite()
    with _watch_model(model, found):
        for part in list_forward_passes(batches):
            loss = trainer.compute_loss(model, trainer._prepare_inputs(part), num_items_in_batch=targets)
            if not torch.isfinite(loss):
                found.loss = loss.item()
                break
            found.module = None  # a masked value, or the minus infinity of a mask
            loss.backward()
    if not found:
        found.largest = _find_overflow(model)
    model.zero_grad(set_to_none=True)
    return found


def _find_overflow(model: nn.Module) -> str | None:
    """Return the parameter with the largest gradient if the norm of all gradients is not finite."""
    norms = {name: each.grad.norm() for name, each in model.named_parameters() if each.grad is not None}
    if not norms or torch.stack([*norms.values()]).norm().isfinite():
        return None
    return max(norms, key=lambda name: norms[name].item())


def are_gradients_finite(trainer: TaskTrainer, micro_batches: Iterable[Batches], targets: Tensor) -> bool:
    """Return whether all gradients of this process are finite.

    They are not added to existing gradients, and other processes are not involved.
    """
    model = trainer.bare
    learned = [each for each in model.parameters() if each.requires_grad]
    for batches in micro_batches:
        for part in list_forward_passes(batches):
            loss = trainer.compute_loss(model, trainer._prepare_inputs(part), num_items_in_batch=targets)
            found = torch.autograd.grad(loss, learned, materialize_grads=True)
            if not all(bool(each.isfinite().all()) for each in found):
                return False
    return True


@contextmanager
def _watch_model(model: nn.Module, found: NotFinite) -> Iterator[None]:
    """Note the first module and the first parameter with a value that is not finite."""
    handles: list[Any] = [
        module.register_forward_hook(partial(_check_output, found, name))
        for name, module in model.named_modules()
    ]
    handles += [
        parameter.register_post_accumulate_grad_hook(partial(_check_gradient, found, name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_output(found: NotFinite, name: str, _: nn.Module, __: Any, output: Any) -> None:
    if found.module is None and not all(bool(each.isfinite().all()) for each in _find_tensors(output)):
        found.module = name


def _check_gradient(found: NotFinite, name: str, parameter: Tensor) -> None:
    if found.parameter is None and parameter.grad is not None and not parameter.grad.isfinite().all():
        found.parameter = name


def _find_tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _find_tensors(list(output.values()))
    elif isinstance(output, (list, tuple)):
        for each in output:
            yield from _find_tensors(each)
