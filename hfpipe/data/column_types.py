"""Detects the text columns from the values of all first rows, never from a single value."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import regex

from hfpipe.advice import advise
from hfpipe.data.rows import Row
from hfpipe.errors import DataError
from hfpipe.recipe.messages import join_names

Kind = Literal["text", "conversation", "words", "unclear", "category", "code", "constant", "blank", "other"]
"""Content of a column.

- `conversation`: lists of messages (objects with `role` or `from`).
- `words`: lists of strings.
- `text`: strings; at least half of the distinct ones look like natural language.
- `code`: strings; nine in ten are numbers, dates, addresses, hashes or other identifiers.
- `category`: short strings, each of which occurs four times or more on average.
- `constant`: the same string in several rows. `blank`: only null and white space.
- `unclear`: other strings, such as distinct single words.
- `other`: numbers, booleans, objects, other lists.

A kind requires that more than half of the values that are not null have its type.
"""
WHY: dict[Kind, str] = {
    "text": "text",
    "unclear": "single words",
    "words": "lists of words",
    "category": "few values, repeated",
    "code": "numbers, dates or identifiers",
    "constant": "the same everywhere",
    "blank": "empty",
}
"""Kind → how messages describe a column of that kind."""
TEXT = re.compile(r"text(_?([ab12]|pair))?")
"""Names of a text column, and of the second text of a pair."""
GROUPS = (
    ("question", "context"),
    ("source", "target"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("instruction", "input", "output"),
)
"""Columns that are texts if they occur together, even if one holds single words or numbers, as answers do."""
WORDS = ("words", "tokens")
"""Names of columns with lists of words."""
_STRINGS: frozenset[Kind] = frozenset({"text", "unclear", "category", "code", "constant", "blank"})
"""Kinds of the columns that hold strings."""
_MARKUP = re.compile(r"<[^<>]*>|&#?\w+;")
_WORD = regex.compile(r"(?<!\S)[\p{P}\p{S}]*(\p{L}[\p{L}\p{M}'\u2019-]*[\p{L}\p{M}])[\p{P}\p{S}]*(?!\S)")
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]")
_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())
"""ASCII characters that are not letters."""
_ADDRESS = re.compile(r"\w+://|www\.|[\\/]|[A-Za-z]:\\")
_CLOCK = frozenset(
    name.lower()
    for names in (calendar.month_name, calendar.month_abbr, calendar.day_name, calendar.day_abbr)
    for name in names
) | {"am", "pm", "utc", "gmt", "est", "edt", "cst", "cdt", "mst", "mdt", "pst", "pdt", "bst", "cet", "cest"}


SEEN = 500
"""Number of characters examined per value; the beginning of a document is enough."""


def detect_kind(values: Iterable[Any]) -> Kind:
    """Return the kind of a column, given its values in the first rows."""
    there = [value for value in values if value is not None]
    lists = [value for value in there if isinstance(value, (list, tuple))]
    if len(lists) * 2 > len(there):
        filled = [value for value in lists if value]
        if _fits_most(filled, is_conversation):
            return "conversation"
        return "words" if _fits_most(filled, is_words) else "other"
    strings = [value.strip() for value in there if isinstance(value, str)]
    if there and len(strings) * 2 <= len(there):
        return "other"
    return _detect_kind_of_strings([text for text in strings if text])


def _fits_most(values: Sequence[Any], fits: Callable[[Any], bool]) -> bool:
    return 2 * sum(map(fits, values)) > len(values)


def is_words(value: Any) -> bool:
    """Return whether a value is a list of strings."""
    return isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value)


def is_conversation(value: Any) -> bool:
    """Return whether a value is a list that consists mostly of messages, in any common format."""
    return isinstance(value, (list, tuple)) and _fits_most(
        value, lambda part: isinstance(part, Mapping) and bool(part.keys() & {"role", "from"})
    )


def _detect_kind_of_strings(texts: Sequence[str]) -> Kind:
    different = set(texts)
    if not different:
        return "blank"
    if len(different) == 1 and len(texts) > 1:
        return "constant"
    seen = [text[:SEEN] for text in different]
    short = sum(len(text.split()) for text in seen) <= 5 * len(different)
    repeated = len(texts) >= 8 and 4 * len(different) <= len(texts)
    if 2 * sum(map(_is_language, seen)) >= len(different):
        return "category" if short and repeated else "text"
    if 10 * sum(map(_is_code, seen)) >= 9 * len(different):
        return "code"
    return "category" if short and repeated else "unclear"


def _is_language(text: str) -> bool:
    """Return whether a string is mostly letters and has two words, or four characters of a script without
    spaces."""
    plain = _MARKUP.sub(" ", text).strip()
    if _ADDRESS.match(plain):
        return False
    if not plain.isascii() and len(_UNSPACED.findall(plain)) >= 4:
        return True
    signs = "".join(plain.split())
    return 2 * _count_letters(signs) >= len(signs) and len([*islice(_find_words(plain), 2)]) == 2


def _is_code(text: str) -> bool:
    """Return whether a string is a number, a date, an address, or one token that is not only letters."""
    if _ADDRESS.match(text):
        return True
    if len(text.split()) == 1:
        return not all(sign.isalpha() or sign in "'\u2019-." for sign in text)
    return not any(_find_words(text)) and any(map(str.isdigit, text))


def _count_letters(text: str) -> int:
    if text.isascii():
        return len(text.encode().translate(None, _NO_LETTERS))
    return sum(map(str.isalpha, text))


def _find_words(text: str) -> Iterator[str]:
    return (found[1] for found in _WORD.finditer(text) if found[1].lower() not in _CLOCK)


def find_text_columns(head: Sequence[Row], labels: Iterable[str], named: Sequence[str]) -> list[str]:
    """Return the text columns, in column order.

    The first rule that applies decides: the columns in `named`; `text` and its pair, by name; every column of
    texts or conversations, and those of a known group such as question and context; the only column of word
    lists, or of `unclear` strings. Labels and `id` are never text. `head` are the first rows. Raises
    DataError when a named column is missing, when no column holds strings, or when the choice is ambiguous.
    """
    columns = list(head[0].values)
    missing = [name for name in named if name not in columns]
    if missing:
        raise DataError(
            f"{head[0].place}: `text` names {missing[0]!r}, but the columns are {join_names(columns)}"
        )
    if named:
        return list(named)
    skipped = {*labels, "id"}
    kinds = {name: detect_kind(row.values[name] for row in head) for name in columns if name not in skipped}
    found = (
        _find_named_text(kinds)
        or _find_clear_texts(kinds)
        or _find_groups(kinds, _STRINGS)
        or _find_word_column(kinds)
    )
    if found and not _is_contradicted(kinds):
        return found
    raise _make_unclear_error(head[0].place, kinds, columns, head[0].values)


def find_conversations(head: Sequence[Row]) -> list[str]:
    """Return the columns that hold conversations, whatever their names."""
    lists = [
        name for name in head[0].values if any(isinstance(row.values[name], (list, tuple)) for row in head)
    ]
    return [name for name in lists if detect_kind(row.values[name] for row in head) == "conversation"]


def _find_named_text(kinds: Mapping[str, Kind]) -> list[str]:
    """Return `text` and its pair, if the data has them."""
    kind = kinds.get("text", "other")
    if kind == "other":
        return []
    pair = ("text", "unclear") if kind != "text" else ("text",)
    return [
        name for name, found in kinds.items() if name == "text" or (TEXT.fullmatch(name) and found in pair)
    ]


def _is_contradicted(kinds: Mapping[str, Kind]) -> bool:
    """Return whether `text` does not look like text while another column does."""
    others = [name for name in _find_clear_texts(kinds) if not TEXT.fullmatch(name)]
    return bool(others) and kinds.get("text") in ("code", "constant", "blank", "category")


def _find_groups(kinds: Mapping[str, Kind], one_is: Collection[Kind]) -> list[str]:
    """Return the columns of known groups of string columns in which at least one is of a kind in `one_is`."""
    found = {
        name
        for group in GROUPS
        if all(kinds.get(name) in _STRINGS for name in group) and any(kinds[name] in one_is for name in group)
        for name in group
    }
    return [name for name in kinds if name in found]


def _find_clear_texts(kinds: Mapping[str, Kind]) -> list[str]:
    together = _find_groups(kinds, ("text", "unclear"))
    return [name for name, kind in kinds.items() if kind in ("text", "conversation") or name in together]


def _find_word_column(kinds: Mapping[str, Kind]) -> list[str]:
    named = [name for name, kind in kinds.items() if kind == "words" and name in WORDS]
    found = named or [name for name, kind in kinds.items() if kind in ("words", "unclear")]
    return found if len(found) == 1 else []


def _make_unclear_error(
    place: str, kinds: Mapping[str, Kind], columns: Sequence[str], first: Mapping[str, Any]
) -> DataError:
    candidates = [name for name, kind in kinds.items() if kind in _STRINGS or kind == "words"]
    if not candidates:
        lists = any(isinstance(value, (list, tuple)) for value in first.values())
        also = "; a conversation is a list of messages {role, content}" if lists else ""
        return DataError(
            f"{place}: no column holds text; they are {join_names(columns)}: name one that does with "
            f"`columns`{also}"
        )
    order: Sequence[Kind] = ("text", "unclear", "words", "category", "code", "constant", "blank")
    candidates.sort(key=lambda name: order.index(kinds[name]))
    best = [name for name in candidates if kinds[name] == kinds[candidates[0]]]
    shown = ", ".join(f"{name!r} ({WHY[kinds[name]]})" for name in candidates)
    return DataError(
        f"{place}: it is not clear which column is the text: {shown}; add {advise(text=best)} to the "
        "stage, or name others there"
    )
