"""What one cell of a label column holds: names of classes in one spelling, lists of them, and numbers."""

from __future__ import annotations

import ast
import math
import re
import unicodedata
from typing import Any

_INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"
"""Marks without width that editors and web pages leave at the ends of a text."""
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST_LIST = 100_000


def normalize_name(text: str) -> str:
    """Return a name of a class in NFC, without white space and invisible marks at its ends."""
    if text.isascii():
        return text.strip()
    text, before = unicodedata.normalize("NFC", text), ""
    while text != before:
        text, before = text.strip().strip(_INVISIBLE), text
    return text


def parse_decimal(text: str) -> float | None:
    """Return the number that a text spells, or None.

    A number is ASCII digits with an optional sign, point and exponent; white space around it is ignored.
    Python's other notations are not numbers of a file: `1_000`, `inf`, `nan`, full-width digits.
    """
    found = _DECIMAL.fullmatch(text.strip())
    number = float(found[0]) if found else math.inf
    return number if math.isfinite(number) else None


def parse_value(text: str) -> bool | float | None:
    """Return the truth value or number that a text spells, or None: files of csv and tsv hold only text."""
    name = text.strip()
    if name in ("true", "True", "TRUE"):
        return True
    if name in ("false", "False", "FALSE"):
        return False
    return parse_decimal(name)


def parse_list(text: str) -> list[Any] | None:
    """Return the list that a text spells in JSON or Python, as `["a", "b"]`, or None."""
    if text[:1] != "[" or text[-1:] != "]" or len(text) > _LONGEST_LIST:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def is_missing(value: Any) -> bool:
    """Tell whether a value is null, NaN, or text that is empty or white space."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_number(value: Any) -> bool:
    """Tell whether a value is a number; a truth value is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def same(written: Any, value: Any) -> bool:
    """Tell whether a value of a row is the one written in a recipe.

    Null and empty text are any missing value. Truth values equal truth values only, and numbers equal
    numbers (1 and 1.0 are the same number). A text equals the same text; against a truth value or a number
    it counts as what it spells, so that the text "2" of a csv file is the 2 of a recipe.
    """
    if is_missing(written) or is_missing(value):
        return is_missing(written) and is_missing(value)
    if isinstance(value, str) and isinstance(written, str):
        return value in (written, normalize_name(written))
    left = parse_value(written) if isinstance(written, str) else written
    right = parse_value(value) if isinstance(value, str) else value
    if isinstance(left, bool) or isinstance(right, bool):
        return isinstance(left, bool) and isinstance(right, bool) and left == right
    return is_number(left) and is_number(right) and bool(left == right)
