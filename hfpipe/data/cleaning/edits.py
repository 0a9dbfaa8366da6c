"""Cleaning steps that change text and keep every row."""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from hfpipe.contract import Settings
from hfpipe.data.cleaning.alignment import Change, apply_changes
from hfpipe.data.cleaning.markup import strip_html
from hfpipe.data.cleaning.pii import mask_pii

Secret = Literal["email", "phone", "ip", "card"]

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Edit(BaseModel, ABC):
    """A step that changes text and keeps every row."""

    @abstractmethod
    def trace(self, text: str) -> list[list[Change]]:
        """Return the changes to a text, one list per pass; each pass reads the output of the previous one.

        Pure. All edits use this form, so that the positions of answers in a text can be updated.
        """

    def edit(self, text: str) -> str:
        """Return the edited text; a pure function."""
        for changes in self.trace(text):
            if changes:
                text = apply_changes(text, changes)
        return text


class Unicode(Settings, Edit):
    """Normalizes text to NFC and removes control characters and lone surrogates, except newline and tab."""

    def trace(self, text: str) -> list[list[Change]]:
        # Most texts need no change. No control character is printable, and `isprintable` is far faster than a
        # search.
        if text.isprintable() or text.replace("\n", "").replace("\t", "").isprintable():
            return [] if text.isascii() else [[], _find_nfc_changes(text)]
        controls = [Change(found.start(), found.end(), "") for found in _CONTROL.finditer(text)]
        return [controls, _find_nfc_changes(apply_changes(text, controls))]


def _find_nfc_changes(text: str) -> list[Change]:
    """Return the changes to NFC, each within one grapheme cluster."""
    if unicodedata.is_normalized("NFC", text):
        return []
    import regex  # slow to import, and needed for few texts only

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
        return strip_html(text)


class MaskPII(RootModel[list[Secret]], Edit):
    """Replaces e-mail addresses, phone numbers, IP addresses and card numbers with <EMAIL>, <PHONE>, …"""

    model_config = ConfigDict(frozen=True, strict=True)
    root: list[Secret] = Field(min_length=1)

    def trace(self, text: str) -> list[list[Change]]:
        return mask_pii(text, self.root)
