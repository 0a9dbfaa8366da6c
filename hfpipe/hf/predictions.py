"""What a model said of each row, written as it is said: `predictions.parquet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


class Predictions:
    """A Parquet file that grows by batches; the first decides its columns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Predictions:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, ids: Sequence[str], positions: np.ndarray, columns: Mapping[str, Any]) -> None:
        """Append rows: ids, positions in the split (column `row`), one value or list of values each."""
        table = pa.table(
            {"id": pa.array(ids, pa.string()), "row": pa.array(positions, pa.int64())}
            | {name: pa.array(list(each)) for name, each in columns.items()}
        )
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def joined(parts: Sequence[Path], path: Path) -> None:
    """Write the files of several processes as one, a row group at a time."""
    there = [part for part in parts if part.exists()]
    with pq.ParquetWriter(path, pq.read_schema(there[0])) as writer:
        for part in there:
            with pq.ParquetFile(part) as file:
                for number in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(number))
