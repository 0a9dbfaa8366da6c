"""Formats settings in messages, so that they are valid when pasted into a recipe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

_PLAIN = re.compile(r"[^\W\d_][\w-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
"""Words that some YAML parsers do not read as text."""


def advise(**settings: Any) -> str:
    """Return settings as a line of YAML in backticks, such as `` `labels: {stars: number}` ``."""
    return "`" + ", ".join(f"{key}: {_format_value(value)}" for key, value in settings.items()) + "`"


def advise_read(**options: Any) -> str:
    """Return options for reading a file on the command line, such as `` `--read header=true` ``."""
    words = [f"--read {shlex.quote(f'{key}={_format_value(value)}')}" for key, value in options.items()]
    return "`" + " ".join(words) + "`"


def advise_drop(column: str, value: Any) -> str:
    """Return the cleaning step that drops rows with this value, in backticks."""
    return advise(clean=[{"drop": {column: [value]}}])


def advise_classes(column: str, kind: str) -> str:
    """Return advice for a data set to read a column as classes; empty if it cannot.

    `kind` is the type of the column in the facts of the data set.
    """
    classes = {"string": "class", "int": "class", "strings": "classes"}.get(kind)
    return f"; give its data set {advise(labels={column: classes})}" if classes else ""


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(f"{_format_value(key)}: {_format_value(item)}" for key, item in value.items())
            + "}"
        )
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_format_value, value)) + "]"
    if isinstance(value, str):
        return _format_text(value)
    return "null" if value is None else str(value).lower()


def _format_text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    if character in '"\\\t':
        return "\\t" if character == "\t" else "\\" + character
    return character if character.isprintable() and character != "`" else f"\\U{ord(character):08x}"
