"""Settings that a message advises, written so that they read back as given when pasted into a recipe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

_PLAIN = re.compile(r"[^\W\d_][\w-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
"""Words that some YAML reader takes for something else than text."""


def advise(**settings: Any) -> str:
    """Return settings as a line of YAML in backticks, as `` `labels: {stars: number}` ``."""
    return "`" + ", ".join(f"{key}: {_flow(value)}" for key, value in settings.items()) + "`"


def advise_read(**options: Any) -> str:
    """Return options of reading a file as `hfpipe predict` takes them, as `` `--read header=true` ``."""
    words = [f"--read {shlex.quote(f'{key}={_flow(value)}')}" for key, value in options.items()]
    return "`" + " ".join(words) + "`"


def advise_drop(column: str, value: Any) -> str:
    """Return the cleaning step that drops rows with this value, in backticks."""
    return advise(clean=[{"drop": {column: [value]}}])


def advise_classes(column: str, kind: str) -> str:
    """Return what to write at a data set so that it reads a column as classes; empty where it cannot.

    `kind` is the type that the data set's facts give the column.
    """
    classes = {"string": "class", "int": "class", "strings": "classes"}.get(kind)
    return f"; give its data set {advise(labels={column: classes})}" if classes else ""


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        return _text(value)
    return "null" if value is None else str(value).lower()


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    if character in '"\\\t':
        return "\\t" if character == "\t" else "\\" + character
    return character if character.isprintable() and character != "`" else f"\\U{ord(character):08x}"
