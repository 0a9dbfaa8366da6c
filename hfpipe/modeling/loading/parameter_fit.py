"""Checks that a file of weights fits its model: only a new head may be newly initialized."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from hfpipe.errors import StageError

SHOWN = 3
"""Names of parameters that a message lists."""
SAVE = "or save the model again with save_pretrained"


@dataclass(frozen=True)
class LoadedNames:
    """The parameters of a loaded model that did not match its file."""

    missing: frozenset[str]
    """Those that the file does not hold."""
    shapes: Mapping[str, tuple[Sequence[int], Sequence[int]]]
    """Those of another shape → (shape in the file, shape that the config asks for)."""
    unexpected: frozenset[str]
    """Those that only the file has, under its own names."""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> LoadedNames:
        """Read the loading info of `from_pretrained`."""
        shapes = {name: (tuple(there), tuple(wanted)) for name, there, wanted in info["mismatched_keys"]}
        return cls(frozenset(info["missing_keys"]), shapes, frozenset(info["unexpected_keys"]))

    @property
    def initialized(self) -> list[str]:
        """The parameters that were newly initialized, sorted."""
        return sorted({*self.missing, *self.shapes})


def check_signs(config: PretrainedConfig, place: object) -> None:
    """Raise StageError at a negative number where the default of the config is not: layers, sizes."""
    defaults = type(config)()
    for name, value in config.to_dict().items():
        usual: Any = getattr(defaults, name, None)
        if _is_number(value) and _is_number(usual) and value < 0 <= usual:
            raise StageError(
                f"model {place}: {name} is {value} in config.json; write {usual}, or what it was"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_fit(model: PreTrainedModel, found: LoadedNames, place: object, *, new_head: bool) -> None:
    """Raise StageError when anything but a new head was newly initialized, or part of the file is not used.

    `new_head` says that the head of the file, if it has one, is not the one wanted.
    """
    wrong = set(found.initialized)
    if wrong and new_head:
        wrong &= backbone_names(model)
    extra = _extra_layers(model, found.unexpected)
    if not wrong and not extra:
        return
    shapes = {name: pair for name, pair in found.shapes.items() if name in wrong}
    missing = wrong - shapes.keys()
    if missing:
        message = f"its file lacks {_counted(missing)}"
        if found.unexpected:
            message += f", and has instead {_counted(found.unexpected)}"
        raise StageError(f"model {place}: {message}; rename them to what {_class(model)} has, {SAVE}")
    if shapes:
        name = min(shapes)
        there, wanted = (" × ".join(map(str, shape)) for shape in shapes[name])
        raise StageError(
            f"model {place}: its file has {_counted(shapes)} of another shape than config.json asks for "
            f"({name}: {there} in the file, {wanted} by config.json); correct config.json, {SAVE}"
        )
    raise StageError(
        f"model {place}: its file holds {_counted(extra)}, of layers that config.json does not have; "
        f"correct config.json, {SAVE}"
    )


def backbone_names(model: PreTrainedModel) -> frozenset[str]:
    """Return the parameters of a model that are not its head, without an optional pooler.

    A model holds its backbone under `base_model_prefix`. Where it does not, as T5, the backbone is what the
    model without a head has.
    """
    names = frozenset(model.state_dict())
    body = model.base_model
    if body is model:
        return names & _headless(model)
    [prefix] = [name for name, module in model.named_modules() if module is body]
    return frozenset(f"{prefix}.{name}" for name in _without_pooler(body)) & names


def _headless(model: PreTrainedModel) -> frozenset[str]:
    """Return the parameters of the model without a head, or all but the output layer if there is none."""
    output = model.get_output_embeddings()
    head = {id(weight) for weight in output.parameters()} if output is not None else set()
    try:
        with torch.device("meta"):
            return frozenset(AutoModel.from_config(model.config).state_dict())
    except (ValueError, KeyError):  # Transformers knows no such model
        return frozenset(
            name for name, weight in model.named_parameters(remove_duplicate=False) if id(weight) not in head
        )


def _without_pooler(body: torch.nn.Module) -> frozenset[str]:
    """Return the parameters that a backbone always has: some have a pooler only where a head needs one."""
    names = frozenset(body.state_dict())
    if "add_pooling_layer" not in inspect.signature(type(body).__init__).parameters:
        return names
    with torch.device("meta"):
        return names & frozenset(type(body)(body.config, add_pooling_layer=False).state_dict())


def _extra_layers(model: PreTrainedModel, unexpected: frozenset[str]) -> set[str]:
    """Return those of the unexpected names that belong to layers past the last one of the backbone."""
    lengths = {
        name: len(module)
        for name, module in model.base_model.named_modules()
        if isinstance(module, torch.nn.ModuleList)
    }

    def is_extra(name: str) -> bool:
        own = name.removeprefix(f"{model.base_model_prefix}.")
        numbers = re.finditer(r"\.(\d+)\.", own)
        return any(int(each[1]) >= lengths.get(own[: each.start()], math.inf) for each in numbers)

    return {name for name in unexpected if is_extra(name)}


def _counted(names: Any) -> str:
    """Return the number of some parameters with the first of them."""
    first = sorted(names)
    more = ", …" if len(first) > SHOWN else ""
    return f"{len(first):,} weight{'s' * (len(first) > 1)} ({', '.join(first[:SHOWN])}{more})"


def _class(model: PreTrainedModel) -> str:
    return type(model).__name__
