"""Reads local files: detects the format, selects the reader, and reports any error in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from hfpipe.data.readers.arrow_files import read_arrow, read_parquet
from hfpipe.data.readers.conll import read_conll
from hfpipe.data.readers.delimited import read_csv, read_tsv
from hfpipe.data.readers.file_options import FORMATS, DataFile, FileOptions, Findings
from hfpipe.data.readers.json_records import read_json, read_jsonl
from hfpipe.data.readers.spreadsheet import read_excel
from hfpipe.data.readers.streams import COMPRESSION, detect_encoding, open_text
from hfpipe.data.rows import Row
from hfpipe.errors import DataError, get_first_line

Reader = Callable[[DataFile], Iterator[Row]]
PLAIN = FileOptions()
TEXT = FORMATS["encoding"]
"""Text formats, which may be compressed."""


def read_files(
    path: Path, name: str, options: FileOptions = PLAIN, found: Findings | None = None
) -> Iterator[Row]:
    """Return the rows of one file; `name` is its name in messages, and `found` collects how it was read.

    Raises DataError, at once or during iteration, for a file that is missing, empty, truncated, damaged,
    wrongly encoded, or of unknown format.
    """
    kind = options.format or detect_format(path, name, options)
    if not path.is_file():
        what = (
            "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "is not there"
        )
        raise DataError(f"{name}: {what}; name a file, or a pattern such as {name}/*.jsonl")
    options.check_format(name, kind)
    codec = detect_encoding(path, name, options) if kind in TEXT else ""
    file = DataFile(path, name, options, found or Findings(), codec)
    if codec.startswith("utf-") and codec not in ("utf-8-sig", options.encoding):
        file.note({"encoding": codec})
    rows = _read_guarded(file, kind)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{name}: is empty; remove it, or fix the program that wrote it")
    return chain([first], rows)


def detect_format(path: Path, name: str, options: FileOptions = PLAIN) -> str:
    """Return the format by the file extension. Raises DataError for an unknown extension."""
    found = find_format(path)
    if found is not None:
        return found
    if path.suffix.lower() == ".xls":
        raise DataError(f"{name}: is in the old Excel format; save it as .xlsx")
    *others, last = READERS
    raise DataError(
        f"{name}: its extension does not tell the format; add {options.advise(format=others[0])}, or "
        f"{', '.join(others[1:])} or {last} instead of {others[0]}"
    )


def find_format(path: Path) -> str | None:
    """Return the format by the file extension, ignoring that of a compression; None if unknown."""
    packed = path.suffix in COMPRESSION
    extension = Path(path.stem if packed else path.name).suffix[1:].lower()
    kind = EXTENSIONS.get(extension, extension)
    return kind if kind in (TEXT if packed else READERS) else None


def _read_guarded(file: DataFile, kind: str) -> Iterator[Row]:
    """Yield the rows of a file; any exception of a library while reading becomes a one-line error."""
    try:
        yield from READERS[kind](file)
    except DataError:
        raise
    except Exception as error:  # each library has its own errors for a damaged file
        cause = get_first_line(error)
        raise DataError(
            f"{file.name}: cannot be read as {kind} ({cause}); copy or download it again, or name its "
            f"format, such as {file.options.advise(format=_suggest_format(kind))}"
        ) from None
    file.found.add(file.name, file.facts)


def _suggest_format(kind: str) -> str:
    """Return another format that a file with the extension of `kind` may have."""
    return {"arrow": "parquet", "parquet": "arrow"}.get(kind, "csv")


def _read_lines(file: DataFile) -> Iterator[Row]:
    origin = f"{file.name}, line"
    with open_text(file) as stream:
        for number, line in enumerate(stream, 1):
            yield Row({"text": line.rstrip("\n")}, origin, number)


READERS: dict[str, Reader] = {
    "txt": _read_lines,
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "conll": read_conll,
    "xlsx": read_excel,
    "parquet": read_parquet,
    "arrow": read_arrow,
}
"""Format → its reader."""
EXTENSIONS = {
    "iob": "conll",
    "iob2": "conll",
    "ndjson": "jsonl",
    "xlsm": "xlsx",
    "feather": "arrow",
    "tab": "tsv",
}
"""Other file extensions → their format."""
