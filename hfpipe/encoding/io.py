"""Opens data sets on disk, and describes their contents."""

from __future__ import annotations

from pathlib import Path

import datasets

from hfpipe.errors import DataError, get_first_line
from hfpipe.report import DataFacts
from hfpipe.store.store import is_done, read_report, suggest_restoring


def open_data(folder: Path) -> datasets.DatasetDict:
    """Open a data set saved by a stage or by `save_to_disk`, memory-mapped, as split → rows.

    Raises DataError when the folder contains none.
    """
    try:
        data = datasets.load_from_disk(str(folder))
    except (FileNotFoundError, ValueError, OSError) as error:
        cause = get_first_line(error) if folder.exists() else "there is no such folder"
        raise DataError(
            f"{folder}: cannot be opened as a data set ({cause}); {suggest_restoring(folder)}"
        ) from None
    return data if isinstance(data, datasets.DatasetDict) else datasets.DatasetDict(train=data)


def open_split(folder: Path, split: str) -> datasets.Dataset:
    """Open one split. Raises DataError, with the existing splits, when it is missing."""
    data = open_data(folder)
    if split not in data:
        raise DataError(f"{folder}: there is no split {split!r}; it has {', '.join(data)}")
    return data[split]


def read_facts(folder: Path) -> DataFacts:
    """Return the facts about a data set: from the stage's report, or else from the features."""
    found = read_report(folder).data if is_done(folder) else None
    return found if found is not None else extract_facts(open_data(folder))


def extract_facts(data: datasets.DatasetDict) -> DataFacts:
    """Return columns, splits and class names of an open data set."""
    features = next(iter(data.values())).features
    labels = {name: find_class_names(feature) for name, feature in features.items()}
    return DataFacts(
        columns={name: _name_type(feature) for name, feature in features.items()},
        splits={split: len(rows) for split, rows in data.items()},
        labels={name: names for name, names in labels.items() if names is not None},
    )


def find_class_names(feature: object) -> list[str] | None:
    """Return the class names of a column of classes or of lists of classes; None for another column."""
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else None


def _name_type(feature: object) -> str:
    if find_class_names(feature) is not None:
        return "label" if isinstance(feature, datasets.ClassLabel) else "labels"
    if not isinstance(feature, datasets.Value):
        words = (
            isinstance(feature, (datasets.List, datasets.LargeList))
            and _name_type(feature.feature) == "string"
        )
        return "strings" if words else "nested"
    for name in ("string", "int", "float"):
        if name in feature.dtype:
            return name
    return str(feature.dtype)
