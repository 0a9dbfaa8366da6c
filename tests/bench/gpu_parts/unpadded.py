"""Part u: fine-tuning without padding has the gradients of padded batches, and how fast both are."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from parts.models import BERT, MODERNBERT, Bench, sized
from parts.timing import peak_gb, release, synchronize
from torch import Tensor

from gpu_parts.packing import KINDS, TOLERANCE
from gpu_parts.records import Settings, emit, peaks

CLASSES, VOCABULARY, ROWS = 8, 500, 32
MEDIAN, SPREAD, LONGEST = 120, 0.7, 512
"""Tokens of a text: median and standard deviation of the logarithm, and the most."""
STEPS, WARM = 24, 6
LEAST = 15
"""Seconds that have to be left before another measurement is begun."""


def run(settings: Settings) -> None:
    """Compare gradients, then times, with and without padding."""
    for kind in ("bert", *KINDS):
        for precision in TOLERANCE:
            _guard({"check": f"unpadded, {kind}, {precision}"}, settings, _check, kind, precision, settings)
    for bench in (MODERNBERT, BERT):
        for padded in (True, False):
            facts = {"model": bench.name, "contender": "fine-tuning, " + ("padded" if padded else "unpadded")}
            _guard(facts, settings, _measure, bench, padded, settings)


def _guard(facts: dict[str, Any], settings: Settings, work: Any, *arguments: Any) -> None:
    """Record what a measurement returns; a failure does not stop what comes next."""
    if not settings.toy and settings.left < LEAST:
        emit("u", **facts, skipped="no time left")
        return
    release()
    try:
        emit("u", **facts, **work(*arguments))
    except Exception as error:
        import traceback

        traceback.print_exc()
        emit("u", **facts, error=f"{type(error).__name__}: {error}"[:500])


def _check(kind: str, precision: str, settings: Settings) -> dict[str, Any]:
    """Compare the gradients of the layers of a small classifier, by the norm of their difference."""
    from hfpipe.modeling.attention.unpadding import find_unpadding

    entries: dict[str, Any] = KINDS.get(kind, KINDS["llama"] | {"max_position_embeddings": 512})
    model = _create_model(kind, entries | {"vocab_size": VOCABULARY}, settings).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3 if weight.dim() > 1 else 1)  # at first, what attention adds is small
    way = find_unpadding(model)
    assert way is not None
    way.choose_kernel(model)
    [batch] = _make_batches(1, 8, VOCABULARY, settings)
    half = precision == "bf16"
    expected = _compute_gradient(model, _drop_layout(batch), way, settings, half=half)
    found = _compute_gradient(model, batch, way, settings, half=half)
    largest = float((found - expected).norm() / expected.norm())
    tolerance = TOLERANCE[precision]
    return {
        "ok": largest <= tolerance,
        "largest": float(f"{largest:.3g}"),
        "tolerance": tolerance,
        "attention": way.attention,
    }


def _create_model(kind: str, entries: dict[str, Any], settings: Settings) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(17)
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    ids = dict(zip(names, (0, 1, 2, 1, 2), strict=True))
    config = AutoConfig.for_model(kind, **entries, **ids, num_labels=CLASSES)
    model: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    return model.to(settings.device)


def _make_batches(number: int, rows: int, vocabulary: int, settings: Settings) -> list[dict[str, Tensor]]:
    """Return batches of texts of uneven length, ordered as in a training, with layouts without padding."""
    from hfpipe.encoding.sampler import order_examples
    from hfpipe.modeling.attention.layout import TAIL, make_layout

    random = np.random.default_rng(17)
    longest = 48 if settings.toy else LONGEST
    lengths = random.lognormal(np.log(min(MEDIAN, longest // 3)), SPREAD, number * rows)
    lengths = lengths.clip(4, longest).astype(np.int64)
    batches = []
    for step in order_examples(lengths, rows, 17, 0, grouped=True):
        sizes = torch.from_numpy(lengths[step])
        mask = (torch.arange(int(sizes.max())) < sizes[:, None]).long()
        ids = torch.from_numpy(random.integers(3, vocabulary, tuple(mask.shape))) * mask
        labels = torch.from_numpy(random.integers(0, CLASSES, rows))
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        entries = batch | make_layout(mask, TAIL if settings.device == "cuda" else 1)
        batches.append({name: each.to(settings.device) for name, each in entries.items()})
    return batches


def _drop_layout(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each for name, each in batch.items() if not name.startswith("_")}


def _train(model: Any, batch: dict[str, Tensor], way: Any, settings: Settings, *, half: bool) -> None:
    from hfpipe.modeling.losses.losses import compute_label_loss, forward

    with torch.autocast(settings.device, torch.bfloat16, enabled=half), way(batch) as inputs:
        outputs = forward(model, inputs, None)
    (compute_label_loss(outputs.logits, batch["labels"]).total / len(batch["labels"])).backward()


def _compute_gradient(
    model: Any, batch: dict[str, Tensor], way: Any, settings: Settings, *, half: bool
) -> Tensor:
    model.zero_grad(set_to_none=True)
    _train(model, batch, way, settings, half=half)
    weights = model.base_model.parameters()
    return torch.cat([each.grad.float().flatten() for each in weights if each.grad is not None])


def _measure(bench: Bench, padded: bool, settings: Settings) -> dict[str, Any]:
    """Fine-tune a classifier in bfloat16; tokens are counted without padding."""
    from hfpipe.modeling.attention.unpadding import find_unpadding

    rows = 8 if settings.toy else ROWS
    family = "AutoModelForSequenceClassification"
    bench = sized(replace(bench, length=MEDIAN, micro=rows, mask=None, family=family), toy=settings.toy)
    torch.set_float32_matmul_precision("high")
    model = _create_model(bench.kind, bench.entries | {"vocab_size": bench.vocabulary}, settings).train()
    way = find_unpadding(model)
    assert way is not None
    way.choose_kernel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5, fused=settings.device == "cuda")
    steps, warm = (3, 1) if settings.toy else (STEPS, WARM)
    batches = _make_batches(steps + warm, rows, bench.vocabulary, settings)
    started, first, begun = time.perf_counter(), 0.0, 0.0
    for number, batch in enumerate(batches):
        if number == warm:
            synchronize(settings.device)
            begun = time.perf_counter()
        _train(model, _drop_layout(batch) if padded else batch, way, settings, half=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if number == 0:
            synchronize(settings.device)
            first = time.perf_counter() - started
    synchronize(settings.device)
    seconds = time.perf_counter() - begun
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches[warm:])
    nominal, measured = peaks()
    return {
        "micro": rows,
        "length": bench.length,
        "tokens_s": round(tokens / seconds),
        "rows_s": round(steps * rows / seconds, 1),
        "padding": round(1 - tokens / sum(batch["input_ids"].numel() for batch in batches[warm:]), 4),
        "attention": "sdpa" if padded else way.attention,
        "mfu": bench.share(tokens / seconds, nominal),
        "of_gemm": bench.share(tokens / seconds, measured),
        "step_ms": round(seconds / steps * 1000, 2),
        "first_step_s": round(first, 1),
        "peak_gb": peak_gb(),
    }
