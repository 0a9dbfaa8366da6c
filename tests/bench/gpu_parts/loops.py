"""Part e: a plain PyTorch loop around stock models, in variants that tell what a step is made of."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from parts.models import BENCHES, GPT2_DROPOUTS, Bench, sized
from parts.timing import graphs, peak_gb, profiler, release, synchronize, write_profile
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gpu_parts.records import LOG, Settings, emit, peaks

UNMASKED = "sdpa_unmasked"
"""SDPA under a name for which Transformers builds no mask: the flash kernel is then used under compile too.

Before torch 2.14, `_ignore_causal_mask_sdpa` never leaves the mask out while compiling.
"""
WARM, TIMED = 5, 15
LEAST = 25
"""Seconds that have to be left before another variant is begun."""


@dataclass(frozen=True)
class Variant:
    """One way to take the step."""

    name: str
    attention: str = UNMASKED
    micro: int | None = None
    whole: bool = True
    """Compile the loss together with the model; otherwise the model alone."""
    chunks: int = 1
    """Pieces in which the vocabulary head and the loss are taken, forward and backward."""
    dropout: float = 0.0
    masks: str = "model"
    """For ModernBERT: the masks as the `model` makes them, `apart` (none for global layers), or `none`."""
    profile: bool = False
    mode: str | None = None
    """How torch.compile chooses kernels; by default it tries none."""


GPT2 = (
    Variant("no mask", profile=True),
    Variant("stock sdpa", attention="sdpa"),
    Variant("no mask, model compiled alone", whole=False),
    Variant("no mask, micro 64", micro=64),
    Variant("no mask, loss in 8 chunks", chunks=8),
    Variant("no mask, dropout 0.1", dropout=0.1),
    Variant("no mask, micro 16", micro=16),
    Variant("no mask, max-autotune", mode="max-autotune-no-cudagraphs"),  # takes longest to compile
)
MODERNBERT = (
    Variant("no mask for global layers", attention="sdpa", masks="apart"),
    Variant("stock sdpa", attention="sdpa"),
    Variant("flex_attention", attention="flex_attention", masks="apart"),
    Variant("no mask at all (another model: a bound)", attention="sdpa", masks="none"),
)
VARIANTS = {"gpt2-124m": GPT2, "modernbert-base": MODERNBERT}


def run(settings: Settings, name: str) -> None:
    """Measure every variant of a model for which there is time."""
    torch.set_float32_matmul_precision("high")
    ALL_ATTENTION_FUNCTIONS.register(UNMASKED, sdpa_attention_forward)
    for variant in VARIANTS[name]:
        facts = {"model": name, "contender": f"loop: {variant.name}"}
        if settings.toy and variant.attention == "flex_attention":
            emit("e", **facts, skipped="flex_attention trains on a GPU only")
            continue
        if not settings.toy and settings.left < LEAST:
            emit("e", **facts, skipped="no time left")
            continue
        release()
        try:
            emit("e", **facts, **_measure(sized(BENCHES[name], toy=settings.toy), variant, settings))
        except Exception as error:
            import traceback

            traceback.print_exc()
            emit("e", **facts, error=f"{type(error).__name__}: {error}"[:500])


def _measure(bench: Bench, variant: Variant, settings: Settings) -> dict[str, Any]:
    device = settings.device
    micro = bench.micro if variant.micro is None or settings.toy else variant.micro
    torch.manual_seed(17)
    model = _model(bench, variant).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=device == "cuda")
    batches = [_batch(bench, micro, device) for _ in range(4)]
    loss_of = partial(_loss, model, bench, variant, _masks(bench, variant, device), device)
    backend = "aot_eager" if settings.toy else "inductor"
    if variant.whole:
        mode = None if settings.toy else variant.mode
        loss_of = torch.compile(loss_of, backend=backend, dynamic=False, mode=mode)
    else:
        body = model.base_model
        body.forward = torch.compile(body.forward, backend=backend, dynamic=False)
    started = time.perf_counter()
    warm, timed = (1, 2) if settings.toy else (WARM, TIMED)
    begun = first = 0.0
    loss = torch.zeros(())
    for step in range(warm + timed):
        if step == warm:
            synchronize(device)
            begun = time.perf_counter()
        loss = _step(loss_of, batches[step % 4], model, optimizer)
        if step == 0:
            synchronize(device)
            first = time.perf_counter() - started
    synchronize(device)
    speed = timed * micro * bench.length / (time.perf_counter() - begun)
    if variant.profile:
        with profiler(device) as found:
            for batch in batches[:3]:
                _step(loss_of, batch, model, optimizer)
            synchronize(device)
        write_profile(found, f"{bench.name}, plain loop: {variant.name}", device, LOG)
    nominal, measured = peaks()
    return {
        "micro": micro,
        "length": bench.length,
        "tokens_s": round(speed),
        "mfu": bench.share(speed, nominal),
        "of_gemm": bench.share(speed, measured),
        "step_ms": round(micro * bench.length / speed * 1000, 2),
        "first_step_s": round(first, 1),
        "peak_gb": peak_gb(),
        "loss": round(loss.item(), 4),
        **graphs(),
    }


def _step(loss_of: Any, batch: tuple[Tensor, Tensor, Tensor | None], model: Any, optimizer: Any) -> Tensor:
    loss: Tensor = loss_of(*batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _model(bench: Bench, variant: Variant) -> Any:
    config = bench.config()
    if bench.kind == "gpt2":
        for name in GPT2_DROPOUTS:
            setattr(config, name, variant.dropout)
    config._attn_implementation = "sdpa" if variant.attention == UNMASKED else variant.attention
    family = AutoModelForCausalLM if bench.mask is None else AutoModelForMaskedLM
    model = family.from_config(config, dtype=torch.float32)
    model.config._attn_implementation = variant.attention
    return model


def _batch(bench: Bench, micro: int, device: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ids (rows, length), labels (targets,) and, for a masked model, the positions of those."""
    ids = torch.randint(6, bench.vocabulary, (micro, bench.length), device=device)
    if bench.mask is None:
        return ids, ids.roll(-1, 1).reshape(-1), None
    hidden = round(bench.mask * bench.length)  # the same number in each row, so that shapes stay the same
    columns = torch.rand(micro, bench.length, device=device).argsort(1)[:, :hidden]
    rows = torch.arange(micro, device=device)[:, None]
    positions = (rows * bench.length + columns).reshape(-1)
    return ids, ids.reshape(-1)[positions], positions


def _masks(bench: Bench, variant: Variant, device: str) -> Any:
    """Return the masks that a ModernBERT is given, by type of layer; None where it makes its own."""
    if bench.kind != "modernbert" or variant.masks == "model":
        return None
    masks: dict[str, Any] = {"full_attention": None, "sliding_attention": None}
    if variant.masks == "none":
        return masks
    half = bench.config().sliding_window
    if variant.attention == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query - key).abs() <= half

        masks["sliding_attention"] = create_block_mask(
            near, None, None, bench.length, bench.length, device=device
        )
    else:
        here = torch.arange(bench.length, device=device)
        masks["sliding_attention"] = ((here[:, None] - here[None]).abs() <= half)[None, None]
    return masks


def _loss(
    model: Any,
    bench: Bench,
    variant: Variant,
    masks: Any,
    device: str,
    ids: Tensor,
    labels: Tensor,
    positions: Tensor | None,
) -> Tensor:
    with torch.autocast(device, torch.bfloat16):
        more = {"attention_mask": masks} if masks is not None else {}
        if bench.mask is None:
            more["use_cache"] = False
        hidden = model.base_model(input_ids=ids, **more)[0].reshape(-1, model.config.hidden_size)
        if positions is not None:
            hidden = hidden[positions]
        if variant.chunks == 1:
            return _sum(model, hidden, labels) / len(labels)
        total = torch.zeros((), device=device)
        for part, wanted in zip(hidden.chunk(variant.chunks), labels.chunk(variant.chunks), strict=True):
            total = total + checkpoint(_sum, model, part, wanted, use_reentrant=False)
        return total / len(labels)


def _sum(model: Any, hidden: Tensor, labels: Tensor) -> Tensor:
    logits = model.lm_head(hidden) if hasattr(model, "lm_head") else model.decoder(model.head(hidden))
    return F.cross_entropy(logits.float(), labels, reduction="sum")
