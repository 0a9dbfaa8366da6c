"""hfpipe with its defaults, through `hfpipe.run`, of a training that ends once enough of it is measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hfpipe
from cpu_parts.clock import Clock
from cpu_parts.records import Settings, emit
from cpu_parts.works import Work
from hfpipe.errors import RecipeError
from hfpipe.training.trainer import TaskTrainer

WARM = 4


class Enough(BaseException):
    """Ends a training that is long enough for what is measured, as Ctrl-C would."""


@contextmanager
def timed_calls(name: str) -> Iterator[list[tuple[float, float]]]:
    """Yield a list that gets the start and the end of each call of a method of hfpipe's trainer."""
    calls: list[tuple[float, float]] = []
    method: Callable[..., Any] = getattr(TaskTrainer, name)

    def call(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            calls.append((started, time.perf_counter()))

    setattr(TaskTrainer, name, call)
    try:
        yield calls
    finally:
        setattr(TaskTrainer, name, method)


def run(work: Work, settings: Settings) -> None:
    """Train and write one line."""
    folder = settings.work / work.name / f"hfpipe-{settings.round}"
    folder.mkdir(parents=True)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(work.recipe(settings)), encoding="utf-8")
    warm = work.epoch if work.uneven else WARM
    clock = Clock(settings, f"{work.name}, hfpipe", warm, unit=work.epoch if work.uneven else 1)
    tokens: list[int] = []

    @contextmanager
    def progress(what: str, total: int | None) -> Iterator[Callable[..., None]]:
        def advance(count: int, note: str = "") -> None:
            if what == "train" and count and clock.tick():
                raise Enough

        yield advance
        if what.startswith("texts") or "encoding" in what:  # not what a training does before its first step
            clock.start()

    with timed_calls("get_batch_samples") as batches:
        try:
            recipe = hfpipe.load(path)
            hfpipe.run(recipe, folder / "runs", progress=progress)
        except RecipeError as error:
            raise RuntimeError("; ".join(problem.message for problem in error.problems)) from error
        except Enough:
            pass
    curves = hfpipe.open(path, folder / "runs").curves
    losses = {int(step): float(loss) for step, loss in zip(curves["step"], curves["loss"], strict=True)}
    for log in folder.glob("runs/*/train-*/stage.log"):
        print(log.read_text(encoding="utf-8").partition("Traceback")[0])
    tokens = _tokens(work, settings, clock)
    facts = clock.facts(work, tokens, losses) | {"waiting": round(clock.share(batches), 5)}
    emit("train", work=work.name, contender="hfpipe", round=settings.round, **facts)


def _tokens(work: Work, settings: Settings, clock: Clock) -> list[int]:
    """Return the tokens of each step; where rows are uneven, the mean, which is exact over an epoch."""
    if not work.uneven:
        return [work.batch * work.length] * len(clock.ended)
    from cpu_parts.scripts import lengths

    return [round(sum(lengths(work, settings)) / work.epoch)] * len(clock.ended)
