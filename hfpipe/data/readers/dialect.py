"""Detects the dialect of a csv or tsv file: separator, quotes and escapes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hfpipe.data.readers.file_options import FileOptions

SAMPLE = 1 << 16
"""Number of characters at the beginning of a file that are examined."""
ROWS = 1000
"""Maximum number of rows that are examined."""
USUAL = {"csv": ",", "tsv": "\t"}
"""Format → its standard separator."""
OTHERS = ",;\t|"
"""Separators that files use despite the file extension of another format."""
ENOUGH = 0.9
"""Minimum fraction of rows with as many fields as the header for a separator to be accepted."""
_EXCEL = re.compile(r"sep=(.)\r?\n?")


@dataclass(frozen=True)
class Dialect:
    """How fields are separated and quoted, in the terms of Python's csv module."""

    separator: str
    quote: str | None = '"'
    """None if a quote is an ordinary character."""
    escape: str | None = None
    skipped: int = 0
    """Lines before the header, such as the `sep=;` of Excel."""

    def make_reader(self, lines: Any) -> Any:
        """Return a csv reader; it is strict, so that a misplaced quote is an error."""
        return csv.reader(
            lines,
            strict=True,
            delimiter=self.separator,
            quotechar=self.quote or '"',
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            escapechar=self.escape,
            doublequote=True,  # also with an escape: otherwise csv is not strict after a quote
        )

    def list_differences(self, kind: str) -> dict[str, Any]:
        """Return the differences from the standard form of the format, keyed by setting."""
        found: dict[str, Any] = {} if self.separator == USUAL[kind] else {"separator": self.separator}
        if self.quote != ('"' if kind == "csv" else None):
            found["quote"] = self.quote or False
        if self.escape:
            found["escape"] = self.escape
        return found | ({"skipped": f"{self.skipped} line"} if self.skipped else {})


def detect_dialect(sample: str, kind: str, options: FileOptions) -> Dialect:
    """Detect the dialect of a file of `kind` (csv or tsv) from its first lines and the options of the recipe.

    The separator is the format's standard one, unless rows then have another number of fields than the header
    and a different separator gives the same number. The sample consists of whole lines.
    """
    first, _, rest = sample.partition("\n")
    excel = _EXCEL.fullmatch(first)
    sample, skipped = (rest, 1) if excel else (sample, 0)
    stated = options.separator or (excel[1] if excel else None)
    usual = stated or USUAL[kind]
    for separator in [usual] if stated else [usual, *OTHERS.replace(usual, "")]:
        for dialect in _list_dialects(sample, kind, separator, skipped, options):
            if _measure_equal_widths(dialect, sample) >= ENOUGH:
                return dialect
    ways = list(_list_dialects(sample, kind, usual, skipped, options))
    return next((way for way in ways if sample_rows(way, sample) is not None), ways[0])


def _list_dialects(
    sample: str, kind: str, separator: str, skipped: int, options: FileOptions
) -> Iterator[Dialect]:
    """Yield the quoting styles to try, the likeliest first; only that of the recipe if it sets one."""
    if options.quote is not None:
        yield Dialect(separator, options.quote or None, options.escape, skipped)
    elif options.escape is not None:
        yield Dialect(separator, '"', options.escape, skipped)
    elif kind == "tsv":
        # In IANA's text/tab-separated-values, and in GLUE's files, a quote is an ordinary character.
        yield Dialect(separator, '"' if _is_quoted(sample, separator) else None, None, skipped)
    else:
        doubled, escaped = Dialect(separator, '"', None, skipped), Dialect(separator, '"', "\\", skipped)
        if "\\" not in sample:
            yield doubled
        else:
            yield from (escaped, doubled) if _is_escaped(sample, doubled) else (doubled, escaped)


def _is_quoted(sample: str, separator: str) -> bool:
    """Return whether quotes are where a csv writer puts them: around fields that need them, or all texts."""
    if '"' not in sample or sample_rows(Dialect(separator), sample) is None:
        return False
    end = rf"(?=[{re.escape(separator)}\r\n]|\Z)"
    fields = re.findall(rf'"(?:[^"]|"")*"{end}|[^{re.escape(separator)}\r\n]+', sample)
    quoted = [field[1:-1] for field in fields if field[0] == field[-1] == '"' and len(field) > 1]
    bare = [field for field in fields if field[0] != '"' and not re.fullmatch(r"[-+.,\deE]+", field)]
    needed = all(re.search(rf'""|[{re.escape(separator)}\r\n]', field) for field in quoted)
    return bool(quoted) and (needed or not bare)


def _is_escaped(sample: str, doubled: Dialect) -> bool:
    """Return whether quotes are escaped by backslashes even if the file can be parsed without escapes.

    A writer that doubles quotes encloses every field that contains one, and a writer that escapes quotes also
    escapes backslashes.
    """
    if '\\"' not in sample or '\\""' in sample:
        return False
    rows = sample_rows(doubled, sample) or []
    rest = re.sub(rf'\\[\\"\r\n{re.escape(doubled.separator)}]', "", sample)
    return "\\" not in rest and any('\\"' in field for row in rows for field in row)


def _measure_equal_widths(dialect: Dialect, sample: str) -> float:
    """Return the fraction of rows with as many fields as the first; 0 for one field or broken quotes."""
    rows = sample_rows(dialect, sample)
    if not rows or len(rows[0]) < 2:
        return 0.0
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows)


def sample_rows(dialect: Dialect, sample: str) -> list[list[str]] | None:
    """Return the first non-blank rows of a sample, or None if the quotes are broken.

    A quoted field that continues after the end of the sample is not broken; its row is omitted.
    """
    reader = dialect.make_reader(io.StringIO(sample, newline=""))
    rows: list[list[str]] = []
    try:
        rows += (row for row in islice(reader, ROWS) if row)
    except csv.Error as error:
        return rows if "unexpected end of data" in str(error) else None
    return rows
