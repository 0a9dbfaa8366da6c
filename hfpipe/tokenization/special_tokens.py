"""Special tokens of model families; imports nothing heavy, so that recipes are checked quickly."""

from __future__ import annotations

from typing import NamedTuple


class Style(NamedTuple):
    """The special tokens of a model family and their positions."""

    roles: dict[str, str]
    """Role in Transformers (`pad_token` …) → token, in the order of their ids."""
    single: str
    """Template of a single text; empty if no special tokens are added."""
    pair: str
    """Template of a pair of texts."""
    extra: tuple[str, ...] = ()
    """Special tokens without a role."""

    @property
    def tokens(self) -> list[str]:
        """All special tokens, in the order of their ids."""
        return [*dict.fromkeys(self.roles.values()), *self.extra]


STYLES = {
    "bert": Style(
        {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
        "[CLS] $A [SEP]",
        "[CLS] $A [SEP] $B:1 [SEP]:1",
    ),
    # A separate padding token: if it were also the end token, a model may never learn to end a text.
    "gpt": Style(
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}, "", ""
    ),
    # In fairseq's order: these ids are the defaults in the configs of BART and RoBERTa.
    "bart": Style(
        {
            "bos_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
            "cls_token": "<s>",
            "sep_token": "</s>",
        },
        "<s> $A </s>",
        "<s> $A </s> </s> $B </s>",
    ),
    "t5": Style(
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        "$A </s>",
        "$A </s> $B </s>",
        tuple(f"<extra_id_{number}>" for number in range(100)),
    ),
}
