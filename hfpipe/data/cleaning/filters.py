"""Cleaning steps that drop rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, model_validator
from typing_extensions import Self

from hfpipe.data.cleaning.digest_set import DigestSet
from hfpipe.data.cleaning.expressions import check_expression, compile_search
from hfpipe.data.cleaning.short_form import ShortForm
from hfpipe.data.labels.values import equals_written
from hfpipe.data.rows import Row
from hfpipe.errors import DataError
from hfpipe.metrics.scores.segmentation import split_at_spaces
from hfpipe.recipe.messages import join_names

Keep = Callable[[Row], bool]
"""Returns whether a row is kept; may have state, such as the rows seen so far."""

_PLAIN = ConfigDict(frozen=True, strict=True)


Count = Annotated[int, Field(ge=1)]
Pattern = Annotated[str, AfterValidator(check_expression)]


class Filter(BaseModel, ABC):
    """A step that drops rows."""

    @abstractmethod
    def start(self) -> Keep:
        """Return a new predicate for the rows of one run."""


class MinChars(RootModel[Count], Filter):
    """Drops rows with fewer characters, summed over all text columns."""

    model_config = _PLAIN

    def start(self) -> Keep:
        return lambda row: row.characters >= self.root


class MaxChars(RootModel[Count], Filter):
    """Drops rows with more characters, summed over all text columns."""

    model_config = _PLAIN

    def start(self) -> Keep:
        return lambda row: row.characters <= self.root


def _count_words(row: Row) -> int:
    return sum(len(split_at_spaces(text)) for text in row.texts)


class MinWords(RootModel[Count], Filter):
    """Drops rows with fewer words, summed over all text columns.

    Words are separated by white space; in a script without spaces each character is a word.
    """

    model_config = _PLAIN

    def start(self) -> Keep:
        return lambda row: _count_words(row) >= self.root


class MaxWords(RootModel[Count], Filter):
    """Drops rows with more words, summed over all text columns.

    Words are separated by white space; in a script without spaces each character is a word.
    """

    model_config = _PLAIN

    def start(self) -> Keep:
        return lambda row: _count_words(row) <= self.root


class Drop(RootModel[dict[str, list[str | bool | int | float | None]]], Filter):
    """Drops rows whose column, or whose list in that column, contains one of the values.

    `null` drops rows without a value: null, an empty cell, or only white space. A text is compared as the
    number or boolean that it represents, so that `2` drops the 2 of a csv file; `true` and `1` are different.
    """

    model_config = _PLAIN

    def start(self) -> Keep:
        def keep(row: Row) -> bool:
            try:
                return not any(
                    _contains_any(row.values[column], values) for column, values in self.root.items()
                )
            except KeyError as error:
                there = join_names(list(row.values))
                raise DataError(
                    f"{row.place}: `drop` names {error.args[0]!r}, but the columns are {there}"
                ) from None

        return keep


def _contains_any(value: Any, written: Sequence[Any]) -> bool:
    items = value if isinstance(value, (list, tuple)) else [value]
    return any(equals_written(each, item) for each in written for item in items)


class KeepMatching(RootModel[Pattern], Filter):
    """Keeps rows with a match of the regular expression anywhere in a text column."""

    model_config = _PLAIN

    def start(self) -> Keep:
        return compile_search(self.root, "keep_matching")


class DropMatching(RootModel[Pattern], Filter):
    """Drops rows with a match of the regular expression anywhere in a text column."""

    model_config = _PLAIN

    def start(self) -> Keep:
        matches = compile_search(self.root, "drop_matching")
        return lambda row: not matches(row)


def _check_script(name: str) -> str:
    import regex

    try:
        regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        raise ValueError(f"{name!r} is not a Unicode script; write Latin, Cyrillic, Han, Arabic …") from None
    return name


class Short(ShortForm, Filter, ABC):
    """Base of the steps that may be written as the value of their first setting: `{script: Latin}`."""


class Script(Short):
    """Keeps rows whose letters are mostly from one Unicode script; drops rows without letters."""

    name: Annotated[str, AfterValidator(_check_script)]
    """Unicode name of the script, such as `Latin`."""
    share: float = Field(default=0.8, gt=0, le=1)
    """Minimum fraction of the letters."""

    def start(self) -> Keep:
        import regex

        others = regex.compile(r"\P{L}+")
        foreign = regex.compile(rf"\P{{Script={self.name}}}+")

        def keep(row: Row) -> bool:
            letters = others.sub("", "".join(row.texts))
            return len(foreign.sub("", letters)) >= self.share * len(letters) > 0

        return keep


class Dedup(Short):
    """Drops rows whose text occurred before in any split; the first row is kept, and held-out splits are read
    first."""

    kind: Literal["exact", "near"] = "exact"
    """`exact`: equal after the preceding steps; `near`: similar by MinHash (Broder, 1997)."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """With `near`: minimum estimated Jaccard similarity of word 5-grams for two texts to be duplicates; by
    default 0.8."""

    @model_validator(mode="after")
    def _check_threshold(self) -> Self:
        if self.kind == "exact" and self.threshold is not None:
            raise ValueError("`threshold` goes with `kind: near`")
        return self

    def start(self) -> Keep:
        if self.kind == "near":
            from hfpipe.data.cleaning.near import NearDuplicates

            return NearDuplicates(self.threshold or 0.8).is_new
        seen = DigestSet()
        return lambda row: seen.add(row.digest())
