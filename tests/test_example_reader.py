"""Examples read from the memory of an Arrow file are those that datasets reads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest

from hfpipe.encoding.encoded import Examples
from hfpipe.encoding.example_reader import can_read
from hfpipe.evaluation.lazy_rows import LazyRows

COLUMNS: dict[str, Any] = {
    "input_ids": pa.array([[5, 6, 7], [], [8], [9, 10], [11]], pa.list_(pa.int32())),
    "labels": pa.array([[1.0, 0.0], [0.5, 0.25], [0.1, 0.2], [0.3, 0.4], [1, 1]], pa.list_(pa.float64())),
    "label": pa.array([3, 1, 2, 0, 1], pa.int64()),
    "score": pa.array([0.1, 0.2, 0.3, 0.4, 0.5], pa.float64()),
    "row": pa.array(range(5), pa.int64()),
}


def examples(folder: Path, columns: dict[str, Any]) -> Examples:
    """Return examples from a file of several record batches, one of them without a row."""
    table, path = pa.table(columns), str(folder / "examples.arrow")
    with pa.ipc.new_stream(path, table.schema) as writer:
        for start, end in ((0, 2), (2, 2), (2, 5)):
            writer.write_table(table.slice(start, end - start))
    return Examples(datasets.Dataset.from_file(path), datasets.Dataset.from_dict({"id": ["a"] * 5}))


def test_examples_are_those_that_datasets_reads(tmp_path: Path) -> None:
    made = examples(tmp_path, COLUMNS)
    assert can_read(made.table.data.table)
    order = [4, 0, 1, 2, 3, 0]
    expected = made.table[order]
    for number, found in enumerate(made.__getitems__([(7, index) for index in order])):
        assert (found.pop("epoch"), found.pop("index")) == (7, order[number])
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert np.asarray(found[name]).dtype == values[number].dtype, name
            np.testing.assert_array_equal(found[name], values[number], err_msg=name)


@pytest.mark.parametrize(
    "more",
    [pa.array(list("abcde")), pa.array([[[1]]] * 5), pa.array([1, None, 2, 3, 4]), pa.array([[1, None]] * 5)],
    ids=["texts", "nested", "null", "null-in-a-list"],
)
def test_other_columns_are_left_to_datasets(more: pa.Array, tmp_path: Path) -> None:
    made = examples(tmp_path, COLUMNS | {"more": more})
    assert not can_read(made.table.data.table)
    [found] = made.__getitems__([(0, 3)])
    assert found["input_ids"].tolist() == [9, 10]


def test_examples_go_to_another_process_once_they_were_read(tmp_path: Path) -> None:
    made = examples(tmp_path, COLUMNS)
    first = made[0, 3]
    again = copy.copy(made)  # by what pickle asks for as well
    assert not any(callable(value) for value in vars(again).values())
    np.testing.assert_array_equal(again[0, 3]["input_ids"], first["input_ids"])


def test_rows_are_read_when_a_column_is_asked_for() -> None:
    split = datasets.Dataset.from_dict({"id": list("abcd"), "number": [1, 2, 3, 4]})
    read: list[Any] = []
    rows = LazyRows(split.with_transform(lambda batch: read.append(1) or batch), np.array([3, 1]))
    assert list(rows) == ["id", "number"]
    assert "number" in rows
    assert not read
    assert rows["number"] == [4, 2]
    assert rows["id"] == ["d", "b"]
    assert len(read) == 1
