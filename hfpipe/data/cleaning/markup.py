"""Strips HTML to the visible text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from itertools import accumulate, pairwise

from hfpipe.data.cleaning.alignment import Change, apply_changes

_SILENT = frozenset({"script", "style", "template", "noscript"})
_BREAKS = frozenset(
    {"address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figure", "footer", "header"}
    | {"h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "ul"}
    | {"table", "td", "th", "tr"}
)
_REFERENCE = re.compile(r"&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")
"""A character reference, by the rules of html.unescape."""


def strip_html(text: str) -> list[list[Change]]:
    """Return the changes that remove tags, comments, scripts and styles from a text, one list per pass.

    Entities are decoded, and block elements are separated by newlines.
    """
    if "<" not in text and "&" not in text:
        return []
    reader = _Reader(text)
    reader.feed(text)
    reader.close()
    changes = list(reader.find_changes())
    seen = "".join(reader.seen)
    if apply_changes(text, changes) != seen:  # the parser gives no position for some text it skips
        changes = [Change(0, len(text), seen)]
    return [changes, list(_trim(seen))]


def _trim(text: str) -> Iterator[Change]:
    """Yield the changes that remove the newlines at both ends."""
    start = len(text) - len(text.lstrip("\n"))
    end = max(start, len(text.rstrip("\n")))
    if start:
        yield Change(0, start, "")
    if end < len(text):
        yield Change(end, len(text), "")


class _Reader(HTMLParser):
    """Collects the visible text; the edge of a block is one newline, so that words are not joined."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[str] = []
        self._text = text
        self._lines = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
        self._events: list[tuple[int, str]] = []
        """Position in the text, and the visible text up to the next event."""
        self._silent = 0

    def find_changes(self) -> Iterator[Change]:
        """Yield the changes from the text to the visible text."""
        for (start, seen), (end, _) in pairwise([(0, ""), *self._events, (len(self._text), "")]):
            raw = self._text[start:end]
            if raw.startswith(seen):  # the rest is skipped without an event, such as </>
                if raw != seen:
                    yield Change(start + len(seen), end, "")
            elif unescape(raw) == seen:
                for found in _REFERENCE.finditer(raw):
                    if (decoded := unescape(found[0])) != found[0]:
                        yield Change(start + found.start(), start + found.end(), decoded)
            else:
                yield Change(start, end, seen)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent += 1
        self._mark_edge(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._mark_edge(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        self._mark_edge(tag)

    def handle_data(self, data: str) -> None:
        self._note_text("" if self._silent else data)

    def handle_comment(self, data: str) -> None:
        self._note_text("")

    def handle_decl(self, decl: str) -> None:
        self._note_text("")

    def handle_pi(self, data: str) -> None:
        self._note_text("")

    def unknown_decl(self, data: str) -> None:
        self._note_text("")

    def _mark_edge(self, tag: str) -> None:
        new = tag in _BREAKS and bool(self.seen) and not self.seen[-1].endswith("\n")
        self._note_text("\n" if new else "")

    def _note_text(self, text: str) -> None:
        line, column = self.getpos()
        self._events.append((self._lines[line - 1] + column, text))
        if text:
            self.seen.append(text)
