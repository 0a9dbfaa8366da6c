"""Texts in parts: those of a row, and those of its format, which may hold control tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Format(str):
    """Part of a text that a recipe or a chat template writes: control tokens in it are meant."""

    __slots__ = ()


class Verbatim(str):
    """Part of a text in which no token is meant, neither a control token nor another that was added."""

    __slots__ = ()


Text = str | Sequence[str]
"""A row's own text, or parts of a text; in a plain `str` control tokens are text."""


def text_parts(text: Text) -> Sequence[str]:
    """Return a text as its parts."""
    return (text,) if isinstance(text, str) else text


def fill_template(template: str, blank: str, text: Text) -> list[str]:
    """Return a template of the format with a text in place of each `blank`."""
    parts: list[str] = []
    for number, part in enumerate(template.split(blank)):
        parts += [*(text_parts(text) if number else ()), Format(part)]
    return parts


def mark(text: str, pattern: str) -> list[str]:
    """Return a text whose matches of a pattern are parts of the format, as blanks that a row may hold."""
    return [
        Format(part) if number % 2 else part for number, part in enumerate(re.split(f"({pattern})", text))
    ]
