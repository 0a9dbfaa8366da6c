"""Computes the end of a classifier's last layer only at the first position, if its head reads only that one.

After the attention of the last layer, everything is computed position by position. The other positions are an
eighth of all matrix products for a BERT of six layers, forward and backward.

Whether a module may skip them is tested by running the model, not by its name: NaN in its inputs at all other
positions must not reach the outputs. A weight of 0 does not hide NaN, so the result holds for any weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import starmap
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

if TYPE_CHECKING:
    from hfpipe.types import Batch

PROBE = (7, 3, 5)
"""Numbers of tokens per row in the test of a module."""
DEPTH = 2
"""Depth to which the modules of the last layer are tested; deeper ones are parts of these."""

Change = Callable[[Tensor], Tensor]


@contextmanager
def skip_unread_positions(model: PreTrainedModel, *, training: bool) -> Iterator[list[str]]:
    """Skip positions that the outputs do not depend on; yield the names of modules that skip.

    They skip in `training`, or else in evaluation. None does if the head reads several positions, if hidden
    states are among the outputs, or if the model cannot be tested. Results differ only by rounding. Not for
    rows without padding, whose first position is that of the first example.
    """
    modules = _find_modules(model)
    with ExitStack() as hooks:
        for module in modules.values():
            hooks.enter_context(_change_inputs(module, _keep_first, when=training))
        yield list(modules)


def _find_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the modules of the last layer that need only the first position of their inputs, by name."""
    if not isinstance(unwrap_peft_model(model), PreTrainedModel):  # an export, whose layers are not known
        return {}
    layer, training = _get_last_layer(model), model.training
    if layer is None or model.get_output_embeddings() is not None:
        return {}
    model.eval()
    try:
        with torch.no_grad():
            return _test_modules(model, layer, *run_probe(model))
    except Exception:  # a model may raise any exception for the batch of the test
        return {}
    finally:
        model.train(training)


def _test_modules(
    model: PreTrainedModel, layer: nn.Module, batch: Batch, usual: list[Tensor]
) -> dict[str, nn.Module]:
    """Return the modules of a layer that pass the test, each with those before it skipping positions."""
    found: dict[str, nn.Module] = {}
    with ExitStack() as hooks:
        for name, module in layer.named_modules():
            inside = any(name.startswith(f"{outer}.") for outer in found)
            if not name or name.count(".") >= DEPTH or inside:
                continue
            if _depends_on_first(model, module, batch, usual):
                found[name] = module
                hooks.enter_context(_change_inputs(module, _keep_first))
    return found


def _get_last_layer(model: PreTrainedModel) -> nn.Module | None:
    """Return the last element of the longest list of modules in the base model, None if there is no list."""
    base: Any = unwrap_peft_model(model).base_model
    lists = [module for module in base.modules() if isinstance(module, nn.ModuleList) and len(module)]
    layer: nn.Module | None = max(lists, key=len)[-1] if lists else None
    return layer


def run_probe(model: PreTrainedModel, words: Tensor | None = None) -> tuple[Batch, list[Tensor]]:
    """Return a small padded batch, and the outputs of the model for it.

    Its token ids are `words`, int64 (ids,), the first ones of the vocabulary by default.
    """
    config = model.config.get_text_config()
    mask = torch.tensor([[number < size for number in range(max(PROBE))] for size in PROBE]).long()
    ids = torch.arange(mask.numel()).reshape(mask.shape)
    ids = (ids + 3) % config.vocab_size if words is None else words[ids % len(words)]
    batch = {"input_ids": ids.masked_fill(mask == 0, config.pad_token_id or 0), "attention_mask": mask}
    batch = {name: each.to(model.device) for name, each in batch.items()}
    try:
        return batch, _compute_outputs(model, batch)
    except RuntimeError:  # shapes of a model for multiple choice: (rows, choices, length)
        batch = {name: each.unsqueeze(0) for name, each in batch.items()}
        return batch, _compute_outputs(model, batch)


def _compute_outputs(model: PreTrainedModel, batch: Batch) -> list[Tensor]:
    """Return all tensors that a model returns for a batch."""
    return [each for each in tree_leaves(tuple(model(**batch).values())) if isinstance(each, Tensor)]


def _depends_on_first(model: PreTrainedModel, module: nn.Module, batch: Batch, usual: list[Tensor]) -> bool:
    """Return whether the outputs need only the first position of a module's inputs."""
    changed: list[bool] = []

    def spoil(tensor: Tensor) -> Tensor:
        changed.append(True)
        spoiled = tensor.clone()
        spoiled[:, 1:] = torch.nan
        return spoiled

    for change in (spoil, _keep_first):
        try:
            with _change_inputs(module, change):
                outputs = _compute_outputs(model, batch)
        except Exception:  # the layer needs all positions where shapes do not fit
            return False
        if not changed or not all(starmap(_are_close, zip(outputs, usual, strict=True))):
            return False
    return True


def _are_close(found: Tensor, usual: Tensor) -> bool:
    """Return whether two outputs have one shape and differ by rounding at most, without NaN."""
    tolerance = torch.finfo(usual.dtype).eps ** 0.5 * usual.abs().max()
    return found.shape == usual.shape and bool((found - usual).abs().max() <= tolerance)


def _keep_first(tensor: Tensor) -> Tensor:
    return tensor[:, :1]


@contextmanager
def _change_inputs(module: nn.Module, change: Change, *, when: bool | None = None) -> Iterator[None]:
    """Change tensors (rows, length, …) that a module receives, in training, in evaluation or always."""

    def replace(value: Any) -> Any:
        fits = isinstance(value, Tensor) and value.dim() == 3 and value.shape[1] > 1
        return change(value) if fits else value

    def hook(called: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if when not in (None, called.training):
            return None
        changed = {name: replace(value) for name, value in options.items()}
        return tuple(map(replace, arguments)), changed

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
