"""Answer spans: their start and end tokens as targets, and the likeliest span of a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from hfpipe.tasks.shared.sliding_windows import Span, Window
from hfpipe.types import Counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMPOSSIBLE = float("-inf")


def find_no_answer_index(window: Window, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the index of the token that means no answer: the class token, or the first token without one."""
    token = tokenizer.cls_token_id
    return window.input_ids.index(token) if token in window.input_ids else 0


def find_span_targets(windows: Sequence[Window], answer: Span | None) -> list[Span | None]:
    """Return the answer's first and last token in each window of one text; None if it is not fully inside."""
    if answer is None:
        return [None] * len(windows)
    touched = [
        [
            (place, span)
            for place, span in enumerate(window.spans)
            if span and span[0] < answer[1] and answer[0] < span[1]
        ]
        for window in windows
    ]
    spans = [span for pieces in touched for _, span in pieces]
    first, last = min((start for start, _ in spans), default=0), max((end for _, end in spans), default=0)
    return [
        (pieces[0][0], pieces[-1][0])
        if pieces and pieces[0][1][0] == first and pieces[-1][1][1] == last
        else None
        for pieces in touched
    ]


def compute_span_loss(
    start: Tensor, end: Tensor, spans: Tensor, mask: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Return the loss of each example in nats, float32 (rows,): the mean of start and end cross-entropy.

    Logits are (rows, length), `spans` int64 (rows, 2), `mask` (rows, length) is 0 at padding. Unlike the loss
    of Transformers, padding is excluded from the softmax, so the loss does not depend on the amount of
    padding.
    """
    logs = [logits.float().masked_fill(mask == 0, IMPOSSIBLE).log_softmax(-1) for logits in (start, end)]
    right = [F.nll_loss(log, spans[:, side], reduction="none") for side, log in enumerate(logs)]
    if smoothing == 0:
        return (right[0] + right[1]) / 2
    even = [-log.masked_fill(mask == 0, 0).sum(-1) / mask.sum(-1) for log in logs]
    both = [(1 - smoothing) * one + smoothing * other for one, other in zip(right, even, strict=True)]
    return (both[0] + both[1]) / 2


def sum_losses(each: Tensor) -> Counted:
    """Return the losses of several examples as a sum and a count."""
    return Counted(each.sum(), torch.tensor(len(each), device=each.device))


def find_likeliest_spans(start: Tensor, end: Tensor, allowed: Tensor, longest: int) -> dict[str, Tensor]:
    """Return the span of at most `longest` tokens with the highest sum of logits in each row.

    Logits are (rows, length), `allowed` bool (rows, length). `best` is the sum of logits and `total` the
    logsumexp over the sums of all spans, float32 (rows,), both -inf if no span is allowed. `first` and `last`
    are token positions, int64 (rows,).
    """
    start, end = (logits.float().masked_fill(~allowed, IMPOSSIBLE) for logits in (start, end))
    length = start.shape[1]
    sums = start[:, :, None] + end[:, None, :]
    fits = torch.ones(length, length, dtype=torch.bool, device=start.device).triu().tril(longest - 1)
    flat = sums.masked_fill(~fits, IMPOSSIBLE).flatten(1)
    best, place = flat.max(-1)
    return {
        "best": best,
        "total": flat.logsumexp(-1),
        "first": place // length,
        "last": place % length,
    }
