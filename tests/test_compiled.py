"""A compiled training: the losses of an eager one, compiled once, without masks where none is needed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from cases import DECODER, ENCODER
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.utils import counters
from transformers import CONFIG_MAPPING

from hfpipe.contract import RunContext
from hfpipe.encoding.encoded import encode
from hfpipe.encoding.io import extract_facts
from hfpipe.errors import StageError
from hfpipe.modeling.attention.masks import omit_masks, runs_without_masks
from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.modeling.losses.losses import IGNORED, compute_token_loss
from hfpipe.modeling.static_shapes import find_static_positions
from hfpipe.task import TaskConfig
from hfpipe.tasks.causal_lm import CausalLM
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner
from hfpipe.training.checkpoints import find_newest_checkpoint
from hfpipe.training.crashes.finite import FiniteCheck
from hfpipe.training.loop import train_model
from hfpipe.training.trainer import Training

Make = Callable[..., RunContext]
TEXTS = [
    "The Nile is a river in Africa that flows north into the Mediterranean Sea.",
    "Everest is the highest mountain above the sea, on the border of Nepal and China.",
    "The Amazon carries more water than any other river.",
    "The Danube flows through ten countries into the Black Sea.",
] * 12
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": DECODER,
    "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "mistral": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "sliding_window": 8,
    },
    "llama4_text": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "intermediate_size_mlp": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_local_experts": 2,
        "attention_chunk_size": 8,
    },
    "bert": ENCODER,
    "modernbert": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "local_attention": 8,
    },
}
STEADY = {
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "bf16": False,
    "max_steps": 12,
}


def parts(folder: Path, task: TaskConfig, model: str) -> Training:
    """Return a small training on packed texts, model and all made from a seed."""
    folder.mkdir(exist_ok=True)
    style = STYLES["bert" if isinstance(task, MaskedLM) else "gpt"]
    tokenizer = complete_tokenizer(Learner("bpe", style, (), 300, 1, lowercase=False).learn(TEXTS), style)
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    facts = extract_facts(datasets.DatasetDict(train=rows))

    def encoded(split: str) -> Any:
        path = folder / f"{split}.arrow"
        return encode(
            task.runtime(), rows, tokenizer, facts, path, packed=split == "train", advance=lambda _: None
        )[0]

    config = create_config({"type": model} | SIZES[model], tokenizer, {})
    return Training(
        task=task.runtime(),
        model=create_model(task.auto_class, config, 3),
        tokenizer=tokenizer,
        train=encoded("train"),
        validation=encoded("validation"),
        facts=facts,
    )


def losses(
    make: Make, folder: Path, task: TaskConfig, model: str, *, compiled: bool, bf16: bool
) -> list[float]:
    made = parts(folder / str(compiled), task, model)
    training = STEADY | {"compile": compiled, "bf16": bf16, "per_device_train_batch_size": 4}
    facts = train_model(made, training, None, make(f"{model}-{compiled}"))
    return [entry["loss"] for entry in facts["history"] if "grad_norm" in entry]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "model", "bf16", "rounding"),
    [
        (CausalLM(length=32), "gpt2", True, 2e-3),
        (MaskedLM(length=32, mask=0.3), "modernbert", False, 2e-5),
    ],
    ids=["gpt2", "modernbert"],
)
def test_a_compiled_training_has_the_losses_of_an_eager_one_and_compiles_once(
    context: Make, tmp_path: Path, task: TaskConfig, model: str, bf16: bool, rounding: float
) -> None:
    eager = losses(context, tmp_path, task, model, compiled=False, bf16=bf16)
    torch._dynamo.reset()
    counters.clear()
    compiled = losses(context, tmp_path, task, model, compiled=True, bf16=bf16)
    assert compiled == pytest.approx(eager, abs=rounding)
    assert not counters["recompiles"]
    assert not counters["graph_break"]
    # one graph for the model and one for the loss; the end of the text, which is shorter, runs eagerly
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.slow
def test_a_compiled_bfloat16_training_is_resumed_bit_for_bit(context: Make, tmp_path: Path) -> None:
    ctx = context("resumed")
    training = STEADY | {"compile": True, "bf16": True, "per_device_train_batch_size": 4}
    training |= {"save_steps": 4, "save_total_limit": None}
    task = MaskedLM(length=32, mask=0.3)
    train_model(parts(tmp_path, task, "bert"), training, None, ctx)
    whole = (ctx.folder / "model.safetensors").read_bytes()
    for name in ("checkpoint-8", "checkpoint-12"):
        shutil.rmtree(ctx.work / name, ignore_errors=True)
    (ctx.folder / "model.safetensors").unlink()
    assert find_newest_checkpoint(ctx.work)[0] == ctx.work / "checkpoint-4"
    train_model(parts(tmp_path, task, "bert"), training, None, ctx)
    assert (ctx.folder / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("kind", list(SIZES))
def test_attention_without_masks_gives_the_logits_of_attention_with_masks(kind: str) -> None:
    encoder = "bert" in kind
    config = CONFIG_MAPPING[kind](vocab_size=99, pad_token_id=0, **SIZES[kind])
    model = create_model("AutoModelForMaskedLM" if encoder else "AutoModelForCausalLM", config, 3).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.dim() > 1 else 1)  # at first, what attention adds is small
        ids = torch.arange(1, 65).reshape(2, 32)
        usual = model(ids).logits
        assert runs_without_masks(model, ids)
        with omit_masks(model):
            assert model.config._attn_implementation != "sdpa"
            torch.testing.assert_close(model(ids).logits, usual)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_sees_what_comes_after_a_token_keeps_its_masks() -> None:
    config = CONFIG_MAPPING["gemma3_text"](
        vocab_size=99,
        num_key_value_heads=2,
        head_dim=16,
        use_bidirectional_attention=True,
        **SIZES["llama"],
    )
    model = create_model("AutoModelForCausalLM", config, 3)
    assert not runs_without_masks(model, torch.arange(32)[None])


@pytest.mark.slow
@given(st.integers(1, 6), st.integers(1, 40), st.data())
def test_static_positions_hold_every_target_and_have_few_sizes(
    rows: int, length: int, data: st.DataObject
) -> None:
    share = data.draw(st.floats(0, 1))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    labels = torch.from_numpy(np.where(random.random((rows, length)) < share, 7, IGNORED))
    found = find_static_positions(labels, IGNORED)
    flat = labels.reshape(-1)
    targets = (flat != IGNORED).nonzero().squeeze(-1)
    assert set(targets.tolist()) <= set(found.tolist())
    assert (flat[found] != IGNORED).sum() == len(targets)
    step = -(-len(flat) // 16)
    assert len(found) in {min(step * number, len(flat)) for number in range(1, 17)}


def test_the_loss_at_static_positions_is_that_at_the_targets() -> None:
    random = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 24, 50, generator=random, requires_grad=True)
    labels = torch.randint(0, 50, (4, 24), generator=random)
    labels[torch.rand(4, 24, generator=random) < 0.8] = IGNORED
    positions = find_static_positions(labels, IGNORED)
    assert len(positions) > (labels != IGNORED).sum()
    for smoothing in (0.0, 0.1):
        exact = compute_token_loss(logits, labels, smoothing)
        filled = compute_token_loss(logits.reshape(-1, 50)[positions], labels, smoothing, positions)
        assert filled.total.item() == pytest.approx(exact.total.item(), rel=1e-6)
        assert filled.targets == exact.targets
        mine, plain = (torch.autograd.grad(each.total, logits)[0] for each in (filled, exact))
        torch.testing.assert_close(mine, plain)


def test_a_value_that_is_not_finite_stops_a_training_on_a_cpu_at_once() -> None:
    def failure(value: float) -> StageError:
        return StageError(f"the loss is {value}")

    check = FiniteCheck()
    check.watch(torch.tensor(1.0), failure)
    with pytest.raises(StageError, match="the loss is nan"):
        check.watch(torch.tensor(math.nan), failure)
    check.flush()
