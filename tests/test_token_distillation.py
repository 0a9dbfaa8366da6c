"""Distillation of language models: equal to the plain formula, in chunks, whatever the teacher looks like."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_chunked_loss import CHANGED, MODELS, batch_of, model_of
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hfpipe.modeling.losses import chunked_loss
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.modeling.losses.token_distillation import Teacher, TokenDistillation
from hfpipe.training.step import TrainingStep

TEACHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert of modernbert": ("bert", "modernbert", MODELS["modernbert"][1]),
    "gpt2 of llama": ("gpt2", "llama", MODELS["llama"][1]),
    "llama of a model that changes its logits": ("llama", "gemma2", CHANGED["gemma2"]),
    "gpt2 of one with more rows": ("gpt2", "gpt2", MODELS["gpt2"][1] | {"vocab_size": 104}),
    "gpt2 of one with fewer rows": ("gpt2", "gpt2", MODELS["gpt2"][1] | {"vocab_size": 97, "n_layer": 1}),
}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "LOGITS", 97 * 7)


def plain(model: Any, teachers: list[Any], batch: Any, temperature: float, weight: float) -> torch.Tensor:
    """Return the summed loss as the paper writes it, of the logits of all positions at once."""
    there = batch["labels"] != IGNORED
    logits = model(batch["input_ids"]).logits[there]
    with torch.no_grad():
        soft = [
            (one.eval()(batch["input_ids"]).logits[there][:, : logits.shape[-1]] / temperature).softmax(-1)
            for one in teachers
        ]
    mean = F.pad(torch.stack(soft).mean(0), (0, logits.shape[-1] - soft[0].shape[-1]))
    divergence = F.kl_div(F.log_softmax(logits / temperature, -1), mean, reduction="sum")
    labels = F.cross_entropy(logits, batch["labels"][there], reduction="sum")
    return (1 - weight) * labels + weight * temperature**2 * divergence


def step_of(
    kind: str, teachers: list[Any], temperature: float = 2.0, weight: float = 0.3, *, chunked: bool = True
) -> TrainingStep:
    task = MODELS[kind][0](length=16).runtime()
    taught = tuple(Teacher("there", each, task) for each in teachers)
    loss = TokenDistillation(task.objective, taught, temperature, weight)
    return TrainingStep(task, 0.0, chunked=chunked, objective=loss)


@pytest.mark.parametrize("chunked", [True, False], ids=["head in the loss", "logits of the model"])
@pytest.mark.parametrize("case", TEACHERS)
def test_loss_and_gradients_are_those_of_the_plain_formula(case: str, chunked: bool) -> None:
    kind, of, entries = TEACHERS[case]
    task, student_entries = MODELS[kind]
    wider = {"vocab_size": 104} if "fewer" in case else {}
    model = model_of(kind, task, student_entries | wider).train()
    teacher = model_of(of, task, entries)
    with torch.no_grad():
        teacher.get_output_embeddings().weight.add_(0.1)
    batch, weights = batch_of(), [*model.parameters()]
    expected = plain(model, [teacher], batch, 2.0, 0.3)
    wanted = torch.autograd.grad(expected, weights, allow_unused=True)
    found, count = step_of(kind, [teacher], chunked=chunked)(model, batch)[1]
    assert count == (batch["labels"] != IGNORED).sum()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert found.item() > plain(model, [model], batch, 2.0, 0.3).item()
    scale = torch.stack([each.norm() for each in wanted]).norm().item()
    for one, other in zip(torch.autograd.grad(found, weights, allow_unused=True), wanted, strict=True):
        assert (one - other).norm().item() <= 1e-5 * other.norm().item() + 1e-6 * scale


def test_several_teachers_are_averaged_and_labels_without_weight_do_not_count() -> None:
    task, entries = MODELS["gpt2"]
    model, *teachers = (model_of("gpt2", task, entries | {"n_layer": layers}) for layers in (2, 1, 3))
    batch = batch_of()
    expected = plain(model, teachers, batch, 1.5, 1.0)
    torch.testing.assert_close(step_of("gpt2", teachers, 1.5, 1.0)(model, batch)[1].total, expected)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_row_whose_labels_are_ignored_contributes_nothing(chunked: bool) -> None:
    task, entries = MODELS["gpt2"]
    model, teacher = (model_of("gpt2", task, entries | {"n_layer": layers}) for layers in (2, 1))
    batch = batch_of()
    batch["labels"][1] = IGNORED
    fewer = {name: each[[0, 2]] for name, each in batch.items()}
    step = step_of("gpt2", [teacher], chunked=chunked)
    whole, part = step(model, batch)[1], step(model, fewer)[1]
    torch.testing.assert_close(whole.total, part.total)
    assert whole.targets == part.targets


class LargestFloat(TorchDispatchMode):
    """Notes how many float32 numbers with the vocabulary as last dimension the largest tensor has."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(each, torch.Tensor) and each.dtype == torch.float32 and each.shape[-1:] == (97,):
                self.largest = max(self.largest, each.numel())
        return out


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_logits_of_all_positions_are_never_there_at_once(kind: str) -> None:
    task, entries = MODELS[kind]
    model, teacher = (model_of(kind, task, entries) for _ in range(2))
    step, batch = step_of(kind, [teacher]), batch_of(0.9)
    step(model, batch)  # which tries whether the output layers can be left out
    with LargestFloat() as seen:
        step(model, batch)[1].total.backward()
    weights = 32 * 97
    assert 0 < seen.largest <= weights < int((batch["labels"] != IGNORED).sum()) * 97


def test_workers_of_a_data_loader_get_no_teachers() -> None:
    loss = step_of("gpt2", [model_of("gpt2", *MODELS["gpt2"])]).teaching
    assert loss is not None
    copied = copy.copy(loss)  # which takes the state that is pickled
    assert copied.teachers == ()
    assert copied.count(batch_of()) == loss.count(batch_of())
