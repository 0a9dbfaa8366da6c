"""What training is fed is a pure function of data, seed and epoch, and loses nothing."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

from hfpipe.encoding.encoded import encode
from hfpipe.encoding.sampler import BatchLayout, StepBatches, compute_batch_layout, order_examples
from hfpipe.errors import StageError
from hfpipe.modeling.losses.losses import (
    IGNORED,
    compute_token_columns,
    compute_token_loss,
    find_target_positions,
    forward,
)
from hfpipe.modeling.random import create_generator
from hfpipe.report import DataFacts
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tasks.masked_lm.masking import mask_tokens
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner

TEXTS = [
    "The sun is a star at the centre of the Solar System.",
    "A star is a luminous sphere of plasma.",
    "The moon goes round the earth.",
]
SMALL: dict[str, dict[str, Any]] = {
    "bert": {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "roberta": {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "distilbert": {"n_layers": 1, "n_heads": 2, "hidden_dim": 32, "dim": 16},
    "electra": {"num_hidden_layers": 1, "num_attention_heads": 2, "embedding_size": 16},
    "modernbert": {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "deberta-v2": {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "gpt2": {"n_layer": 1, "n_head": 2, "n_embd": 16},
    "llama": {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    learner = Learner("wordpiece", STYLES["bert"], [], 200, 1, lowercase=True)
    return complete_tokenizer(learner.learn(TEXTS * 3), STYLES["bert"])


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=200),
    total=st.integers(1, 16),
    epoch=st.integers(0, 3),
    grouped=st.booleans(),
)
def test_every_example_is_in_every_epoch_and_every_step_is_full(
    lengths: list[int], total: int, epoch: int, grouped: bool
) -> None:
    steps = order_examples(np.array(lengths), total, 7, epoch, grouped=grouped)
    assert steps.shape == (-(-len(lengths) // total), total)
    assert set(steps.reshape(-1).tolist()) == set(range(len(lengths)))
    again = order_examples(np.array(lengths), total, 7, epoch, grouped=grouped)
    assert (steps == again).all()


@given(per_device=st.integers(1, 12), accumulation=st.integers(1, 8), world=st.integers(1, 8))
def test_a_step_has_the_same_examples_on_any_number_of_processes(
    per_device: int, accumulation: int, world: int
) -> None:
    lengths = np.arange(1, 100)
    if per_device * accumulation % world:
        with pytest.raises(StageError, match="cannot be shared"):
            compute_batch_layout(per_device, accumulation, world)
        return
    shares = compute_batch_layout(per_device, accumulation, world)
    assert shares.micro <= per_device
    assert shares.total == per_device * accumulation
    alone = list(StepBatches(lengths, BatchLayout(shares.total, 1, 1), 0, 3, grouped=True))
    ranks = [list(StepBatches(lengths, shares, rank, 3, grouped=True)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {len(alone) * shares.accumulation}
    for number, step in enumerate(alone):
        window = slice(number * shares.accumulation, (number + 1) * shares.accumulation)
        together = [key for batches in ranks for batch in batches[window] for key in batch]
        assert sorted(together) == sorted(step)


def test_examples_of_like_length_share_a_step() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 4000)
    spread = {
        grouped: np.ptp(lengths[order_examples(lengths, 16, 1, 0, grouped=grouped)], axis=1).mean()
        for grouped in (True, False)
    }
    assert spread[True] < spread[False] / 10


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=30), length=st.integers(8, 40))
def test_packing_keeps_every_token_in_order_and_pads_nothing(
    tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    length: int,
) -> None:
    task = MaskedLM(length=length)
    facts = DataFacts(columns={"text": "string"}, splits={"train": len(texts)})
    rows = datasets.Dataset.from_dict({"text": texts})
    stream = [piece for text in texts for piece in tokenizer(text)["input_ids"]]
    for packed in (True, False):
        path = tmp_path_factory.mktemp("packed") / "train.arrow"
        examples, ledger = encode(
            task.runtime(), rows, tokenizer, facts, path, packed=packed, advance=lambda _: None
        )
        pieces = [examples[0, number]["input_ids"].tolist() for number in range(len(examples))]
        assert [piece for each in pieces for piece in each] == stream
        assert ledger == {"rows": len(texts), "tokens": len(stream), "truncated": 0, "examples": len(pieces)}
        if packed:
            assert {len(each) for each in pieces[:-1]} <= {length}
        assert max(map(len, pieces)) <= length


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 5), index=st.integers(0, 10**9))
def test_masks_depend_on_seed_epoch_and_example_alone(
    tokenizer: PreTrainedTokenizerFast, seed: int, epoch: int, index: int
) -> None:
    ids = np.array(tokenizer(" ".join(TEXTS))["input_ids"])
    one, labels = mask_tokens(ids, tokenizer, 0.3, create_generator(seed, epoch, index))
    create_generator(seed, epoch, index + 1).random(100)
    two, same = mask_tokens(ids, tokenizer, 0.3, create_generator(seed, epoch, index))
    assert (one == two).all()
    assert (labels == same).all()
    hidden = labels != IGNORED
    assert hidden.sum() == round(0.3 * (len(ids) - 2))
    assert not hidden[[0, -1]].any()
    assert (labels[hidden] == ids[hidden]).all()
    assert (one[~hidden] == ids[~hidden]).all()


def test_masks_change_with_the_epoch_and_in_evaluation_never(tokenizer: PreTrainedTokenizerFast) -> None:
    task = MaskedLM(length=64)
    ids = np.array(tokenizer(" ".join(TEXTS))["input_ids"])

    def labels(epoch: int, *, train: bool) -> list[int]:
        example = {"input_ids": ids, "epoch": epoch, "index": 5}
        return task.runtime().encoder.collate([example], tokenizer, 3, train=train)["labels"][0].tolist()

    assert labels(0, train=True) != labels(1, train=True)
    assert labels(0, train=False) == labels(1, train=False)


def test_eight_in_ten_hidden_pieces_show_the_mask_and_one_in_ten_another_piece(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = np.full(20_000, 50)
    shown, labels = mask_tokens(ids, tokenizer, 0.5, create_generator(1, 0, 0))
    hidden = shown[labels != IGNORED]
    assert len(hidden) == 10_000
    assert abs((hidden == tokenizer.mask_token_id).mean() - 0.8) < 0.02
    assert abs((hidden == 50).mean() - 0.1) < 0.02


@pytest.mark.parametrize("kind", SMALL)
def test_the_loss_at_the_targets_alone_is_transformers_own(kind: str) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 16, "max_position_embeddings": 32} | SMALL[kind]
    config = AutoConfig.for_model(kind, **sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    causal = kind in ("gpt2", "llama")
    model = (AutoModelForCausalLM if causal else AutoModelForMaskedLM).from_config(config).eval()
    ids = torch.randint(3, 60, (4, 12))
    labels = torch.where(torch.rand(4, 12) < 0.4, ids, IGNORED)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    with torch.no_grad():
        sparse = forward(model, batch, find_target_positions(labels))
        dense = forward(model, batch, None)
        mine, full = compute_token_loss(sparse.logits, labels), compute_token_loss(dense.logits, labels)
        assert int(mine.targets) == int((labels != IGNORED).sum())
        assert float(mine.total) == pytest.approx(float(full.total), rel=1e-5)
        if not causal:  # whose own loss shifts the labels, which a task does here
            theirs = model(**batch).loss
            assert float(mine.total / mine.targets) == pytest.approx(float(theirs), rel=1e-5)
        columns = compute_token_columns(sparse.logits, labels)
    assert float(columns["nll"].sum()) == pytest.approx(float(mine.total), rel=1e-5)
    assert columns["tokens"].tolist() == (labels != IGNORED).sum(1).tolist()
