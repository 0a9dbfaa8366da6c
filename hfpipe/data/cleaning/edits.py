"""Cleaning steps that change text and keep every row."""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from hfpipe.contract import Settings
from hfpipe.data.cleaning.alignment import Change, apply_changes
from hfpipe.data.cleaning.markup import strip
from hfpipe.data.cleaning.pii import mask_pii

Secret = Literal["email", "phone", "ip", "card"]

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Edit(BaseModel, ABC):
    """A step that changes text and keeps every row."""

    @abstractmethod
    def trace(self, text: str) -> list[list[Change]]:
        """Return what changes in the text, one list a pass over what the pass before left; pure.

        Every edit says it in this form, so that answers given by their place in a text move with it.
        """

    def edit(self, text: str) -> str:
        """Return the text as it should be; pure."""
        for changes in self.trace(text):
            if changes:
                text = apply_changes(text, changes)
        return text


class Unicode(Settings, Edit):
    """Brings text to NFC and removes control characters and stray surrogates; newline and tab stay."""

    def trace(self, text: str) -> list[list[Change]]:
        # Most texts need nothing. No control character is printable, and to ask that is far quicker than a
        # search for one.
        if text.isprintable() or text.replace("\n", "").replace("\t", "").isprintable():
            return [] if text.isascii() else [[], _compose(text)]
        controls = [Change(found.start(), found.end(), "") for found in _CONTROL.finditer(text)]
        return [controls, _compose(apply_changes(text, controls))]


def _compose(text: str) -> list[Change]:
    """Return the changes to NFC, each within what a reader sees as one character."""
    if unicodedata.is_normalized("NFC", text):
        return []
    import regex  # only a few texts need it, and `check` starts without

    changes = [
        Change(found.start(), found.end(), composed)
        for found in regex.finditer(r"\X", text)
        if (composed := unicodedata.normalize("NFC", found[0])) != found[0]
    ]
    whole = unicodedata.normalize("NFC", text)
    return changes if apply_changes(text, changes) == whole else [Change(0, len(text), whole)]


class Html(Settings, Edit):
    """Strips tags, comments, scripts and styles, and decodes entities."""

    def trace(self, text: str) -> list[list[Change]]:
        return strip(text)


class MaskPII(RootModel[list[Secret]], Edit):
    """Replaces e-mail addresses, phone numbers, IP addresses and card numbers by <EMAIL>, <PHONE>, …"""

    model_config = ConfigDict(frozen=True, strict=True)
    root: list[Secret] = Field(min_length=1)

    def trace(self, text: str) -> list[list[Change]]:
        return mask_pii(text, self.root)
