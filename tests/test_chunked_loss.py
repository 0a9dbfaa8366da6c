"""The loss that applies the output layer in chunks: equal to the plain one, for the models that allow it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import CONFIG_MAPPING

from hfpipe.modeling.attention.cpu import attend_by_products
from hfpipe.modeling.loading.models import create_model
from hfpipe.modeling.losses import chunked_loss
from hfpipe.modeling.losses.chunked_loss import (
    choose_chunk_size,
    compute_linear_cross_entropy,
    compute_softmax_gradient,
    compute_softmax_gradient_eagerly,
)
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.task import TaskConfig
from hfpipe.tasks.causal_lm import CausalLM
from hfpipe.tasks.denoising import Denoising
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tasks.shared.objectives import TokenCrossEntropy
from hfpipe.training.step import TrainingStep
from hfpipe.types import Counted

Batch = dict[str, torch.Tensor]
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 97,
    "pad_token_id": 0,
}
DECODER = SMALL | {"num_key_value_heads": 1, "head_dim": 16}
T5: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 2,
    "vocab_size": 97,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}
DRY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODELS: dict[str, tuple[type[TaskConfig], dict[str, Any]]] = {
    "bert": (MaskedLM, SMALL | DRY),
    "modernbert": (MaskedLM, SMALL),
    "distilbert": (MaskedLM, SMALL | {"dropout": 0.0, "attention_dropout": 0.0}),
    "gpt2": (CausalLM, SMALL | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "llama": (CausalLM, DECODER),
    "t5": (Denoising, T5),
}
CHANGED = {
    "gemma2": DECODER | {"final_logit_softcapping": 5.0},
    "granite": DECODER | {"logits_scaling": 4.0},
}
"""Models that change their logits after the output layer."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "LOGITS", 97 * 7)


def model_of(kind: str, task: type[TaskConfig], entries: dict[str, Any]) -> Any:
    made = create_model(task(length=16).auto_class, CONFIG_MAPPING[kind](**entries), 3)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(4 if weight.dim() > 1 else 1)  # otherwise all logits are nearly equal
    return made


def batch_of(share: float = 0.6) -> Batch:
    random = torch.Generator().manual_seed(5)
    ids = torch.randint(1, 97, (3, 16), generator=random)
    hidden = torch.rand(3, 16, generator=random) > share
    return {"input_ids": ids, "labels": ids.masked_fill(hidden, IGNORED)}


def outcome(step: TrainingStep, model: Any) -> tuple[Counted, list[torch.Tensor]]:
    model.train()
    counted = step(model, batch_of())[1]
    weights = list(model.parameters())
    return counted, list(torch.autograd.grad(counted.total, weights, allow_unused=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
def test_loss_and_gradients_in_chunks_are_those_of_all_logits(smoothing: float, bias: bool) -> None:
    random = torch.Generator().manual_seed(1)
    hidden, weight, shift = (
        torch.randn(*shape, generator=random, requires_grad=True) for shape in ((23, 8), (97, 8), (97,))
    )
    targets = torch.randint(97, (23,), generator=random)
    targets[[2, 22]] = IGNORED
    inputs = [hidden, weight, *([shift] if bias else [])]
    plain = F.cross_entropy(
        F.linear(*inputs), targets, reduction="sum", label_smoothing=smoothing, ignore_index=IGNORED
    )
    mine = compute_linear_cross_entropy(hidden, weight, shift if bias else None, targets, smoothing=smoothing)
    assert mine.item() == pytest.approx(plain.item(), rel=1e-6)
    expected = torch.autograd.grad(3 * plain, inputs)
    for one, other in zip(torch.autograd.grad(3 * mine, inputs), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


def test_a_frozen_output_layer_gets_no_gradient() -> None:
    hidden = torch.randn(9, 8, requires_grad=True)
    weight = torch.randn(97, 8)
    compute_linear_cross_entropy(hidden, weight, None, torch.arange(9)).backward()
    assert weight.grad is None
    assert hidden.grad is not None


@pytest.mark.parametrize(("positions", "classes"), [(768, 30522), (4096, 16384), (13, 97), (1, 5), (0, 97)])
def test_chunks_have_one_shape_where_a_divisor_is_near(positions: int, classes: int) -> None:
    rows = choose_chunk_size(positions, classes)
    assert rows * classes <= max(chunked_loss.LOGITS, classes)
    if positions in (768, 4096):
        assert positions % rows == 0


@pytest.mark.parametrize("kind", list(MODELS))
def test_the_gradients_of_a_model_are_those_of_its_plain_loss(kind: str) -> None:
    task, entries = MODELS[kind]
    model = model_of(kind, task, entries)
    plain, expected = outcome(TrainingStep(task(length=16).runtime(), 0.1), model)
    step = TrainingStep(task(length=16).runtime(), 0.1, chunked=True)
    mine, found = outcome(step, model)
    assert step.find_head(model, batch_of()) is model.get_output_embeddings()
    assert mine.total.item() == pytest.approx(plain.total.item(), rel=1e-6)
    assert mine.targets == plain.targets
    scale = torch.stack([each.norm() for each in expected]).norm().item()
    for (name, _), one, other in zip(model.named_parameters(), found, expected, strict=True):
        allowed = 1e-5 * other.norm().item() + 1e-7 * scale  # some gradients are rounding errors around 0
        assert (one - other).norm().item() <= allowed, name
    assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.parametrize("kind", list(CHANGED))
def test_a_model_that_changes_its_logits_keeps_its_output_layer(kind: str) -> None:
    model = model_of(kind, CausalLM, CHANGED[kind])
    step = TrainingStep(CausalLM(length=16).runtime(), 0.0, chunked=True)
    assert step.find_head(model, batch_of()) is None
    assert step(model, batch_of())[0].logits.shape[-1] == 97


class Reweighted(TokenCrossEntropy):
    """The objective of a user's task with a loss of its own."""

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        total, targets = super().loss(outputs, batch, smoothing)
        return Counted(total + outputs.logits.square().sum(), targets)


def test_a_task_with_a_loss_of_its_own_reads_logits() -> None:
    task = replace(CausalLM(length=16).runtime(), objective=Reweighted())
    model = model_of("gpt2", CausalLM, MODELS["gpt2"][1])
    assert (
        outcome(TrainingStep(task, 0.0, chunked=True), model)[0] == outcome(TrainingStep(task, 0.0), model)[0]
    )
    pairs = MaskedLM(length=16, next_sentence=True)
    assert not pairs.runtime().objective.loss_is_cross_entropy


def test_trying_a_model_leaves_its_state_as_it_was() -> None:
    model = model_of("gpt2", CausalLM, MODELS["gpt2"][1] | {"resid_pdrop": 0.5})
    state = torch.get_rng_state()
    model.train()
    assert (
        TrainingStep(CausalLM(length=16).runtime(), 0.0, nullcontext, chunked=True).find_head(
            model, batch_of()
        )
        is not None
    )
    assert torch.equal(state, torch.get_rng_state())
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("length", [96, 300])
def test_attention_by_products_is_that_of_the_kernel(causal: bool, heads: int, length: int) -> None:
    random = torch.Generator().manual_seed(1)
    query = torch.randn(2, 4, length, 16, generator=random)
    key, value = (torch.randn(2, heads, length, 16, generator=random) for _ in range(2))
    window = (torch.arange(length)[:, None] - torch.arange(length)).abs()[None, None] < 20
    for mask in [None, *([] if causal else [window])]:
        usual = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=0.3, enable_gqa=True
        )
        mine = attend_by_products(torch.nn.Module(), query, key, value, mask, causal=causal, scaling=0.3)
        torch.testing.assert_close(mine, usual.transpose(1, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_and_gradient_of_uncompiled_code_equal_those_that_are_compiled(
    dtype: torch.dtype, smoothing: float
) -> None:
    torch.manual_seed(17)
    logits = (4 * torch.randn(30, 211)).to(dtype)
    targets = torch.randint(0, 211, (30,))
    targets[::4] = IGNORED
    wanted = compute_softmax_gradient(logits, targets, smoothing, IGNORED)
    loss, gradient = compute_softmax_gradient_eagerly(logits.clone(), targets, smoothing, IGNORED)
    torch.testing.assert_close(loss, wanted[0])
    torch.testing.assert_close(gradient, wanted[1])
    assert not gradient[targets == IGNORED].any()
    assert gradient[targets != IGNORED].any()
