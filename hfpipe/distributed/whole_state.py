"""Checkpoints of a model that is split over processes, in the form of one that is not.

Weights are in `model.safetensors` and the optimizer's state is in `optimizer.pt`, both whole. So a checkpoint
resumes on any number of processes, split or not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor, distribute_tensor

from hfpipe.errors import StageError

OPTIMIZER = "optimizer.pt"
"""Transformers' own name."""


def whole_optimizer_state(optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
    """Return the state of an optimizer with every tensor whole, on the CPU; empty tensors without `keep`.

    All processes have to call it, since each holds a part.
    """

    def whole(tensor: Any) -> Any:
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        if isinstance(tensor, torch.Tensor):
            return tensor.cpu() if keep else torch.empty(0)
        return tensor

    found = optimizer.state_dict()
    state = {
        number: {name: whole(value) for name, value in of.items()} for number, of in found["state"].items()
    }
    return {**found, "state": state}


def load_optimizer_state(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Give each process its part of the state in a checkpoint."""
    found = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, state in found["state"].items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameters[number].shape:
                state[name] = _own_part(value, parameters[number])
    optimizer.load_state_dict(found)


@torch.no_grad()
def load_weights(model: Any, folder: Path) -> None:
    """Give each process its part of the weights in a checkpoint, of a model or of an adapter.

    Raises StageError when the checkpoint does not hold all of them.
    """
    whole: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        whole |= load_file(file)
    if not whole:
        raise StageError(f"{folder}: holds no weights; delete the folder to begin again")
    names = _saved_names(model)
    for name in names.keys() & whole.keys():
        _local(names[name]).copy_(_local(_own_part(whole[name], names[name])))
    given = {_local(names[name]).data_ptr() for name in names.keys() & whole.keys()}
    tied_or_given = {name for name, kept in names.items() if _local(kept).data_ptr() in given}
    unsaved = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    if lacking := sorted(names.keys() - tied_or_given - unsaved):  # a tied weight is saved under one name
        raise StageError(f"{folder}: lacks {len(lacking)} weights, first {lacking[0]}; delete the folder")


def parameters_held(model: Any) -> tuple[int, int]:
    """Return how many parameters this process holds, and how many there are."""
    parameters = list(model.parameters())
    return sum(_local(each).numel() for each in parameters), sum(each.numel() for each in parameters)


def _saved_names(model: Any) -> dict[str, torch.Tensor]:
    """Return the weights by the names under which they are saved."""
    if not hasattr(model, "peft_config"):
        found: dict[str, torch.Tensor] = model.state_dict()
        return found
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model)


def _own_part(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the part of a whole tensor that this process holds of another."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
