"""Part m: a model through `hfpipe.run` in each mode of torch.compile that the default is compared with."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from parts.models import BENCHES, Bench, sized
from parts.timing import release

from gpu_parts.records import Settings, emit, read
from gpu_parts.throughput import Clock, train_through_hfpipe

MODES = ("max-autotune-no-cudagraphs", "reduce-overhead", "max-autotune")
"""In the order of their use: hfpipe may choose the first; graphs are used only if a recipe says so."""
LEAST = 50
"""Seconds that have to be left before another mode is begun."""


def run(settings: Settings, name: str) -> None:
    """Train in every mode for which there is time; in the default mode too if part c has not done it."""
    bench = sized(BENCHES[name], toy=settings.toy)
    folder = settings.work / "modes" / name
    folder.mkdir(parents=True, exist_ok=True)
    done = any(line["part"] == "c" and line.get("model") == bench.name for line in read())
    for mode in MODES if done else ("default", *MODES):
        facts = {"model": bench.name, "contender": f"hfpipe, {mode}"}
        if not settings.toy and settings.left < LEAST:
            emit("m", **facts, skipped="no time left")
            continue
        release()
        try:
            emit("m", **facts | _train(bench, mode, folder, settings))
        except Exception as error:
            import traceback

            traceback.print_exc()
            emit("m", **facts, error=f"{type(error).__name__}: {error}"[:500])


def _train(bench: Bench, mode: str, folder: Path, settings: Settings) -> dict[str, Any]:
    import torch

    clock = Clock(settings, profile=False)
    clocks = {"train": clock, "adapter": clock}
    # Compiling takes longer than everything else at toy size.
    with torch.compiler.set_stance("force_eager") if settings.toy else nullcontext():
        facts = train_through_hfpipe(
            bench, None, folder, clocks, settings, compile=True, torch_compile_mode=mode
        )
    return clock.facts(bench, **facts)
