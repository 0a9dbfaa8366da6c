"""Initial embeddings from the neighbours that each token has in the training text.

A small model from scratch spends much of its training on learning which tokens are alike. Counts of
neighbours contain most of that: tokens with the same neighbours get similar rows. The rows are the truncated
singular value decomposition of the positive pointwise mutual information of tokens and their neighbours, with
the frequencies of contexts smoothed by the power of 0.75 (Levy, Goldberg and Dagan, 2015,
https://aclanthology.org/Q15-1016/).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WINDOW = 2
"""Tokens on each side that count as neighbours; wider windows tell topics, and trained worse."""
SMOOTHING = 0.75
"""Power of the frequencies of contexts, which keeps rare contexts from dominating."""
TOKENS = 20_000_000
"""Number of tokens to count; a longer text is sampled by rows."""
TOKENS_AT_ONCE = 1_000_000
NAME = "embeddings"


def embed_tokens(
    ids: np.ndarray, lengths: np.ndarray, vocabulary: int, size: int, ignored: Collection[int]
) -> np.ndarray:
    """Return a row for each token, float32 [vocabulary, size], of mean length 1; zeros for unseen tokens.

    `ids` (int, [tokens]) are rows of the given `lengths`, one after the other. Tokens that are `ignored`, as
    special tokens, have no neighbours and are not counted as one. The result depends only on the arguments.
    """
    counts = _count_neighbours(ids, lengths, vocabulary, ignored)
    seen = np.asarray(counts.sum(axis=1)).ravel() > 0
    embedded = np.zeros((vocabulary, size), dtype=np.float32)
    kept = min(size, vocabulary - 1)
    left, values, _ = randomized_svd(_compute_information(counts), kept, n_iter=2, random_state=0)
    # The first dimensions carry the largest values; a rotation spreads them over all, as layers expect.
    mixed, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))
    embedded[seen] = (left * values)[seen] @ mixed[:kept]
    mean = np.linalg.norm(embedded[seen], axis=1).mean() if seen.any() else 0.0
    return embedded / mean if mean > 0 else embedded


def _count_neighbours(
    ids: np.ndarray, lengths: np.ndarray, vocabulary: int, ignored: Collection[int]
) -> sparse.csr_matrix:
    """Return how often each pair of tokens is at most `WINDOW` apart in a row, symmetric."""
    counts = sparse.csr_matrix((vocabulary, vocabulary), dtype=np.float32)
    for part, row in _iterate_rows(ids, lengths):
        counted = ~np.isin(part, list(ignored))
        for distance in range(1, WINDOW + 1):
            near = (row[:-distance] == row[distance:]) & counted[:-distance] & counted[distance:]
            pair = part[:-distance][near], part[distance:][near]
            found = sparse.coo_matrix((np.ones(len(pair[0]), dtype=np.float32), pair), counts.shape)
            counts = counts + found.tocsr()
    return counts + counts.T


def _iterate_rows(ids: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield whole rows of at most `TOKENS` tokens in all, as the ids of some rows and the row of each id."""
    ends = np.cumsum(lengths)
    wanted = min(len(lengths), max(1, int(len(lengths) * TOKENS / max(1, len(ids)))))
    chosen = np.unique(np.linspace(0, len(lengths) - 1, wanted).astype(np.int64))
    parts = max(1, int(lengths[chosen].sum()) // TOKENS_AT_ONCE)
    for rows in np.array_split(chosen, parts):
        sizes = lengths[rows]
        row = np.repeat(np.arange(len(rows)), sizes)
        within = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield ids[(ends[rows] - sizes)[row] + within].astype(np.int64), row


def _compute_information(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the positive pointwise mutual information of tokens and contexts."""
    frequency = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    context = frequency**SMOOTHING
    context /= max(context.sum(), 1.0)
    pairs = counts.tocoo()
    value = np.log(pairs.data / (frequency[pairs.row] * context[pairs.col]))
    positive = value > 0
    entries = value[positive].astype(np.float32), (pairs.row[positive], pairs.col[positive])
    return sparse.csr_matrix(entries, shape=counts.shape)


def write_embeddings(embedded: np.ndarray, path: Path) -> None:
    """Write embeddings to a safetensors file, which is whole or absent."""
    unfinished = path.with_suffix(".tmp")
    save_file({NAME: np.ascontiguousarray(embedded)}, unfinished)
    unfinished.replace(path)


def set_embeddings(model: PreTrainedModel, path: Path) -> None:
    """Replace the rows of a model's input embeddings by those in a file, at the scale that they had.

    Rows of zeros, of tokens without neighbours, are left as they are. A tied output layer gets them, too.
    """
    embedded = torch.from_numpy(load_file(path)[NAME])
    weight: Any = model.get_input_embeddings().weight
    with torch.no_grad():
        seen = embedded.any(dim=1)
        weight[: len(embedded)][seen] = embedded[seen] * weight.norm(dim=1).mean()
