"""What `hfpipe plan --sizes` promises, held against what really happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerFast

from hfpipe import api
from hfpipe.cli.main import main
from hfpipe.encoding.encoded import encode
from hfpipe.encoding.io import open_data, read_facts
from hfpipe.estimation.estimate import Size
from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.runner import Launch
from hfpipe.stages.pretrain import Pretrain
from hfpipe.tokenization.loading import load_tokenizer
from hfpipe.training import cost
from hfpipe.training.arguments import compute_steps
from hfpipe.training.speed.decision import STEPS, StepCount, decide_once

TEXT = "the river runs past old mills and new bridges towards a harbour where ships wait for grain"
WORDS = TEXT.split()
MODELS: dict[str, dict[str, Any]] = {
    "modernbert": {"num_attention_heads": 4, "intermediate_size": 96},
    "bert": {"num_attention_heads": 2, "intermediate_size": 128},
    "distilbert": {"n_heads": 2, "hidden_dim": 128},
}
SEQ2SEQ = "AutoModelForSeq2SeqLM"
AUTO = ["AutoModelForMaskedLM", "AutoModelForSequenceClassification"]

PARTS = ("weights", "gradients", "optimizer state", "activations")

RECIPE = """\
name: small
seed: 5
stages:
  data:
    kind: dataset
    source: {files: rows.jsonl}
    columns: {text: text, label: label}
    split: {validation: 0.2}
  words: {kind: tokenizer, data: stage:data, algorithm: wordpiece, vocab_size: 120}
  pretrain:
    kind: pretrain
    task: {kind: masked-lm, length: 16}
    data: stage:data
    tokenizer: stage:words
    model: {type: bert, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}
    training: {per_device_train_batch_size: 4, TRAINING}
  topics:
    kind: finetune
    task: {kind: text-classification, length: 24}
    data: stage:data
    model: stage:pretrain
    training: {per_device_train_batch_size: 8, num_train_epochs: 2}
"""


@pytest.fixture
def recipe(tmp_path: Path):
    """Return a maker of a recipe over short rows."""

    def make(training: str = "num_train_epochs: 3", rows: int = 60) -> api.Recipe:
        texts = [f"{number} {' '.join(WORDS[number % 9 :][: 4 + number % 7])}" for number in range(rows)]
        lines = [json.dumps({"text": text, "label": "ab"[len(text) % 2]}) for text in texts]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
        file = tmp_path / "recipe.yaml"
        file.write_text(RECIPE.replace("TRAINING", training), encoding="utf-8")
        return api.load(file)

    return make


def sized(recipe: api.Recipe, runs: Path) -> dict[str, Size]:
    return {size.stage: size for size in api.sizes(recipe, api.plan(recipe, runs))}


def shaped(kind: str, auto_class: str, layers: int = 2) -> tuple[Any, cost.Shape]:
    base = {"type": kind, "hidden_size": 64, "num_hidden_layers": layers}
    config = create_config(base | MODELS[kind], cost.FutureTokenizer(300), {"num_labels": 3})
    return config, cost.shape_of(auto_class, config)


def saved(model: torch.nn.Module, forward: Callable[[], Any]) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without the weights."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # holds it, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        assert forward().logits.requires_grad
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)


@pytest.mark.parametrize("auto_class", AUTO)
@pytest.mark.parametrize("kind", MODELS)
def test_parameters_are_those_of_the_model_that_is_built(kind, auto_class):
    config, shape = shaped(kind, auto_class)
    assert shape.parameters == create_model(auto_class, config, seed=1).num_parameters()


def test_counting_allocates_nothing():
    config = create_config({"type": "llama", "num_hidden_layers": 80}, cost.FutureTokenizer(32_000), {})
    assert cost.shape_of("AutoModelForCausalLM", config).parameters > 1e10


@pytest.mark.parametrize("auto_class", AUTO)
@pytest.mark.parametrize("kind", ["modernbert", "bert"])
def test_flops_are_near_those_that_torch_counts(kind, auto_class):
    config, shape = shaped(kind, auto_class)
    config._attn_implementation = "eager"  # torch does not count inside the fused kernels of a CPU
    model = create_model(auto_class, config, seed=1)
    ids = torch.randint(10, 300, (4, 64))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    assert cost.compute_flops(shape, ids.numel(), 64, 1.0) == pytest.approx(
        counter.get_total_flops(), rel=0.1
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5", "bart", "marian"])
def test_an_encoder_decoder_counts_its_decoder_as_well(kind):
    base = {"type": kind, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    base |= {"d_ff": 96} if kind == "t5" else {"encoder_ffn_dim": 96}
    config = create_config(base, cost.FutureTokenizer(300), {})
    config._attn_implementation = "eager"
    shape, model = cost.shape_of(SEQ2SEQ, config), create_model(SEQ2SEQ, config, seed=1).train()
    ids = torch.randint(10, 300, (4, 64))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": ids}
    with FlopCounterMode(display=False) as counter:
        model(**inputs).logits.sum().backward()
    assert shape.parameters == model.num_parameters()
    assert cost.compute_flops(shape, ids.numel(), 64, 1.0) == pytest.approx(
        counter.get_total_flops(), rel=0.1
    )
    config._attn_implementation = "sdpa"
    model = create_model(SEQ2SEQ, config, seed=1).train()
    measured = saved(model, lambda: model(**inputs))
    assert (
        measured / 2
        <= cost.estimate_activations(shape, 4, 64, 1.0, bf16=False, recomputed=False)
        <= measured * 2
    )


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adamw_torch", torch.optim.AdamW),
        ("adamw_torch_fused", torch.optim.AdamW),
        (None, torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
        ("adagrad", torch.optim.Adagrad),
        ("rmsprop", torch.optim.RMSprop),
    ],
)
def test_weights_gradients_and_optimizer_state_are_what_a_step_leaves(name, make):
    config, shape = shaped("bert", "AutoModelForMaskedLM")
    model = create_model("AutoModelForMaskedLM", config, seed=1)
    optimizer = make(model.parameters(), lr=1e-3)
    model(input_ids=torch.randint(10, 300, (2, 8))).logits.sum().backward()
    optimizer.step()

    tensors = [value for state in optimizer.state.values() for value in state.values()]
    state = sum(value.nbytes for value in tensors if torch.is_tensor(value) and value.dim() > 0)
    gradients = sum(weight.grad.nbytes for weight in model.parameters() if weight.grad is not None)
    assert cost.compute_optimizer_state(shape, name) == state
    assert shape.parameters * cost.FLOAT == gradients == sum(w.nbytes for w in model.parameters())


def test_adafactor_keeps_rows_and_columns():
    from transformers.optimization import Adafactor

    config, shape = shaped("bert", "AutoModelForMaskedLM")
    model = create_model("AutoModelForMaskedLM", config, seed=1)
    optimizer = Adafactor(model.parameters(), lr=1e-3, relative_step=False, scale_parameter=False)
    model(input_ids=torch.randint(10, 300, (2, 8))).logits.sum().backward()
    optimizer.step()
    tensors = [value for state in optimizer.state.values() for value in state.values()]
    kept = sum(value.nbytes for value in tensors if torch.is_tensor(value) and value.dim() > 0)
    assert cost.compute_optimizer_state(shape, "adafactor") == kept


def test_an_optimizer_that_is_not_known_is_not_guessed():
    _, shape = shaped("bert", "AutoModelForMaskedLM")
    assert cost.compute_optimizer_state(shape, "galore_adamw") is None
    assert cost.compute_optimizer_state(shape, "adamw_bnb_8bit") == 2 * shape.parameters


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("length", [32, 128])
@pytest.mark.parametrize("kind", MODELS)
def test_the_activation_estimate_is_within_a_factor_of_two(kind, length, bf16):
    config, shape = shaped(kind, "AutoModelForSequenceClassification", layers=4)
    model = create_model("AutoModelForSequenceClassification", config, seed=1).train()
    ids = torch.randint(10, 300, (8, length))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        measured = saved(model, lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)))
    estimate = cost.estimate_activations(shape, 8, length, 1.0, bf16=bf16, recomputed=False)
    assert measured / 2 <= estimate <= measured * 2


def test_recomputing_keeps_less():
    _, shape = shaped("bert", "AutoModelForMaskedLM", layers=4)
    kept = [
        cost.estimate_activations(shape, 8, 64, 0.15, bf16=False, recomputed=each) for each in (True, False)
    ]
    assert kept[0] < kept[1]


@pytest.mark.parametrize(
    "training", ["num_train_epochs: 3", "budget: 2k tokens", "max_steps: 7", "budget: 1.5 epochs"]
)
def test_a_small_split_is_counted_so_that_steps_are_those_of_the_training(recipe, tmp_path, training):
    made = recipe(training)
    api.run(made, tmp_path / "runs", until="words", say=lambda _: None)
    found = sized(made, tmp_path / "runs")["pretrain"].amounts

    steps = {step.name: step for step in api.plan(made, tmp_path / "runs")}
    stage, data = steps["pretrain"].stage, steps["data"].folder
    assert isinstance(stage, Pretrain)
    examples, ledger = encode(
        stage.task.runtime(),
        open_data(data)["train"],
        load_tokenizer(steps["words"].folder),
        read_facts(data),
        tmp_path / "train.arrow",
        packed=True,
        advance=lambda _: None,
    )
    assert found["tokens per epoch"].value == ledger["tokens"]
    assert not found["tokens per epoch"].estimated
    wanted = compute_steps(stage.training, len(examples), ledger["tokens"], 4)
    assert found["optimizer steps"].value == wanted
    assert not found["optimizer steps"].estimated


def test_what_is_not_made_yet_is_reported_and_not_guessed(recipe, tmp_path):
    found = sized(recipe(), tmp_path / "runs")
    assert "tokens in all" not in found["pretrain"].amounts
    assert found["pretrain"].notes == ["tokens per epoch are not known before stage:data is made"]
    assert found["data"].notes == ["not known before it is made"]
    assert found["pretrain"].amounts["parameters"].estimated
    assert found["topics"].amounts["parameters"].estimated


def test_a_budget_in_tokens_is_known_before_there_are_data(recipe, tmp_path):
    found = sized(recipe("budget: 64k tokens"), tmp_path / "runs")["pretrain"].amounts
    assert found["optimizer steps"].value == 64_000 / (4 * 16)
    assert found["tokens in all"].value == 64_000


def test_the_steps_of_a_task_that_is_not_packed_are_known_where_they_are_given(recipe, tmp_path):
    made = recipe()
    text = made.path.read_text(encoding="utf-8").replace("num_train_epochs: 2", "max_steps: 7")
    made.path.write_text(text, encoding="utf-8")
    found = sized(api.load(made.path), tmp_path / "runs")["topics"].amounts
    assert found["optimizer steps"].value == 7
    assert "tokens in all" not in found


def test_a_missing_model_is_reported_once_and_has_no_empty_column(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    made = recipe()
    text = made.path.read_text(encoding="utf-8").replace("model: {type: bert", "model: some/one #")
    made.path.write_text(text, encoding="utf-8")
    assert main(["plan", str(made.path), "--runs", str(tmp_path / "runs"), "--sizes"]) == 0
    out = capsys.readouterr().out
    assert out.count("some/one is not on this machine, so the model's size is not known") == 1
    assert "parameters" not in out


def test_the_memory_of_a_decoder_counts_what_it_writes(recipe, tmp_path):
    def memory(target_length: int) -> float:
        made = recipe()
        text = made.path.read_text(encoding="utf-8").replace(
            "{kind: masked-lm, length: 16}",
            f"{{kind: text-generation, length: 16, target_length: {target_length}, completion: label}}",
        )
        text = text.replace("kind: pretrain", "kind: finetune").replace("type: bert", "type: llama")
        made.path.write_text(text.replace("16,", "16, template: '{text}',", 1), encoding="utf-8")
        return sized(api.load(made.path), tmp_path / "runs")["pretrain"].amounts["activations"].value

    assert memory(48) > 1.5 * memory(16)


def test_a_time_budget_is_left_open(recipe, tmp_path):
    found = sized(recipe("budget: 2min"), tmp_path / "runs")["pretrain"]
    assert "optimizer steps" not in found.amounts
    assert "parameters" in found.amounts


def test_the_measured_steps_of_an_interrupted_time_budget_are_known(recipe, tmp_path):
    made, runs = recipe("budget: 2min"), tmp_path / "runs"
    [folder] = (step.folder for step in api.plan(made, runs) if step.name == "pretrain")
    (folder / ".work").mkdir(parents=True)
    kept = folder / ".work" / STEPS
    decide_once(kept, StepCount, lambda: StepCount(steps=40))
    assert sized(made, runs)["pretrain"].amounts["optimizer steps"].value == 40
    kept.write_text(kept.read_text().replace("40", "41"), encoding="utf-8")
    assert "optimizer steps" not in sized(made, runs)["pretrain"].amounts


@pytest.mark.slow
def test_a_large_split_is_sampled_and_marked(recipe, tmp_path):
    made = recipe(rows=3000)
    api.run(made, tmp_path / "runs", until="words", say=lambda _: None)
    steps = {step.name: step for step in api.plan(made, tmp_path / "runs")}
    task, data = steps["topics"].stage.task, steps["data"].folder
    train, tokenizer = open_data(data)["train"], load_tokenizer(steps["words"].folder)
    about = sized(made, tmp_path / "runs")["topics"].amounts["tokens per epoch"]
    exact = sum(map(len, task.runtime().encoder.encode(train[:], tokenizer, read_facts(data))["input_ids"]))
    assert about.estimated
    assert about.value == pytest.approx(exact, rel=0.03)


@pytest.mark.slow
def test_sizes_of_a_finished_training_are_what_it_reported(recipe, tmp_path):
    made = recipe("max_steps: 6, save_steps: 2, save_total_limit: 1")
    before = sized(made, tmp_path / "runs")["pretrain"].amounts
    run = api.run(made, tmp_path / "runs", until="pretrain", say=lambda _: None)
    after = sized(made, tmp_path / "runs")["pretrain"].amounts
    report = run.reports["pretrain"]
    assert after["parameters"].value == report.facts["parameters"]
    assert after["optimizer steps"].value == before["optimizer steps"].value == report.facts["steps"] == 6
    assert after["tokens per epoch"].value == report.ledger["train"]["tokens"]
    weights = (run.folders["pretrain"] / "model.safetensors").stat().st_size
    assert after["weights"].value == pytest.approx(weights, rel=0.1)


@pytest.mark.parametrize(
    ("name", "parts"), [("ddp", (1, 1, 1)), ("fsdp", (8, 8, 8)), ("hybrid-shard", (4, 4, 4))]
)
def test_the_memory_of_a_device_counts_its_part_of_what_is_split(recipe, tmp_path, name, parts):
    made = recipe("bf16: false").path
    made.write_text(made.read_text().replace("batch_size: 4", "batch_size: 16"), encoding="utf-8")
    loaded = api.load(made)
    steps = api.plan(loaded, tmp_path / "runs")
    config = Path(__file__).parent.parent / "recipes" / "accelerate" / f"{name}.yaml"
    whole, split = (
        {size.stage: size.amounts for size in api.sizes(loaded, steps, launch=Launch(config=each))}[
            "pretrain"
        ]
        for each in (config.with_name("single.yaml"), config)
    )
    for what, part in zip(("weights", "gradients", "optimizer state"), parts, strict=True):
        assert split[what].value == whole[what].value / part
    logits_and_layers = split["activations"].value / whole["activations"].value
    assert logits_and_layers == pytest.approx(1 / 8, rel=0.01)  # each process has two rows of sixteen
    assert ("gradient buckets" in split) == (name == "ddp")
    more = ("gradient buckets", "gathered weights")
    total = sum(split[what].value for what in (*PARTS, *more) if what in split)
    assert split["memory per device"].value == pytest.approx(total)


def test_the_command_prints_a_table(recipe, tmp_path, capsys):
    recipe()
    assert main(["plan", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs"), "--sizes"]) == 0
    out = capsys.readouterr().out
    assert "parameters" in out
    assert "memory per device" in out
    assert "pretrain: tokens per epoch are not known before stage:data is made" in out


def test_a_saved_tokenizer_counts_as_its_stand_in(tmp_path):
    from tokenizers import Tokenizer, models

    vocabulary = {f"w{number}": number for number in range(50)}
    real = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "w0")))
    base = {"type": "bert", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    shapes = [
        cost.shape_of("AutoModelForMaskedLM", create_config(base, tokenizer, {}))
        for tokenizer in (real, cost.FutureTokenizer(len(real)))
    ]
    assert shapes[0] == shapes[1]
