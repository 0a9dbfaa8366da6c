"""Embeddings that begin from the neighbours of tokens: what they are, and what a training does with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import hfpipe
from hfpipe.modeling.loading.cooccurrence import embed_tokens


def rows_of_pairs(seed: int) -> list[np.ndarray]:
    """Return rows of cycles of ten words, each written by either of two tokens, as 3 and 13."""
    rng = np.random.default_rng(seed)
    cycle = 1 + np.arange(40)[None, :] + rng.integers(0, 10, (60, 1))
    return list(1 + cycle % 10 + 10 * rng.integers(0, 2, cycle.shape))


def embed(rows: list[np.ndarray], ignored: tuple[int, ...] = (), **limits: int) -> np.ndarray:
    lengths = np.array([len(row) for row in rows])
    return embed_tokens(
        lambda start, stop: np.concatenate(rows[start:stop]), lengths, 25, 8, ignored, **limits
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_tokens_with_the_same_neighbours_get_the_most_similar_embeddings(seed: int) -> None:
    found = embed(rows_of_pairs(seed))
    similar = found[1:21] @ found[1:21].T / np.outer(*[np.linalg.norm(found[1:21], axis=1)] * 2)
    np.fill_diagonal(similar, -1)
    assert (similar.argmax(axis=1) == (np.arange(20) + 10) % 20).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_embeddings_do_not_depend_on_the_order_of_rows_which_have_no_neighbours_in_other_rows(
    seed: int,
) -> None:
    rows = rows_of_pairs(seed)
    shuffled = [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]
    assert np.array_equal(embed(rows), embed(shuffled))
    alone = [row[start : start + 1] for row in rows for start in range(len(row))]
    assert not embed(alone).any()


def test_ignored_and_unseen_tokens_have_no_embedding_and_the_others_have_mean_length_1() -> None:
    found = embed(rows_of_pairs(0), ignored=(3, 13))
    absent = [0, 3, 13, 21, 22, 23, 24]
    seen = np.setdiff1d(np.arange(25), absent)
    assert not found[absent].any()
    assert np.linalg.norm(found[seen], axis=1).mean() == pytest.approx(1, abs=1e-6)


def test_parts_of_a_long_text_are_counted_at_equal_distances() -> None:
    rows = rows_of_pairs(1)  # 60 rows of 40 tokens
    assert np.array_equal(embed(rows, at_once=400), embed(rows))
    chosen = [*rows[:10], *rows[20:30], *rows[50:]]
    assert np.array_equal(embed(rows, at_once=400, most=1200), embed(chosen))


def run(runs: Path, until: str, *more: str) -> hfpipe.Run:
    """Run the demo as far as a stage, with fewer rows, and fewer and shorter words."""
    changes = ["wiki.limit=6000", "words.vocab_size=2000", "pretrain.task.length=32"]
    recipe = hfpipe.load(small.ROOT / "recipes" / "demo.yaml", [*changes, *more])
    return hfpipe.run(recipe, runs, until=until, say=lambda _: None)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return runs with the data and the tokenizer, to copy."""
    runs = tmp_path_factory.mktemp("prepared")
    run(runs, "words")
    return runs


def train(prepared: Path, runs: Path, steps: int, init: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the validation loss and the weights of the demo's pretraining."""
    shutil.copytree(prepared, runs)
    length = ("pretrain.training.compile=false", f"pretrain.training.budget={steps} steps")
    found = run(runs, "pretrain", *length, f"pretrain.init_embeddings={init}")
    loss = found.reports["pretrain"].facts["validation"]["loss"]
    return loss, load_file(found.folder("pretrain") / "model.safetensors")


@pytest.mark.slow
def test_a_model_learns_faster_with_counted_embeddings(prepared: Path, tmp_path: Path) -> None:
    random, _ = train(prepared, tmp_path / "random", 80, "random")
    counted, _ = train(prepared, tmp_path / "counted", 80, "cooccurrence")
    print(f"random {random:.3f}, counted {counted:.3f}")
    assert counted < random - 0.05


@pytest.mark.slow
def test_counted_embeddings_are_the_same_in_each_run(prepared: Path, tmp_path: Path) -> None:
    first, second = (train(prepared, tmp_path / name, 2, "cooccurrence") for name in ("first", "second"))
    assert first[0] == second[0]
    assert all(torch.equal(value, second[1][name]) for name, value in first[1].items())
