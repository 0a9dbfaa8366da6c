"""Reads rows from each kind of source: local files, a user function, the Hub, and an upstream stage."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from hfpipe.data.readers.file_options import FileOptions, Findings
from hfpipe.data.readers.file_splits import Found, format_path, split_files
from hfpipe.data.readers.files import read_files
from hfpipe.data.rows import Row, SourceRows
from hfpipe.encoding.io import find_class_names, open_data
from hfpipe.encoding.nested import find_json_columns, from_json
from hfpipe.encoding.origins import read_origins
from hfpipe.errors import DataError, format_typed_line, get_first_line
from hfpipe.library_output import silence_libraries

BATCH = 1000


def read_from_files(patterns: Mapping[str | None, Found], base: Path, options: FileOptions) -> SourceRows:
    """Read files: split (or None) → pattern as written → its files; paths in messages are relative to `base`.

    Raises DataError when a pattern has no matches, or the split of a file is ambiguous.
    """
    found = Findings()
    files = split_files(patterns, base, found.left_out)
    return SourceRows(
        {split: _read_paths(paths, base, options, found) for split, paths in files.items()}, found=found
    )


def _read_paths(paths: list[Path], base: Path, options: FileOptions, found: Findings) -> Iterator[Row]:
    for path in paths:
        yield from read_files(path, format_path(path, base), options, found)


def read_from_function(
    function: Callable[..., Iterable[Any]], paths: list[Path], file: Path, written: str
) -> SourceRows:
    """Call a user function with paths; it yields mappings. Messages refer to its file as `written`."""
    return SourceRows({None: _call_function(function, paths, file, written)})


def _call_function(
    function: Callable[..., Iterable[Any]], paths: list[Path], file: Path, written: str
) -> Iterator[Row]:
    name = f"{written}:{function.__name__}"
    number = 0
    try:
        for number, record in enumerate(function(*paths), 1):
            if not isinstance(record, Mapping):
                raise DataError(
                    f"{name}, row {number}: is {record!r:.40} ({type(record).__name__}), not a mapping; "
                    'yield {"text": …}'
                )
            yield Row(dict(record), f"{name}, row", number)
        if not number:
            raise DataError(f"{name}: yielded no rows; fix the function")
    except DataError:
        raise
    except Exception as error:  # user code may raise any exception
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
        ]
        cause = format_typed_line(error)
        raise DataError(
            f"{written}:{lines[-1] if lines else 1}: {function.__name__} failed with {cause}"
        ) from error


def read_from_folder(folder: Path, name: str) -> SourceRows:
    """Read all splits of a data set on disk."""
    return _convert_data(open_data(folder), name)


def read_from_hub(name: str, config: str | None, revision: str | None) -> SourceRows:
    """Load a data set from the Hub or its cache. Raises DataError when it cannot be loaded."""
    try:
        with silence_libraries():
            data = datasets.load_dataset(name, config, revision=revision)
    except Exception as error:  # Datasets passes on errors of many libraries
        raise DataError(_explain_hub_failure(name, error)) from error
    if not isinstance(data, datasets.DatasetDict):
        data = datasets.DatasetDict(train=data)
    return _convert_data(data, name)


def _explain_hub_failure(name: str, error: Exception) -> str:
    cause = get_first_line(error)
    if "scripts are no longer supported" in cause:
        return (
            f"hub:{name}: is a script, which Datasets no longer runs; add `revision: refs/convert/parquet`, "
            "or name a data set of parquet or jsonl files"
        )
    if isinstance(error, (ConnectionError, OSError)) and "doesn't exist on the Hub" not in cause:
        return (
            f"hub:{name}: cannot be reached and is not in the cache {datasets.config.HF_DATASETS_CACHE}; go "
            "online once, or point HF_HOME at a cache that has it"
        )
    return f"hub:{name}: {cause}"


def _convert_data(data: datasets.DatasetDict, name: str) -> SourceRows:
    features = next(iter(data.values())).features
    classes = {
        column: names
        for column, feature in features.items()
        if (names := find_class_names(feature)) is not None
    }
    return SourceRows(
        {str(split): _convert_rows(rows, f"{name}, {split} row") for split, rows in data.items()}, classes
    )


def _convert_rows(rows: datasets.Dataset, origin: str) -> Iterator[Row]:
    named = {
        column: names
        for column, feature in rows.features.items()
        if (names := find_class_names(feature)) is not None
    }
    nested, origins = find_json_columns(rows.features), read_origins(rows)
    number = 0
    for batch in rows.with_format("arrow").iter(BATCH):
        objects = {column: from_json(batch[column]) for column in nested}
        read = origins.slice(number, len(batch)).to_pylist() if origins is not None else None
        for place, record in enumerate(batch.to_pylist()):
            number += 1
            record |= {column: values[place] for column, values in objects.items()}
            for column, classes in named.items():
                record[column] = _name_classes(record[column], classes)
            yield Row(record, **read[place]) if read is not None else Row(record, origin, number)


def _name_classes(value: Any, classes: Sequence[str]) -> Any:
    """Convert class ids to names; data sets of the Hub use -1 for withheld labels."""
    if isinstance(value, list):
        return [_name_classes(item, classes) for item in value]
    return None if value is None or value < 0 else classes[value]
