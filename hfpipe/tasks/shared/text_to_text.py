"""Settings of translation and summarization: a source text is mapped to a target text; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, field_validator

from hfpipe.contract import Settings
from hfpipe.task import Requirements


class TextToText(Settings):
    """Generates a target text from a source text with an encoder-decoder, or with a decoder and a prompt."""

    version: ClassVar[int] = 2
    source: str = "source"
    """Column of the source text."""
    target: str = "target"
    """Column of the target text."""
    references: list[str] = []
    """Columns of additional references; metrics use the best match, and a null is ignored."""
    prefix: str = ""
    """Text added before each source, as T5 expects: `translate English to French: `."""
    prompt: str | None = None
    """For a decoder without an encoder: the prompt, which contains `{source}`; the model generates its
    continuation."""
    length: int = Field(default=128, ge=4)
    """Maximum number of source tokens, including prefix or prompt; the ledger counts the tokens lost by
    truncation."""

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: str | None) -> str | None:
        if prompt is not None and "{source}" not in prompt:
            raise ValueError("write {source} where the text belongs")
        return prompt

    @property
    def prompted(self) -> bool:
        return self.prompt is not None

    @property
    def requires(self) -> Requirements:
        return Requirements(prompt=True)

    @property
    def templates(self) -> Mapping[str, str]:
        return {"prompt": self.prompt or "", "prefix": self.prefix}

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.source, self.target, *self.references)

    @property
    def optional(self) -> tuple[str, ...]:
        return tuple(self.references)

    @property
    def texts(self) -> tuple[str, ...]:
        return self.columns
