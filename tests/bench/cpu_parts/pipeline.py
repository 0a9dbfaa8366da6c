"""hfpipe with its defaults, through `hfpipe.run`, of a training that ends once enough of it is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hfpipe
from cpu_parts.clock import Clock
from cpu_parts.records import Settings, emit
from cpu_parts.works import Work
from hfpipe.errors import RecipeError

WARM = 4


class Enough(BaseException):
    """Ends a training that is long enough for what is measured, as Ctrl-C would."""


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
    emit(
        "train", work=work.name, contender="hfpipe", round=settings.round, **clock.facts(work, tokens, losses)
    )


def _tokens(work: Work, settings: Settings, clock: Clock) -> list[int]:
    """Return the tokens of each step; where rows are uneven, the mean, which is exact over an epoch."""
    if not work.uneven:
        return [work.batch * work.length] * len(clock.ended)
    from cpu_parts.scripts import lengths

    return [round(sum(lengths(work, settings)) / work.epoch)] * len(clock.ended)
