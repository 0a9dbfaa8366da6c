"""Names of the cleaning steps in a recipe."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import GetJsonSchemaHandler, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import CoreSchema
from typing_extensions import Self

from hfpipe.contract import Settings
from hfpipe.data.cleaning.edits import Edit, Html, MaskPII, Secret, Unicode
from hfpipe.data.cleaning.filters import (
    Dedup,
    Drop,
    DropMatching,
    Filter,
    KeepMatching,
    MaxChars,
    MaxWords,
    MinChars,
    MinWords,
    Script,
    Short,
)


class Clean(Settings):
    """One cleaning step: a name, or a mapping of exactly one name to its value."""

    unicode: Unicode | None = None
    """Normalizes to NFC and removes control characters."""
    html: Html | None = None
    """Strips tags and decodes entities."""
    mask_pii: MaskPII | None = None
    """A list of some of `email`, `phone`, `ip` and `card`; without a value, all four."""
    min_chars: MinChars | None = None
    """Minimum number of characters per row."""
    max_chars: MaxChars | None = None
    """Maximum number of characters per row."""
    min_words: MinWords | None = None
    """Minimum number of words per row."""
    max_words: MaxWords | None = None
    """Maximum number of words per row."""
    drop: Drop | None = None
    """Column → values; rows that contain one of them are dropped."""
    keep_matching: KeepMatching | None = None
    """Regular expression; rows without a match are dropped."""
    drop_matching: DropMatching | None = None
    """Regular expression; rows with a match are dropped."""
    script: Script | None = None
    """Unicode script, such as `Latin`, or `{name: Latin, share: 0.8}`."""
    dedup: Dedup | None = None
    """`exact`, `near`, or `{kind: near, threshold: 0.8}`."""

    @model_validator(mode="before")
    @classmethod
    def _expand_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return {value: list(get_args(Secret)) if value == "mask_pii" else {}}

    @model_validator(mode="after")
    def _require_one_kind(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("write each step as a separate list item, as `- {min_chars: 40}`")
        return self

    @model_serializer(mode="wrap")
    def _dump_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A step added in a later version must not change the key of recipes that do not use it.
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": ["unicode", "html", "mask_pii", "dedup"]}, handler(core)]}

    @property
    def step(self) -> Edit | Filter:
        """The step whose field is set."""
        return getattr(self, next(iter(self.model_fields_set)))

    @property
    def reason(self) -> str:
        """Name of the step in the ledger, such as `min_chars: 40` or `dedup: exact`."""
        name, step = next(iter(self.model_fields_set)), self.step
        value: Any = step.model_dump(mode="json")
        if isinstance(step, Short):
            value = [item for item in value.values() if item is not None]
        return f"{name}: {_describe_step(value)}" if value else name


def _describe_step(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_describe_step(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_describe_step, value))
    return str(value).encode(errors="backslashreplace").decode()
