"""Ranks given candidates or any tokens for a blank by their probability under a masked model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import log_softmax
from torch import Tensor

from hfpipe.encoding.padding import pad_inputs
from hfpipe.metrics.metric import to_object_array
from hfpipe.metrics.scores.cloze import compute_ranks
from hfpipe.modeling.losses.losses import IGNORED, forward, select_target_logits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.types import Batch, Columns

DEEPEST = 100
"""Number of fillings searched if there are no candidates; an answer ranked below them is not found."""
SHOWN = 5
"""Number of fillings stored per prediction."""


def fill_blanks(model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
    """Rank the fillings of each row's blank, and return the rank and the loss of the answer.

    If a row has choices, each is scored with as many masks as it has tokens, by the mean log-probability of
    its tokens (Kassner et al., 2021). Otherwise all fillings with as many tokens as the answer are ranked by
    their probability, with each token predicted independently. The model therefore knows the length of the
    answer. Only the first 100 fillings are searched. Answers with unknown tokens are never found.

    Columns: `rank` of the answer (0: not found), `nll` of the answer, `fills` (up to five texts, best first),
    `fill_scores` (their probabilities; with choices, the mean per token) and `choice_scores` (mean
    log-probability of each choice; empty without choices).
    """
    rows = [_Row(batch, number) for number in range(len(batch["input_ids"]))]
    log_probs = _log_probabilities(model, rows, tokenizer, batch["input_ids"].device)
    banned = [*tokenizer.all_special_ids]
    columns: dict[str, list[Any]] = {
        name: [] for name in ("rank", "nll", "fills", "fill_scores", "choice_scores")
    }
    for row, sizes in zip(rows, log_probs, strict=True):
        own = sizes[row.masks]
        steps = torch.arange(len(row.target))
        columns["nll"].append(float(-own[steps, row.target].double().sum()))
        found = (
            _rank_choices(row, sizes) if row.choices else _rank_vocabulary(row, own, len(tokenizer), banned)
        )
        rank, pieces, probabilities, scores = found
        columns["rank"].append(0 if tokenizer.unk_token_id in row.target else rank)
        columns["fills"].append([str(tokenizer.decode(each)).strip() for each in pieces])
        columns["fill_scores"].append(probabilities)
        columns["choice_scores"].append(scores)
    return {name: _to_array(values) for name, values in columns.items()}


def score_classes(filled: Columns, reference: np.ndarray) -> Columns:
    """Return `reference`, `prediction`, `scores` and `nll` of blanks whose choices represent classes.

    `scores` is a softmax over the scores of the classes' words (Schick and Schütze, 2021, section 3.1).
    """
    scores = log_softmax(np.array(filled["choice_scores"].tolist()), axis=1)
    nll = -scores[np.arange(len(reference)), reference]
    return {"reference": reference, "prediction": scores.argmax(axis=1), "scores": np.exp(scores), "nll": nll}


class _Row:
    """One row of a batch, without its padding."""

    def __init__(self, batch: Batch, number: int) -> None:
        length = int(batch["attention_mask"][number].sum())
        labels = batch["labels"][number]
        self.ids: list[int] = batch["input_ids"][number, :length].tolist()
        self.target: list[int] = labels[labels != IGNORED].tolist()
        self.blank = int(batch["_blank"][number])
        self.reference = int(batch["_gold"][number])
        self.masks = max(1, len(self.target))
        sizes = [size for size in batch["_sizes"][number].tolist() if size]
        ends = np.cumsum(sizes).tolist()
        pieces = batch["_choices"][number].tolist()
        self.choices = [pieces[end - size : end] for size, end in zip(sizes, ends, strict=True)]

    def insert_masks(self, masks: int, mask: int) -> np.ndarray:
        """Return the ids with the given number of masks in the blank."""
        return np.array(
            [*self.ids[: self.blank], *[mask] * masks, *self.ids[self.blank + self.masks :]], dtype=np.int64
        )


def _log_probabilities(
    model: Any, rows: Sequence[_Row], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> list[dict[int, Tensor]]:
    """Return per row: number of masks → log-probabilities (masks, vocabulary), in one forward pass."""
    asked = [
        (number, masks)
        for number, row in enumerate(rows)
        for masks in sorted({row.masks, *map(len, row.choices)})
    ]
    sequences = [rows[number].insert_masks(masks, int(tokenizer.mask_token_id)) for number, masks in asked]
    batch = {name: tensor.to(device) for name, tensor in pad_inputs(sequences, tokenizer).items()}
    width = batch["input_ids"].shape[1]
    positions = [
        turn * width + rows[number].blank + step
        for turn, (number, masks) in enumerate(asked)
        for step in range(masks)
    ]
    places = torch.tensor(positions, device=device)
    logits = select_target_logits(forward(model, batch, places).logits, places)
    parts = logits.log_softmax(-1).cpu().split([masks for _, masks in asked])
    log_probs: list[dict[int, Tensor]] = [{} for _ in rows]
    for (number, masks), part in zip(asked, parts, strict=True):
        log_probs[number][masks] = part
    return log_probs


Found = tuple[int, list[list[int]], list[float], list[float]]
"""Rank of the answer, tokens of the best fillings, their probabilities, scores of all choices."""


def _rank_choices(row: _Row, sizes: dict[int, Tensor]) -> Found:
    scores = torch.empty(len(row.choices), dtype=torch.float64)
    for masks, log_probs in sizes.items():
        mine = [number for number, pieces in enumerate(row.choices) if len(pieces) == masks]
        if mine:
            pieces = torch.tensor([row.choices[number] for number in mine])
            scores[mine] = log_probs[torch.arange(masks), pieces].double().mean(-1)
    rank = int(compute_ranks(scores.numpy()[None], np.array([row.reference]))[0])
    best = scores.argsort(descending=True, stable=True)[:SHOWN]
    return rank, [row.choices[number] for number in best], scores[best].exp().tolist(), scores.tolist()


def _rank_vocabulary(row: _Row, log_probs: Tensor, pieces: int, banned: Sequence[int]) -> Found:
    log_probs = log_probs.double()
    log_probs[:, pieces:] = -torch.inf  # a vocabulary padded for speed is larger than the tokenizer's
    log_probs[:, list(banned)] = -torch.inf
    scores, fillings = find_likeliest_fills(log_probs, DEEPEST)
    rank = 0
    if row.target:
        own = sum((log_probs[step, piece] for step, piece in enumerate(row.target)), log_probs.new_zeros(()))
        rank = int((scores >= own).sum()) if own >= scores[-1] else 0
    return rank, fillings[:SHOWN].tolist(), scores[:SHOWN].exp().tolist(), []


def find_likeliest_fills(log_probs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` sequences with the highest sum, exactly: log-probabilities (length, vocabulary).

    Because tokens are independent, the best sequences extend the best shorter sequences. Returns sums
    (count,), descending, and tokens (count, length).
    """
    scores, fillings = log_probs.new_zeros(1), torch.empty((1, 0), dtype=torch.int64)
    for step in log_probs:
        values, pieces = step.topk(min(count, len(step)))
        together = (scores[:, None] + values).reshape(-1)
        scores, order = together.topk(min(count, len(together)))
        fillings = torch.cat([fillings[order // len(pieces)], pieces[order % len(pieces)][:, None]], dim=1)
    return scores, fillings


def _to_array(values: list[Any]) -> np.ndarray:
    return to_object_array(values) if isinstance(values[0], list) else np.array(values)
