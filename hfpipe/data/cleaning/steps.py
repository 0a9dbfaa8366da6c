"""The names under which a recipe asks for cleaning steps."""

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
        return {"anyOf": [{"enum": ["unicode", "html", "mask_pii", "dedup"]}, handler(core)]}

    @property
    def step(self) -> Edit | Filter:
        """The step that is set."""
        return getattr(self, next(iter(self.model_fields_set)))

    @property
    def reason(self) -> str:
        """The step as the ledger names it, as `min_chars: 40` or `dedup: exact`."""
        name, step = next(iter(self.model_fields_set)), self.step
        value: Any = step.model_dump(mode="json")
        if isinstance(step, Short):
            value = [item for item in value.values() if item is not None]
        return f"{name}: {_described(value)}" if value else name


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_described(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_described, value))
    return str(value).encode(errors="backslashreplace").decode()
