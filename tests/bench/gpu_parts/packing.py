"""Part f: packed documents are read as if each were alone, by each attention that a GPU may take for them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from parts.timing import graphs, release
from torch import Tensor

from gpu_parts.records import Settings, emit

SIZE = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 128, "n_layer": 2, "n_head": 2, "n_positions": 2048},
    "llama": SIZE,
    "qwen2": SIZE | {"num_key_value_heads": 1},
    "modernbert": SIZE | {"num_hidden_layers": 4, "local_attention": 64},
}
WAYS = ("sdpa", "flex_attention", "flash_attention_2", "kernels-community/flash-attn2")
"""Attention implementations by their names in Transformers; the last two where they are installed."""
VOCABULARY, ROWS, LENGTH, TOY_LENGTH = 500, 4, 2048, 256
BEGIN, END = 1, 2
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest deviation that passes of a logit and of a gradient, as a share of the largest of them."""
LEAST = 12
"""Seconds that have to be left before another check is begun."""


def run(settings: Settings) -> None:
    """Check every model with every attention that there is here."""
    for kind in KINDS:
        for way in WAYS:
            check = f"separate documents, {kind}, {way}"
            if not settings.toy and settings.left < LEAST:
                emit("f", check=check, skipped="no time left")
                continue
            release()
            try:
                emit("f", check=check, **_check(kind, way, settings))
            except ImportError as error:  # as of a kernel that is not installed
                emit("f", check=check, skipped=f"{type(error).__name__}: {error}"[:300])
            except Exception as error:
                import traceback

                traceback.print_exc()
                emit("f", check=check, ok=False, error=f"{type(error).__name__}: {error}"[:500])


def _check(kind: str, way: str, settings: Settings) -> dict[str, Any]:
    """Compare logits, and gradients where the kernel has them, with those of each document alone."""
    from hfpipe.modeling.attention.separate_documents import SeparateDocuments, Separation, find_separation
    from hfpipe.modeling.losses.losses import forward

    precision = "bf16" if "flash" in way else "fp32"
    model = _model(kind, settings.device)
    found = find_separation(model)
    assert found is not None
    if "flash" in way:
        model.set_attn_implementation(way)  # raises where the kernel is not there
    batch = _batch(settings)
    separate = SeparateDocuments(model, Separation(found.by, way))
    trained = settings.device == "cuda" or way != "flex_attention"  # whose backward pass a CPU lacks
    if not settings.toy:
        model.compile(dynamic=False)

    def together() -> Tensor:
        with separate(batch) as inputs:
            logits: Tensor = forward(model, inputs, None).logits
        return logits

    with _kernels(settings), torch.autocast(settings.device, torch.bfloat16, enabled=precision == "bf16"):
        packed, gradient = _with_gradient(model, together, batch, trained=trained)
    model._compiled_call_impl = None
    model.set_attn_implementation("sdpa")
    alone, reference = _with_gradient(model, lambda: _alone(model, batch), batch, trained=trained)
    deviations = {"logits": _deviation(packed, alone)}
    if gradient is not None and reference is not None:
        deviations["gradients"] = _deviation(gradient, reference)
    largest = max(deviations.values())
    return {
        "ok": largest <= TOLERANCE[precision],
        "largest": float(f"{largest:.3g}"),
        "tolerance": TOLERANCE[precision],
        "deviations": {name: float(f"{each:.3g}") for name, each in deviations.items()},
        "by": found.by,
        **graphs(),
    }


def _model(kind: str, device: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    torch.manual_seed(17)
    names = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    ids = dict(zip(names, (BEGIN, END, BEGIN, END), strict=True)) | {"pad_token_id": 0}
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **ids, **KINDS[kind])
    family = AutoModelForMaskedLM if "bert" in kind else AutoModelForCausalLM
    model = family.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3 if weight.dim() > 1 else 1)  # at first, what attention adds is small
    return model.to(device).eval()


def _batch(settings: Settings) -> dict[str, Tensor]:
    """Return rows of documents of 8 to 300 tokens, without padding."""
    from hfpipe.tasks.shared.documents import number_documents

    random, length = np.random.default_rng(17), TOY_LENGTH if settings.toy else LENGTH
    rows = []
    for _ in range(ROWS):
        documents: list[np.ndarray] = []
        while sum(map(len, documents)) < length:
            body = random.integers(3, VOCABULARY, random.integers(6, 299))
            documents.append(np.concatenate([[BEGIN], body, [END]]))
        rows.append(np.concatenate(documents)[:length])
    ids = {"input_ids": torch.from_numpy(np.stack(rows))}
    return {name: each.to(settings.device) for name, each in (ids | number_documents(rows, BEGIN)).items()}


def _alone(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the logits of each document from a pass of its own, where it stands in its row."""
    from hfpipe.modeling.losses.losses import forward

    rows = []
    for ids, documents in zip(batch["input_ids"], batch["_documents"], strict=True):
        parts = ids.split(documents.unique_consecutive(return_counts=True)[1].tolist())
        rows.append(torch.cat([forward(model, {"input_ids": part[None]}, None).logits for part in parts], 1))
    return torch.cat(rows)


def _with_gradient(
    model: Any, logits_of: Any, batch: dict[str, Tensor], *, trained: bool
) -> tuple[Tensor, Tensor | None]:
    """Return logits, and the gradient of the embeddings of a loss that every logit enters."""
    with torch.set_grad_enabled(trained):
        logits = logits_of().float()
    if not trained:
        return logits, None
    model.zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["input_ids"].flatten()).backward()
    return logits.detach(), model.get_input_embeddings().weight.grad.clone()


def _deviation(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@contextmanager
def _kernels(settings: Settings) -> Iterator[None]:
    """Run FlexAttention without a compiler at toy size, where compiling takes longer than all else."""
    if not settings.toy:
        yield
        return
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield
