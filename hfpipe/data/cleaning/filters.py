"""Cleaning steps that drop rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, model_validator
from typing_extensions import Self

from hfpipe.data.cleaning.expressions import check_expression, searcher
from hfpipe.data.cleaning.short_form import ShortForm
from hfpipe.data.labels.values import same
from hfpipe.data.rows import Row
from hfpipe.errors import DataError
from hfpipe.metrics.scores.segmentation import space_words
from hfpipe.recipe.messages import join_names

Keep = Callable[[Row], bool]
"""Whether a row stays; may remember the rows it saw."""

_PLAIN = ConfigDict(frozen=True, strict=True)


Count = Annotated[int, Field(ge=1)]
Pattern = Annotated[str, AfterValidator(check_expression)]


class Filter(BaseModel, ABC):
    """A step that drops rows."""

    @abstractmethod
    def start(self) -> Keep:
        """Return a fresh test for the rows of one run."""


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
    return sum(len(space_words(text)) for text in row.texts)


class MinWords(RootModel[Count], Filter):
    """Drops rows with fewer words, all text columns together.

    Words are what stands between white space; each character of a script without spaces is one.
    """

    model_config = _PLAIN

    def start(self) -> Keep:
        return lambda row: _words(row) >= self.root


class MaxWords(RootModel[Count], Filter):
    """Drops rows with more words, all text columns together.

    Words are what stands between white space; each character of a script without spaces is one.
    """

    model_config = _PLAIN

    def start(self) -> Keep:
        return lambda row: _words(row) <= self.root


class Drop(RootModel[dict[str, list[str | bool | int | float | None]]], Filter):
    """Drops rows that hold one of the values in a column, or in its list.

    `null` drops rows that have none: null, an empty cell, or only white space. A text counts as the number
    or truth value that it spells, so that `2` drops the 2 of a csv file; `true` and `1` are different.
    """

    model_config = _PLAIN

    def start(self) -> Keep:
        def keep(row: Row) -> bool:
            try:
                return not any(_holds(row.values[column], values) for column, values in self.root.items())
            except KeyError as error:
                there = join_names(list(row.values))
                raise DataError(
                    f"{row.place}: `drop` names {error.args[0]!r}, but the columns are {there}"
                ) from None

        return keep


def _holds(value: Any, written: Sequence[Any]) -> bool:
    items = value if isinstance(value, (list, tuple)) else [value]
    return any(same(each, item) for each in written for item in items)


class KeepMatching(RootModel[Pattern], Filter):
    """Keeps rows in which some text column matches the regular expression somewhere."""

    model_config = _PLAIN

    def start(self) -> Keep:
        return searcher(self.root, "keep_matching")


class DropMatching(RootModel[Pattern], Filter):
    """Drops rows in which some text column matches the regular expression somewhere."""

    model_config = _PLAIN

    def start(self) -> Keep:
        matches = searcher(self.root, "drop_matching")
        return lambda row: not matches(row)


def _script(name: str) -> str:
    import regex

    try:
        regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        raise ValueError(f"{name!r} is not a Unicode script; write Latin, Cyrillic, Han, Arabic …") from None
    return name


class Short(ShortForm, Filter, ABC):
    """Base of the steps whose first setting may stand alone: `{script: Latin}`."""


class Script(Short):
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


class Dedup(Short):
    """Drops rows whose text was seen before in any split; the first stays, held-out splits come first."""

    kind: Literal["exact", "near"] = "exact"
    """`exact`: equal after the steps above; `near`: similar by MinHash (Broder, 1997)."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """With `near`: estimated Jaccard similarity of word 5-grams that makes two texts the same; else 0.8."""

    @model_validator(mode="after")
    def _read(self) -> Self:
        if self.kind == "exact" and self.threshold is not None:
            raise ValueError("`threshold` goes with `kind: near`")
        return self

    def start(self) -> Keep:
        if self.kind == "near":
            from hfpipe.data.cleaning.near import NearDuplicates

            return NearDuplicates(self.threshold or 0.8).is_new
        seen: set[bytes] = set()

        def keep(row: Row) -> bool:
            before = len(seen)
            seen.add(row.digest())
            return len(seen) > before

        return keep
