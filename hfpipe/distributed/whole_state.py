"""Checkpoints of a split model in the format of an unsplit one.

Weights in `model.safetensors` and optimizer state in `optimizer.pt` are both complete, so that a checkpoint
can be resumed with any number of processes, split or not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor, distribute_tensor

from hfpipe.errors import StageError

OPTIMIZER = "optimizer.pt"
"""File name in Transformers."""


def gather_optimizer_state(optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
    """Return the state of an optimizer with complete tensors on the CPU; empty tensors without `keep`.

    All processes must call it, because each has a part.
    """

    def gather(tensor: Any) -> Any:
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        if isinstance(tensor, torch.Tensor):
            return tensor.cpu() if keep else torch.empty(0)
        return tensor

    found = optimizer.state_dict()
    state = {
        number: {name: gather(value) for name, value in of.items()} for number, of in found["state"].items()
    }
    return {**found, "state": state}


def load_optimizer_state(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Load this process's part of the optimizer state in a checkpoint."""
    found = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, state in found["state"].items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameters[number].shape:
                state[name] = _take_own_part(value, parameters[number])
    optimizer.load_state_dict(found)


@torch.no_grad()
def load_weights(model: Any, folder: Path) -> None:
    """Load this process's part of the weights in a checkpoint of a model or adapter.

    Raises StageError when the checkpoint does not contain all weights.
    """
    whole: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        whole |= load_file(file)
    if not whole:
        raise StageError(f"{folder}: contains no weights; delete the folder to begin again")
    names = _find_saved_weights(model)
    for name in names.keys() & whole.keys():
        _to_local(names[name]).copy_(_to_local(_take_own_part(whole[name], names[name])))
    given = {_to_local(names[name]).data_ptr() for name in names.keys() & whole.keys()}
    tied_or_given = {name for name, kept in names.items() if _to_local(kept).data_ptr() in given}
    unsaved = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    if lacking := sorted(names.keys() - tied_or_given - unsaved):  # a tied weight is saved under one name
        raise StageError(f"{folder}: lacks {len(lacking)} weights, first {lacking[0]}; delete the folder")


def count_held_parameters(model: Any) -> tuple[int, int]:
    """Return the number of parameters in this process, and that of the whole model."""
    parameters = list(model.parameters())
    return sum(_to_local(each).numel() for each in parameters), sum(each.numel() for each in parameters)


def _find_saved_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the weights by the names in a checkpoint."""
    if not hasattr(model, "peft_config"):
        found: dict[str, torch.Tensor] = model.state_dict()
        return found
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model)


def _take_own_part(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a complete tensor, split like another tensor."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _to_local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
