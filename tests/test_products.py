"""Attention by products of its own gives what autograd gives, whatever the length, the mask and the dtype."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hfpipe.modeling.attention.products import attend_by_eager_products
from hfpipe.modeling.random_bits import draw_dropout_mask

ROWS, HEADS, SIZE = 3, 2, 8
SCALE = SIZE**-0.5


def create_inputs(queries: int, keys: int, dtype: torch.dtype) -> list[Tensor]:
    """Return queries, keys and values as views of (rows, length, heads, size), as layers make them."""
    generator = torch.Generator().manual_seed(queries * 1000 + keys)
    made = []
    for length in (queries, keys, keys):
        given = torch.randn(ROWS, length, HEADS, SIZE, generator=generator).to(dtype)
        made.append(given.transpose(1, 2).detach().requires_grad_())
    return made


def create_mask(kind: str, queries: int, keys: int) -> Tensor | None:
    lengths = torch.tensor([keys, keys - 2, max(1, keys // 2)])
    padding = (torch.arange(keys) < lengths[:, None])[:, None, None, :]
    if kind == "none":
        return None
    if kind == "causal":
        return torch.ones(queries, keys, dtype=torch.bool).tril()
    if kind == "padding":
        return padding
    return torch.zeros(ROWS, 1, queries, keys).masked_fill(~padding, -1e4)


def attend(inputs: list[Tensor], mask: Tensor | None, bias: Tensor | None, kept: Tensor | None) -> Tensor:
    """Attention by autograd, in the dtype of its inputs."""
    query, key, value = inputs
    scores = query @ key.transpose(-1, -2) * SCALE
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1)
    return ((weights if kept is None else weights * kept) @ value).transpose(1, 2)


@pytest.mark.parametrize("mask", ["none", "padding", "causal", "added"])
@pytest.mark.parametrize("keys", [5, 31, 45, 64, 130])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_outputs_and_gradients_are_those_of_autograd(
    mask: str, keys: int, dropout: float, dtype: torch.dtype, tolerance: float
) -> None:
    queries = keys if mask == "causal" else 7
    inputs, given = create_inputs(queries, keys, dtype), create_mask(mask, queries, keys)
    bias = torch.randn(1, HEADS, queries, keys, generator=torch.Generator().manual_seed(3)).requires_grad_()
    torch.manual_seed(11)
    found = attend_by_eager_products(*inputs, given, bias, scale=SCALE, dropout=dropout)
    torch.manual_seed(11)
    kept = draw_dropout_mask(torch.empty(ROWS, HEADS, queries, keys), dropout) if dropout else None
    exact = [each.detach().float().requires_grad_() for each in (*inputs, bias)]
    expected = attend(exact[:3], given, exact[3], kept)

    assert found.dtype == dtype
    assert found.shape == (ROWS, queries, HEADS, SIZE)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(4))
    mine = torch.autograd.grad((found * weight).sum(), [*inputs, bias])
    usual = torch.autograd.grad((expected * weight).sum(), exact)
    for one, other in zip((found, *mine), (expected, *usual), strict=True):
        error = (one.float() - other).norm() / other.norm()
        assert error < tolerance


def test_under_autocast_everything_is_in_its_dtype_and_gradients_in_that_of_the_inputs() -> None:
    query, key, value = create_inputs(9, 9, torch.float32)
    value = value.detach().to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = attend_by_eager_products(query, key, value, None, None, scale=SCALE, dropout=0.0)
    assert found.dtype == torch.bfloat16
    gradients = torch.autograd.grad(found.float().sum(), [query, key, value])
    assert [each.dtype for each in gradients] == [torch.float32, torch.float32, torch.bfloat16]


def test_a_row_that_may_attend_to_nothing_gets_a_mean_and_no_nan() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        inputs = create_inputs(6, 6, dtype)
        mask = torch.ones(ROWS, 1, 6, 6, dtype=torch.bool)
        mask[1] = False
        found = attend_by_eager_products(*inputs, mask, None, scale=SCALE, dropout=0.0)
        mean = inputs[2][1].float().mean(-2)
        torch.testing.assert_close(found[1].float(), mean.expand(6, HEADS, SIZE), rtol=2e-2, atol=2e-2)
        assert all(bool(each.isfinite().all()) for each in torch.autograd.grad(found.sum(), inputs))
