"""Cleaning steps that change text and keep every row."""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from hfpipe.contract import Settings
from hfpipe.data.markup import strip
from hfpipe.data.pii import mask

Secret = Literal["email", "phone", "ip", "card"]

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Edit(BaseModel, ABC):
    """A step that changes text and keeps every row."""

    @abstractmethod
    def edit(self, text: str) -> str:
        """Return the text as it should be; pure."""


class Unicode(Settings, Edit):
    """Brings text to NFC and removes control characters and stray surrogates; newline and tab stay."""

    def edit(self, text: str) -> str:
        return _CONTROL.sub("", text if text.isascii() else unicodedata.normalize("NFC", text))


class Html(Settings, Edit):
    """Strips tags, comments, scripts and styles, and decodes entities."""

    def edit(self, text: str) -> str:
        return strip(text)


class MaskPII(RootModel[list[Secret]], Edit):
    """Replaces e-mail addresses, phone numbers, IP addresses and card numbers by <EMAIL>, <PHONE>, …"""

    model_config = ConfigDict(frozen=True, strict=True)
    root: list[Secret] = Field(min_length=1)

    def edit(self, text: str) -> str:
        return mask(text, self.root)
