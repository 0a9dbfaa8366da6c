"""Settings for reading files, used by a data set's source and by `hfpipe predict --read`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import ValidationError, field_validator, model_validator
from typing_extensions import Self

from hfpipe.advice import advise, advise_read
from hfpipe.contract import Settings
from hfpipe.data.readers.file_options import Advise, FileOptions
from hfpipe.errors import RecipeError
from hfpipe.recipe.overrides import apply_options
from hfpipe.recipe.settings import find_mistakes


def _is_text_encoding(name: str) -> bool:
    """Return whether an encoding is a text encoding that round-trips, character by character."""
    text, raw = 'text,label\n"a b",1\n', io.BytesIO()
    try:
        with io.TextIOWrapper(raw, encoding=name, newline="", write_through=True) as writer:
            for character in text:
                writer.write(character)
            written = raw.getvalue()
        return io.TextIOWrapper(io.BytesIO(written), encoding=name, newline="").read() == text
    except (LookupError, ValueError):  # unknown, not a text encoding, or special such as host names
        return False


class FileSettings(Settings):
    """How files are read, where their extensions and contents do not determine it."""

    format: Literal["txt", "jsonl", "json", "csv", "tsv", "conll", "xlsx", "parquet", "arrow"] | None = None
    """Format of the files; by default detected from the file extension.

    `conll` has one word with its tags per line and a blank line after each sentence; its columns are `words`
    and `tags`. With `json`, the nested files of SQuAD are read as one row per question.
    """
    encoding: str = "utf-8"
    """Text encoding of the files; a byte order mark is detected automatically."""
    separator: str | None = None
    """With csv and tsv: the character between fields; by default detected among `,` `;` tab and `|`."""
    header: bool | list[str] | None = None
    """Column names of csv, tsv, xlsx and conll, in order; `true` reads them from the first line.

    `false` is for files without column names; their columns are `column_1`, `column_2`, …. By default the
    first line contains the names, and it is an error if that line looks like data.
    """
    quote: str | Literal[False] | None = None
    """With csv and tsv: the character that encloses fields, or `false` if quotes are part of the text.

    By default `"` for csv, and for tsv files with the quoting of a csv writer.
    """
    escape: str | None = None
    """With csv and tsv: the character that escapes a quote inside a field; by default quotes are doubled.

    A backslash is detected automatically.
    """
    field: str | None = None
    """With json: the key of the records, such as `data`; `a.b` selects a nested key."""
    sheet: str | None = None
    """With xlsx: the name of the sheet; required if there are several."""

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, name: str) -> str:
        if not _is_text_encoding(name):
            raise ValueError(f"{name!r} is not a text encoding; write utf-8, latin-1, cp1252, utf-16 …")
        return name

    @field_validator("separator", "quote", "escape")
    @classmethod
    def _check_one_character(cls, value: str | Literal[False] | None) -> str | Literal[False] | None:
        if isinstance(value, str) and (len(value) != 1 or value in "\r\n"):
            raise ValueError(f"{value!r} is not one character; write a single one, such as ';' or \"\\t\"")
        return value

    @field_validator("header")
    @classmethod
    def _check_names(cls, value: bool | list[str] | None) -> bool | list[str] | None:
        if isinstance(value, list) and (not value or len(set(value)) < len(value)):
            raise ValueError("`header` names each column once, in their order")
        return value

    @model_validator(mode="after")
    def _check_different_marks(self) -> Self:
        marks = [mark for mark in (self.separator, self.quote, self.escape) if mark]
        if len(set(marks)) < len(marks) or (self.quote is False and self.escape):
            raise ValueError("`separator`, `quote` and `escape` are three characters; `escape` needs a quote")
        return self

    def to_file_options(self, spelling: Advise = advise) -> FileOptions:
        """Return the options for the readers; their messages format suggested options by `spelling`."""
        stated = {name: getattr(self, name) for name in FileSettings.model_fields}
        return FileOptions(**stated, advise=spelling)


def parse_read_options(options: Sequence[str]) -> FileOptions:
    """Parse options of the form `key=value`, as in `--read`.

    Raises RecipeError with every invalid option.
    """
    settings: dict[str, Any] = {}
    apply_options(settings, options, "--read")
    try:
        return FileSettings.model_validate(settings).to_file_options(advise_read)
    except ValidationError as error:
        problems = find_mistakes(FileSettings, settings, (), error)
        raise RecipeError([replace(each, message=f"--read: {each.message}") for each in problems]) from None
