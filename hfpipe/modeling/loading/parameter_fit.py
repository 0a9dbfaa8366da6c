"""Checks that a weights file fits its model: only a new head may be newly initialized."""

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
"""Number of parameter names in a message."""
SAVE = "or save the model again with save_pretrained"


@dataclass(frozen=True)
class LoadedNames:
    """The parameters of a loaded model that do not match its file."""

    missing: frozenset[str]
    """Parameters that are missing from the file."""
    shapes: Mapping[str, tuple[Sequence[int], Sequence[int]]]
    """Parameter with a mismatched shape → (shape in the file, shape by the config)."""
    unexpected: frozenset[str]
    """Parameters that are only in the file, with the file's names."""

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> LoadedNames:
        """Convert the loading info of `from_pretrained`."""
        shapes = {name: (tuple(there), tuple(wanted)) for name, there, wanted in info["mismatched_keys"]}
        return cls(frozenset(info["missing_keys"]), shapes, frozenset(info["unexpected_keys"]))

    @property
    def initialized(self) -> list[str]:
        """The parameters that were newly initialized, sorted."""
        return sorted({*self.missing, *self.shapes})


def check_signs(config: PretrainedConfig, place: object) -> None:
    """Raise StageError for a negative number whose default in the config is not negative: layers, sizes."""
    defaults = type(config)()
    for name, value in config.to_dict().items():
        usual: Any = getattr(defaults, name, None)
        if _is_integer(value) and _is_integer(usual) and value < 0 <= usual:
            raise StageError(
                f"model {place}: {name} is {value} in config.json; write {usual} or the original value"
            )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_fit(model: PreTrainedModel, found: LoadedNames, place: object, *, new_head: bool) -> None:
    """Raise StageError if anything except a new head was newly initialized, or layers of the file are unused.

    `new_head` is whether the task needs another head than that of the file.
    """
    wrong = set(found.initialized)
    if wrong and new_head:
        wrong &= find_backbone_names(model)
    extra = _find_extra_layers(model, found.unexpected)
    if not wrong and not extra:
        return
    shapes = {name: pair for name, pair in found.shapes.items() if name in wrong}
    missing = wrong - shapes.keys()
    if missing:
        message = f"its file lacks {_count_names(missing)}"
        if found.unexpected:
            message += f", and has instead {_count_names(found.unexpected)}"
        raise StageError(f"model {place}: {message}; rename them as in {type(model).__name__}, {SAVE}")
    if shapes:
        name = min(shapes)
        there, wanted = (" × ".join(map(str, shape)) for shape in shapes[name])
        raise StageError(
            f"model {place}: its file has {_count_names(shapes)} whose shape differs from config.json "
            f"({name}: {there} in the file, {wanted} by config.json); correct config.json, {SAVE}"
        )
    raise StageError(
        f"model {place}: its file holds {_count_names(extra)} for layers that config.json does not have; "
        f"correct config.json, {SAVE}"
    )


def find_backbone_names(model: PreTrainedModel) -> frozenset[str]:
    """Return the parameters of a model except for its head and an optional pooler.

    The backbone is the attribute `base_model_prefix` of a model. If there is no such attribute, as in T5, the
    backbone consists of the parameters of the model class without a head.
    """
    names = frozenset(model.state_dict())
    body = model.base_model
    if body is model:
        return names & _find_headless_names(model)
    [prefix] = [name for name, module in model.named_modules() if module is body]
    return frozenset(f"{prefix}.{name}" for name in _remove_pooler(body)) & names


def _find_headless_names(model: PreTrainedModel) -> frozenset[str]:
    """Return the parameters of the class without a head; without such a class, all but the output layer."""
    output = model.get_output_embeddings()
    head = {id(weight) for weight in output.parameters()} if output is not None else set()
    try:
        with torch.device("meta"):
            return frozenset(AutoModel.from_config(model.config).state_dict())
    except (ValueError, KeyError):  # Transformers knows no such model
        return frozenset(
            name for name, weight in model.named_parameters(remove_duplicate=False) if id(weight) not in head
        )


def _remove_pooler(body: torch.nn.Module) -> frozenset[str]:
    """Return the parameters of a backbone without its pooler, which some models have only for some heads."""
    names = frozenset(body.state_dict())
    if "add_pooling_layer" not in inspect.signature(type(body).__init__).parameters:
        return names
    with torch.device("meta"):
        return names & frozenset(type(body)(body.config, add_pooling_layer=False).state_dict())


def _find_extra_layers(model: PreTrainedModel, unexpected: frozenset[str]) -> set[str]:
    """Return the unexpected names that belong to layers after the last layer of the backbone."""
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


def _count_names(names: Any) -> str:
    """Return the number of parameters and the first of their names, for a message."""
    first = sorted(names)
    more = ", …" if len(first) > SHOWN else ""
    return f"{len(first):,} weight{'s' * (len(first) > 1)} ({', '.join(first[:SHOWN])}{more})"
