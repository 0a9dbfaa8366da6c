"""Detects how the fields of a csv or tsv file are separated, quoted and escaped."""

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
"""Characters at the beginning of a file that decide."""
ROWS = 1000
"""Rows of them at most."""
USUAL = {"csv": ",", "tsv": "\t"}
"""Format → its own separator."""
OTHERS = ",;\t|"
"""Separators that files have under the ending of another format."""
ENOUGH = 0.9
"""Share of rows with as many fields as the header from which on a separator is believed."""
_EXCEL = re.compile(r"sep=(.)\r?\n?")


@dataclass(frozen=True)
class Dialect:
    """How fields are separated and quoted, in the terms of Python's csv module."""

    separator: str
    quote: str | None = '"'
    """None where a quote is a character like any other."""
    escape: str | None = None
    skipped: int = 0
    """Lines before the header, such as the `sep=;` of Excel."""

    def reader(self, lines: Any) -> Any:
        """Return a csv reader; it is strict, so that a quote in the wrong place is an error."""
        return csv.reader(
            lines,
            strict=True,
            delimiter=self.separator,
            quotechar=self.quote or '"',
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            escapechar=self.escape,
            doublequote=True,  # with an escape too: without it, csv is not strict about what follows a quote
        )

    def facts(self, kind: str) -> dict[str, Any]:
        """Return what is unlike the plain form of the format, under the names of the settings."""
        found: dict[str, Any] = {} if self.separator == USUAL[kind] else {"separator": self.separator}
        if self.quote != ('"' if kind == "csv" else None):
            found["quote"] = self.quote or False
        if self.escape:
            found["escape"] = self.escape
        return found | ({"skipped": f"{self.skipped} line"} if self.skipped else {})


def detect_dialect(sample: str, kind: str, options: FileOptions) -> Dialect:
    """Return how a file of `kind` (csv or tsv) is written, from its first lines and what the recipe says.

    The separator is the format's own, unless that does not give the rows as many fields as the header and
    another one does. The sample holds whole lines.
    """
    first, _, rest = sample.partition("\n")
    excel = _EXCEL.fullmatch(first)
    sample, skipped = (rest, 1) if excel else (sample, 0)
    stated = options.separator or (excel[1] if excel else None)
    usual = stated or USUAL[kind]
    for separator in [usual] if stated else [usual, *OTHERS.replace(usual, "")]:
        for dialect in _quotings(sample, kind, separator, skipped, options):
            if _share(dialect, sample) >= ENOUGH:
                return dialect
    ways = list(_quotings(sample, kind, usual, skipped, options))
    return next((way for way in ways if sample_rows(way, sample) is not None), ways[0])


def _quotings(
    sample: str, kind: str, separator: str, skipped: int, options: FileOptions
) -> Iterator[Dialect]:
    """Yield the ways of quoting to try, the likeliest first; only that of the recipe where it names one."""
    if options.quote is not None:
        yield Dialect(separator, options.quote or None, options.escape, skipped)
    elif options.escape is not None:
        yield Dialect(separator, '"', options.escape, skipped)
    elif kind == "tsv":
        # In IANA's text/tab-separated-values, and in GLUE's files, a quote is a character like any other.
        yield Dialect(separator, '"' if _is_quoted(sample, separator) else None, None, skipped)
    else:
        doubled, escaped = Dialect(separator, '"', None, skipped), Dialect(separator, '"', "\\", skipped)
        if "\\" not in sample:
            yield doubled
        else:
            yield from (escaped, doubled) if _is_escaped(sample, doubled) else (doubled, escaped)


def _is_quoted(sample: str, separator: str) -> bool:
    """Tell whether quotes stand where a csv writer puts them: round what needs them, or round every text."""
    if '"' not in sample or sample_rows(Dialect(separator), sample) is None:
        return False
    end = rf"(?=[{re.escape(separator)}\r\n]|\Z)"
    fields = re.findall(rf'"(?:[^"]|"")*"{end}|[^{re.escape(separator)}\r\n]+', sample)
    quoted = [field[1:-1] for field in fields if field[0] == field[-1] == '"' and len(field) > 1]
    bare = [field for field in fields if field[0] != '"' and not re.fullmatch(r"[-+.,\deE]+", field)]
    needed = all(re.search(rf'""|[{re.escape(separator)}\r\n]', field) for field in quoted)
    return bool(quoted) and (needed or not bare)


def _is_escaped(sample: str, doubled: Dialect) -> bool:
    """Tell whether quotes are escaped by backslashes although the quotes can be read without that.

    A writer that doubles quotes encloses every field that holds one, and one that escapes them also escapes
    its backslashes.
    """
    if '\\"' not in sample or '\\""' in sample:
        return False
    rows = sample_rows(doubled, sample) or []
    rest = re.sub(rf'\\[\\"\r\n{re.escape(doubled.separator)}]', "", sample)
    return "\\" not in rest and any('\\"' in field for row in rows for field in row)


def _share(dialect: Dialect, sample: str) -> float:
    """Return the share of rows with as many fields as the first; 0 for one field, or broken quotes."""
    rows = sample_rows(dialect, sample)
    if not rows or len(rows[0]) < 2:
        return 0.0
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows)


def sample_rows(dialect: Dialect, sample: str) -> list[list[str]] | None:
    """Return the first rows of a sample that are not blank, or None where the quotes are broken.

    A quoted field that goes on after the end of the sample is not broken; its row is left out.
    """
    reader = dialect.reader(io.StringIO(sample, newline=""))
    rows: list[list[str]] = []
    try:
        rows += (row for row in islice(reader, ROWS) if row)
    except csv.Error as error:
        return rows if "unexpected end of data" in str(error) else None
    return rows
