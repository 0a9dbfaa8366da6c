"""Fits a trained head to the classes of the data: kept, its rows reordered, or newly initialized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, set_seed

from hfpipe.modeling.loading.class_names import classes_of, names_in, new_order, problem_type


@dataclass(frozen=True)
class HeadChange:
    """How the head of a checkpoint differs from the one that a task needs."""

    before: Sequence[str] = ()
    """Class names in the checkpoint's config."""
    after: Sequence[str] = ()
    """Class names wanted."""
    order: Sequence[int] | None = None
    """Rows of the old head in the new order, where the classes are the same in another order."""
    new: bool = False
    """Whether the classes, or the kind of problem, differ."""

    def apply(self, model: PreTrainedModel, initialized: Sequence[str], seed: int) -> list[str]:
        """Reorder or newly initialize the parameters that hold a row for each class; return their names.

        `initialized` are those that Transformers newly initialized already. New values depend on `seed` only.
        """
        if self.order is None and not self.new:
            return []
        axes = class_axes(model)
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
        """Return a clause about the changes to the head, empty for none; `names` are its new parameters."""
        if self.order is not None:
            return f"head reordered to the classes of the data ({_list_names(self.after)})"
        if not names:
            return ""
        old = f"; its classes were {_list_names(self.before)}" if self.new and _are_given(self.before) else ""
        return f"newly initialized: {_list_names(names)}{old}"


def head_change(config: PretrainedConfig, head: Mapping[str, Any]) -> HeadChange:
    """Compare the classes of a checkpoint's config, before it is updated, with those that a task needs."""
    wanted, before = classes_of(head), names_in(config)
    if wanted is None:
        return HeadChange()
    asked = head.get("problem_type")
    if asked is not None and asked != problem_type(config):
        return HeadChange(before, wanted, new=True)
    if before == wanted:
        return HeadChange(before, wanted)
    order = new_order(before, wanted)
    return HeadChange(before, wanted, order=order, new=order is None)


def align_outputs(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Make a model return its logits in another order of classes.

    `order` has, for each class wanted, its index in the model's own; -1 is a class that it never predicts.
    """
    taken = torch.tensor([max(place, 0) for place in order])
    absent = torch.tensor([place < 0 for place in order])

    def reorder(_: torch.nn.Module, __: Any, outputs: Any) -> Any:
        logits = outputs.logits.index_select(-1, taken.to(outputs.logits.device))
        outputs.logits = logits.masked_fill(absent.to(logits.device), torch.finfo(logits.dtype).min)
        return outputs

    model.register_forward_hook(reorder)


def class_axes(model: PreTrainedModel) -> dict[str, int]:
    """Return the parameters whose shape depends on the number of classes → the axis of the classes.

    Found by building the model without memory for one class more.
    """
    config = deepcopy(model.config)
    config.num_labels = len(names_in(model.config)) + 1
    with torch.device("meta"):
        larger = dict(type(model)(config).named_parameters())
    return {
        name: next(axis for axis, size in enumerate(weight.shape) if size != larger[name].shape[axis])
        for name, weight in model.named_parameters()
        if name in larger and weight.shape != larger[name].shape
    }


def _initialize(model: PreTrainedModel, names: Sequence[str], seed: int) -> None:
    """Initialize some parameters as Transformers does those that a file lacks."""
    for name in names:
        owner = model.get_submodule(name.rpartition(".")[0])
        for part in (model.get_parameter(name), owner):
            part._is_hf_initialized = False  # type: ignore[union-attr]
    set_seed(seed)
    model.initialize_weights()


def _are_given(names: Sequence[str]) -> bool:
    """Tell whether class names were given, and not filled in by Transformers."""
    return any(name != f"LABEL_{number}" for number, name in enumerate(names))


def _list_names(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" … ({len(names):,})" if len(names) > most else "")
