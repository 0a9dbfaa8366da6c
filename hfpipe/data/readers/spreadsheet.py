"""Reads Excel workbooks with openpyxl."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from hfpipe.data.readers.file_options import DataFile
from hfpipe.data.readers.header import find_column_names
from hfpipe.data.rows import Row
from hfpipe.errors import DataError

ROWS = 1000
"""Number of rows read at a time."""
Cells = tuple[int, list[Any]]
"""Row number, counted from 1, and the cells of the row."""


def read_excel(file: DataFile) -> Iterator[Row]:
    """Yield the rows of a sheet; its first row contains the column names, and empty rows are skipped.

    Numbers, dates and booleans keep their types, and an empty cell is null.
    Raises DataError when openpyxl is not installed, when the sheet is ambiguous, and for a cell with an error
    value or with a formula whose value is not stored.
    """
    if find_spec("openpyxl") is None:
        raise DataError(f"{file.name}: needs openpyxl, which is not installed; pip install 'hfpipe[excel]'")
    with _open_workbook(file.path, values=True) as book:
        title = _choose_sheet(book, file)
        yield from _Sheet(file, title).read_rows(_iterate_silently(book[title].iter_rows()))


@contextmanager
def _open_workbook(path: Path, *, values: bool) -> Iterator[Any]:
    """Open a workbook as a stream, because openpyxl checks the file extension of a path."""
    import openpyxl

    with path.open("rb") as stream:
        with warnings.catch_warnings():  # warnings about styles and validations do not concern data
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(stream, read_only=True, data_only=values)
        with closing(book):
            yield book


def _iterate_silently(rows: Iterator[Any]) -> Iterator[Any]:
    """Yield the rows without the warnings that openpyxl issues while reading them."""
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            some = list(islice(rows, ROWS))
        if not some:
            return
        yield from some


def _choose_sheet(book: Any, file: DataFile) -> str:
    names = [sheet.title for sheet in book.worksheets]
    wanted = file.options.sheet
    if wanted is not None:
        if wanted not in names:
            raise DataError(
                f"{file.name}: there is no sheet {wanted!r}; there is {', '.join(map(repr, names))}"
            )
        return wanted
    filled = [
        name
        for name in names
        if any(map(_is_filled, _iterate_silently(book[name].iter_rows(values_only=True))))
    ]
    if len(filled) > 1:
        raise DataError(
            f"{file.name}: has sheets {', '.join(map(repr, filled))}; name one with "
            f"{file.options.advise(sheet=filled[0])}"
        )
    return filled[0] if filled else names[0]


def _is_filled(values: tuple[Any, ...]) -> bool:
    return any(value is not None for value in values)


class _Sheet:
    """One sheet: converts its cells to rows, and reports the cell of an error."""

    def __init__(self, file: DataFile, title: str) -> None:
        self._file = file
        self._title = title
        self._origin = f"{file.name}, {title} row"
        self._formulas: set[str] | None = None

    def read_rows(self, cells: Iterator[Any]) -> Iterator[Row]:
        """Yield the rows below the header, or all rows if the recipe names the columns."""
        filled = self._read_filled_rows(cells)
        head = list(islice(filled, ROWS))
        if not head:
            return
        header = self._file.options.header
        number, first = head[0]
        below = [list(map(str, values)) for _, values in head[1:]]
        place = f"{self._origin} {number}"
        names = find_column_names(
            [_convert_to_text(value) for value in first], below, self._file.options, place
        )
        for number, values in chain(head[header is None or header is True :], filled):
            if len(values) > len(names):
                raise DataError(
                    f"{self._origin} {number}: {len(values)} cells, but the first row names {len(names)} "
                    "columns; give each column a name, or clear the cells next to the table"
                )
            yield Row(dict(zip_longest(names, values)), self._origin, number)

    def _read_filled_rows(self, rows: Iterator[Any]) -> Iterator[Cells]:
        """Yield the non-empty rows, without trailing empty cells."""
        for number, cells in enumerate(rows, 1):
            values = [self._read_value(cell, number) for cell in cells]
            while values and values[-1] is None:
                values.pop()
            if values:
                yield number, values

    def _read_value(self, cell: Any, number: int) -> Any:
        if cell.data_type == "e":
            raise DataError(
                f"{self._origin} {number}: cell {cell.coordinate} shows {cell.value}; fix its formula"
            )
        # A cell that exists but has no value may be a formula that was never calculated.
        if cell.value is None and hasattr(cell, "coordinate") and cell.coordinate in self._find_formulas():
            raise DataError(
                f"{self._origin} {number}: cell {cell.coordinate} is a formula whose value is not stored; "
                "open the file in Excel and save it"
            )
        return cell.value

    def _find_formulas(self) -> set[str]:
        """Return the coordinates of all formulas of the sheet, which is read a second time for this."""
        if self._formulas is None:
            with ExitStack() as stack:
                book = stack.enter_context(_open_workbook(self._file.path, values=False))
                cells = (cell for row in _iterate_silently(book[self._title].iter_rows()) for cell in row)
                self._formulas = {cell.coordinate for cell in cells if cell.data_type == "f"}
        return self._formulas


def _convert_to_text(value: Any) -> str:
    return "" if value is None else str(value)
