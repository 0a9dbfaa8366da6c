"""The plan of a run: which stages are done, which would run, and which change is the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hfpipe.contract import Stage
from hfpipe.errors import Problem, RecipeError
from hfpipe.recipe import Recipe, check_facts
from hfpipe.recipe.messages import find_similar_name, join_names
from hfpipe.report import DataFacts
from hfpipe.store.digests import Digests
from hfpipe.store.identity import StageIdentity
from hfpipe.store.stage_names import get_plain_name
from hfpipe.store.store import Store, identify, is_done, read_report, read_stage

REWRITTEN = "its settings differ only in notation"
"""Reason when no difference can be shown, such as null instead of a missing key."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan."""

    name: str
    stage: Stage
    identity: StageIdentity
    folder: Path
    done: bool
    why: tuple[str, ...]
    """Changes since the stage last ran, one line each; empty when it is done."""
    notes: tuple[str, ...] = ()
    """Notes about the stage before it runs, one line each."""


def plan_recipe(recipe: Recipe, runs: Path, until: str | None = None) -> list[PlannedStage]:
    """Return every stage in order with its state; imports no heavy library.

    Raises RecipeError when a finished data set lacks what the recipe needs, or there is no stage `until`.
    """
    store = Store(runs / recipe.name)
    digests = Digests(runs / ".digests.json")
    keys: dict[str, str] = {}
    steps: list[PlannedStage] = []
    for name, stage in select_stages(recipe.stages, until).items():
        identity = identify(stage, recipe.seed, recipe.base, keys, digests)
        keys[name] = identity.key
        folder = store.get_folder(name, identity.key)
        why = () if is_done(folder) else tuple(_find_reasons(store, folder, name, identity)) or (REWRITTEN,)
        steps.append(PlannedStage(name, stage, identity, folder, is_done(folder), why))
    digests.save()
    check_known(recipe, steps)
    return [*_add_notes(steps)]


def _add_notes(steps: Sequence[PlannedStage]) -> Iterator[PlannedStage]:
    """Yield the steps with notes that depend on the finished data sets."""
    facts, above = _collect_facts(steps), dict[str, Stage]()
    for step in steps:
        yield replace(step, notes=tuple(step.stage.plan_notes(above, facts)))
        above[step.name] = step.stage


def select_stages(stages: Mapping[str, Stage], until: str | None) -> dict[str, Stage]:
    """Return the stages up to the stage, or the last stage of the kind, that `until` names."""
    if until is None:
        return dict(stages)
    names = [
        (name, get_plain_name(name), stage.kind, getattr(stage, "of", "")) for name, stage in stages.items()
    ]
    last = [number for number, known in enumerate(names) if until in known]
    if not last:
        there = list(dict.fromkeys([*stages, *(stage.kind for stage in stages.values())]))
        close = find_similar_name(until, there)
        fix = f"did you mean {close!r}?" if close else f"there is {join_names(there)}"
        raise RecipeError([Problem(f"--until {until}: no such stage or kind; {fix}")])
    return dict(list(stages.items())[: last[-1] + 1])


def check_known(recipe: Recipe, steps: list[PlannedStage]) -> None:
    """Raise RecipeError when a finished data set lacks what a downstream stage needs."""
    if problems := check_facts(recipe, _collect_facts(steps)):
        raise RecipeError(problems)


def check_stages(recipe: Recipe, steps: list[PlannedStage]) -> None:
    """Raise RecipeError when the requirements of a remaining stage cannot be met."""
    facts, above, problems = _collect_facts(steps), dict[str, Stage](), list[Problem]()
    for step in steps:
        if not is_done(step.folder):
            found = step.stage.check_ahead(above, facts)
            problems += [replace(problem, path=("stages", step.name, *problem.path)) for problem in found]
        above[step.name] = step.stage
    if problems:
        raise RecipeError([recipe.document.locate_problem(problem) for problem in problems])


def _collect_facts(steps: Sequence[PlannedStage]) -> dict[str, DataFacts]:
    """Return the facts about the finished data sets."""
    reports = {step.name: read_report(step.folder) for step in steps if is_done(step.folder)}
    return {name: report.data for name, report in reports.items() if report.data is not None}


def _find_reasons(store: Store, folder: Path, name: str, identity: StageIdentity) -> Iterator[str]:
    if (folder / "stage.json").is_file():
        yield "interrupted; will resume"
        return
    others = store.find_others(name, identity.key)
    if not others:
        yield "has not run yet"
        return
    before = read_stage(others[0]).identity
    yield from _find_changes("settings", before.decisive, identity.decisive)
    yield from _find_changes("input", before.inputs, identity.inputs)
    for file in sorted(before.files.keys() | identity.files.keys()):
        old, new = before.files.get(file), identity.files.get(file)
        if old != new:
            yield f"file {file}: " + ("content changed" if old and new else "added" if new else "removed")
    if before.seed != identity.seed:
        yield f"seed: {before.seed} → {identity.seed}"
    if before.version != identity.version:
        yield f"hfpipe's own code for {identity.kind} changed: version {before.version} → {identity.version}"
    if before.task_version != identity.task_version:
        yield f"the code of its task changed: version {before.task_version} → {identity.task_version}"


def _find_changes(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    old, new = dict(_flatten(before)), dict(_flatten(after))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            label = key if what == "settings" else f"{what} {key}"
            yield f"{label}: {_show(old.get(key))} → {_show(new.get(key))}"


def _show(value: Any) -> str:
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
