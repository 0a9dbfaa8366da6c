"""Part f, second item: from which length on FlexAttention is faster than masks for packed documents."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from parts.models import SMALL_LLAMA, Bench, sized
from parts.timing import graphs, peak_gb, release, synchronize
from torch import Tensor

from gpu_parts.records import Settings, emit, peaks

TOKENS, LENGTHS = 32_768, (512, 1024, 2048, 8192)
"""Tokens of a step, and the lengths of a row, in which documents have 400 tokens on average."""
DOCUMENTS = 400
WAYS = ("sdpa", "flex_attention")
WARM, TIMED = 5, 15
LEAST = 25
"""Seconds that have to be left before another measurement is begun."""


def run(settings: Settings) -> None:
    """Train at each length with each attention, as far as there is time."""
    torch.set_float32_matmul_precision("high")
    for length in LENGTHS[:1] if settings.toy else LENGTHS:
        for way in WAYS:
            facts = {"model": SMALL_LLAMA.name, "contender": f"separate documents, {length}, {way}"}
            if settings.toy and way == "flex_attention":
                emit("f", **facts, skipped="flex_attention trains on a GPU only")
                continue
            if not settings.toy and settings.left < LEAST:
                emit("f", **facts, skipped="no time left")
                continue
            release()
            bench = sized(replace(SMALL_LLAMA, length=length, micro=TOKENS // length), toy=settings.toy)
            try:
                emit("f", **facts, **_measure(bench, way, settings))
            except Exception as error:
                import traceback

                traceback.print_exc()
                emit("f", **facts, error=f"{type(error).__name__}: {error}"[:500])


def _measure(bench: Bench, way: str, settings: Settings) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    from hfpipe.modeling.attention.separate_documents import SeparateDocuments, Separation

    device = settings.device
    torch.manual_seed(17)
    model: Any = AutoModelForCausalLM.from_config(bench.config(), dtype=torch.float32).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=device == "cuda")
    separate = SeparateDocuments(model, Separation("positions", way))
    batches = [_batch(bench, device, seed) for seed in range(4)]
    model.compile(backend="aot_eager" if settings.toy else "inductor", dynamic=False)
    warm, timed = (1, 2) if settings.toy else (WARM, TIMED)
    started, begun, first, loss = time.perf_counter(), 0.0, 0.0, torch.zeros(())
    for step in range(warm + timed):
        if step == warm:
            synchronize(device)
            begun = time.perf_counter()
        loss = _step(model, separate, batches[step % 4], optimizer, device)
        if step == 0:
            synchronize(device)
            first = time.perf_counter() - started
    synchronize(device)
    speed = timed * bench.tokens / (time.perf_counter() - begun)
    nominal, measured = peaks()
    return {
        "micro": bench.micro,
        "length": bench.length,
        "tokens_s": round(speed),
        "mfu": bench.share(speed, nominal),
        "of_gemm": bench.share(speed, measured),
        "step_ms": round(bench.tokens / speed * 1000, 2),
        "first_step_s": round(first, 1),
        "peak_gb": peak_gb(),
        "loss": round(loss.item(), 4),
        **graphs(),
    }


def _step(model: Any, separate: Any, batch: dict[str, Tensor], optimizer: Any, device: str) -> Tensor:
    with torch.autocast(device, torch.bfloat16), separate(batch) as inputs:
        given = {name: each for name, each in inputs.items() if not name.startswith("_")}
        logits = model(**given, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), batch["input_ids"][:, 1:].flatten()
        )
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _batch(bench: Bench, device: str, seed: int) -> dict[str, Tensor]:
    """Return rows full of documents whose lengths are spread around the average as those of texts are."""
    from hfpipe.tasks.shared.documents import number_documents

    random = np.random.default_rng(seed)
    ids = random.integers(6, bench.vocabulary, (bench.micro, bench.length))
    ids[random.random(ids.shape) < 1 / min(DOCUMENTS, bench.length // 4)] = 1
    ids[:, 0] = 1
    found = {"input_ids": torch.from_numpy(ids)} | number_documents(list(ids), 1)
    return {name: each.to(device) for name, each in found.items()}
