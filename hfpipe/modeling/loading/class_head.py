"""Adapts a trained head to the classes of the data: keeps it, reorders its rows, or reinitializes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, set_seed

from hfpipe.modeling.loading.class_names import (
    find_class_permutation,
    get_class_names,
    get_head_classes,
    get_problem_type,
)

SHOWN = 5
"""Maximum number of class names in a message."""


@dataclass(frozen=True)
class HeadChange:
    """Difference between the head of a checkpoint and the head that a task needs."""

    before: Sequence[str] = ()
    """Class names in the checkpoint's config."""
    after: Sequence[str] = ()
    """Class names that the task needs."""
    order: Sequence[int] | None = None
    """Rows of the old head in the new order, if the classes are the same in a different order."""
    new: bool = False
    """Whether the classes or the problem type differ."""

    def apply(self, model: PreTrainedModel, initialized: Sequence[str], seed: int) -> list[str]:
        """Reorder or reinitialize the parameters with one row per class; return their names.

        `initialized` are parameters that Transformers has already initialized. New values depend only on
        `seed`.
        """
        if self.order is None and not self.new:
            return []
        axes = find_class_axes(model)
        names = sorted(axes.keys() - set(initialized))
        if self.order is not None:
            order = torch.tensor(self.order)
            with torch.no_grad():
                for name in names:
                    weight = model.get_parameter(name)
                    weight.copy_(weight.index_select(axes[name], order))
        elif names:
            _initialize(model, names, seed)
        return names

    def describe(self, names: Sequence[str]) -> str:
        """Describe the changes to the head as a clause, empty without changes; `names` are new parameters."""
        if self.order is not None:
            return f"head reordered to the classes of the data ({_list_names(self.after)})"
        if not names:
            return ""
        old = f"; its classes were {_list_names(self.before)}" if self.new and _are_given(self.before) else ""
        return f"newly initialized: {_list_names(names)}{old}"


def compare_heads(config: PretrainedConfig, head: Mapping[str, Any]) -> HeadChange:
    """Compare the classes of a checkpoint's config, before it is updated, with those that a task needs."""
    wanted, before = get_head_classes(head), get_class_names(config)
    if wanted is None:
        return HeadChange()
    asked = head.get("problem_type")
    if asked is not None and asked != get_problem_type(config):
        return HeadChange(before, wanted, new=True)
    if before == wanted:
        return HeadChange(before, wanted)
    order = find_class_permutation(before, wanted)
    return HeadChange(before, wanted, order=order, new=order is None)


def align_outputs(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Change the order of the classes in the logits of a model.

    `order` has the model's index for each requested class; -1 is a class that the model never predicts.
    """
    taken = torch.tensor([max(place, 0) for place in order])
    absent = torch.tensor([place < 0 for place in order])

    def reorder(_: torch.nn.Module, __: Any, outputs: Any) -> Any:
        logits = outputs.logits.index_select(-1, taken.to(outputs.logits.device))
        outputs.logits = logits.masked_fill(absent.to(logits.device), torch.finfo(logits.dtype).min)
        return outputs

    model.register_forward_hook(reorder)


def find_class_axes(model: PreTrainedModel) -> dict[str, int]:
    """Return parameter → class axis, for parameters whose shape depends on the number of classes.

    They are found by building the model on the meta device with one more class.
    """
    config = deepcopy(model.config)
    config.num_labels = len(get_class_names(model.config)) + 1
    with torch.device("meta"):
        larger = dict(type(model)(config).named_parameters())
    return {
        name: next(axis for axis, size in enumerate(weight.shape) if size != larger[name].shape[axis])
        for name, weight in model.named_parameters()
        if name in larger and weight.shape != larger[name].shape
    }


def _initialize(model: PreTrainedModel, names: Sequence[str], seed: int) -> None:
    """Initialize parameters as Transformers initializes those that are missing from a file."""
    for name in names:
        owner = model.get_submodule(name.rpartition(".")[0])
        for part in (model.get_parameter(name), owner):
            part._is_hf_initialized = False  # type: ignore[union-attr]
    set_seed(seed)
    model.initialize_weights()


def _are_given(names: Sequence[str]) -> bool:
    """Return whether class names were given, rather than generated by Transformers."""
    return any(name != f"LABEL_{number}" for number, name in enumerate(names))


def _list_names(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" … ({len(names):,})" if len(names) > SHOWN else "")
