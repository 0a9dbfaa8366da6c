"""Fine-tuning on a CPU: batches cut by length, and attention and dropout that are faster than torch's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from cases import BOTH, DECODER, ENCODER
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers import CONFIG_MAPPING

from hfpipe.contract import RunContext
from hfpipe.encoding.encoded import encode
from hfpipe.encoding.io import extract_facts
from hfpipe.encoding.padding import Collator, list_forward_passes
from hfpipe.encoding.sampler import cut_by_length
from hfpipe.modeling.attention.cpu import use_eager_attention
from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.modeling.random_bits import BitDropout, apply_dropout, use_fast_dropout
from hfpipe.modeling.static_shapes import round_positions
from hfpipe.task import TaskConfig
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.translation import Translation
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner
from hfpipe.training.loop import train_model
from hfpipe.training.step import TrainingStep
from hfpipe.training.trainer import Training

Make = Callable[..., RunContext]
WORDS = ["the", "Nile", "is", "a", "river", "in", "Africa", "that", "flows", "north", "into", "the", "Sea"]
TEXTS = [
    " ".join((WORDS * 12)[start : start + length]) for start in range(4) for length in (2, 5, 60, 9, 3, 33)
]
LLAMA = {
    "type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SMALL: dict[str, dict[str, Any]] = {each["type"]: each for each in (ENCODER, BOTH, DECODER, LLAMA)}
ATTENTION_DROPOUT = {
    "bert": "attention_probs_dropout_prob",
    "gpt2": "attn_pdrop",
    "llama": "attention_dropout",
}
"""Setting by which attention drops weights; with a very small share, products are taken and nothing drops."""
TASKS: dict[str, TaskConfig] = {
    "bert": TextClassification(length=80),
    "t5": Translation(length=80, target_length=40),
}


def parts(folder: Path, kind: str) -> Training:
    """Return a small training on texts of uneven length."""
    folder.mkdir(parents=True, exist_ok=True)
    task = TASKS[kind]
    style = STYLES["bert" if kind == "bert" else "t5"]
    tokenizer = complete_tokenizer(
        Learner("wordpiece", style, (), 200, 1, lowercase=False).learn(TEXTS), style
    )
    labels = datasets.ClassLabel(names=["short", "long"])
    columns = {
        "text": TEXTS,
        "label": [int(len(text) > 40) for text in TEXTS],
        "source": TEXTS,
        "target": [text[: len(text) // 2] for text in TEXTS],
    }
    rows = datasets.Dataset.from_dict(columns).cast_column("label", labels)
    facts = extract_facts(datasets.DatasetDict(train=rows))
    path = folder / "train.arrow"
    examples, _ = encode(task.runtime(), rows, tokenizer, facts, path, packed=True, advance=lambda _: None)
    config = create_config(SMALL[kind], tokenizer, task.head(facts))
    model = create_model(task.auto_class, config, 3)
    return Training(
        task=task.runtime(), model=model, tokenizer=tokenizer, train=examples, validation=None, facts=facts
    )


def gradients(made: Training, collator: Collator, *, fast: bool) -> dict[str, Tensor]:
    """Return the gradients of the mean loss of all rows."""
    examples = made.train.__getitems__([(0, number) for number in range(len(made.train))])
    batches = collator(examples)
    step = TrainingStep(made.task, 0.0)
    made.model.train()
    made.model.zero_grad()
    with ExitStack() as kernels:
        if fast:
            kernels.enter_context(use_eager_attention())
            kernels.enter_context(use_fast_dropout(made.model))
        for batch in batches if isinstance(batches, list) else [batches]:
            loss = step(made.model, batch)[1]
            (loss.total / 100).backward()
    return {
        name: weight.grad.clone() for name, weight in made.model.named_parameters() if weight.grad is not None
    }


@given(st.lists(st.booleans(), min_size=1, max_size=100), st.integers(1, 40))
def test_positions_are_those_with_a_target_and_one_without_up_to_a_multiple(
    named: list[bool], multiple: int
) -> None:
    labels = torch.where(torch.tensor(named), 1, IGNORED)
    positions, targets = round_positions(labels, IGNORED, multiple), labels.ne(IGNORED).nonzero().flatten()
    assert positions[: len(targets)].tolist() == targets.tolist()
    assert set(labels[positions[len(targets) :]].tolist()) <= {IGNORED}
    assert len(positions) % multiple == 0 or len(positions) == len(named)
    assert len(positions) < len(targets) + multiple


@pytest.mark.parametrize("kind", ["bert", pytest.param("t5", marks=pytest.mark.slow)])
def test_a_batch_that_is_cut_has_the_gradients_of_a_whole_one(kind: str, tmp_path: Path) -> None:
    made = parts(tmp_path, kind)
    whole = Collator(made.task, made.tokenizer, 3)
    cut = Collator(made.task, made.tokenizer, 3, cut=True)
    examples = made.train.__getitems__([(0, number) for number in range(len(made.train))])
    assert len(cut(examples)) > 1
    plain, fast = gradients(made, whole, fast=False), gradients(made, cut, fast=True)
    assert plain.keys() == fast.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(fast[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(50, 600), st.integers(0, 400))
def test_groups_hold_every_row_once_within_their_tokens(lengths: list[int], most: int, cost: int) -> None:
    counts = np.array(lengths)
    groups = cut_by_length(counts, most, cost)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or counts[group].max() * len(group) <= most
    for longer, shorter in pairwise(groups):
        assert counts[longer].min() >= counts[shorter].max()


def test_rows_of_like_length_are_not_cut_and_a_long_one_is_passed_alone() -> None:
    assert [len(group) for group in cut_by_length(np.array([20, 21, 22, 20]), 2048, 256)] == [4]
    assert [len(group) for group in cut_by_length(np.array([5, 900, 6, 7, 5, 6]), 2048, 256)] == [1, 5]
    assert [len(group) for group in cut_by_length(np.array([9000, 9000]), 2048, 256)] == [1, 1]


def test_sources_and_targets_count_as_they_are_padded_and_rounded() -> None:
    pairs = np.array([[40, 8], [8, 40]])
    assert [len(group) for group in cut_by_length(pairs, 2048, 20)] == [1, 1]
    assert [len(group) for group in cut_by_length(pairs.sum(1), 2048, 20)] == [2]
    assert [len(group) for group in cut_by_length(np.repeat([64, 30], [9, 23]), 2048, 0)] == [9, 23]
    assert [len(group) for group in cut_by_length(np.repeat([64, 30], [9, 23]), 2048, 0, multiple=8)] == [
        16,
        16,
    ]
    assert [len(group) for group in cut_by_length(np.full(9, 1000), 2048, 256, multiple=8)] == [1] + [2] * 4


def test_the_passes_of_an_encoder_decoder_have_few_lengths_within_those_of_its_task(tmp_path: Path) -> None:
    made = parts(tmp_path, "t5")
    cut = Collator(made.task, made.tokenizer, 3, cut=True)
    examples = made.train.__getitems__([(0, number) for number in range(len(made.train))])
    passes = list_forward_passes(cut(examples))
    groups = cut.group_examples(examples)
    assert len(passes) == len(groups) > 1
    for batch, group in zip(passes, groups, strict=True):
        assert batch["input_ids"].shape == batch["attention_mask"].shape
        assert [int(each.sum()) for each in batch["attention_mask"]] == [
            len(row["input_ids"]) for row in group
        ]
        assert [int((each != IGNORED).sum()) for each in batch["labels"]] == [
            len(row["labels"]) for row in group
        ]
        for name, limit in (("input_ids", 80), ("labels", 40)):
            longest = max(len(row[name]) for row in group)
            assert batch[name].shape[1] == min(-(-longest // 8) * 8, limit)
    [short] = list_forward_passes(
        Collator(Translation(length=6, target_length=5).runtime(), made.tokenizer, 3, cut=True)(
            [{**row, "input_ids": row["input_ids"][:6], "labels": row["labels"][:5]} for row in examples]
        )
    )
    assert (short["input_ids"].shape[1], short["labels"].shape[1]) == (6, 5)


def attentive(kind: str) -> Any:
    """Return a model to which attention adds much, with a dropout there that drops next to nothing."""
    settings = SMALL[kind] | ({ATTENTION_DROPOUT[kind]: 1.6e-5} if kind != "t5" else {})
    config = CONFIG_MAPPING[settings.pop("type")](
        vocab_size=99, pad_token_id=0, decoder_start_token_id=0, **settings
    )
    heads = {"bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM"}
    model = create_model(heads.get(kind, "AutoModelForCausalLM"), config, 3).train()
    for module in model.modules():
        if type(module).__name__ == "T5Attention":  # whose setting is that of all other layers as well
            module.dropout = 1.6e-5
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.dim() > 1 and kind != "t5" else 1)
    return model


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("padded", [False, True])
def test_attention_by_products_gives_the_outputs_and_gradients_of_the_kernel(kind: str, padded: bool) -> None:
    model = attentive(kind)
    inputs = {"input_ids": torch.arange(1, 65).reshape(2, 32) % 97}
    if padded:
        inputs["attention_mask"] = torch.ones(2, 32, dtype=torch.int64)
        inputs["attention_mask"][0, 20:] = 0
    if kind == "t5":
        inputs["decoder_input_ids"] = torch.arange(3, 23).reshape(2, 10)

    rows = slice(1, 2) if padded else slice(0, 2)

    def outputs() -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(4)  # drops nothing
        logits = model(**inputs).logits
        seen = logits[1]  # the row without padding, and what the other has where it is not padded
        loss = seen.float().logsumexp(-1).sum() + logits[0, :5].float().logsumexp(-1).sum()
        return logits.detach(), list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))

    usual, expected = outputs()
    with use_eager_attention():
        found, mine = outputs()
    assert not torch.equal(found[rows], usual[rows])  # another path was taken
    torch.testing.assert_close(found[rows], usual[rows], rtol=1e-4, atol=1e-5)
    for one, other in zip(mine, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max() + 1))


def test_dropout_from_random_bits_drops_its_share_scales_the_rest_and_is_a_function_of_the_seed() -> None:
    ones = torch.ones(501, 401)
    for probability in (0.1, 0.5, 0.013):
        for dtype, rounding in ((torch.float32, 1e-6), (torch.bfloat16, 5e-3)):
            torch.manual_seed(5)
            found = apply_dropout(ones.to(dtype), probability)
            kept = found != 0
            assert kept.float().mean().item() == pytest.approx(1 - probability, abs=0.004)
            assert found[kept].float().mean().item() == pytest.approx(
                1 / (1 - probability), rel=rounding + 2e-5
            )
            # no correlation of neighbours, of which four come from one draw
            off = (~kept).float().flatten() - probability
            for lag in (1, 2, 3, 4):
                assert abs(float((off[lag:] * off[:-lag]).mean())) < 0.002
            torch.manual_seed(5)
            assert torch.equal(found, apply_dropout(ones.to(dtype), probability))


def test_dropout_passes_the_gradients_of_what_it_kept() -> None:
    given = torch.randn(40, 30, requires_grad=True)
    torch.manual_seed(1)
    out = apply_dropout(given, 0.25)
    out.sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad, torch.where(out == 0, 0.0, 4 / 3), rtol=1e-4, atol=1e-6)
    assert torch.equal(apply_dropout(given, 0.0), given)
    assert torch.equal(apply_dropout(given, 1.0), F.dropout(given, 1.0))


def test_dropout_layers_are_as_they_were_after_a_training() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Dropout1d(0.5))
    with use_fast_dropout(model):
        assert type(model[1]) is BitDropout
        assert type(model[2]) is torch.nn.Dropout1d
        model.eval()
        assert torch.equal(model[1](torch.ones(9)), torch.ones(9))
    assert type(model[1]) is torch.nn.Dropout


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASKS)
def test_a_training_has_the_same_losses_however_its_steps_are_cut(
    kind: str, tmp_path: Path, context: Make
) -> None:
    def losses(name: str, batch: int, accumulation: int) -> list[float]:
        settings = {
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
            "max_steps": 4,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "bf16": False,
            "include_num_input_tokens_seen": "all",
        }
        history = train_model(parts(tmp_path / name, kind), settings, None, context(name))["history"]
        return [entry["loss"] for entry in history if "grad_norm" in entry]

    whole = losses("whole", 24, 1)
    assert len(whole) == 4
    assert losses("split", 6, 4) == pytest.approx(whole, rel=1e-5)
    assert losses("single", 1, 24) == pytest.approx(whole, rel=1e-5)
