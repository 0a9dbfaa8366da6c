"""Settings with a short form, the value of the first key: `{script: Latin}` for `{script: {name: Latin}}`."""

from __future__ import annotations

from typing import Any

from pydantic import GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from hfpipe.contract import Settings


class ShortForm(Settings):
    """Base of settings with a short form: a value that is not a mapping is the value of the first key."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {next(iter(cls.model_fields)): value}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        long = handler(core)
        first = handler.resolve_ref_schema(long)["properties"][next(iter(cls.model_fields))]
        return {"anyOf": [first, long]}
