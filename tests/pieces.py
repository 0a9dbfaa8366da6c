"""Small tokenizers of every family, and a small model with one, for tests that need no more."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner

FAMILIES = {"wordpiece": "bert", "bpe": "gpt", "bpe of pairs": "bart", "unigram": "t5"}
"""Family → its style; the first word is the algorithm."""


def tokenizer(
    texts: Iterable[str], family: str = "wordpiece", vocab_size: int = 400
) -> PreTrainedTokenizerFast:
    """Return a tokenizer that learned from some texts."""
    algorithm, style = family.partition(" ")[0], STYLES[FAMILIES[family]]
    learner = Learner(
        algorithm=algorithm,
        style=style,
        extra=[],
        vocab_size=vocab_size,
        min_frequency=1,
        lowercase=algorithm == "wordpiece",
    )
    return complete_tokenizer(learner.learn(list(texts)), style)


def save_encoder(folder: Path, texts: Iterable[str]) -> Path:
    """Save a small BERT that knows nothing, and a tokenizer, as a Hub checkpoint lies on disk."""
    pieces = tokenizer(texts)
    pieces.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=pieces.pad_token_id,
    )
    BertModel(config).save_pretrained(folder)
    return folder
