"""The special tokens that families of models expect; free of imports, so that recipes are checked quickly."""

from __future__ import annotations

from typing import NamedTuple


class Style(NamedTuple):
    """The special tokens of a family of models and where they stand."""

    roles: dict[str, str]
    """Role as Transformers names it (`pad_token` …) → token, in the order of their ids."""
    single: str
    """Template of a text; empty when nothing is added."""
    pair: str
    """Template of two texts."""
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
    # Padding of its own: where it is the end of text as well, a model easily never learns to end one.
    "gpt": Style(
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}, "", ""
    ),
    # In fairseq's order, whose ids are the defaults of the configs of BART and RoBERTa.
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
