"""Settings that say how files are read, of a data set's source and of `hfpipe predict --read`."""

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
from hfpipe.recipe.overrides import choose
from hfpipe.recipe.settings import mistakes


def _is_text_encoding(name: str) -> bool:
    """Tell whether text written in an encoding, a character at a time, is read back from it."""
    text, raw = 'text,label\n"a b",1\n', io.BytesIO()
    try:
        with io.TextIOWrapper(raw, encoding=name, newline="", write_through=True) as writer:
            for character in text:
                writer.write(character)
            written = raw.getvalue()
        return io.TextIOWrapper(io.BytesIO(written), encoding=name, newline="").read() == text
    except (LookupError, ValueError):  # unknown, not of text, or of another kind of text such as host names
        return False


class FileSettings(Settings):
    """How files are read, as far as their endings and contents do not say."""

    format: Literal["txt", "jsonl", "json", "csv", "tsv", "conll", "xlsx", "parquet", "arrow"] | None = None
    """Format of the files; by default detected from the ending.

    `conll` is a word and its tags on each line, and a blank line after a sentence; it gives `words` and
    `tags`. In `json`, SQuAD's own nested files give a row for each question.
    """
    encoding: str = "utf-8"
    """Text encoding of the files; a byte order mark is followed without being named."""
    separator: str | None = None
    """With csv and tsv: the character between fields; by default detected among `,` `;` tab and `|`."""
    header: bool | list[str] | None = None
    """Names of the columns of csv, tsv, xlsx and conll, in order; `true` takes the first line for names.

    `false` is for files without names, whose columns are then `column_1`, `column_2`, …. By default the first
    line holds names, and it is an error when it looks like data.
    """
    quote: str | Literal[False] | None = None
    """With csv and tsv: the character that encloses fields, or `false` where quotes are text.

    By default `"` for csv, and for tsv where quotes stand as a csv writer puts them.
    """
    escape: str | None = None
    """With csv and tsv: the character before a quote inside a field; by default quotes are doubled there.

    A backslash is detected.
    """
    field: str | None = None
    """With json: the key whose value holds the records, as `data`; `a.b` reaches further in."""
    sheet: str | None = None
    """With xlsx: the name of the sheet; needed when there are several."""

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str) -> str:
        if not _is_text_encoding(name):
            raise ValueError(f"{name!r} is not a text encoding; write utf-8, latin-1, cp1252, utf-16 …")
        return name

    @field_validator("separator", "quote", "escape")
    @classmethod
    def _one_character(cls, value: str | Literal[False] | None) -> str | Literal[False] | None:
        if isinstance(value, str) and (len(value) != 1 or value in "\r\n"):
            raise ValueError(f"{value!r} is not one character; write it alone, as ';' or \"\\t\"")
        return value

    @field_validator("header")
    @classmethod
    def _names(cls, value: bool | list[str] | None) -> bool | list[str] | None:
        if isinstance(value, list) and (not value or len(set(value)) < len(value)):
            raise ValueError("`header` names each column once, in their order")
        return value

    @model_validator(mode="after")
    def _differ(self) -> Self:
        marks = [mark for mark in (self.separator, self.quote, self.escape) if mark]
        if len(set(marks)) < len(marks) or (self.quote is False and self.escape):
            raise ValueError("`separator`, `quote` and `escape` are three characters; `escape` needs a quote")
        return self

    def file_options(self, spelling: Advise = advise) -> FileOptions:
        """Return what readers take; they word the options that they advise by `spelling`."""
        stated = {name: getattr(self, name) for name in FileSettings.model_fields}
        return FileOptions(**stated, advise=spelling)


def parse_read_options(options: Sequence[str]) -> FileOptions:
    """Return how files are read by options written `key=value`, as `--read` takes them.

    Raises RecipeError with every one that is wrong.
    """
    settings: dict[str, Any] = {}
    choose(settings, options, "--read")
    try:
        return FileSettings.model_validate(settings).file_options(advise_read)
    except ValidationError as error:
        problems = mistakes(FileSettings, settings, (), error)
        raise RecipeError([replace(each, message=f"--read: {each.message}") for each in problems]) from None
