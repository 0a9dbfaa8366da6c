"""Adapters train what they say, leave their base alone, and open wherever a model does."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
import small
import torch
from test_processes import outcome
from test_resume import killed_after

import hfpipe
from hfpipe.errors import RecipeError, StageError

LORA = {"type": "lora", "r": 4, "lora_alpha": 8}


def recipe(**adapter: Any) -> dict[str, Any]:
    """Return the small recipe with its classifier trained by an adapter."""
    made = small.recipe("bert")
    made["stages"]["topics"]["adapter"] = LORA | adapter
    made["stages"]["topics"]["training"]["learning_rate"] = 5e-3
    return made


def logits(model: Any) -> Any:
    ids = torch.tensor([[2, 17, 18, 19, 3]])
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def opened(folder: Path, **options: Any) -> Any:
    """Open a model as somebody would who knows nothing of hfpipe."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The small recipe with an adapter, its merged twin, and models that go on from the adapter."""
    made, folder = recipe(), tmp_path_factory.mktemp("adapters")
    stages = made["stages"]
    stages["merged"] = stages["topics"] | {"adapter": LORA | {"merge": True}}
    stages["on"] = {name: value for name, value in stages["topics"].items() if name != "adapter"} | {
        "model": "stage:topics"
    }
    stages["back"] = stages["pretrain"] | {"kind": "finetune", "model": "stage:topics"}
    stages["upon"] = stages["topics"] | {"model": "stage:merged"}
    stages["score"]["baselines"] = ["stage:merged", "stage:on", "stage:upon"]
    stages["score"] = stages.pop("score")
    return hfpipe.run(hfpipe.load(small.write(folder, made)), folder / "runs", say=lambda _: None)


@pytest.mark.slow
def test_only_the_adapter_and_a_new_head_are_trained(trained: Any) -> None:
    from safetensors.torch import load_file

    facts = trained.reports["topics"].facts
    kept = load_file(trained.folders["topics"] / "adapter_model.safetensors")
    assert facts["trained_parameters"] == sum(weight.numel() for weight in kept.values())
    assert facts["trained_parameters"] < facts["parameters"] / 4
    assert {name.split(".")[-2] for name in kept} == {"lora_A", "lora_B", "classifier", "dense"}
    assert f"({facts['trained_parameters']:,} trained)" in trained.reports["topics"].summary
    losses = [step["loss"] for step in small.history(trained.reports["topics"].model_dump())]
    assert losses[-1] < losses[0]

    base = load_file(trained.folders["pretrain"] / "model.safetensors")
    merged = load_file(trained.folders["merged"] / "model.safetensors")
    trunk = {name for name in merged.keys() & base.keys() if "pooler" not in name}
    learned = {name for name in trunk if not merged[name].equal(base[name])}
    assert learned == {
        name.removeprefix("base_model.model.").replace("lora_A.", "") for name in kept if "lora_A" in name
    }
    assert len(learned) == 12
    for name in learned:
        down, up = (
            kept[f"base_model.model.{name.removesuffix('weight')}lora_{side}.weight"] for side in "AB"
        )
        assert merged[name] == pytest.approx(base[name] + up @ down * 8 / 4, abs=1e-6)


@pytest.mark.slow
def test_the_folder_opens_in_plain_transformers_and_says_the_same(trained: Any) -> None:
    from transformers import AutoConfig, AutoTokenizer

    from hfpipe.modeling.loading.models import load_model

    classes = len(trained.reports["wiki"].data.labels["label"])
    ours = load_model("AutoModelForSequenceClassification", trained.folders["topics"], 1, whole=True)
    assert len(ours.config.id2label) == classes
    theirs = opened(
        trained.folders["topics"], config=AutoConfig.from_pretrained(trained.folders["topics"] / "model")
    )
    assert theirs.config.id2label == ours.config.id2label
    assert logits(theirs) == pytest.approx(logits(ours), abs=1e-5)
    assert len(AutoTokenizer.from_pretrained(trained.folders["topics"])) > 100
    assert not (trained.folders["merged"] / "adapter_config.json").exists()
    merged = opened(trained.folders["merged"])
    assert merged.config.architectures == ["BertForSequenceClassification"]
    assert logits(merged) == pytest.approx(logits(ours), abs=1e-5)


@pytest.mark.slow
def test_an_adapter_is_measured_and_gone_on_from_as_any_model(trained: Any) -> None:
    [accuracy] = [score for score in trained.reports["score"].scores if score.metric == "accuracy"]
    by_name = {comparison.baseline: comparison for comparison in accuracy.comparisons}
    assert by_name["stage:merged"].value == accuracy.value
    assert set(by_name) == {"stage:merged", "stage:on", "stage:upon"}
    first = {
        stage: small.history(trained.reports[stage].model_dump())[0]["loss"]
        for stage in ("topics", "on", "upon")
    }
    assert first["on"] < first["topics"]
    assert first["upon"] == pytest.approx(first["on"], abs=1e-4)
    assert trained.reports["on"].facts["trained_parameters"] == trained.reports["on"].facts["parameters"]
    log = (trained.folders["back"] / "stage.log").read_text(encoding="utf-8")
    assert "newly initialized weights: cls.predictions" in log


@pytest.mark.slow
def test_runs_that_were_moved_still_open(trained: Any, tmp_path: Path) -> None:
    from hfpipe.modeling.loading.models import load_model

    shutil.copytree(trained.folders["topics"], tmp_path / trained.folders["topics"].name)
    shutil.copytree(trained.folders["pretrain"], tmp_path / trained.folders["pretrain"].name)
    moved = tmp_path / trained.folders["topics"].name
    file = moved / "adapter_config.json"
    config = json.loads(file.read_text())
    gone = Path("/gone") / Path(config["base_model_name_or_path"]).name
    file.write_text(json.dumps(config | {"base_model_name_or_path": str(gone)}))
    ours = load_model("AutoModelForSequenceClassification", moved, 1, whole=True)
    there = load_model("AutoModelForSequenceClassification", trained.folders["topics"], 1, whole=True)
    assert logits(ours).equal(logits(there))


def test_a_base_on_the_hub_is_named_with_its_revision(tmp_path: Path) -> None:
    from hfpipe.modeling.loading.lora import find_base

    base = find_base({"base_model_name_or_path": "Qwen/Qwen2.5-0.5B", "revision": "v1"}, tmp_path)
    assert base == "Qwen/Qwen2.5-0.5B@v1"
    assert find_base({"base_model_name_or_path": str(tmp_path), "revision": None}, tmp_path) == tmp_path


@pytest.mark.slow
def test_a_killed_adapter_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    made = recipe(lora_dropout=0.1)
    made["stages"]["topics"]["training"] |= {"max_steps": 30, "save_steps": 10}
    path = small.write(tmp_path, made)
    straight = hfpipe.run(hfpipe.load(path), tmp_path / "straight", say=lambda _: None)
    killed_after("checkpoint-10", "topics", path, tmp_path / "killed")
    resumed = hfpipe.run(hfpipe.load(path), tmp_path / "killed", say=lambda _: None)
    assert "resuming from checkpoint-" in (resumed.folders["topics"] / "stage.log").read_text()
    one, other = (run.folders["topics"] / "adapter_model.safetensors" for run in (straight, resumed))
    assert one.read_bytes() == other.read_bytes()
    assert [score.value for score in resumed.reports["score"].scores] == [
        score.value for score in straight.reports["score"].scores
    ]


@pytest.mark.slow
def test_two_processes_train_the_adapter_of_one(trained: Any, tmp_path: Path) -> None:
    made = recipe(merge=True)
    del made["stages"]["words"], made["stages"]["pretrain"]
    made["stages"]["topics"]["model"] = str(trained.folders["pretrain"])
    path = small.write(tmp_path, made)
    alone = outcome(hfpipe.run(hfpipe.load(path), tmp_path / "alone", say=lambda _: None), ["topics"])
    processes.run(path, tmp_path / "together", processes.config_file(tmp_path, "ddp", 2))
    together = outcome(hfpipe.open(path, tmp_path / "together"), ["topics"])
    assert together.keys() == alone.keys()
    for key, value in alone.items():
        rounding = 1e-4 if key == "topics" else 5e-3  # ranks turn by rounding
        for mine, theirs in zip(together[key], value, strict=True):
            assert mine == pytest.approx(theirs, abs=rounding), key


@pytest.mark.slow
@pytest.mark.parametrize("option", [{"activation_checkpointing": True}, {"load_best_model_at_end": True}])
def test_checkpointing_and_keeping_the_best_model_change_no_step_of_an_adapter(
    trained: Any, tmp_path: Path, option: dict[str, Any]
) -> None:
    made, runs = recipe(), trained.folders["topics"].parents[1]
    made["stages"]["topics"]["training"] |= option
    run = hfpipe.run(hfpipe.load(small.write(tmp_path, made)), runs, until="topics", say=lambda _: None)
    assert run.folders["pretrain"] == trained.folders["pretrain"]
    assert run.folders["topics"] != trained.folders["topics"]
    mine, plain = (small.history(each.reports["topics"].model_dump()) for each in (run, trained))
    assert len(mine) == len(plain) == 6
    for step, other in zip(mine, plain, strict=True):
        assert step["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert step["grad_norm"] == pytest.approx(other["grad_norm"], abs=1e-5)


def problems(tmp_path: Path, made: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        hfpipe.load(small.write(tmp_path, made))
    return str(caught.value)


def test_an_adapter_of_a_model_from_scratch_is_refused(tmp_path: Path) -> None:
    made = recipe()
    made["stages"]["pretrain"]["adapter"] = LORA
    assert "which a model from scratch does not have; name a model, or delete adapter" in problems(
        tmp_path, made
    )


def test_an_adapter_on_an_adapter_is_refused_unless_that_is_merged(tmp_path: Path) -> None:
    made = recipe()
    made["stages"]["more"] = made["stages"]["topics"] | {"model": "stage:topics"}
    assert "stage:topics is an adapter, to which no other can be added" in problems(tmp_path, made)
    made["stages"]["topics"] = made["stages"]["topics"] | {"adapter": LORA | {"merge": True}}
    assert hfpipe.load(small.write(tmp_path, made)).stages["more"]


def test_names_of_other_tools_are_led_to_ours(tmp_path: Path) -> None:
    made = recipe(alpha=8)
    made["stages"]["topics"]["lora_r"] = 4
    found = problems(tmp_path, made)
    assert "unknown key 'alpha' in stages.topics.adapter; write 'lora_alpha'" in found
    assert "write 'adapter.r'" in found


def test_a_missing_peft_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hfpipe.modeling.loading.lora import merge_adapter

    monkeypatch.setitem(sys.modules, "peft", None)
    assert "peft, which is not installed; pip install 'hfpipe[lora]'" in problems(tmp_path, recipe())
    with pytest.raises(StageError, match=r"pip install 'hfpipe\[lora\]'"):
        merge_adapter(None, "folder", None, local=True)  # type: ignore[arg-type]


def test_an_adapter_writes_by_the_settings_of_its_base(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from hfpipe.modeling.loading.lora import add_adapter, keep_config
    from hfpipe.modeling.loading.models import load_model
    from hfpipe.stages.train import Adapter

    base = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=1))
    base.generation_config.repetition_penalty = 1.3
    base.save_pretrained(tmp_path / "base")
    model = add_adapter(base, Adapter.model_validate(LORA).settings, [], tmp_path / "base", 1)
    model.save_pretrained(str(tmp_path / "adapter"))
    keep_config(model, tmp_path / "adapter")
    whole = load_model("AutoModelForCausalLM", tmp_path / "adapter", 1, whole=True)
    assert whole.generation_config.repetition_penalty == 1.3
    assert logits(whole).equal(logits(base))


def test_frozen_weights_in_half_precision_change_no_loss_and_no_gradient() -> None:
    from transformers import AutoConfig

    from hfpipe.modeling.half_weights import halve_frozen
    from hfpipe.modeling.loading.lora import add_lora
    from hfpipe.modeling.loading.models import create_model

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = torch.arange(2, 66).reshape(2, 32)

    def learned(*, tied: bool, halved: bool) -> tuple[list[torch.Tensor], int, torch.dtype]:
        config = AutoConfig.for_model("llama", vocab_size=99, tie_word_embeddings=tied, **sizes)
        settings = {"r": 4, "target_modules": "all-linear", "modules_to_save": []}
        model = add_lora(create_model("AutoModelForCausalLM", config, 3), settings).train()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).reshape(weight.shape))
        count = halve_frozen(model) if halved else 0
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids, labels=ids).loss
        loss.backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        return [loss.detach(), *gradients], count, model.get_input_embeddings().weight.dtype

    for tied in (True, False):
        whole, none, _ = learned(tied=tied, halved=False)
        half, count, embeddings = learned(tied=tied, halved=True)
        assert embeddings == torch.float32
        assert (none, count) == (0, 2 * (4 * 32 * 32 + 3 * 32 * 48) + (0 if tied else 99 * 32))
        assert len(whole) > 20
        for one, other in zip(whole, half, strict=True):
            assert torch.equal(one, other)


def test_a_plan_counts_what_is_trained_as_the_training_does(tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from hfpipe.modeling.loading.lora import add_adapter
    from hfpipe.stages.train import Adapter
    from hfpipe.training import cost

    config = Qwen3Config(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
    )
    settings = Adapter.model_validate(LORA).settings
    whole = cost.shape_of("AutoModelForCausalLM", config)
    shape = cost.shape_of("AutoModelForCausalLM", config, settings)
    model = add_adapter(Qwen3ForCausalLM(config), settings, [], tmp_path, 1)
    assert shape.trained == model.num_parameters(only_trainable=True)
    assert shape.parameters == model.num_parameters() == whole.parameters + shape.trained
    assert whole.trained == whole.parameters
    assert cost.compute_optimizer_state(shape, None) == 8 * shape.trained
    ratio = cost.compute_flops(shape, 1.0, 0.0, 1.0) / cost.compute_flops(whole, 1.0, 0.0, 1.0)
    assert (
        4 / 6 < ratio < 1
    )  # nothing is saved of the way forward, nor of the way back through frozen weights
