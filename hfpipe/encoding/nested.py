"""Keeps objects as they were written: as JSON text, which Datasets opens as the same objects.

Arrow has one set of keys for all objects of a column, so that each object would have the keys of all others
as nulls: the arguments of a call would name the parameters of every other tool, and a chat template would
write them into the prompt. Which nulls were added cannot be told afterwards. So a column that holds objects
has the feature `datasets.Json`. Datasets itself rounds the last digits of some fractions when it reads such
text; `read_rows` does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa

from hfpipe.errors import DataError

if TYPE_CHECKING:
    from hfpipe.types import Rows

JSON = pa.json_()
LOW, HIGH = -(2**63), 2**64 - 1
"""Whole numbers that Datasets reads back from JSON."""


def holds_objects(value: Any) -> bool:
    """Tell whether a value is an object, or a list that holds one at any depth."""
    return isinstance(value, Mapping) or (isinstance(value, (list, tuple)) and any(map(holds_objects, value)))


def to_json(value: Any) -> str | None:
    """Return a value as JSON text, None for null.

    Raises TypeError for what JSON has no form for, as bytes; ValueError for what would not come back as it
    was.
    """
    if value is None:
        return None
    _check(value)
    text = json.dumps(value, ensure_ascii=False)
    text.encode()  # half a character cannot be stored
    return text


def _check(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r:.40}, which is not a string")
            _check(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item)
    else:
        _check_number(value)


def _check_number(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the number {value}")
    if isinstance(value, int) and not LOW <= value <= HIGH:
        raise ValueError("a whole number of more than 64 bits")
    if value is not None and not isinstance(value, (str, int, float)):
        raise TypeError(f"a {type(value).__name__}")


def keeps_keys(value: Any, kind: pa.DataType) -> bool:
    """Tell whether every object of a value has exactly the keys of its Arrow type."""
    if isinstance(value, Mapping) and pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return value.keys() == {*names} and all(
            keeps_keys(value[name], kind.field(name).type) for name in names
        )
    if isinstance(value, (list, tuple)) and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return all(keeps_keys(item, kind.value_type) for item in value)
    return True


def json_columns(features: Mapping[str, Any]) -> list[str]:
    """Return the columns that are kept as JSON text."""
    return [name for name, feature in features.items() if isinstance(feature, datasets.Json)]


def from_json(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return the values of a column of JSON text."""
    return [None if text is None else json.loads(text) for text in column.to_pylist()]


def to_dataset(columns: Mapping[str, Sequence[Any]]) -> datasets.Dataset:
    """Return columns of Python values as a data set, those of objects as JSON text.

    Raises DataError for an object that would not come back as it was.
    """
    arrays: dict[str, Any] = {}
    features: dict[str, Any] = {}
    for name, values in columns.items():
        if any(map(holds_objects, values)):
            try:
                arrays[name] = pa.array([to_json(value) for value in values], JSON)
            except (TypeError, ValueError) as error:
                raise DataError(f"{name!r} holds {error}; write it as a string") from None
            features[name] = datasets.Json()
        else:
            plain = datasets.Dataset.from_dict({name: values})
            arrays[name], features[name] = plain.data.column(name), plain.features[name]
    info = datasets.DatasetInfo(features=datasets.Features(features))
    return datasets.Dataset(pa.table(arrays), info)


def read_rows(rows: datasets.Dataset, positions: range) -> Rows:
    """Return some rows of a split as columns of Python values, fractions in objects to the last digit."""
    found: dict[str, Sequence[Any]] = rows[positions.start : positions.stop]
    nested = json_columns(rows.features)
    if nested:
        table = rows.select_columns(nested).with_format("arrow")[positions.start : positions.stop]
        found |= {name: from_json(table[name]) for name in nested}
    return found
