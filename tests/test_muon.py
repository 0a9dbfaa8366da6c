"""`optim: muon`: which parameters it trains, and that it resumes and is shared like any optimizer."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import processes
import pytest
import small
import torch
from test_adapters import LORA
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

import hfpipe
from hfpipe.errors import StageError
from hfpipe.recipe.training import arguments
from hfpipe.training.muon import MuonWithAdamW, create_muon

BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
}


def bert() -> BertForMaskedLM:
    torch.manual_seed(1)
    return BertForMaskedLM(BertConfig(**BERT))


def optimizer(model: torch.nn.Module, rate: float = 1e-2) -> MuonWithAdamW:
    decayed = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
    options: dict[str, Any] = {"learning_rate": rate, "weight_decay": 0.1, "decayed": decayed}
    return create_muon(model, **options, muon={}, adamw={})


def of_muon(model: torch.nn.Module) -> set[str]:
    groups = [group for group in optimizer(model).param_groups if "ns_steps" in group]
    chosen = {id(parameter) for group in groups for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


def learn(model: torch.nn.Module, by: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        ids = torch.arange(20).reshape(2, 10) + step
        model(input_ids=ids, labels=ids).loss.backward()
        by.step()
        by.zero_grad()


def test_muon_trains_the_matrices_of_layers_and_adamw_embeddings_head_norms_and_biases() -> None:
    layer = "bert.encoder.layer.0"
    inner = [f"attention.self.{part}" for part in ("query", "key", "value")]
    inner += ["attention.output.dense", "intermediate.dense", "output.dense"]
    assert of_muon(bert()) == {f"{layer}.{part}.weight" for part in inner}


def test_muon_trains_the_matrices_of_gpt2_which_are_not_linear_layers() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=16))
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert of_muon(model) == {f"transformer.h.0.{part}.weight" for part in parts}


def test_each_parameter_moves_as_the_optimizer_that_trains_it_would_move_it() -> None:
    model = bert().eval()
    plain = copy.deepcopy(model)
    names = of_muon(plain)
    named = dict(plain.named_parameters())
    others = [{"params": [p], "weight_decay": 0.1 * (p.ndim > 1)} for n, p in named.items() if n not in names]
    matrices = [named[name] for name in names]
    muon = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=1e-2, fused=True)
    learn(model, optimizer(model), 3)
    for step in range(3):
        ids = torch.arange(20).reshape(2, 10) + step
        plain(input_ids=ids, labels=ids).loss.backward()
        for each in (muon, adamw):
            each.step()
            each.zero_grad()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, named[name]), name


def test_a_saved_state_goes_on_bit_for_bit_under_a_schedule(tmp_path: Path) -> None:
    straight = bert().eval()
    whole = optimizer(straight)
    schedule = torch.optim.lr_scheduler.LinearLR(whole, 1.0, 0.1, 6)
    learn(straight, whole, 2)
    schedule.step()
    torch.save(whole.state_dict(), tmp_path / "optimizer.pt")
    resumed = copy.deepcopy(straight)
    again = optimizer(resumed)
    again.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    assert {group["lr"] for group in again.param_groups} == {8.5e-3}
    learn(straight, whole, 2)
    learn(resumed, again, 2)
    for mine, theirs in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_frozen_parameters_do_not_move_and_a_model_without_matrices_is_refused() -> None:
    model = bert().eval()
    model.bert.requires_grad_(False)
    with pytest.raises(StageError, match="muon trains matrices of layers, and this training has none"):
        optimizer(model)
    query = model.bert.encoder.layer[0].attention.self.query.weight.requires_grad_()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    learn(model, optimizer(model), 1)
    moved = {name for name, parameter in model.named_parameters() if not parameter.equal(before[name])}
    assert any(parameter is query for name, parameter in model.named_parameters() if name in moved)
    assert all("bert." not in name for name in moved - {"bert.encoder.layer.0.attention.self.query.weight"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("momentun=0.9", "muon has no option 'momentun'; did you mean 'momentum'?"),
        ("ns_steps=many", "ns_steps must be a number"),
        ("momentum=1.5", "momentum must be at least 0 and less than 1, got 1.5"),
        ("ns_steps=0", "ns_steps must be from 1 to 99, got 0"),
    ],
)
def test_options_of_muon_are_checked_with_the_recipe(options: str, message: str) -> None:
    found = arguments.find_training_problems({"optim": "muon", "optim_args": options}, ("training",))
    assert [message in problem.message for problem in found] == [True]
    assert not list(
        arguments.find_training_problems({"optim": "muon", "optim_args": "momentum=0.9, ns_steps=4"}, ())
    )


def test_an_old_torch_is_named_with_the_version_that_has_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hfpipe.recipe.training.muon.version", lambda name: "2.8.1+cpu")
    (problem,) = arguments.find_training_problems({"optim": "muon"}, ("training",))
    assert "'muon' needs torch 2.9 or newer; pip install 'torch>=2.9'" in problem.message


def recipe() -> dict[str, Any]:
    return small.recipe("bert", max_steps=8, save_steps=4, optim="muon", weight_decay=0.1)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of runs in which two trainings with Muon have run."""
    folder = tmp_path_factory.mktemp("muon")
    hfpipe.run(
        hfpipe.load(small.write(folder, recipe())), folder / "runs", until="topics", say=lambda _: None
    )
    return folder / "runs"


def only_data(straight: Path, runs: Path) -> Path:
    """Return a folder of runs in which data and tokenizer are there, and nothing is trained."""
    shutil.copytree(
        straight, runs, ignore=lambda _, names: [n for n in names if n[:6] in ("pretra", "topics")]
    )
    return runs


@contextmanager
def failing(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Fail between two checkpoints of the pretraining."""
    steps = 0

    def advance(number: int, note: str = "") -> None:
        nonlocal steps
        steps += number
        if description == "pretrain" and steps == 6:
            raise StageError("the power went off")

    yield advance


@pytest.mark.slow
def test_a_run_with_muon_is_resumed_and_shared_without_a_difference(straight: Path, tmp_path: Path) -> None:
    path = small.write(tmp_path, recipe())
    failed, shared = (only_data(straight, tmp_path / name) for name in ("failed", "shared"))
    with pytest.raises(StageError, match="the power went off"):
        hfpipe.run(hfpipe.load(path), failed, until="topics", say=lambda _: None, progress=failing)
    first = hfpipe.open(path, straight)
    resumed = hfpipe.run(hfpipe.load(path), failed, until="topics", say=lambda _: None)
    assert "resuming from checkpoint-4" in (resumed.folders["pretrain"] / "stage.log").read_text()
    for stage in ("pretrain", "topics"):
        assert small.hash_weights(resumed.folders[stage]) == small.hash_weights(first.folders[stage])
    processes.run(path, shared, processes.config_file(tmp_path, "ddp", 2), until="pretrain")
    one, two = (
        small.history(hfpipe.open(path, runs).reports["pretrain"].model_dump()) for runs in (straight, shared)
    )
    for mine, theirs in zip(one, two, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-3)


@pytest.mark.slow
def test_muon_trains_an_adapter_for_a_budget_of_time(straight: Path, tmp_path: Path) -> None:
    made = recipe()
    topics = made["stages"]["topics"]
    topics["adapter"] = LORA
    topics["training"] |= {"learning_rate": 5e-3, "budget": "1s"}
    del topics["training"]["max_steps"]
    path = small.write(tmp_path, made)
    run = hfpipe.run(hfpipe.load(path), straight, until="topics", say=lambda _: None)
    facts = run.reports["topics"].facts
    assert facts["steps"] == len(small.history({"facts": facts})) > 0
    assert 0 < facts["trained_parameters"] < facts["parameters"]


def test_a_plan_counts_the_state_of_muon_as_half_that_of_adamw_for_its_matrices() -> None:
    from hfpipe.training.cost import compute_optimizer_state, shape_of

    shape = shape_of("AutoModelForMaskedLM", BertConfig(**BERT))
    matrices = 4 * 16 * 16 + 2 * 16 * 32
    assert shape.matrices == matrices
    assert (
        compute_optimizer_state(shape, "muon") == compute_optimizer_state(shape, "adamw_torch") - 4 * matrices
    )
