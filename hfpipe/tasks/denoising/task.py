"""Denoising: an encoder-decoder reads a corrupted text and reconstructs the hidden spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfpipe.task import Requirements, TaskConfig
from hfpipe.tasks.shared.generation_config import Generation
from hfpipe.tasks.shared.running_text import RunningText

if TYPE_CHECKING:
    from hfpipe.runtime import TaskRuntime

SHARES = {"spans": 0.15, "infilling": 0.3}
"""Kind of noise → fraction of tokens hidden in its paper."""


class Denoising(RunningText, TaskConfig):
    """Hides spans of a text from the encoder; the decoder generates the spans or the whole text."""

    kind: Literal["denoising"] = "denoising"
    length: int = Field(default=512, ge=8)
    """Number of tokens of a training example before spans are hidden; the encoder's input is shorter."""
    noise: Literal["spans", "infilling"] = "spans"
    """`spans`: the targets are the hidden spans, as in T5; `infilling`: the whole text, as in BART."""
    mask: float | None = Field(default=None, gt=0, lt=1)
    """Fraction of tokens to hide; by default 0.15 for `spans` and 0.3 for `infilling`, as in their papers."""
    span: float = Field(default=3.0, ge=1)
    """Mean number of tokens per hidden span."""
    generation: Generation | None = None
    """Generate text in evaluation and prediction, with options such as `{num_beams: 4}`; by default only the
    loss is computed.

    If set, no spans are hidden in a text that already contains `<extra_id_0>` or the mask token.
    """

    @property
    def auto_class(self) -> str:
        return "AutoModelForSeq2SeqLM"

    @property
    def requires(self) -> Requirements:
        if self.noise == "infilling":
            return Requirements(mask_token=True, style="bart")
        return Requirements(sentinels=True, style="t5")

    @property
    def share(self) -> float:
        """Fraction of tokens to hide."""
        return SHARES[self.noise] if self.mask is None else self.mask

    def runtime(self) -> TaskRuntime:
        from hfpipe.tasks.denoising.runtime import compose_denoising

        return compose_denoising(self)
