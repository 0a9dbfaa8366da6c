"""How a data file is read: options from the recipe, and findings where the recipe sets none."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hfpipe.advice import advise
from hfpipe.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


Advise = Callable[..., str]
"""Formats settings so that a user can paste them."""


@dataclass(frozen=True)
class FileOptions:
    """Settings of a source of files, named as in a recipe; None if not set."""

    format: str | None = None
    encoding: str = "utf-8"
    separator: str | None = None
    header: bool | list[str] | None = None
    quote: str | Literal[False] | None = None
    escape: str | None = None
    field: str | None = None
    sheet: str | None = None
    advise: Advise = dataclasses.field(default=advise, compare=False)
    """Formats options in the notation of their origin: a recipe or a command line."""

    def check_format(self, name: str, kind: str) -> None:
        """Raise DataError for an option that does not apply to this format."""
        for option in fields(self):
            formats = FORMATS.get(option.name)
            if formats is not None and getattr(self, option.name) != option.default and kind not in formats:
                text = kind in FORMATS["encoding"]  # encoding applies only to text formats
                other = f", or name the format with {self.advise(format=formats[0])}" if text else ""
                raise DataError(
                    f"{name}: {option.name} is for {', '.join(formats)}, and this file is read as {kind}; "
                    f"delete {option.name}{other}"
                )


FORMATS: Mapping[str, tuple[str, ...]] = {
    "encoding": ("txt", "jsonl", "json", "csv", "tsv", "conll"),
    "separator": ("csv", "tsv"),
    "header": ("csv", "tsv", "xlsx", "conll"),
    "quote": ("csv", "tsv"),
    "escape": ("csv", "tsv"),
    "field": ("json",),
    "sheet": ("xlsx",),
}
"""Option → the formats that it applies to."""


@dataclass
class Findings:
    """Findings about files, for the report; filled in while the rows are read."""

    files: list[dict[str, Any]] = field(default_factory=list)
    """Each combination of detected settings, with the files that have it: `first` is the name of the first
    file, `files` their number."""
    types: dict[str, pa.DataType] = field(default_factory=dict)
    """Columns of Arrow and Parquet files whose type cannot be inferred from their first values."""
    left_out: list[str] = field(default_factory=list)
    """Names of files in a folder that are not data files and were skipped."""

    def add(self, name: str, facts: Mapping[str, Any]) -> None:
        """Record how a file was read, if it differs from the standard form of its format."""
        if not facts:
            return
        for entry in self.files:
            if {key: value for key, value in entry.items() if key not in ("first", "files")} == facts:
                entry["files"] += 1
                return
        self.files.append({"first": name, "files": 1, **facts})

    def summarize(self) -> Iterator[str]:
        """Yield a phrase for each nonstandard way of reading, and for files that were not read."""
        for entry in self.files:
            facts = {key: value for key, value in entry.items() if key not in ("first", "files")}
            shown = ", ".join(f"{key} {_format_value(value)}" for key, value in facts.items())
            yield f"{entry['first']}{_count_others(entry['files'])}: {shown}"
        if self.left_out:
            yield f"left out of the folder: {self.left_out[0]}{_count_others(len(self.left_out))}"


def _count_others(files: int) -> str:
    return "" if files == 1 else f" and {files - 1:,} more"


def _format_value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else json.dumps(value)


@dataclass(frozen=True)
class DataFile:
    """A file to read: its path, its name in messages, and how to read it."""

    path: Path
    name: str
    options: FileOptions
    found: Findings
    codec: str = "utf-8"
    """The encoding, from the byte order mark or the recipe; empty for files that are not text."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Detected settings that neither the format nor the recipe determines; for the report."""

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add findings about the file; settings of the recipe are not findings."""
        plain = FileOptions()
        for name, value in facts.items():
            if getattr(self.options, name, None) == getattr(plain, name, None):
                self.facts[name] = value
