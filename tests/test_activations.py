"""GELU by torch's kernel computes what Transformers' classes do, and keeps less for the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.activations import FastGELUActivation, GELUActivation, NewGELUActivation

from hfpipe.modeling.activations import FusedGELU, use_fused_gelu
from hfpipe.modeling.attention.cpu import use_eager_kernels

TANH = (NewGELUActivation, FastGELUActivation)


@pytest.mark.parametrize("kind", TANH)
def test_values_and_gradients_are_those_of_the_class(kind: type[nn.Module]) -> None:
    layer, results = kind(), []
    for fused in (False, True):
        given = torch.linspace(-6, 6, 400, requires_grad=True)
        with use_fused_gelu(layer if fused else nn.Identity()):
            assert (type(layer) is FusedGELU) is fused
            out = layer(given)
        out.square().sum().backward()
        results.append((out.detach(), given.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_layers_are_as_they_were_after_a_training_also_when_it_fails() -> None:
    model = nn.Sequential(NewGELUActivation(), GELUActivation(), FastGELUActivation())
    before = [type(layer) for layer in model]
    fused = [FusedGELU, GELUActivation, FusedGELU]

    def fail() -> None:
        with use_eager_kernels(model), use_eager_kernels(model):
            assert [type(layer) for layer in model] == fused
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [type(layer) for layer in model] == before


def test_a_gpt2_keeps_less_memory_for_the_backward_pass_in_training() -> None:
    torch.manual_seed(1)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=50)
    model, ids = GPT2LMHeadModel(config).train(), torch.arange(48).reshape(2, 24)

    def count_kept_bytes() -> int:
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            held.append(tensor)  # so that no other tensor gets its address
            return tensor

        held: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(input_ids=ids, labels=ids)
        return sum(kept.values())

    plain = count_kept_bytes()
    with use_fused_gelu(model):
        fused = count_kept_bytes()
    widest = 2 * ids.numel() * 4 * config.n_embd * 4  # layers · tokens · size of the inner layer · float32
    assert plain - fused >= 3 * widest
