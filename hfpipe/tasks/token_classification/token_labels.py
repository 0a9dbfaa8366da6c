"""Aligns words and tags with tokens: each word is tagged once, at its first token."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import regex

from hfpipe.tasks.shared.sliding_windows import Span, Window

WORD = regex.compile(r"[^\s\p{P}\p{S}]+(?:['\u2019.-][^\s\p{P}\p{S}]+)*|\S")
"""A word of raw text: letters and digits, joined by single apostrophes, full stops or hyphens; or a single
other character."""


class Sentence(NamedTuple):
    """A text and the character spans of its words."""

    text: str
    words: list[Span]


def locate_words(given: str | Sequence[str]) -> Sentence:
    """Return raw text with the spans of its words, or given words joined by spaces.

    Because words are tokenized as a text, any tokenizer splits them as in pretraining, whether its tokens
    include spaces or not.
    """
    if isinstance(given, str):
        return Sentence(given, [match.span() for match in WORD.finditer(given)])
    text, words = "", []
    for word in given:
        # Two consecutive spaces would be a token that is rare in pretraining.
        text += " " if text and word.strip() else ""
        words.append((len(text), len(text) + len(word) if word.strip() else len(text)))
        text += word if word.strip() else ""
    return Sentence(text, words)


def align_words(windows: Sequence[Window], words: Sequence[Span]) -> list[list[int]]:
    """Return the index of the word that each token is tagged for, or -1, per window of one text.

    Each word is tagged once: at its first token, in the window where that token has the most context on both
    sides. Words without a token, such as those of control characters only, are not tagged.
    """
    there = [number for number, (start, end) in enumerate(words) if start < end]
    ends = [words[number][1] for number in there]
    best: dict[int, tuple[int, float, int, int]] = {}
    for number, window in enumerate(windows):
        inside = [(place, span) for place, span in enumerate(window.spans) if span is not None]
        for order, (place, (start, end)) in enumerate(inside):
            position = bisect_right(ends, start)
            if position == len(there) or words[there[position]][0] >= end:
                continue
            left = order if number else inf
            right = len(inside) - 1 - order if number < len(windows) - 1 else inf
            found = (-start, min(left, right), -number, -place)
            best[there[position]] = max(best.get(there[position], found), found)
    marks = [[-1] * len(window.input_ids) for window in windows]
    for word, (_, _, number, place) in best.items():
        marks[-number][-place] = word
    return marks
