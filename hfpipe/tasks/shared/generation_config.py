"""Generation settings shared by the generative tasks; imports no torch."""

from __future__ import annotations

import math

from pydantic import Field, model_validator
from typing_extensions import Self

from hfpipe.contract import Settings


class Generation(Settings):
    """Entries of Transformers' GenerationConfig; unset entries have the values of the model's own config."""

    max_new_tokens: int | None = Field(default=None, ge=1)
    """Maximum number of generated tokens; the default depends on the task. The fraction of outputs cut by
    this limit is reported as a score."""
    min_new_tokens: int | None = Field(default=None, ge=0)
    """Minimum number of generated tokens."""
    num_beams: int | None = Field(default=None, ge=1)
    """Number of beams in beam search; 1 is greedy search."""
    length_penalty: float | None = None
    """Length exponent of beam search: positive values favour long outputs, negative values short ones."""
    no_repeat_ngram_size: int | None = Field(default=None, ge=0)
    """Size of n-grams that may not be repeated; 0 allows repetition."""
    repetition_penalty: float | None = Field(default=None, gt=0)
    """Penalty on tokens that were already generated; 1 means no penalty."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if (self.min_new_tokens or 0) > (self.max_new_tokens or math.inf):
            raise ValueError("min_new_tokens exceeds max_new_tokens; lower it")
        return self


class Sampling(Generation):
    """Generation settings of tasks that may sample; a sampled output does not depend on its batch."""

    do_sample: bool = False
    """Sample tokens from the predicted distribution; by default greedy or beam search is used."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits before sampling; values below 1 favour likely tokens."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: sample only from the likeliest tokens whose cumulative probability is this value."""

    @model_validator(mode="after")
    def _check_sampling(self) -> Sampling:
        if self.do_sample and (self.num_beams or 1) > 1:
            raise ValueError("do_sample and num_beams exclude each other; delete one")
        return self
