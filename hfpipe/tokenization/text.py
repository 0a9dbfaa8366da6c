"""Texts in parts: parts of a row's text, and parts of the format, which may contain control tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Format(str):
    """Part of a text from a recipe or a chat template, whose control tokens are encoded as tokens."""

    __slots__ = ()


class Verbatim(str):
    """Part of a text in which neither control tokens nor other added tokens are encoded as tokens."""

    __slots__ = ()


Text = str | Sequence[str]
"""A row's text, or parts of a text; control tokens in a plain `str` are encoded as text."""


def get_parts(text: Text) -> Sequence[str]:
    """Return the parts of a text."""
    return (text,) if isinstance(text, str) else text


def fill_template(template: str, blank: str, text: Text) -> list[str]:
    """Replace each `blank` in a template of the format with a text; return the parts."""
    parts: list[str] = []
    for number, part in enumerate(template.split(blank)):
        parts += [*(get_parts(text) if number else ()), Format(part)]
    return parts


def mark_format(text: str, pattern: str) -> list[str]:
    """Split a text so that matches of a pattern, such as blanks in a row, become parts of the format."""
    return [
        Format(part) if number % 2 else part for number, part in enumerate(re.split(f"({pattern})", text))
    ]
