"""Pseudo-likelihood of texts under a masked model: each token is hidden once, with all others visible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.modeling.losses.losses import IGNORED, compute_token_columns, find_target_positions, forward

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.types import Batch, Columns

AT_ONCE = 64
"""Maximum number of copies of an example per forward pass."""


def score_hidden_tokens(model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
    """Return the loss in nats, tokens and correct predictions per example, with tokens hidden one at a time.

    This is the pseudo-log-likelihood of Salazar et al. (2020, section 2). `batch` holds `input_ids`,
    `attention_mask` and `labels` (rows, length); `labels` restore the tokens that are already hidden. Special
    tokens are always visible; the unknown token is hidden like any other. Examples are processed one at a
    time, so that the result does not depend on the rest of the batch.
    """
    hidden = batch["labels"] != IGNORED
    whole = torch.where(hidden, batch["labels"], batch["input_ids"])
    lengths = batch["attention_mask"].sum(1).tolist()
    fixed = [piece for piece in tokenizer.all_special_ids if piece != tokenizer.unk_token_id]
    seen = torch.isin(whole, torch.tensor(fixed, device=whole.device))
    examples = [
        _score_example(
            model, ids[:length], (~kept[:length]).nonzero().squeeze(-1), int(tokenizer.mask_token_id)
        )
        for ids, kept, length in zip(whole, seen, lengths, strict=True)
    ]
    return {name: np.array([example[name] for example in examples]) for name in examples[0]}


def _score_example(model: Any, ids: torch.Tensor, targets: torch.Tensor, mask: int) -> dict[str, float | int]:
    sums: dict[str, float | int] = {"nll": 0.0, "tokens": 0, "correct": 0}
    for start in range(0, len(targets), AT_ONCE):  # no iteration for a text without tokens
        chunk = targets[start : start + AT_ONCE]
        copies = torch.arange(len(chunk), device=ids.device)
        labels = torch.full((len(chunk), len(ids)), IGNORED, device=ids.device)
        labels[copies, chunk] = ids[chunk]
        inputs = ids.repeat(len(chunk), 1)
        inputs[copies, chunk] = mask
        batch = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs)}
        logits = forward(model, batch, find_target_positions(labels)).logits
        for name, column in compute_token_columns(logits, labels).items():
            sums[name] += column.sum().item()
    return sums
