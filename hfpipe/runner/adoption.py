"""Takes over a finished stage after a change that does not matter, such as a file that was reformatted.

The key of a stage covers everything that determines its result, so that any change runs it again. The user
may know that a change does not matter. Adopting links the finished files into the folder of the new key, with
the new identity in `stage.json` and the changes in `report.json`; the old folder is not changed. The key of a
stage is an input of the stages that read it, so those are adopted in turn.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from hfpipe.errors import Problem, RecipeError
from hfpipe.recipe import Recipe
from hfpipe.recipe.messages import join_names
from hfpipe.runner.execute import make_stage_file
from hfpipe.runner.plan import PlannedStage, plan_recipe
from hfpipe.store.digests import Digests
from hfpipe.store.store import NOT_RECORDED, Store, check_whole, read_report

Confirm = Callable[[Path, Sequence[str]], bool]
"""Called with the finished folder and a line per change; returns whether to take it over."""


def adopt_stage(
    recipe: Recipe, name: str, runs: Path, confirm: Confirm, say: Callable[[str], None]
) -> Path | None:
    """Take over the newest finished folder of a stage; return the new folder, or None if not confirmed.

    `say` gets a line if another process holds the new folder, for which this one waits.

    Raises RecipeError when there is nothing to take over, StageError when the finished folder is damaged.
    """
    step = _find_planned(recipe, name, runs)
    store = Store(runs / recipe.name)
    found = store.find_others(name, step.identity.key)
    if not found:
        raise _make_error(f"{name}: there is no other finished folder to take over; run it with hfpipe run")
    source = found[0]
    check_whole(source, Digests(runs / ".digests.json"))
    if not confirm(source, step.why):
        return None
    with store.lock(step.folder, lambda owner: say(f"{name}: waiting for {owner}, which is running it")):
        if (step.folder / "stage.json").is_file():  # while `confirm` asked, or the lock was held
            raise _make_error(f"{name}: a run has begun it in {step.folder}; nothing was taken over")
        _copy(store, source, step, recipe)
    return step.folder


def _find_planned(recipe: Recipe, name: str, runs: Path) -> PlannedStage:
    """Return the stage of the plan. Raises RecipeError when it is done, in progress or not in the recipe."""
    steps = {step.name: step for step in plan_recipe(recipe, runs)}
    if name not in steps:
        raise _make_error(f"there is no stage {name!r}; there is {join_names(list(steps))}")
    step = steps[name]
    if step.done:
        raise _make_error(f"{name}: is done; there is nothing to take over")
    if (step.folder / "stage.json").is_file():
        raise _make_error(f"{name}: is in progress in {step.folder}; finish it, or delete that folder")
    unfinished = [other for other in step.identity.inputs if not steps[other].done]
    if unfinished:
        raise _make_error(
            f"{name}: reads {join_names(unfinished)}, which is not done; adopt or run that first"
        )
    return step


def _copy(store: Store, source: Path, step: PlannedStage, recipe: Recipe) -> None:
    store.begin(step.folder, make_stage_file(recipe, step))
    for item in source.iterdir():
        if item.name in (*NOT_RECORDED, "stage.json"):
            continue
        if item.is_dir():
            shutil.copytree(item, step.folder / item.name, copy_function=_link)
        else:
            _link(item, step.folder / item.name)
    report = read_report(source)
    facts = report.facts | {"adopted": {"folder": source.name, "changes": list(step.why)}}
    summary = f"{report.summary}; taken over from {source.name}"
    store.finish(step.folder, report.model_copy(update={"facts": facts, "summary": summary}))


def _link(source: str | Path, target: str | Path) -> None:
    """Hard-link a finished file, which is never modified; copy it if links are not supported."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _make_error(message: str) -> RecipeError:
    return RecipeError([Problem(message)])
