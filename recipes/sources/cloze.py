"""Wikipedia abstracts, and their first sentences without the word that says what the thing is."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

OFTEN = 10
"""Articles that a word has to be said of to be asked for."""
FIRST = re.compile(r".*?[.!?](?=\s|$)", re.DOTALL)
SAYS_WHAT = re.compile(
    r"(?s)(.* (?:is|was|are|were) (?:an?|the) (?:[\w-]+ ){0,4}?)([a-z]+)"
    r"(,? (?:of|that|in|who|which|for|and|by|from|with|to|on|at)\b.*)"
)


def abstracts(summaries: Path) -> Iterator[dict[str, str]]:
    """Yield one row an article: extract, and the blanked sentence with its answer, both empty without one."""
    articles = list(json.loads(summaries.read_text(encoding="utf-8")).values())
    found = [blanked(article["extract"]) for article in articles]
    counts = Counter(answer for _, answer in found)
    for article, (sentence, answer) in zip(articles, found, strict=True):
        asked = counts[answer] >= OFTEN
        yield {
            "extract": article["extract"],
            "sentence": sentence if asked else "",
            "answer": answer if asked else "",
        }


def blanked(extract: str) -> tuple[str, str]:
    """Return the first sentence with a blank, and the word that belongs there; both empty without one."""
    first = FIRST.match(extract)
    parts = SAYS_WHAT.fullmatch(first[0]) if first else None
    return (f"{parts[1]}[MASK]{parts[3]}", parts[2]) if parts else ("", "")
