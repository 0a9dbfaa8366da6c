"""Parses one cell of a label column: a normalized class name, a list of names, or a number."""

from __future__ import annotations

import ast
import math
import re
import unicodedata
from typing import Any

from hfpipe.number_format import is_number

_INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"
"""Zero-width marks that editors and web pages leave at the ends of a text."""
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST_LIST = 100_000


def normalize_name(text: str) -> str:
    """Return a class name in NFC, without white space and invisible marks at its ends."""
    if text.isascii():
        return text.strip()
    text, before = unicodedata.normalize("NFC", text), ""
    while text != before:
        text, before = text.strip().strip(_INVISIBLE), text
    return text


def parse_decimal(text: str) -> float | None:
    """Return the number that a text represents, or None.

    A number is ASCII digits with an optional sign, point and exponent; white space around it is ignored.
    Other notations of Python are not accepted: `1_000`, `inf`, `nan`, full-width digits.
    """
    found = _DECIMAL.fullmatch(text.strip())
    number = float(found[0]) if found else math.inf
    return number if math.isfinite(number) else None


def parse_value(text: str) -> bool | float | None:
    """Return the boolean or number that a text represents, or None; csv and tsv files contain only text."""
    name = text.strip()
    if name in ("true", "True", "TRUE"):
        return True
    if name in ("false", "False", "FALSE"):
        return False
    return parse_decimal(name)


def parse_list(text: str) -> list[Any] | None:
    """Return the list that a text represents in JSON or Python, such as `["a", "b"]`, or None."""
    if text[:1] != "[" or text[-1:] != "]" or len(text) > _LONGEST_LIST:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def is_missing(value: Any) -> bool:
    """Return whether a value is null, NaN, or a text that is empty or only white space."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def equals_written(written: Any, value: Any) -> bool:
    """Return whether a value of a row equals one written in a recipe.

    Null and an empty text equal any missing value. Booleans equal only booleans, and numbers equal numbers
    (1 and 1.0 are the same number). A text equals the same text; compared with a boolean or a number, it is
    parsed first, so that the text "2" of a csv file equals the 2 of a recipe.
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
