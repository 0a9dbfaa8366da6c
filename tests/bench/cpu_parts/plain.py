"""A plain loop around the stock GPT-2 in bf16, eager and compiled: what a careful user writes by hand."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, set_seed

from cpu_parts.clock import Clock
from cpu_parts.records import Settings, emit
from cpu_parts.scripts import blocks
from cpu_parts.works import DROPOUTS, LOGGED, Work


def run(work: Work, settings: Settings, *, compiled: bool) -> None:
    """Train and write one line."""
    contender = "loop-compiled" if compiled else "loop"
    assert work.bench is not None
    set_seed(17)
    ids = torch.tensor(blocks(work, settings)["input_ids"])
    order = torch.randperm(len(ids)).split(work.batch)
    clock = Clock(settings, f"{work.name}, {contender}", warm=3 if compiled else 1)
    clock.start()
    config = work.bench.config()
    config.update(DROPOUTS[work.bench.kind])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, fused=True)

    def loss_of(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            loss: Tensor = model(input_ids=batch, labels=batch, use_cache=False).loss
        return loss

    if compiled:
        loss_of = torch.compile(loss_of, dynamic=False, backend="aot_eager" if settings.toy else "inductor")
    seen: list[float] = []
    enough = False
    while not enough:
        loss = loss_of(ids[order[len(seen) % (len(order) - 1)]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen.append(loss.item())
        enough = clock.tick()
    means = {last: sum(seen[last - LOGGED : last]) / LOGGED for last in range(LOGGED, len(seen) + 1, LOGGED)}
    tokens = [work.batch * work.length] * len(seen)
    emit(
        "train", work=work.name, contender=contender, round=settings.round, **clock.facts(work, tokens, means)
    )
