"""A trivial tagger as a baseline: entities are the strings that were entities in training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from hfpipe.metrics.scores.entities import Entity

Words = tuple[str, ...]


class Gazetteer:
    """Memorizes the entities of the train split, and tags the longest matches from left to right.

    `find` returns the entities of a sentence's tags. Other words get `O`, or the most frequent tag if there
    is no `O`.
    """

    def __init__(self, find: Callable[[Sequence[str]], Iterable[Entity]]) -> None:
        self._find = find
        self._tags: dict[Words, Words] = {}
        self._longest = 0
        self._other = "O"

    def fit(self, words: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]) -> None:
        """Learn from sentences; a string with several types gets the most frequent, the first in a tie."""
        tagged = Counter(chain.from_iterable(tags))
        if "O" not in tagged and tagged:
            self._other = tagged.most_common(1)[0][0]
        seen: defaultdict[Words, Counter[Words]] = defaultdict(Counter)
        for sentence, marks in zip(words, tags, strict=True):
            for _, start, end in self._find(marks):
                seen[tuple(sentence[start:end])][tuple(marks[start:end])] += 1
        self._tags = {entity: counts.most_common(1)[0][0] for entity, counts in seen.items()}
        self._longest = max(map(len, self._tags), default=0)

    def tag(self, sentence: Sequence[str]) -> list[str]:
        """Return one tag per word."""
        tags: list[str] = []
        while len(tags) < len(sentence):
            tags += self._find_longest_entry(sentence, len(tags))
        return tags

    def _find_longest_entry(self, sentence: Sequence[str], start: int) -> Words:
        for end in range(min(len(sentence), start + self._longest), start, -1):
            known = self._tags.get(tuple(sentence[start:end]))
            if known is not None:
                return known
        return (self._other,)
