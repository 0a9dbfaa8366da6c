"""Parses YAML 1.2 and records the position of every key and value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from hfpipe.errors import Problem, RecipeError, Spot
from hfpipe.recipe.document import Document
from hfpipe.recipe.messages import Keys, describe_position, format_keys
from hfpipe.recipe.yaml_errors import describe_yaml_error
from hfpipe.references.places import find_irregular_type

_TAG = "tag:yaml.org,2002:"
# Limits far above any recipe; they protect the memory from endless files and nested aliases.
_MOST_BYTES = 1_000_000
_MOST_NODES = 100_000
_MOST_CHARACTERS = 10_000_000
_DEEPEST = 100
_WHOLE = range(-(2**63), 2**63)  # range of integers in file formats and libraries
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's core schema: `5e-4` is a number, `no` and dates are strings."""

    yaml_implicit_resolvers = {
        None: [
            (_TAG + "null", re.compile(r"(~|null|Null|NULL|)\Z")),
            (_TAG + "bool", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z")),
            (_TAG + "int", re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")),
            (
                _TAG + "float",
                re.compile(
                    r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
                    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
                ),
            ),
            (_TAG + "merge", re.compile(r"<<\Z")),
        ]
    }


def _parse_int(text: str) -> int:
    number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if number not in _WHOLE:
        raise OverflowError
    return number


def _parse_float(text: str) -> float:
    number = float(re.sub(r"\.(inf|nan)\Z", r"\1", text.lower()))
    if math.isinf(number) and "inf" not in text.lower():
        raise OverflowError
    return number


_SCALARS: dict[str, Callable[[str], Any]] = {
    "!!str": str,
    "!!merge": str,
    "!!null": lambda _: None,
    "!!bool": lambda text: {"true": True, "false": False}[text.lower()],
    "!!int": _parse_int,
    "!!float": _parse_float,
}


def parse_yaml(text: str, file: Path) -> Document:
    """Parse YAML text; errors are added to the document's problems, and `data` is then None."""
    document = Document(file, _BREAK.split(text))
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            document.data = _Builder(document).build(node, (), ())
    except ReaderError as error:
        before = _BREAK.split(text[: error.position])
        message = f"broken YAML: the character #x{ord(text[error.position]):04x} is not allowed"
        document.problems.append(Problem(message, spot=document.make_spot(len(before) - 1, len(before[-1]))))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        spot = document.make_spot(mark.line, mark.column) if mark else None
        document.problems.append(Problem(describe_yaml_error(error), spot=spot))
    except RecursionError:
        document.problems.append(Problem("broken YAML: nested too deeply", spot=document.make_spot(0, 0)))
    except _StopError as stop:
        document.problems.append(stop.problem)
    return document


def read_yaml(file: Path) -> Document:
    """Read a recipe file. Raises RecipeError when it cannot be read or is not a YAML mapping."""
    document = parse_yaml(_read_text(file), file)
    if document.data is None and not document.problems:
        document.problems.append(Problem("the recipe is empty; it needs at least 'stages'"))
    elif not isinstance(document.data, dict) and not document.problems:
        message = "a recipe is a mapping with 'name', 'seed' and 'stages'"
        document.problems.append(Problem(message, spot=document.make_spot(0, 0)))
    if not isinstance(document.data, dict):
        raise RecipeError([replace(p, spot=p.spot or Spot(file, 1, 1)) for p in document.problems])
    return document


def _read_text(file: Path) -> str:
    """Return the content of a recipe file, which must be a regular file. Raises RecipeError in one line."""
    try:
        if (kind := find_irregular_type(file)) is not None:
            raise RecipeError([Problem(f"{file}: is {kind}; {_advise_recipe(file)}")])
        with file.open("rb") as stream:
            raw = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError([Problem(f"{file}: there is no such file")]) from None
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise RecipeError([Problem(f"{file}: cannot be read: {cause}")]) from None
    if len(raw) > _MOST_BYTES:
        message = (
            f"{file}: is larger than {_MOST_BYTES / 1e6:.0f} MB; recipes are short, data are in other files"
        )
        raise RecipeError([Problem(message)])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"{file}:{line}: byte {error.start} is not UTF-8; save the file as UTF-8"
        raise RecipeError([Problem(message)]) from None


def _advise_recipe(path: Path) -> str:
    """Return the advice which recipe to use instead of a folder or special file."""
    found = sorted(path.glob("*.yaml")) if path.is_dir() else []
    return f"name a recipe file, such as {found[0]}" if found else "name a recipe file"


class _StopError(Exception):
    """Aborts the parsing of a document that cannot be processed."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class _Builder:
    """Converts YAML nodes to plain data; an alias is copied, so that `--set` changes only one place."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.nodes = 0
        self.characters = 0
        self.pairs: dict[yaml.Node, list[tuple[yaml.Node, yaml.Node]]] = {}

    def build(self, node: yaml.Node, path: Keys, above: tuple[yaml.Node, ...]) -> Any:
        spot = self._find_spot(node)
        self.document.values.setdefault(path, spot)
        self._count(node)
        if len(above) > _DEEPEST:
            raise _StopError(Problem(f"nested more than {_DEEPEST} deep", spot=spot))
        if any(node is other for other in above):
            raise _StopError(Problem("an alias is inside its own anchor", spot=spot))
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._build_mapping(node, path, (*above, node))
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*path, n), (*above, node)) for n, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._build_scalar(node, path)
        raise _StopError(Problem(f"the tag {_shorten_tag(node.tag)} is not allowed in a recipe", path, spot))

    def _count(self, node: yaml.Node, more: int = 1) -> None:
        """Count the nodes of a document after expansion of aliases and merges; abort at a limit."""
        self.nodes += more
        self.characters += len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        if self.nodes > _MOST_NODES or self.characters > _MOST_CHARACTERS:
            most = f"{_MOST_NODES:,} values or {_MOST_CHARACTERS:,} characters"
            message = f"more than {most} once every alias is expanded"
            raise _StopError(Problem(message, spot=self._find_spot(node)))

    def _build_mapping(
        self, node: yaml.MappingNode, path: Keys, above: tuple[yaml.Node, ...]
    ) -> dict[Any, Any]:
        data: dict[Any, Any] = {}
        for key_node, value_node in self._list_pairs(node, path, above):
            spot = self._find_spot(key_node)
            key = self._build_scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                self._add_problem(
                    f"a key must be a text{describe_position(path)}; put it in quotes", path, spot
                )
                continue
            below = (*path, key)
            self.document.keys[below] = spot
            data[key] = self.build(value_node, below, above)
        return data

    def _list_pairs(
        self, node: yaml.MappingNode, path: Keys, above: tuple[yaml.Node, ...]
    ) -> list[tuple[yaml.Node, yaml.Node]]:
        """Return the pairs of a mapping with `<<` expanded; its own keys come first and take precedence.

        The result is cached per mapping, because nested merges would double the work at every level.
        """
        if node not in self.pairs:
            self.pairs[node] = self._merge_keys(node, path, above)
        return self.pairs[node]

    def _merge_keys(
        self, node: yaml.MappingNode, path: Keys, above: tuple[yaml.Node, ...]
    ) -> list[tuple[yaml.Node, yaml.Node]]:
        own: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        merged: list[tuple[yaml.Node, yaml.Node]] = []
        for key, value in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if key.tag == _TAG + "merge":
                merged += self._merge_values(value, path, above)
            elif name in own:
                self._report_repeated_key(key, self._find_spot(own[name][0]), path)
            else:
                own[name] = (key, value)
        for key, value in merged:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            own.setdefault(name, (key, value))
        return list(own.values())

    def _merge_values(
        self, value: yaml.Node, path: Keys, above: tuple[yaml.Node, ...]
    ) -> list[tuple[yaml.Node, yaml.Node]]:
        parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        for part in parts:
            if any(part is other for other in above):
                raise _StopError(Problem("an alias is inside its own anchor", spot=self._find_spot(part)))
            if isinstance(part, yaml.MappingNode):
                pairs += self._list_pairs(part, path, (*above, part))
                self._count(part, len(pairs))
            else:
                self._add_problem("'<<' takes a mapping or a list of mappings", path, self._find_spot(part))
        return pairs

    def _report_repeated_key(self, key: yaml.Node, first: Spot, path: Keys) -> None:
        if path == ("stages",):
            message = f"two stages are named {key.value!r}, the first on line {first.line}; rename one"
        else:
            position = describe_position(path)
            message = f"key {key.value!r} is given twice{position}, first on line {first.line}; remove one"
        self._add_problem(message, path, self._find_spot(key))

    def _build_scalar(self, node: yaml.ScalarNode, path: Keys) -> Any:
        kind = _shorten_tag(node.tag)
        if kind not in _SCALARS:
            raise _StopError(
                Problem(f"the tag {kind} is not allowed in a recipe", path, self._find_spot(node))
            )
        if "\0" in node.value:  # invalid in any path, name or column; system errors are unclear
            self._add_problem(
                f"{_format_path(path)}the text contains a zero byte", path, self._find_spot(node)
            )
            return node.value.replace("\0", "")
        try:
            return _SCALARS[kind](node.value)
        except OverflowError:
            most = "a 64-bit integer" if kind == "!!int" else "a 64-bit float"
            message = f"{node.value[:40]} is larger than {most}"
        except (KeyError, ValueError):
            message = f"{node.value[:40]!r} is not of type {kind}"
        self.document.refused.add(path)
        return self._add_problem(f"{_format_path(path)}{message}", path, self._find_spot(node))

    def _find_spot(self, node: yaml.Node) -> Spot:
        return self.document.make_spot(node.start_mark.line, node.start_mark.column)

    def _add_problem(self, message: str, path: Keys, spot: Spot) -> None:
        self.document.problems.append(Problem(message, path, spot))


def _format_path(path: Keys) -> str:
    return f"{format_keys(path)}: " if path else ""


def _shorten_tag(tag: str) -> str:
    return tag.replace(_TAG, "!!", 1)
