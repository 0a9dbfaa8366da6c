"""Norms and feed-forward layers of T5 that compute in the dtype of autocast in an uncompiled training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

from hfpipe.modeling.loading.models import create_model
from hfpipe.modeling.norms import _Normalize, _ReLUAndDropout, use_lean_layers
from hfpipe.modeling.random_bits import apply_dropout, use_fast_dropout

KINDS = {"t5": "relu", "mt5": "gated-gelu", "umt5": "gated-gelu", "longt5": "relu"}


def create_small_model(kind: str, activation: str, dropout: float) -> Any:
    """Return a small encoder-decoder."""
    config = CONFIG_MAPPING[kind](
        vocab_size=99,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        dropout_rate=dropout,
        feed_forward_proj=activation,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    return create_model("AutoModelForSeq2SeqLM", config, 3).train()


def compute_gradients(model: Any, *, half: bool) -> dict[str, Tensor]:
    """Return the gradients of the loss of two rows, one of which is padded, and the loss as `loss`."""
    ids = torch.arange(2, 34).reshape(2, 16)
    mask = torch.ones_like(ids)
    mask[0, 11:] = 0
    model.zero_grad()
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = model(input_ids=ids, attention_mask=mask, labels=ids.flip(1)).loss
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    return found | {"loss": loss.detach().float()}


def test_the_norm_has_the_value_and_gradients_of_its_formula() -> None:
    torch.manual_seed(17)
    given, weight = torch.randn(3, 5, 16, requires_grad=True), torch.randn(16, requires_grad=True)
    plain = weight * (given * torch.rsqrt(given.pow(2).mean(-1, keepdim=True) + 1e-6))
    mine: Any = _Normalize.apply(given, weight, 1e-6, torch.float32)
    torch.testing.assert_close(mine, plain)
    towards = torch.randn(3, 5, 16)
    expected = torch.autograd.grad(plain, (given, weight), towards)
    for one, other in zip(torch.autograd.grad(mine, (given, weight), towards), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("half", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_relu_with_dropout_has_the_value_and_gradient_of_both(half: torch.dtype, probability: float) -> None:
    given, towards = torch.randn(2, 5, 64, 16, generator=torch.Generator().manual_seed(3)).to(half)
    given.requires_grad_()
    torch.manual_seed(7)
    usual = apply_dropout(given.relu(), probability)
    torch.manual_seed(7)
    mine: Any = _ReLUAndDropout.apply(given, probability)
    assert torch.equal(mine, usual)
    [expected], [found] = (torch.autograd.grad(each, given, towards) for each in (usual, mine))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_lean_layers_with_dropout_change_all_gradients_by_no_more_than_bfloat16_does(kind: str) -> None:
    model = create_small_model(kind, KINDS[kind], 0.2)
    with use_fast_dropout(model):
        exact, usual = compute_gradients(model, half=False), compute_gradients(model, half=True)
        with use_lean_layers(model):
            lean = compute_gradients(model, half=True)
    [exact_one, usual_one, lean_one] = (
        torch.cat([each.flatten() for each in gradients.values()]) for gradients in (exact, usual, lean)
    )
    assert (lean_one - exact_one).norm() <= 1.5 * (usual_one - exact_one).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_lean_layers_change_gradients_by_no_more_than_bfloat16_does(kind: str) -> None:
    model = create_small_model(kind, KINDS[kind], 0.0)
    exact, usual = compute_gradients(model, half=False), compute_gradients(model, half=True)
    kinds = [type(module) for module in model.modules()]
    with use_lean_layers(model):
        assert sum(type(module) not in kinds for module in model.modules()) >= 10
        lean, plain = compute_gradients(model, half=True), compute_gradients(model, half=False)
    assert [type(module) for module in model.modules()] == kinds
    for name, gradient in exact.items():
        assert torch.equal(plain[name], gradient), name
        error, allowed = (lean[name] - gradient).norm(), (usual[name] - gradient).norm()
        assert error <= 1.5 * allowed + 1e-3 * gradient.norm(), name
