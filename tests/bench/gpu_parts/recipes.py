"""Part d: recipes of this repository on a GPU, and the CPU's scores that their headers record."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from parts.records import ROOT

from gpu_parts import pipelines
from gpu_parts.records import Settings, emit

EXPECTED = re.compile(r"Expect:\s+(\w+)\.(\w+)\s+([\d.]+)\s+\[([\d.]+), ([\d.]+)\]")
"""In a recipe's header: stage, metric, value and interval."""
RUN = ("demo", "gpt2-abstracts")
TOY = {
    "demo": [f"{name}.training={{max_steps: 4}}" for name in ("pretrain", "topics", "from-scratch")],
    "gpt2-abstracts": ["pretrain.training={max_steps: 4}"],
}
"""Overrides that leave a few steps of each training, for a dry run; scores then mean nothing."""


def run(settings: Settings) -> None:
    """Run the recipes at the same time: they are too small to fill a GPU."""
    with ThreadPoolExecutor(len(RUN)) as pool:
        list(pool.map(lambda name: _one(name, settings), RUN))


def _one(name: str, settings: Settings) -> None:
    recipe = ROOT / "recipes" / f"{name}.yaml"
    runs = settings.work / "recipes" / name
    overrides = [part for text in TOY[name] for part in ("--set", text)] if settings.toy else []
    done = pipelines.run(recipe, runs, *overrides, limit=settings.left)
    facts = {"recipe": name, "seconds": done.seconds, "stages": _seconds(runs)}
    expected = EXPECTED.search(recipe.read_text(encoding="utf-8"))
    if expected is None:
        emit(
            "d",
            **facts,
            error="the recipe's header has no line with 'Expect: stage.metric value [low, high]'",
        )
        return
    stage, metric, *numbers = expected.groups()
    value, low, high = map(float, numbers)
    try:
        score = pipelines.scores(runs, stage)[metric]
    except (OSError, KeyError):
        emit("d", **facts, error=done.reason)
        return
    emit(
        "d",
        **facts,
        metric=metric,
        value=score["value"],
        cpu=[value, low, high],
        inside=low <= score["value"] <= high,
    )


def _seconds(runs: Path) -> dict[str, Any]:
    return {
        path.parent.name.rpartition("-")[0]: round(pipelines.seconds(path), 1)
        for path in sorted(runs.glob("*/*/report.json"))
    }
