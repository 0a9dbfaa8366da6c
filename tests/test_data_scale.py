"""Time that grows with the number of columns or classes, and not with its square."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import process_time

from hfpipe.data.labels.class_ids import ClassIds
from hfpipe.data.readers.file_options import FileOptions
from hfpipe.data.readers.header import find_column_names
from hfpipe.data.rows import Row


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail when the body takes more time of this process; ten times what it needs, a tenth of the square."""
    start = process_time()
    yield
    assert process_time() - start < seconds


def test_names_of_many_columns_are_checked_in_linear_time() -> None:
    names = [f"column {number}" for number in range(20_000)]
    with at_most(seconds=1):
        assert find_column_names(names, [], FileOptions(), "a.csv, line 1") == names


def test_many_rare_classes_are_dropped_in_linear_time() -> None:
    ids = ClassIds([], declared=False)
    for number in range(20_000):
        ids.count([ids.assign_id(f"class {number}")], "train", Row({}, "a.csv, line", number))
    with at_most(seconds=1):
        ids.drop(set(range(19_990)))
        assert ids.find_rare(2) == set(range(19_990, 20_000))
        assert ids.sort_names() == [f"class {number}" for number in range(19_990, 20_000)]
