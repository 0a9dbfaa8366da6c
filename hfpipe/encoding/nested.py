"""Stores objects without loss, as JSON text, which Datasets opens as the same objects.

Arrow has one set of keys for all objects of a column, so each object would get the keys of all others as
nulls: the arguments of a tool call would include the parameters of every other tool, and a chat template
would render them into the prompt. Added nulls cannot be distinguished from original ones. A column of objects
therefore has the feature `datasets.Json`. Datasets rounds the last digits of some floats when it reads such
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
"""Range of integers that Datasets reads from JSON without loss."""


def holds_objects(value: Any) -> bool:
    """Return whether a value is an object, or a list that contains one at any depth."""
    return isinstance(value, Mapping) or (isinstance(value, (list, tuple)) and any(map(holds_objects, value)))


def to_json(value: Any) -> str | None:
    """Return a value as JSON text, None for null.

    Raises TypeError for values that JSON cannot represent, such as bytes, and ValueError for values that
    would not be restored exactly.
    """
    if value is None:
        return None
    _check_value(value)
    text = json.dumps(value, ensure_ascii=False)
    text.encode()  # a lone surrogate cannot be stored
    return text


def _check_value(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r:.40}, which is not a string")
            _check_value(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_value(item)
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
    """Return whether every object in a value has exactly the keys of its Arrow type."""
    if isinstance(value, Mapping) and pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return value.keys() == {*names} and all(
            keeps_keys(value[name], kind.field(name).type) for name in names
        )
    if isinstance(value, (list, tuple)) and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return all(keeps_keys(item, kind.value_type) for item in value)
    return True


def find_json_columns(features: Mapping[str, Any]) -> list[str]:
    """Return the columns that are stored as JSON text."""
    return [name for name, feature in features.items() if isinstance(feature, datasets.Json)]


def from_json(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return the values of a column of JSON text."""
    return [None if text is None else json.loads(text) for text in column.to_pylist()]


def to_dataset(columns: Mapping[str, Sequence[Any]]) -> datasets.Dataset:
    """Return a data set of columns of Python values, with columns of objects stored as JSON text.

    Raises DataError for an object that would not be restored exactly.
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
    """Return rows of a split as columns of Python values; floats in objects keep every digit."""
    found: dict[str, Sequence[Any]] = rows[positions.start : positions.stop]
    nested = find_json_columns(rows.features)
    if nested:
        table = rows.select_columns(nested).with_format("arrow")[positions.start : positions.stop]
        found |= {name: from_json(table[name]) for name in nested}
    return found
