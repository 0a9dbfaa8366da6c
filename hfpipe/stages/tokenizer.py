"""The `tokenizer` stage: trains a tokenizer on the train split, or takes an existing one, and measures it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hfpipe.contract import RunContext, Stage
from hfpipe.places import DataPlace, TokenizerPlace
from hfpipe.report import Report


class Tokenizer(Stage):
    """A tokenizer as Transformers loads it, trained on the train split only."""

    version: ClassVar[int] = 1
    kind: Literal["tokenizer"] = "tokenizer"
    data: DataPlace
    """Data set whose train split is learned from; validation text is what the report measures."""
    text: list[str] = ["text"]
    """Columns to read."""
    algorithm: Literal["wordpiece", "bpe", "unigram"] | None = None
    """How pieces are learned; `bpe` works on bytes and knows every text."""
    tokenizer: TokenizerPlace | None = None
    """An existing tokenizer to take instead of training one."""
    style: Literal["bert", "gpt", "t5"] | None = None
    """Special tokens: `bert` ([CLS] … [SEP], [MASK]), `gpt` (<|endoftext|>), `t5` (… </s>, <extra_id_0>).

    By default the one that goes with the algorithm, in the order above.
    """
    vocab_size: int = Field(default=8192, ge=16)
    """Pieces, special tokens included."""
    min_frequency: int = Field(default=2, ge=1)
    """How often a pair must occur to be merged."""
    lowercase: bool | None = None
    """Fold case; by default only WordPiece does, as BERT's uncased models."""
    special_tokens: list[str] = []
    """Further special tokens, behind the usual ones."""
    max_bytes: int = Field(default=200_000_000, ge=1000)
    """Bytes of text to learn from; more is sampled, the same rows each time."""

    def run(self, ctx: RunContext) -> Report:
        raise NotImplementedError
