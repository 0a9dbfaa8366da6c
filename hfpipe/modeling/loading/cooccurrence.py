"""Initial embeddings from the neighbours that each token has in the training text.

A small model from scratch spends much of its training on learning which tokens are alike. Counts of
neighbours contain most of that: tokens with the same neighbours get similar rows. The rows are the truncated
singular value decomposition of the positive pointwise mutual information of tokens and their neighbours, with
the frequencies of contexts smoothed by the power of 0.75 (Levy, Goldberg and Dagan, 2015,
https://aclanthology.org/Q15-1016/).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
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
"""Number of tokens to count; of a longer text, parts at equal distances are counted."""
TOKENS_AT_ONCE = 1_000_000
"""Number of tokens of a part, which is held in memory."""
NAME = "embeddings"


def embed_tokens(
    read_ids: Callable[[int, int], np.ndarray],
    lengths: np.ndarray,
    vocabulary: int,
    size: int,
    ignored: Collection[int],
    *,
    most: int = TOKENS,
    at_once: int = TOKENS_AT_ONCE,
) -> np.ndarray:
    """Return a row for each token, float32 [vocabulary, size], of mean length 1; zeros for unseen tokens.

    `read_ids(start, stop)` returns the ids of some rows, one after the other; `lengths` are those of all
    rows. Tokens that are `ignored`, as special tokens, have no neighbours and are not counted as one. At
    `most` so many tokens are counted, some `at_once`. The result depends only on the arguments.
    """
    parts = _choose_parts(lengths, most, at_once)
    counts = _count_neighbours(read_ids, lengths, parts, vocabulary, ignored)
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
    read_ids: Callable[[int, int], np.ndarray],
    lengths: np.ndarray,
    parts: Iterable[tuple[int, int]],
    vocabulary: int,
    ignored: Collection[int],
) -> sparse.csr_matrix:
    """Return how often each pair of tokens is at most `WINDOW` apart in a row, symmetric."""
    counts = sparse.csr_matrix((vocabulary, vocabulary), dtype=np.float32)
    for start, stop in parts:
        ids = read_ids(start, stop).astype(np.int64)
        row = np.repeat(np.arange(stop - start), lengths[start:stop])
        counted = ~np.isin(ids, list(ignored))
        for distance in range(1, WINDOW + 1):
            near = (row[:-distance] == row[distance:]) & counted[:-distance] & counted[distance:]
            pair = ids[:-distance][near], ids[distance:][near]
            found = sparse.coo_matrix((np.ones(len(pair[0]), dtype=np.float32), pair), counts.shape)
            counts = counts + found.tocsr()
    return counts + counts.T


def _choose_parts(lengths: np.ndarray, most: int, at_once: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last row (exclusive) of each part of the text that is counted."""
    parts = -(-int(lengths.sum()) // at_once)
    bounds = np.linspace(0, len(lengths), parts + 1).astype(int)
    chosen = np.unique(np.linspace(0, parts - 1, min(parts, most // at_once)).astype(int))
    for part in chosen:
        yield int(bounds[part]), int(bounds[part + 1])


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
