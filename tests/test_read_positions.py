"""The last layer of a classifier is computed only where its head reads it, with equal gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_equal_gradients import assert_equal, gradients
from test_model_types import TYPES
from transformers import CONFIG_MAPPING, AutoModelForMultipleChoice, AutoModelForSequenceClassification

from hfpipe.modeling.read_positions import skip_unread_positions
from hfpipe.training.speed.micro_batch import set_checkpointing

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "vocab_size": 300,
    "pad_token_id": 0,
    "num_key_value_heads": 2,
}
SKIPPING = {"bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2"}
READING_MORE = {"gpt2", "llama", "qwen3"}
"""Their head reads the last token."""


def classifier(kind: str, auto_class: Any = AutoModelForSequenceClassification, **more: Any) -> Any:
    """Return a model of random weights without dropout, in training."""
    torch.manual_seed(5)
    entries = TYPES[kind][2] | {"hidden_size": 32}
    config = CONFIG_MAPPING[kind](**SIZES | entries | more)
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    return auto_class.from_config(config).train()


def batch(rows: int = 4, choices: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    lengths = torch.randint(2, 12, (rows,), generator=generator)
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids = torch.randint(1, 300, (rows, 12), generator=generator) * mask
    found = {"input_ids": ids, "attention_mask": mask}
    return {name: each.reshape(-1, choices, 12) if choices else each for name, each in found.items()}


def step(model: Any, given: dict[str, torch.Tensor]) -> Any:
    logits = model(**given).logits
    (logits * torch.linspace(-1, 2, logits.numel()).reshape(logits.shape)).sum().backward()
    return logits.detach(), gradients(model)


@pytest.mark.parametrize("kind", sorted(SKIPPING | READING_MORE))
def test_gradients_are_equal_and_models_whose_head_reads_one_position_skip_the_others(kind: str) -> None:
    model = classifier(kind)
    logits, expected = step(model, batch())
    with skip_unread_positions(model, training=True) as modules:
        found_logits, found = step(model, batch())
    assert bool(modules) == (kind in SKIPPING)
    assert model.training
    torch.testing.assert_close(found_logits, logits)
    assert_equal(found, expected)


def test_the_endings_of_multiple_choice_skip_positions_too() -> None:
    model = classifier("bert", AutoModelForMultipleChoice)
    _, expected = step(model, batch(6, choices=3))
    with skip_unread_positions(model, training=True) as modules:
        assert modules == ["attention.output"]
        assert_equal(step(model, batch(6, choices=3))[1], expected)


def shapes_of_last_layer(model: Any) -> list[tuple[int, ...]]:
    """Return the shapes that the feed-forward layer of the last layer receives."""
    seen: list[tuple[int, ...]] = []
    inner = model.bert.encoder.layer[-1].intermediate
    handle = inner.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    model(**batch())
    handle.remove()
    return seen


@pytest.mark.parametrize("training", [True, False])
def test_positions_are_skipped_in_training_or_evaluation_and_until_the_end_of_the_context(
    training: bool,
) -> None:
    model = classifier("bert").train(training)
    with skip_unread_positions(model, training=training):
        assert model.training == training
        assert shapes_of_last_layer(model) == [(4, 1, 32)]
        model.train(not training)
        assert shapes_of_last_layer(model) == [(4, 12, 32)]
        model.train(training)
    assert shapes_of_last_layer(model) == [(4, 12, 32)]


@pytest.mark.parametrize("kind", sorted(SKIPPING))
def test_logits_of_an_evaluation_are_equal(kind: str) -> None:
    model = classifier(kind).eval()
    with torch.inference_mode():
        usual = model(**batch()).logits
        with skip_unread_positions(model, training=False) as modules:
            assert modules
            torch.testing.assert_close(model(**batch()).logits, usual, rtol=1e-5, atol=1e-6)


def test_nothing_is_skipped_where_hidden_states_are_among_the_outputs() -> None:
    model = classifier("bert", output_hidden_states=True)
    with skip_unread_positions(model, training=True) as modules:
        assert modules == []


@pytest.mark.parametrize("zero", [False, True])
def test_a_head_that_reads_the_mean_skips_nothing_even_if_its_weights_are_zero(zero: bool) -> None:
    model = classifier("modernbert", classifier_pooling="mean")
    if zero:
        torch.nn.init.zeros_(model.classifier.weight)
    with skip_unread_positions(model, training=True) as modules:
        assert modules == []


def test_a_head_of_zeros_that_reads_one_position_skips_the_others() -> None:
    model = classifier("modernbert", classifier_pooling="cls")
    torch.nn.init.zeros_(model.classifier.weight)
    with skip_unread_positions(model, training=True) as modules:
        assert modules == ["attn.Wo", "mlp_norm"]


def test_gradient_checkpointing_computes_the_same_positions_again() -> None:
    model = classifier("bert")
    _, expected = step(model, batch())
    with set_checkpointing(model, wanted=True), skip_unread_positions(model, training=True) as modules:
        assert modules
        assert_equal(step(model, batch())[1], expected)
