"""What a recipe says about one column of labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from typing_extensions import Self

from hfpipe.data.cleaning.short_form import ShortForm
from hfpipe.data.labels.values import normalize_name
from hfpipe.data.rows import find_repeated

Kind = Literal["class", "classes", "number"]


def _name(text: str) -> str:
    name = normalize_name(text)
    if not name:
        raise ValueError("a class needs a name; write at least one letter")
    return name


ClassName = Annotated[str, AfterValidator(_name)]


class LabelColumn(ShortForm):
    """A column of labels: its kind alone, as `class`, or a mapping."""

    kind: Kind | None = None
    """A class, a list of classes, or a number for regression; by default detected from the values."""
    separator: str | None = Field(default=None, min_length=1)
    """Text between the classes of one cell, as `,` in `pos,food`; the cell then holds a list of classes."""
    allow_empty: bool = False
    """With `separator`: an empty cell is a row without a class; otherwise it is a missing label."""
    indicators: bool | None = None
    """Whether a list holds a 0 or 1 for each class (multi-hot), and not the classes themselves."""
    names: list[ClassName] = []
    """Names of all classes in the order of their ids.

    A whole number in the data is then such an id, unless names are numbers themselves.
    """
    min_count: int | None = Field(default=None, ge=1)
    """Fewest training rows of a class (rows at all where there is no train); rarer ones go as `rare` says.

    Counted last, over the rows that are left after cleaning, removal of duplicates and splitting. So a
    row that goes may already have taken the place of its duplicate, and the split of other rows never
    changes. Where rows with lists go, other classes become rarer: it is repeated until all have enough.
    """
    rare: ClassName = "drop"
    """With `min_count`: `drop` drops rows that hold a rare class; any other word is the class that rare ones
    become part of."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
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
        """The kind, as far as the recipe tells it."""
        lists = self.separator is not None or self.indicators is not None
        return self.kind or ("classes" if lists else None)

    def changed(self, **settings: Any) -> Any:
        """Return these settings with others, as a recipe writes them."""
        return type(self).model_validate(self._written() | settings).model_dump()

    def _written(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set
        }

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> Any:
        # A setting that is added later must not change the key of the recipes that do not use it.
        written = self._written()
        return self.kind if written.keys() == {"kind"} else written
