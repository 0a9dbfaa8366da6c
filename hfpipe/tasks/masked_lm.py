"""Masked language modelling: guess the pieces that were hidden (Devlin et al., 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hfpipe.contract import Task

if TYPE_CHECKING:

    pass


class MaskedLM(Task):
    """Hides a share of the pieces and learns to name them from both sides."""

    kind: Literal["masked-lm"] = "masked-lm"
    stages: ClassVar[frozenset[str]] = frozenset({"pretrain", "finetune"})
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    packed: ClassVar[bool] = True
    text: str = "text"
    """Column to read."""
    length: int = Field(default=128, ge=8)
    """Tokens a training example, special tokens included."""
    mask: float = Field(default=0.3, gt=0, lt=1)
    """Share of tokens hidden in training (Wettig et al., 2023)."""
    eval_mask: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens hidden in evaluation, the same ones each time."""
    next_sentence: bool = False
    """BERT's second objective: whether the second sentence follows the first."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,)
