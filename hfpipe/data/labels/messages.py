"""Errors about invalid labels; the advice in each message works when pasted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hfpipe.advice import advise, advise_drop
from hfpipe.data.labels.class_ids import ClassIds
from hfpipe.data.labels.settings import LabelColumn
from hfpipe.data.labels.values import is_missing
from hfpipe.errors import DataError
from hfpipe.number_format import is_number

SHOWN = 10
"""Number of classes listed in a message."""
_SEPARATORS = (",", ";", "|", "/", " ")


def make_missing_error(place: str, column: str, settings: LabelColumn) -> DataError:
    """Return the error for a label that is null or an empty cell."""
    drop = advise_drop(column, None)
    empty = ""
    if settings.separator is not None:
        setting = _advise_setting(column, settings, allow_empty=True)
        empty = f", or, if an empty cell has no class, write {setting}"
    return DataError(f"{place}: {column!r} is missing; fill it in, or drop such rows with {drop}{empty}")


def make_number_error(place: str, column: str, value: Any, *, stated: bool) -> DataError:
    """Return the error for a label that is not a number; `stated` if the recipe sets `kind` to number."""
    if not isinstance(value, (str, bool)):
        return DataError(f"{place}: {column!r} is {value!r:.40}, not a number; fix the row")
    classes = "" if stated else f", or read all values as class names with {advise(labels={column: 'class'})}"
    return DataError(
        f"{place}: {column!r} is {value!r:.40}, not a decimal number such as 1000 or 2.5; fix the row, or "
        f"drop such rows with {advise_drop(column, value)}{classes}"
    )


def require_finite(place: str, column: str, value: float) -> float:
    """Return a number as a float. Raises DataError for one that is infinite or too large."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"{place}: {column!r} is {value!r:.40}, not a finite number; fix the row")
    return number


def make_list_error(place: str, column: str, value: Any, settings: LabelColumn) -> DataError:
    """Return the error for a label that is not a list, in a column of lists."""
    if not isinstance(value, str):
        one = advise(labels={column: "class"})
        return DataError(
            f"{place}: {column!r} is {value!r:.40}, not a list of classes; write a list, or, if each row has "
            f"one class, {one}"
        )
    separator = next((each for each in _SEPARATORS if each in value), ",")
    return DataError(
        f"{place}: {column!r} is the text {value!r:.40}, not a list of classes; if it is several classes, "
        f"write {_advise_setting(column, settings, kind='classes', separator=separator)}, and if it is one, "
        f"{advise(labels={column: 'class'})}"
    )


def make_class_error(place: str, column: str, value: Any, settings: LabelColumn, *, alone: bool) -> DataError:
    """Return the error for a value that is not a class; `alone` if it is not in a list."""
    what = f"{place}: {column!r} is {value!r:.40}, not a class"
    if isinstance(value, list):
        several = settings.dump_with(kind="classes", separator=",")
        return DataError(f"{what}; if rows have several classes, write {advise(labels={column: several})}")
    if is_missing(value):
        return DataError(
            f"{place}: {column!r} has an empty class ({value!r}) in its list; fix the row, or drop such "
            f"rows with {advise_drop(column, value)}"
        )
    if is_number(value):
        number = "" if not alone else f", or, if it holds numbers, write {advise(labels={column: 'number'})}"
        return DataError(f"{what}; fix the row, or drop such rows with {advise_drop(column, value)}{number}")
    return DataError(f"{what}; write a text or a whole number")


def make_mixed_error(place: str, column: str, value: Any, start: str, kind: str | None) -> DataError:
    """Return the error for a class of another type than earlier ones."""
    return DataError(
        f"{place}: {column!r} is {value!r:.40} ({type(value).__name__}), but {start}; use one type, or "
        f"read all values as class names with {advise(labels={column: kind})}"
    )


def make_unnamed_error(place: str, column: str, value: Any, settings: LabelColumn) -> DataError:
    """Return the error for a class that is missing from the recipe's `names`."""
    what = f"{place}: {column!r} is {value!r:.40}, which is not one of its {len(settings.names)} names"
    drop = f"drop such rows with {advise_drop(column, value)}"
    if not isinstance(value, str):
        return DataError(f"{what}, nor the id of one; {drop}")
    return DataError(
        f"{what}; add it with {_advise_setting(column, settings, names=[*settings.names, value])}, or {drop}"
    )


def make_ambiguous_indicators_error(
    place: str, column: str, value: Sequence[Any], settings: LabelColumn
) -> DataError:
    """Return the error for lists that may be either indicators (one 0 or 1 per class) or class ids."""
    yes, no = (_advise_setting(column, settings, kind="classes", indicators=each) for each in (True, False))
    return DataError(
        f"{place}: {column!r} is {value!r:.40}, and all rows have {len(value)} values, each 0 or 1: if each "
        f"stands for a class (multi-hot), write {yes}, optionally with `names`; if they are class ids, {no}"
    )


def make_indicators_error(place: str, column: str, value: Any, width: int) -> DataError:
    """Return the error for a row that does not have one 0 or 1 per class."""
    return DataError(f"{place}: {column!r} is {value!r:.40}, not {width} numbers, each 0 or 1; fix the row")


def check_name(place: str, column: str, name: str, longest: int) -> None:
    """Raise DataError for a name that is not valid text, or too long for a name."""
    if len(name) > longest:
        raise DataError(
            f"{place}: {column!r} has {len(name):,} characters, so it is a text and not a class "
            f"({name:.40}…); name the label column with `labels`"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{place}: {column!r} is {name!r:.40}, which has half a character (a lone surrogate); fix it"
        ) from None


def make_too_many_error(column: str, classes: int, rows: int) -> DataError:
    """Return the error for a column of ids or texts instead of classes."""
    return DataError(
        f"{column!r} has {classes:,} different classes in {rows:,} rows, so it holds ids or texts; name the "
        "label column with `labels`, or leave it out with `columns`"
    )


def make_untrained_error(
    column: str, ids: ClassIds, rows: Mapping[int, Mapping[str, int]], settings: LabelColumn
) -> DataError:
    """Return the error for classes without training rows."""
    first = min(rows)
    if settings.min_count is not None:
        fix = f"drop their rows with {_advise_setting(column, settings, rare='drop')}"
    elif len(rows) == 1:
        fix = f"drop it with {advise_drop(column, ids.values[first])}"
    else:
        fix = f"drop their rows with {_advise_setting(column, settings, min_count=1)}"
    if len(rows) == 1:
        where, unit = " and ".join(rows[first]), "row" if ids.count_rows(first) == 1 else "rows"
        what = (
            f"class {ids.values[first]!r} of {column!r} is only in {where} ({ids.count_rows(first):,} {unit})"
        )
    else:
        shown = [
            f"{ids.values[number]!r} ({', '.join(f'{split} {count:,}' for split, count in splits.items())})"
            for number, splits in list(rows.items())[:SHOWN]
        ]
        more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
        what = f"{len(rows):,} classes of {column!r} are only in held-out splits: {', '.join(shown)}{more}"
    return DataError(f"{ids.get_place(first)}: {what}, never in train; add training rows, or {fix}")


def _advise_setting(column: str, settings: LabelColumn, **changes: Any) -> str:
    return advise(labels={column: settings.dump_with(**changes)})
