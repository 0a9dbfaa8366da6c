"""Rows for every task, made of Wikipedia abstracts: real text, with something in it to be learned."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EVERY = 50


def abstracts(summaries: Path) -> Iterator[dict[str, str]]:
    """Yield every fiftieth article: title, extract, description, topic."""
    for number, row in enumerate(json.loads(summaries.read_text(encoding="utf-8")).values()):
        if number % EVERY == 0 and row["description"]:
            yield row | {"extract": row["extract"][:300]}


def cloze(summaries: Path) -> Iterator[dict[str, Any]]:
    """Yield first sentences without their verb, and the verb."""
    for row in abstracts(summaries):
        found = re.match(r"(.{5,80}?) (is|was|are|were) (.{5,120})", row["extract"])
        if found:
            yield {"text": f"{found[1]} [MASK] {found[3]}", "answer": found[2]}


def tagged(summaries: Path) -> Iterator[dict[str, Any]]:
    """Yield words, and tags that say where capitalized names begin and go on."""
    for row in abstracts(summaries):
        words = row["extract"].split()[:40]
        name = [word[:1].isupper() for word in words]
        before = [False, *name[:-1]]
        yield {
            "words": words,
            "tags": [
                "O" if not is_name else "I-NAME" if was else "B-NAME"
                for is_name, was in zip(name, before, strict=True)
            ],
        }


def questions(summaries: Path) -> Iterator[dict[str, Any]]:
    """Yield questions about what the first sentence says, as SQuAD writes them."""
    for row in abstracts(summaries):
        found = re.search(r" (?:is|was) (an? \w+ \w+)", row["extract"])
        if found:
            yield {
                "question": f"What is {row['title']}?",
                "context": row["extract"],
                "answers": {"text": [found[1]], "answer_start": [found.start(1)]},
            }


def asked(summaries: Path) -> Iterator[dict[str, str]]:
    """Yield what an article is on as a prompt, and its topic as the completion."""
    for row in abstracts(summaries):
        yield {"prompt": f"{row['description']} belongs to", "completion": row["topic"]}


def endings(summaries: Path) -> Iterator[dict[str, Any]]:
    """Yield how an article begins with the words that follow, and what three others are about instead."""
    rows = [row for row in abstracts(summaries) if len(row["extract"]) > 120]
    for number, row in enumerate(rows):
        others = [rows[(number + step) % len(rows)]["description"] for step in (7, 31, 97)]
        right = number % 4
        yield {
            "context": row["extract"][:60],
            "endings": [*others[:right], row["extract"][60:120], *others[right:]],
            "label": right,
        }
