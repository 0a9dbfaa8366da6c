"""Markdown of the generated pages: tables, and docstrings as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells are Markdown in which a `|` is not yet escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def prose(text: str) -> str:
    """Return a docstring as paragraphs, so that what is not code is shown as it is written."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(_escaped(" ".join(paragraph.split())) for paragraph in paragraphs)


def cell(text: str) -> str:
    """Return a docstring for one cell of a table."""
    return prose(text).replace("\n\n", "<br>")


def _escaped(text: str) -> str:
    """Escape what Markdown and HTML would take for markup, outside of code between backticks."""
    parts = re.split(r"(`+[^`]+`+)", text)
    for number in range(0, len(parts), 2):
        parts[number] = re.sub(r"([*_\[\]])", r"\\\1", parts[number].replace("<", "&lt;"))
    return "".join(parts)
