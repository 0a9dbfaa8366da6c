"""A search for settings on the validation split: the same trials however often it is interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import small
from processes import kill_once

import hfpipe
from hfpipe import api
from hfpipe.contract import Advance
from hfpipe.recipe import Recipe
from hfpipe.reporting.html import render_page
from hfpipe.runner import Launch
from hfpipe.stages.repeats.parameters import replace_parameters

RATES = {"training.learning_rate": {"log": [1e-4, 3e-2]}, "model.hidden_size": {"choice": [16, 32]}}


def searching(**settings: Any) -> dict[str, Any]:
    """Return a recipe that trains with the best of a few settings."""
    recipe = small.recipe()
    del recipe["stages"]["pretrain"]
    recipe["stages"]["words"]["vocab_size"] = 500
    recipe["stages"]["score"]["baselines"] = ["majority"]
    topics = recipe["stages"]["topics"]
    topics |= {"model": small.MODELS["bert"], "tokenizer": "stage:words"}
    topics["search"] = {"parameters": RATES, "trials": 5, "metric": "loss"} | settings
    return recipe


def test_a_search_is_a_stage_above_the_trainings_that_use_it(tmp_path: Path) -> None:
    recipe = searching()
    recipe["stages"]["topics"]["seeds"] = [1, 2]
    loaded = hfpipe.load(small.write(tmp_path, recipe))
    assert list(loaded.stages) == [
        *("wiki", "words", "topics@search", "topics@1", "topics@2", "topics", "score"),
    ]
    steps = {step.name: step for step in hfpipe.plan(loaded)}
    assert "topics@search" in steps["topics@1"].identity.inputs
    assert "topics@search" in steps["topics"].identity.inputs


def test_what_the_trials_do_not_depend_on_searches_no_second_time(tmp_path: Path) -> None:
    def key(recipe: dict[str, Any]) -> str:
        steps = hfpipe.plan(hfpipe.load(small.write(tmp_path, recipe)))
        return next(step.identity.key for step in steps if step.name == "topics@search")

    before, more, logged = key(searching()), searching(), searching()
    more["stages"]["topics"]["seeds"] = [1, 2]
    logged["stages"]["topics"]["training"]["logging_steps"] = 3  # changes no result
    assert key(more) == key(logged) == before
    assert key(searching(trials=6)) != before


def test_parameters_are_set_in_copies_and_checked(tmp_path: Path) -> None:
    stage = hfpipe.load(small.write(tmp_path, searching())).stages["topics@search"].trained  # type: ignore[attr-defined]
    changed = replace_parameters(stage, {"training.learning_rate": 0.5, "task.length": 8, "training.seed": 1})
    assert (changed.training["learning_rate"], changed.task.length) == (0.5, 8)
    assert stage.task.length == 32
    assert "learning_rate" in stage.training


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, hfpipe.Run]:
    """Return a recipe and its run, which nothing interrupted; one of the learning rates is far too high."""
    folder = tmp_path_factory.mktemp("searched")
    rates = {
        "training.learning_rate": {"choice": [1e-3, 1e-2, 1e38]},
        "training.weight_decay": {"uniform": [0.0, 1.0]},
        "model.hidden_size": {"choice": [16, 32]},
    }
    (folder / "held.py").write_text(small.HELD, encoding="utf-8")
    recipe = searching(parameters=rates, trials=6, prune=False)
    recipe["stages"]["topics"]["task"] = {"kind": "held.py:Held", "length": 32}
    recipe["stages"]["topics"]["training"]["save_steps"] = 2
    loaded = hfpipe.load(small.write(folder, recipe))
    return loaded, search(loaded, folder / "runs")


def search(recipe: Recipe, runs: Path, **options: Any) -> hfpipe.Run:
    return api.run(recipe, runs, until="topics@search", say=lambda _: None, **options)


def copy_inputs(run: hfpipe.Run, runs: Path) -> None:
    """Give another folder of runs what the search reads."""
    for stage in ("wiki", "words"):
        shutil.copytree(run.folder(stage), runs / "small" / run.folder(stage).name)


def facts(run: hfpipe.Run) -> dict[str, Any]:
    found: dict[str, Any] = run.reports["topics@search"].facts["search"]
    return found


@contextmanager
def killing(title: str, total: int | None) -> Iterator[Advance]:
    """Die in the middle of a training, after others."""

    def advance(done: int, note: str = "") -> None:
        if title == "topics@search" and total == 6:
            killing.steps += done  # type: ignore[attr-defined]
            if killing.steps > 15:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

    yield advance


@pytest.mark.slow
def test_a_search_that_was_killed_tries_what_it_would_have_tried(
    searched: tuple[Recipe, hfpipe.Run], tmp_path: Path
) -> None:
    recipe, whole = searched
    copy_inputs(whole, tmp_path)
    killing.steps = 0  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        search(recipe, tmp_path, progress=killing)
    cut = search(recipe, tmp_path)
    found = facts(cut)
    assert found == facts(whole)
    complete = [each for each in found["trials"] if each["state"] == "complete"]
    assert len({each["value"] for each in complete}) == len(complete) > 3
    assert len({each["parameters"]["training.weight_decay"] for each in found["trials"]}) == 6
    best = min(complete, key=lambda each: each["value"])
    assert found["best"]["trial"] == best["trial"]
    assert not list((cut.folder("topics@search")).glob("trials*"))


@pytest.mark.slow
def test_the_final_training_uses_the_best_settings_and_bad_trials_stop_early(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hfpipe.cli.main import main

    rates = {"training.learning_rate": {"choice": [1e-2, 1e-9, 1e-8]}}
    recipe = searching(parameters=rates, trials=7)
    recipe["stages"]["topics"]["training"] |= {"max_steps": 12, "eval_steps": 3}
    run = api.run(hfpipe.load(small.write(tmp_path, recipe)), tmp_path / "runs", say=lambda _: None)
    found = run.reports["topics@search"].facts["search"]
    assert found["best"]["parameters"] == {"training.learning_rate": 1e-2}
    stopped = [each for each in found["trials"] if each["state"] == "pruned"]
    assert stopped
    assert all(each["evaluations"] < 4 for each in stopped)
    # The same seed and settings as the best trial: the same model.
    validation = run.reports["topics"].facts["validation"]
    assert validation["loss"] == pytest.approx(found["best"]["value"])
    last = json.loads((run.folder("topics@search") / "best.json").read_text())
    assert last == found["best"]
    assert "best trial is too good by the choice" in render_page(run)
    assert main(["report", str(tmp_path / "small.yaml"), "--runs", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    assert "stopped early" in printed
    assert "training.learning_rate" in printed


def kill_within(path: Path, runs: Path, first: int, *arguments: str) -> None:
    """Run the search in a process of its own, and kill it once a trial from `first` on has a checkpoint."""
    pattern = f"small/topics@search-*/.work/trials/000[{first}-9]/.work/checkpoint-*/complete.json"
    command = ("run", path, "--runs", runs, "--until", "topics@search", *arguments)
    with small.hold(path.parent, runs, pattern):
        kill_once(lambda: any(runs.glob(pattern)), *command)


@pytest.mark.slow
def test_a_search_of_several_jobs_that_is_killed_twice_ends_as_one_trial_after_the_other(
    searched: tuple[Recipe, hfpipe.Run], tmp_path: Path
) -> None:
    """Also where a trial fails, next to others or alone."""
    recipe, whole = searched
    copy_inputs(whole, tmp_path)
    kill_within(recipe.path, tmp_path, 0, "--jobs", "2")
    kill_within(recipe.path, tmp_path, 3)
    launch = Launch(processes=2, jobs=2, oversubscribe=True)  # a trial trains in one process in any case
    found = facts(search(recipe, tmp_path, launch=launch))
    assert found == facts(whole)
    assert "fail" in {trial["state"] for trial in found["trials"]}
