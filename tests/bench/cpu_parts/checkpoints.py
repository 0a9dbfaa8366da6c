"""How long the steps of hfpipe stand still while a checkpoint is written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import hfpipe
from cpu_parts.pipeline import Enough, timed_calls
from cpu_parts.records import Settings, emit
from cpu_parts.works import CHECKPOINTED, work

EVERY = 17
"""Steps between two checkpoints, about half a minute."""
SAVES = 3
MINUTE = 60.0


def run(settings: Settings) -> None:
    """Train until some checkpoints are written, and write one line."""
    found = work(CHECKPOINTED, toy=settings.toy)
    every = 4 if settings.toy else EVERY
    folder = settings.work / "checkpoints"
    folder.mkdir()
    recipe = found.recipe(settings)
    # Whether the model is compiled does not matter here, and trying it would take longer than the steps.
    recipe["stages"]["train"]["training"] |= {"save_steps": every, "compile": False}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    ended: list[float] = []

    @contextmanager
    def progress(what: str, total: int | None) -> Iterator[Callable[..., None]]:
        def advance(count: int, note: str = "") -> None:
            if what == "train" and count:
                ended.append(time.perf_counter())
                if len(ended) > every * SAVES:
                    raise Enough

        yield advance

    with timed_calls("_save_checkpoint") as saves, suppress(Enough):
        hfpipe.run(hfpipe.load(path), folder / "runs", progress=progress)
    newest = max(folder.glob("runs/*/train-*/.work/checkpoint-*"), key=lambda each: each.stat().st_mtime)
    emit(
        "checkpoints",
        work=CHECKPOINTED,
        round=settings.round,
        megabytes=round(sum(file.stat().st_size for file in newest.iterdir()) / 1e6, 1),
        **_facts(saves, ended, every),
    )


def _facts(saves: list[tuple[float, float]], ended: list[float], every: int) -> dict[str, Any]:
    """Return how long steps stood still; a step ends before its checkpoint is written."""
    still = [end - start for start, end in saves]
    between = [later - sooner for (sooner, _), (later, _) in pairwise(saves)]
    share = sum(still[:-1]) / sum(between)
    steps = [later - sooner for sooner, later in pairwise(ended)]
    plain = sorted(step for number, step in enumerate(steps, 2) if (number - 1) % every)
    after = [steps[number * every - 1] - still[number - 1] for number in range(1, len(saves) + 1)]
    return {
        "steps_between": every,
        "seconds_between": round(sum(between) / len(between), 1),
        "still_s": [round(seconds, 3) for seconds in still],
        "share": round(share, 4),
        "share_each_minute": round(sum(still) / len(still) / MINUTE, 4),
        "step_s": round(plain[len(plain) // 2], 3),
        "step_after_s": [round(seconds, 3) for seconds in after],
    }
