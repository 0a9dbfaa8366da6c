"""Settings of one label column."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from typing_extensions import Self

from hfpipe.data.cleaning.short_form import ShortForm
from hfpipe.data.labels.values import normalize_name
from hfpipe.data.rows import find_repeated

Kind = Literal["class", "classes", "number"]


def _check_class_name(text: str) -> str:
    name = normalize_name(text)
    if not name:
        raise ValueError("a class needs a name; write at least one letter")
    return name


ClassName = Annotated[str, AfterValidator(_check_class_name)]


class LabelColumn(ShortForm):
    """A label column: its kind alone, such as `class`, or a mapping."""

    kind: Kind | None = None
    """A class, a list of classes, or a number for regression; by default detected from the values."""
    separator: str | None = Field(default=None, min_length=1)
    """Separator of the classes in one cell, such as `,` in `pos,food`; the cell is then a list of classes."""
    allow_empty: bool = False
    """With `separator`: treat an empty cell as a row without classes; by default it is a missing label."""
    indicators: bool | None = None
    """Whether a list holds one 0 or 1 per class (multi-hot) instead of the classes themselves."""
    names: list[ClassName] = []
    """Names of all classes in the order of their ids.

    A whole number in the data is then an id, unless the names are numbers.
    """
    min_count: int | None = Field(default=None, ge=1)
    """Minimum number of training rows per class (of all rows if there is no train split); `rare` sets what
    happens to rarer classes.

    Rows are counted after cleaning, removal of duplicates and splitting. The duplicate of a dropped row is
    therefore not restored, and the split of other rows does not change. Dropping rows with lists can make
    other classes rare, so the step is repeated until no class is rare.
    """
    rare: ClassName = "drop"
    """With `min_count`: `drop` drops rows with a rare class; any other value is the name of the class that
    rare classes are merged into."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        lists = [name for name in ("separator", "indicators") if getattr(self, name) is not None]
        if lists and self.kind not in (None, "classes"):
            raise ValueError(f"`{lists[0]}` goes with `kind: classes`, not with `kind: {self.kind}`")
        for name, other in (("allow_empty", "separator"), ("rare", "min_count")):
            if name in self.model_fields_set and getattr(self, other) is None:
                raise ValueError(f"`{name}` goes with `{other}`")
        if self.kind == "number" and (self.names or self.min_count is not None):
            raise ValueError(
                f"`{'names' if self.names else 'min_count'}` goes with classes, not with numbers"
            )
        if (twice := find_repeated(self.names)) is not None:
            raise ValueError(f"`names` has {twice!r} twice; each class has one id")
        return self

    @property
    def resolved_kind(self) -> Kind | None:
        """The kind, as far as the recipe determines it."""
        lists = self.separator is not None or self.indicators is not None
        return self.kind or ("classes" if lists else None)

    def dump_with(self, **settings: Any) -> Any:
        """Return these settings with changes, in the notation of a recipe."""
        return type(self).model_validate(self._dump_set() | settings).model_dump()

    def _dump_set(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set
        }

    @model_serializer(mode="wrap")
    def _dump_short(self, handler: SerializerFunctionWrapHandler) -> Any:
        # A setting added in a later version must not change the key of recipes that do not use it.
        written = self._dump_set()
        return self.kind if written.keys() == {"kind"} else written
