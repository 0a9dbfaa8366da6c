"""Reads an Accelerate config file with the position of each key, and checks it before any process starts.

Accelerate's launcher ignores unknown keys inside sections, and some settings fail only when a training saves
its model. Both are detected here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from hfpipe.distributed.process_layout import ProcessLayout, Split
from hfpipe.errors import Problem, RecipeError, Spot
from hfpipe.recipe.messages import Keys, suggest
from hfpipe.references.places import find_irregular_type

_MOST_CHARACTERS = 100_000
"""Maximum size of an Accelerate config, which usually has some forty lines."""
_DEEPEST = 20
_PARALLELISM = "parallelism_config"
_SECTIONS = {"fsdp_config": "fsdp_", "deepspeed_config": "", _PARALLELISM: ""}
"""Section that is checked → the prefix that the launcher adds to keys without it."""


@dataclass(frozen=True)
class AccelerateFile:
    """The settings of an Accelerate config, and their positions."""

    path: Path
    settings: dict[str, Any]
    positions: Mapping[Keys, tuple[int, int]] = field(default_factory=dict)
    """Keys → line and column, counted from 1."""
    lines: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        """The option on the command line."""
        return f"--accelerate {self.path}"

    def get_number(self, *keys: str) -> int:
        """Return a number in the file, 1 if it is missing. Raises RecipeError for any other value."""
        found: Any = self.settings
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is None:
            return 1
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            message = f"{keys[-1]} is {found!r}; write an integer of at least 1"
            raise RecipeError([Problem(f"{self.option}: {message}")])
        return found

    def get_section(self, name: str) -> Mapping[str, Any]:
        """Return a section, empty if it is missing; its keys have the launcher's prefix."""
        found = self.settings.get(name)
        prefix = _SECTIONS[name]
        entries = found.items() if isinstance(found, Mapping) else ()
        return {key if str(key).startswith(prefix) else f"{prefix}{key}": value for key, value in entries}

    @property
    def layout(self) -> ProcessLayout:
        """How its processes are arranged."""

        def get_size(name: str) -> int:
            return self.get_number(_PARALLELISM, f"{_PARALLELISM}_{name}_size")

        return ProcessLayout(
            self.get_number("num_processes"),
            get_size("dp_replicate"),
            get_size("dp_shard"),
            get_size("tp"),
            get_size("cp"),
        )

    @property
    def split(self) -> Split:
        """Number of processes over which weights, gradients and optimizer state are split."""
        layout, kind = self.layout, self.settings.get("distributed_type")
        if layout.tensor > 1:
            parts = layout.tensor * layout.shards
            return Split(parts, parts, parts, gathers=layout.shards > 1)
        if kind == "FSDP":
            return Split(layout.sharded, layout.sharded, layout.sharded, gathers=layout.sharded > 1)
        if kind == "DEEPSPEED":
            stage = self.get_section("deepspeed_config").get("zero_stage", 2)
            weights, gradients, state = (layout.world if stage >= least else 1 for least in (3, 2, 1))
            return Split(weights, gradients, state, gathers=stage == 3)
        return Split()

    def make_problem(self, message: str, *keys: str) -> Problem:
        """Return a problem at a key, or at the whole file."""
        if keys not in self.positions:
            return Problem(f"{self.option}: {message}")
        line, column = self.positions[keys]
        return Problem(message, keys, Spot(self.path, line, column, self.lines[line - 1]))


def read_accelerate_file(path: Path) -> AccelerateFile:
    """Return an Accelerate config, which Accelerate itself reads again. Raises RecipeError in one line.

    Nested merges grow exponentially. Accelerate writes no aliases, so a config with an alias is rejected
    before anything is built from it.
    """
    try:
        if (kind := find_irregular_type(path)) is not None:
            raise RecipeError([Problem(f"--accelerate {path}: is {kind}; name an Accelerate config file")])
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_CHARACTERS + 1)
        if len(text) > _MOST_CHARACTERS:
            raise ValueError("it is too long for an Accelerate config")
        _check_size(text)
        settings, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise RecipeError([Problem(f"--accelerate {path}: cannot be read ({reason})")]) from None
    if not isinstance(settings, dict):
        return AccelerateFile(path, {})
    return AccelerateFile(path, settings, dict(_list_positions(node, ())), tuple(text.splitlines()))


def _check_size(text: str) -> None:
    """Raise ValueError for YAML that grows when it is loaded, or that takes PyYAML very long."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it contains an alias (*NAME); write the value there")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels")


def _list_positions(node: Any, path: Keys) -> Iterator[tuple[Keys, tuple[int, int]]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*path, str(key.value))
        yield here, (key.start_mark.line + 1, key.start_mark.column + 1)
        yield from _list_positions(value, here)


def find_config_problems(file: AccelerateFile) -> Iterator[Problem]:
    """Yield the settings that cannot be started, would be ignored, or would fail at the end of a training."""
    yield from _find_unknown_keys(file)
    if file.settings.get("distributed_type") == "FSDP":
        yield from _check_fsdp(file)
    if file.settings.get("distributed_type") == "DEEPSPEED":
        yield from _check_deepspeed(file)
    yield from _check_parallelism(file)


def _find_unknown_keys(file: AccelerateFile) -> Iterator[Problem]:
    """Yield the keys that the installed Accelerate does not know; it rejects some, and ignores others."""
    top, options = read_known_keys()
    for key in file.settings:
        if key not in top:
            yield file.make_problem(f"unknown key {key!r}{suggest(str(key), top)}", str(key))
    for name, prefix in _SECTIONS.items():
        there = file.settings.get(name)
        known = [option for option in options if option.startswith(prefix or _get_prefix(name))]
        for key in there if isinstance(there, Mapping) else ():
            if key not in options and f"{prefix}{key}" not in options:
                close = suggest(f"{_get_prefix(name)}{key}", known)
                yield file.make_problem(f"unknown key {key!r} in {name}{close}", name, str(key))


def _get_prefix(section: str) -> str:
    return f"{section}_" if section == _PARALLELISM else ""


@lru_cache(maxsize=1)
def read_known_keys() -> tuple[list[str], list[str]]:
    """Return the keys of a config and the launcher's options, read from Accelerate's source, not imported."""
    found = find_spec("accelerate")
    assert found is not None
    assert found.submodule_search_locations is not None
    commands = Path(found.submodule_search_locations[0]) / "commands"
    source = ast.parse((commands / "config" / "config_args.py").read_text(encoding="utf-8"))
    top = [
        entry.target.id
        for node in source.body
        if isinstance(node, ast.ClassDef) and node.name in ("BaseConfig", "ClusterConfig")
        for entry in node.body
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)
    ]
    options = re.findall(r'"--([a-z]\w*)"', (commands / "launch.py").read_text(encoding="utf-8"))
    return top, options


def _check_fsdp(file: AccelerateFile) -> Iterator[Problem]:
    settings = file.get_section("fsdp_config")
    version = settings.get("fsdp_version", 1)
    if str(version) != "2":
        message = f"fsdp_version is {version!r}; write fsdp_version: 2, whose checkpoints any layout resumes"
        yield file.make_problem(message, "fsdp_config", *_find_key(file, "fsdp_config", "fsdp_version"))
    state = settings.get("fsdp_state_dict_type")
    if state != "FULL_STATE_DICT":
        message = (
            f"fsdp_state_dict_type is {state!r}, which saves no folder that from_pretrained can open; "
            "write fsdp_state_dict_type: FULL_STATE_DICT"
        )
        yield file.make_problem(
            message, "fsdp_config", *_find_key(file, "fsdp_config", "fsdp_state_dict_type")
        )
    if "HYBRID" in str(settings.get("fsdp_sharding_strategy")):
        message = (
            "FSDP2 ignores fsdp_sharding_strategy; write parallelism_config_dp_replicate_size and "
            "parallelism_config_dp_shard_size, as in recipes/accelerate/hybrid-shard.yaml"
        )
        yield file.make_problem(
            message, "fsdp_config", *_find_key(file, "fsdp_config", "fsdp_sharding_strategy")
        )


def _check_deepspeed(file: AccelerateFile) -> Iterator[Problem]:
    settings = file.get_section("deepspeed_config")
    if find_spec("deepspeed") is None:
        yield file.make_problem(
            "DeepSpeed is not installed; pip install 'hfpipe[deepspeed]'", "distributed_type"
        )
    if file.settings.get("use_cpu"):
        message = (
            "Accelerate does not use DeepSpeed on a CPU, and would train copies; "
            "delete use_cpu, or use recipes/accelerate/fsdp.yaml"
        )
        yield file.make_problem(message, "use_cpu")
    if settings.get("zero_stage") == 3 and settings.get("zero3_save_16bit_model") is not True:
        message = (
            "ZeRO-3 does not save the full model; write zero3_save_16bit_model: true under deepspeed_config"
        )
        yield file.make_problem(
            message, "deepspeed_config", *_find_key(file, "deepspeed_config", "zero_stage")
        )


def _find_key(file: AccelerateFile, section: str, key: str) -> tuple[str, ...]:
    """Return the key as in the file, with or without the launcher's prefix; empty if it is missing."""
    forms = (key, key.removeprefix(_SECTIONS[section]))
    return next(((form,) for form in forms if (section, form) in file.positions), ())


def _check_parallelism(file: AccelerateFile) -> Iterator[Problem]:
    layout = file.layout
    if file.get_number(_PARALLELISM, f"{_PARALLELISM}_sp_size") > 1:
        message = "hfpipe does not split sequences for DeepSpeed (sp_size); write cp_size for FSDP2"
        yield file.make_problem(message, _PARALLELISM, f"{_PARALLELISM}_sp_size")
    if layout.tensor > 1 and layout.context > 1:
        message = "tp_size and cp_size cannot both be over 1; write 1 for one of them"
        yield file.make_problem(message, _PARALLELISM, f"{_PARALLELISM}_cp_size")
    if layout.context > 1 and file.settings.get("use_cpu"):
        message = "context parallel attention needs GPUs; delete use_cpu, or write 1"
        yield file.make_problem(message, _PARALLELISM, f"{_PARALLELISM}_cp_size")
    product = layout.replicas * layout.shards * layout.tensor * layout.context
    if product not in (1, layout.world):
        sizes = "dp_replicate_size × dp_shard_size × tp_size × cp_size"
        message = (
            f"{sizes} is {product} and num_processes is {layout.world}; "
            f"write num_processes: {product}, or sizes whose product is {layout.world}"
        )
        yield file.make_problem(message, _PARALLELISM)
