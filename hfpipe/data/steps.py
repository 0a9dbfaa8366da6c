"""The cleaning steps a recipe can name: each a few settings and what they do to a row."""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    RootModel,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema
from typing_extensions import Self

from hfpipe.contract import Settings
from hfpipe.data.rows import Row

Keep = Callable[[Row], bool]
"""Whether a row stays; may remember the rows it saw."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_PLAIN = ConfigDict(frozen=True, strict=True)


class Edit(ABC):
    """A step that changes text and keeps every row."""

    @abstractmethod
    def edit(self, text: str) -> str:
        """Return the text as it should be; pure."""


class Filter(ABC):
    """A step that drops rows."""

    @abstractmethod
    def start(self) -> Keep:
        """Return a fresh test for the rows of one run."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    return pattern


Count = Annotated[int, Field(ge=1)]
Pattern = Annotated[str, AfterValidator(_compiles)]
Secret = Literal["email", "phone", "ip", "card"]


class Short(Settings):
    """Base of the steps whose first setting may stand alone: `{script: Latin}`."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {next(iter(cls.model_fields)): value}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        long = handler(core)
        first = handler.resolve_ref_schema(long)["properties"][next(iter(cls.model_fields))]
        return {"anyOf": [first, long]}


class Unicode(Settings, Edit):
    """Brings text to NFC and removes control characters and stray surrogates; newline and tab stay."""

    def edit(self, text: str) -> str:
        return _CONTROL.sub("", text if text.isascii() else unicodedata.normalize("NFC", text))


class Html(Settings, Edit):
    """Strips tags, comments, scripts and styles, and decodes entities."""

    def edit(self, text: str) -> str:
        from hfpipe.data.html import strip

        return strip(text)


class MaskPII(RootModel[list[Secret]], Edit):
    """Replaces e-mail addresses, phone numbers, IP addresses and card numbers by <EMAIL>, <PHONE>, …"""

    model_config = _PLAIN
    root: list[Secret] = Field(min_length=1)

    def edit(self, text: str) -> str:
        from hfpipe.data.pii import mask

        return mask(text, self.root)


class MinChars(RootModel[Count], Filter):
    """Drops rows with fewer characters, all text columns together."""

    model_config = _PLAIN

    def start(self) -> Keep:
        return lambda row: row.characters >= self.root


class MaxChars(RootModel[Count], Filter):
    """Drops rows with more characters, all text columns together."""

    model_config = _PLAIN

    def start(self) -> Keep:
        return lambda row: row.characters <= self.root


def _words(row: Row) -> int:
    return sum(len(text.split()) for text in row.texts)


class MinWords(RootModel[Count], Filter):
    """Drops rows with fewer words (runs between white space), all text columns together."""

    model_config = _PLAIN

    def start(self) -> Keep:
        return lambda row: _words(row) >= self.root


class MaxWords(RootModel[Count], Filter):
    """Drops rows with more words (runs between white space), all text columns together."""

    model_config = _PLAIN

    def start(self) -> Keep:
        return lambda row: _words(row) <= self.root


class Drop(RootModel[dict[str, list[str | bool | int | float | None]]], Filter):
    """Drops rows that hold one of the values in a column; `null` drops rows that have none."""

    model_config = _PLAIN

    def start(self) -> Keep:
        def keep(row: Row) -> bool:
            return not any(row.values.get(column) in values for column, values in self.root.items())

        return keep


class KeepMatching(RootModel[Pattern], Filter):
    """Keeps rows in which some text column matches the regular expression somewhere."""

    model_config = _PLAIN

    def start(self) -> Keep:
        search = re.compile(self.root).search
        return lambda row: any(map(search, row.texts))


class DropMatching(RootModel[Pattern], Filter):
    """Drops rows in which some text column matches the regular expression somewhere."""

    model_config = _PLAIN

    def start(self) -> Keep:
        search = re.compile(self.root).search
        return lambda row: not any(map(search, row.texts))


def _script(name: str) -> str:
    import regex

    try:
        regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        raise ValueError(f"{name!r} is no Unicode script; write Latin, Cyrillic, Han, Arabic …") from None
    return name


class Script(Short, Filter):
    """Keeps rows whose letters are mostly of one Unicode script; drops rows without letters."""

    name: Annotated[str, AfterValidator(_script)]
    """Unicode's name of the script, as `Latin`."""
    share: float = Field(default=0.8, gt=0, le=1)
    """Least share of the letters."""

    def start(self) -> Keep:
        import regex

        others = regex.compile(r"\P{L}+")
        foreign = regex.compile(rf"\P{{Script={self.name}}}+")

        def keep(row: Row) -> bool:
            letters = others.sub("", "".join(row.texts))
            return len(foreign.sub("", letters)) >= self.share * len(letters) > 0

        return keep


class Dedup(Short, Filter):
    """Drops rows whose text was seen before, in any split; the first stays, and held-out splits come first."""

    kind: Literal["exact", "near"] = "exact"
    """`exact`: equal after the steps above; `near`: similar by MinHash (Broder, 1997)."""
    threshold: float = Field(default=0.8, gt=0, lt=1)
    """With `near`: estimated Jaccard similarity of the word 5-grams from which two texts are the same."""

    def start(self) -> Keep:
        if self.kind == "near":
            from hfpipe.data.near import NearDuplicates

            return NearDuplicates(self.threshold).is_new
        seen: set[bytes] = set()

        def keep(row: Row) -> bool:
            before = len(seen)
            seen.add(row.digest())
            return len(seen) > before

        return keep


class Clean(Settings):
    """One cleaning step: a bare name, or a mapping of exactly one name to its value."""

    unicode: Unicode | None = None
    """NFC, without control characters."""
    html: Html | None = None
    """Tags stripped, entities decoded."""
    mask_pii: MaskPII | None = None
    """`[email, phone, ip, card]` or some of them; bare, all four."""
    min_chars: MinChars | None = None
    """Fewest characters a row."""
    max_chars: MaxChars | None = None
    """Most characters a row."""
    min_words: MinWords | None = None
    """Fewest words a row."""
    max_words: MaxWords | None = None
    """Most words a row."""
    drop: Drop | None = None
    """Column → values; rows that hold one of them go."""
    keep_matching: KeepMatching | None = None
    """Regular expression; rows without a match go."""
    drop_matching: DropMatching | None = None
    """Regular expression; rows with a match go."""
    script: Script | None = None
    """Unicode script, as `Latin`, or `{name: Latin, share: 0.8}`."""
    dedup: Dedup | None = None
    """`exact`, `near`, or `{kind: near, threshold: 0.8}`."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return {value: list(get_args(Secret)) if value == "mask_pii" else {}}

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("write each step as a list item of its own, as `- {min_chars: 40}`")
        return self

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A step that is added later must not change the key of the recipes that do not use it.
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": ["unicode", "html", "mask_pii"]}, handler(core)]}

    @property
    def step(self) -> Edit | Filter:
        """The step that is set."""
        return getattr(self, next(iter(self.model_fields_set)))

    @property
    def reason(self) -> str:
        """The step as the ledger names it, as `min_chars: 40` or `dedup: exact`."""
        name = next(iter(self.model_fields_set))
        value = getattr(self, name).model_dump(mode="json")
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, list):
            value = ", ".join(value)
        return f"{name}: {value}" if value else name
