"""The memory of a training on a CPU: what `plan --sizes` says, and what a process takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small

import hfpipe
from hfpipe import api
from hfpipe.estimation.traced_pass import Pass, count_pass_bytes, trace_pass
from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.training.cost import FutureTokenizer

WIDE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
MODELS: dict[str, dict[str, Any]] = {
    "bert": WIDE | {"intermediate_size": 1024},
    "distilbert": {"dim": 256, "n_layers": 4, "n_heads": 4, "hidden_dim": 1024},
    "gpt2": {"n_embd": 256, "n_layer": 4, "n_head": 4},
    "llama": WIDE | {"intermediate_size": 512, "num_key_value_heads": 2},
    "modernbert": WIDE | {"intermediate_size": 384, "local_attention": 16},
    "t5": {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 2, "num_heads": 4},
}
CLASSES = {
    "bert": "AutoModelForSequenceClassification",
    "distilbert": "AutoModelForQuestionAnswering",
    "modernbert": "AutoModelForMaskedLM",
    "t5": "AutoModelForSeq2SeqLM",
}
OFF = 1.4
"""Ratio of the estimate to the measured peak, or its inverse, that passes."""


def computed(**changes: Any) -> Pass:
    usual = {"rows": 4, "length": 64, "predicted": 1.0, "padded": False, "bf16": False, "recomputed": False}
    return Pass(**usual | changes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_a_pass_without_memory_counts_what_a_pass_takes(kind: str) -> None:
    config = create_config({"type": kind} | MODELS[kind], FutureTokenizer(2000), {"num_labels": 2})
    auto = CLASSES.get(kind, "AutoModelForCausalLM")
    model = create_model(auto, config, seed=1)
    each = [computed(), computed(bf16=True), computed(padded=True, predicted=0.3), computed(chunked=False)]
    found = [trace_pass(auto, config, None, one) for one in each]
    assert found == pytest.approx([count_pass_bytes(model, one) for one in each], rel=0.1)
    assert found[1] < found[0]


def test_a_pass_that_recomputes_layers_takes_less() -> None:
    config = create_config({"type": "llama"} | MODELS["llama"], FutureTokenizer(2000), {})
    kept = [
        trace_pass("AutoModelForCausalLM", config, None, computed(rows=32, recomputed=each))
        for each in (True, False)
    ]
    assert kept[0] < 0.6 * kept[1]


def test_a_model_that_cannot_be_traced_is_left_to_the_formula() -> None:
    config = create_config({"type": "bert"} | MODELS["bert"], FutureTokenizer(2000), {})
    assert trace_pass("AutoModelForMultipleChoice", config, None, computed()) is None


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "task"), [("gpt2", "causal-lm"), ("bert", "masked-lm")])
def test_the_estimate_is_near_the_peak_of_a_process(kind: str, task: str, tmp_path: Path) -> None:
    recipe = small.recipe(per_device_train_batch_size=16, max_steps=3)
    stages = recipe["stages"]
    if kind == "gpt2":
        stages["words"]["algorithm"] = "bpe"
    model = {"type": kind} | MODELS[kind]
    stages["pretrain"] |= {"task": {"kind": task, "length": 256}, "model": model}
    del stages["topics"], stages["score"]
    path = small.write(tmp_path, recipe)
    loaded = hfpipe.load(path)
    plan = api.plan(loaded, tmp_path / "runs")
    sizes = {size.stage: size.amounts for size in api.sizes(loaded, plan)}["pretrain"]
    done = small.hfpipe("run", path, "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "runs" / "small").glob("pretrain-*")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    peak = max(line["memory_bytes"] for line in lines if "memory_bytes" in line)
    estimate = sizes["memory per device"].value
    print(f"{kind}: estimated {estimate / 1e6:.0f} MB, measured {peak / 1e6:.0f} MB")
    assert sizes["activations"].value > 2e8  # so that it is not only the libraries that agree
    assert peak / OFF < estimate < peak * OFF
