"""The `tokenizer` stage: trains a tokenizer on the train split, or takes an existing one, and measures it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hfpipe.contract import RunContext, Stage
from hfpipe.errors import Problem, StageError
from hfpipe.references.places import DataPlace, TokenizerPlace, locate_place
from hfpipe.report import DataFacts, Report
from hfpipe.tokenization.special_tokens import STYLES, Style

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.encoding.text_sample import Texts

BY_ALGORITHM = {"wordpiece": "bert", "bpe": "gpt", "unigram": "t5"}
FOR_TRAINING = frozenset({"style", "vocab_size", "min_frequency", "lowercase", "max_bytes"})
MEASURED_BYTES = 10_000_000
"""Bytes of text behind the rates in the report."""


class Tokenizer(Stage):
    """A tokenizer as Transformers loads it, trained on the train split only."""

    version: ClassVar[int] = 2
    kind: Literal["tokenizer"] = "tokenizer"
    data: DataPlace
    """Data set whose train split the tokenizer is trained on; the report measures its validation split."""
    text: list[str] = ["text"]
    """Columns to read."""
    algorithm: Literal["wordpiece", "bpe", "unigram"] | None = None
    """How tokens are learned; `bpe` works on bytes and knows every text."""
    tokenizer: TokenizerPlace | None = None
    """An existing tokenizer to use instead of training one."""
    style: Literal["bert", "bart", "gpt", "t5"] | None = None
    """Special tokens: `bert` ([CLS] … [SEP], [MASK]) for encoders, `gpt` (<|endoftext|>) for decoders.

    For encoder-decoders `t5` (… </s>, <extra_id_0>), for Marian as well, or `bart` (<s> … </s>, <mask>), for
    RoBERTa as well. By default wordpiece goes with `bert`, bpe with `gpt`, unigram with `t5`.
    """
    vocab_size: int = Field(default=8192, ge=16, le=10_000_000)
    """Vocabulary size, including special tokens."""
    min_frequency: int = Field(default=2, ge=1)
    """Minimum number of occurrences of a pair that is merged."""
    lowercase: bool | None = None
    """Lowercase texts; by default only WordPiece does, as in BERT's uncased models."""
    special_tokens: list[str] = []
    """Additional tokens that are never split, such as `<ent>`; decoding keeps them.

    Control tokens of the style, such as `</s>`, have a meaning to the model; if they occur in a text, they
    are read as characters.
    """
    max_bytes: int = Field(default=200_000_000, ge=1000)
    """Maximum bytes of text to train on; of more text, a fixed sample of rows is used."""

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        from hfpipe.stages.checks.columns import check_tokenizer  # which reads the stages' classes

        if (self.algorithm is None) == (self.tokenizer is None):
            yield Problem(
                "write one of `algorithm` (wordpiece, bpe, unigram) and `tokenizer` (an existing one)"
            )
        elif self.algorithm is None:
            for key in sorted(self.model_fields_set & FOR_TRAINING):
                yield Problem(f"{key} is only for training a tokenizer; delete it", (key,))
        else:
            yield from self._check_training(self.algorithm)
        yield from check_tokenizer(self, above, facts)

    def _check_training(self, algorithm: str) -> Iterator[Problem]:
        style = self._get_special_tokens(algorithm)
        if algorithm != "bpe" and "unk_token" not in style.roles:
            yield Problem(
                f"{algorithm} needs an unknown token, which style gpt lacks; use bert, bart or t5", ("style",)
            )
        least = len({*style.tokens, *self.special_tokens}) + (256 if algorithm == "bpe" else 8)
        if self.vocab_size < least:
            yield Problem(
                f"{self.vocab_size} tokens are too few: special tokens and single characters take {least}",
                ("vocab_size",),
            )

    def run(self, ctx: RunContext) -> Report:
        from hfpipe.encoding.io import open_data
        from hfpipe.encoding.text_sample import Texts
        from hfpipe.tokenization.loading import measure_tokenizer
        from hfpipe.tokenization.reload import check_saved

        folder = locate_place(self.data, ctx.base, ctx.inputs)
        if folder is None:
            raise StageError(f"data: {self.data} is on the Hub; load it by a stage of kind dataset")
        data = open_data(folder)
        if "train" not in data:
            raise StageError(f"{self.data}: has no train split to learn from; it has {', '.join(data)}")
        texts = Texts(data["train"], self.text, self.max_bytes, ctx.progress)
        tokenizer = self._load_existing(ctx) if self.algorithm is None else self._train_tokenizer(texts)
        tokenizer.save_pretrained(str(ctx.folder))
        check_saved(ctx.folder, tokenizer)
        split = "validation" if "validation" in data else "train"
        rates = measure_tokenizer(tokenizer, Texts(data[split], self.text, MEASURED_BYTES, ctx.progress))
        facts = {"vocab_size": len(tokenizer), "measured_on": split, **rates}
        ledger = {}
        if self.algorithm is not None:
            facts["sample_bytes"] = texts.taken_bytes
            ledger = texts.make_ledger()
        return Report(kind=self.kind, summary=self._summarize(facts), ledger=ledger, facts=facts)

    def _get_special_tokens(self, algorithm: str) -> Style:
        return STYLES[self.style or BY_ALGORITHM[algorithm]]

    def _load_existing(self, ctx: RunContext) -> PreTrainedTokenizerBase:
        from hfpipe.tokenization.loading import load_tokenizer
        from hfpipe.tokenization.training import make_added_tokens

        assert self.tokenizer is not None
        tokenizer = load_tokenizer(locate_place(self.tokenizer, ctx.base, ctx.inputs) or self.tokenizer)
        known = tokenizer.added_tokens_encoder
        tokenizer.add_tokens(make_added_tokens(token for token in self.special_tokens if token not in known))
        return tokenizer

    def _train_tokenizer(self, texts: Texts) -> PreTrainedTokenizerBase:
        from hfpipe.tokenization.loading import complete_tokenizer
        from hfpipe.tokenization.training import Learner

        assert self.algorithm is not None
        style = self._get_special_tokens(self.algorithm)
        learner = Learner(
            algorithm=self.algorithm,
            style=style,
            extra=self.special_tokens,
            vocab_size=self.vocab_size,
            min_frequency=self.min_frequency,
            lowercase=self.algorithm == "wordpiece" if self.lowercase is None else self.lowercase,
        )
        backend = learner.learn(texts)
        if not texts.taken:
            raise StageError(
                f"text: there is no text to learn from in {', '.join(self.text)} of the train split"
            )
        return complete_tokenizer(backend, style)

    def _summarize(self, facts: Mapping[str, Any]) -> str:
        size = f"{facts['vocab_size']:,}"
        if self.algorithm is not None and facts["vocab_size"] < self.vocab_size:
            size += f" (of {self.vocab_size:,}: the text has no more)"
        return (
            f"{self.algorithm or self.tokenizer}, {size} tokens; {facts['fertility']:.2f} tokens per word, "
            f"{facts['unknown_rate']:.1%} unknown, {facts['bytes_per_token']:.1f} bytes per token"
        )
