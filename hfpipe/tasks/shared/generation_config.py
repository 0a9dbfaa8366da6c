"""How a model writes text: the settings that the tasks which generate share, readable without torch."""

from __future__ import annotations

import math

from pydantic import Field, model_validator
from typing_extensions import Self

from hfpipe.contract import Settings


class Generation(Settings):
    """Entries of Transformers' GenerationConfig; what is left out is as the model's own config says."""

    max_new_tokens: int | None = Field(default=None, ge=1)
    """Tokens written at most, by default as the task says; the share that this cuts is a score of its own."""
    min_new_tokens: int | None = Field(default=None, ge=0)
    """Tokens written at least."""
    num_beams: int | None = Field(default=None, ge=1)
    """Beams searched side by side; 1 takes the likeliest token each time."""
    length_penalty: float | None = None
    """How much beam search favours long outputs; below 0 short ones."""
    no_repeat_ngram_size: int | None = Field(default=None, ge=0)
    """Never write the same so many tokens in a row twice; 0 allows it."""
    repetition_penalty: float | None = Field(default=None, gt=0)
    """How much less likely a token gets that was written before; 1 changes nothing."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.min_new_tokens or 0) > (self.max_new_tokens or math.inf):
            raise ValueError("min_new_tokens is more than max_new_tokens; no text could end")
        return self


class Sampling(Generation):
    """The same for tasks whose outputs may be drawn at random: the same for an example in any batch."""

    do_sample: bool = False
    """Draw tokens at random, by their probabilities."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits before drawing; below 1 favours likely tokens."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw only from the likeliest tokens that have this probability together."""

    @model_validator(mode="after")
    def _one_way(self) -> Sampling:
        if self.do_sample and (self.num_beams or 1) > 1:
            raise ValueError("do_sample draws one output and num_beams searches several; delete one")
        return self
