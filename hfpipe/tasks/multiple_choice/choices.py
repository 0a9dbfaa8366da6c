"""Encodes contexts with their endings, collates them, and computes the loss and scores of the endings.

An example holds all endings of a row, concatenated, because the loss compares them. In a batch, rows with
fewer endings are padded with endings that are never chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hfpipe.encoding.encoded import encode_truncated
from hfpipe.encoding.padding import pad, pad_inputs
from hfpipe.metrics.metric import Mean
from hfpipe.tokenization.ragged import Ragged
from hfpipe.types import Counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.types import Batch, Columns

TOKENS = ("input_ids", "token_type_ids")


def encode_choices(
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[str],
    starts: Sequence[str] | None,
    endings: Sequence[Sequence[str]],
    length: int,
) -> dict[str, Any]:
    """Return one example per row: the concatenated ids of its (context, ending) pairs, and their lengths.

    A pair has at most `length` tokens; `truncated` is the number of tokens lost per row.
    """
    counts = np.array([len(each) for each in endings])
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    before = starts if starts is not None else [""] * len(endings)
    pairs = [
        f"{start} {ending}".strip() for start, each in zip(before, endings, strict=True) for ending in each
    ]
    repeated = [context for context, count in zip(contexts, counts, strict=True) for _ in range(count)]
    encoded = encode_truncated(tokenizer, repeated, pairs, length)
    lengths = encoded["input_ids"].lengths
    return {
        **{
            name: Ragged.from_lengths(encoded[name].values, np.add.reduceat(lengths, firsts))
            for name in TOKENS
            if name in encoded
        },
        "lengths": [each.tolist() for each in np.split(lengths, firsts[1:])],
        "truncated": np.add.reduceat(np.asarray(encoded["truncated"]), firsts).tolist(),
    }


def collate_choices(examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Return the inputs of a multiple choice model, int64 (rows, endings, length) each.

    `labels` and `_endings`, the number of endings of each row, are int64 (rows,).
    """
    counts = [len(example["lengths"]) for example in examples]
    widest = max(counts)
    batch = pad_inputs(_split(examples, "input_ids", widest), tokenizer)
    if "token_type_ids" in examples[0]:
        batch["token_type_ids"] = pad(_split(examples, "token_type_ids", widest), 0)
    return {name: each.view(len(examples), widest, -1) for name, each in batch.items()} | {
        "labels": torch.tensor([int(example["label"]) for example in examples]),
        "_endings": torch.tensor(counts),
    }


def _split(examples: list[dict[str, Any]], name: str, widest: int) -> list[np.ndarray]:
    """Return the ids of every ending; rows with fewer than `widest` endings get empty ones."""
    found: list[np.ndarray] = []
    for example in examples:
        parts = np.split(np.asarray(example[name]), np.cumsum(example["lengths"])[:-1])
        found += [*parts, *[np.empty(0, dtype=np.int64)] * (widest - len(parts))]
    return found


def _log_probabilities(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each ending, float32 (rows, endings), and the mask of real endings."""
    there = torch.arange(logits.shape[1], device=logits.device) < batch["_endings"][:, None]
    return logits.float().masked_fill(~there, -torch.inf).log_softmax(-1), there


def compute_choice_loss(logits: Tensor, batch: Batch, smoothing: float) -> Counted:
    """Return the summed cross-entropy of the correct endings in nats, and the number of rows.

    `smoothing` is label smoothing over the endings of a row, as in `torch.nn.CrossEntropyLoss`.
    """
    found, there = _log_probabilities(logits, batch)
    right = found.gather(1, batch["labels"][:, None]).sum()
    even = (found.masked_fill(~there, 0.0).sum(-1) / batch["_endings"]).sum()
    count = torch.tensor(len(logits), device=logits.device)
    return Counted(-(1 - smoothing) * right - smoothing * even, count)


def compute_choice_columns(logits: Tensor, batch: Batch) -> dict[str, Tensor | list[Any]]:
    """Return `reference`, `prediction` and `nll` per row, and `scores`, the probability of each ending."""
    found, _ = _log_probabilities(logits, batch)
    rows = zip(found.exp().tolist(), batch["_endings"].tolist(), strict=True)
    return {
        "reference": batch["labels"],
        "prediction": found.argmax(-1),
        "nll": -found.gather(1, batch["labels"][:, None]).squeeze(1),
        "scores": [scores[:count] for scores, count in rows],
    }


def draw_ending(context: str, endings: Sequence[str]) -> int:
    """Return the index of a uniformly random ending, always the same for the same row."""
    digest = hashlib.sha256("\0".join([context, *endings]).encode()).digest()
    return int.from_bytes(digest[:8], "big") % len(endings)


def find_longest_ending(context: str, endings: Sequence[str]) -> int:
    """Return the index of the ending with the most characters; the first one if there are several."""
    return max(range(len(endings)), key=lambda number: len(endings[number]))


class ChoiceAccuracy(Mean):
    """Fraction of rows whose predicted ending is correct (Zellers et al., 2018)."""

    name = "accuracy"

    def each(self, columns: Columns) -> np.ndarray:
        return columns["reference"] == columns["prediction"]
