"""Converts type annotations in Transformers' source to allowed YAML values, without importing them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hfpipe.recipe.messages import describe_value, find_similar_name, join_names
from hfpipe.recipe.training.numbers import find_not_finite

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
}
_FORMS = {
    "None": "null",
    "tuple": "list",
    "set": "list",
    "List": "list",
    "Sequence": "list",
    "Dict": "dict",
    "Mapping": "dict",
    "dtype": "str",
} | {name: name for name in _WORDS}


@dataclass(frozen=True)
class Form:
    """The allowed values; without kinds, any value is allowed."""

    kinds: frozenset[str] = frozenset()
    """Any of `int`, `float`, `bool`, `str`, `list`, `dict`, `null`."""
    choices: tuple[str, ...] = ()
    """The allowed texts; empty if any text is allowed."""

    def explain_refusal(self, value: Any, *, loose: bool) -> str | None:
        """Return why a value is not allowed, or None; with `loose`, an integer is allowed as a float."""
        odd = find_not_finite(value)
        if odd is not None:
            return f"expected finite numbers, got {odd!r}"
        kinds = self.kinds
        if not kinds or _name_kind(value) in (kinds | {"int"} if loose and "float" in kinds else kinds):
            if not self.choices or not isinstance(value, str) or value in self.choices:
                return None
            return f"expected {self._describe_choices(value)}"
        if kinds - {"null"} == {"float"} and _name_kind(value) == "int":
            return f"expected a number with a decimal point, as {float(value)!r}, got {describe_value(value)}"
        return f"expected {self.describe_expected()}, got {describe_value(value)}"

    def describe_expected(self) -> str:
        """Describe the allowed values in words."""
        if self.choices and len(self.choices) <= 8:
            return join_names(self.choices, "or")
        kinds = self.kinds - {"int"} if "float" in self.kinds else self.kinds
        return " or ".join(words for kind, words in _WORDS.items() if kind in kinds) or "nothing"

    def _describe_choices(self, value: str) -> str:
        close = find_similar_name(value, self.choices)
        names = join_names(self.choices, "or") if len(self.choices) <= 8 else "one of the known names"
        return f"{names}, got {describe_value(value)}" + (f"; did you mean {close!r}?" if close else "")


def _name_kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def read_annotation(node: ast.expr | None, enums: Mapping[str, tuple[str, ...]]) -> Form:
    """Parse an annotation; names that are neither plain types nor in `enums` allow any value."""
    forms = [_read_form(part, enums) for part in _flatten_union(node)]
    if not forms or any(not form.kinds for form in forms):
        return Form()
    choices = tuple(dict.fromkeys(choice for form in forms for choice in form.choices))
    return Form(frozenset().union(*(form.kinds for form in forms)), choices)


def _flatten_union(node: ast.expr | None) -> list[ast.expr]:
    """Flatten `A | B`, `Union[A, B]` and `Optional[A]` into members."""
    if isinstance(node, ast.BinOp):
        return [*_flatten_union(node.left), *_flatten_union(node.right)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _flatten_union(ast.parse(node.value, mode="eval").body)
    if isinstance(node, ast.Subscript) and _get_name(node.value) in ("Union", "Optional"):
        members = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        none = [ast.Constant(None)] if _get_name(node.value) == "Optional" else []
        return [part for member in members for part in _flatten_union(member)] + list(none)
    return [node] if node is not None else []


def _read_form(node: ast.expr, enums: Mapping[str, tuple[str, ...]]) -> Form:
    if isinstance(node, ast.Subscript) and _get_name(node.value) == "Literal":
        members = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        values = [member.value for member in members if isinstance(member, ast.Constant)]
        return Form(frozenset(_name_kind(v) for v in values), tuple(v for v in values if isinstance(v, str)))
    name = _get_name(node.value if isinstance(node, ast.Subscript) else node)
    if name in enums:
        return Form(frozenset({"str"}), enums[name])
    return Form(frozenset({_FORMS[name]})) if name in _FORMS else Form()


def _get_name(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
