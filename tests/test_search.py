"""A search for settings on the validation split: the same trials however often it is interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import small

import hfpipe
from hfpipe import api
from hfpipe.contract import Advance
from hfpipe.reporting.html import page
from hfpipe.runner import Launch
from hfpipe.stages.repeats.parameters import with_parameters

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
    changed = with_parameters(stage, {"training.learning_rate": 0.5, "task.length": 8, "training.seed": 1})
    assert (changed.training["learning_rate"], changed.task.length) == (0.5, 8)
    assert stage.task.length == 32
    assert "learning_rate" in stage.training


@contextmanager
def killing(title: str, total: int | None) -> Iterator[Advance]:
    """Die in the middle of the third training."""

    def advance(done: int, note: str = "") -> None:
        if title == "topics@search" and total == 6:
            killing.steps += done  # type: ignore[attr-defined]
            if killing.steps > 15:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

    yield advance


@pytest.mark.slow
def test_a_search_that_was_killed_tries_what_it_would_have_tried(tmp_path: Path) -> None:
    recipe = searching(prune=False)
    recipe["stages"]["topics"]["training"]["save_steps"] = 2
    whole = api.run(
        hfpipe.load(small.write(tmp_path, recipe)),
        tmp_path / "whole",
        until="topics@search",
        say=lambda _: None,
    )
    killing.steps = 0  # type: ignore[attr-defined]
    loaded = hfpipe.load(tmp_path / "small.yaml")
    with pytest.raises(KeyboardInterrupt):
        api.run(loaded, tmp_path / "cut", until="topics@search", say=lambda _: None, progress=killing)
    cut = api.run(loaded, tmp_path / "cut", until="topics@search", say=lambda _: None)
    expected, found = (run.reports["topics@search"].facts["search"] for run in (whole, cut))
    assert found == expected
    assert [each["state"] for each in found["trials"]] == ["complete"] * 5
    assert len({each["value"] for each in found["trials"]}) > 3
    assert len({each["parameters"]["training.learning_rate"] for each in found["trials"]}) == 5
    best = min(found["trials"], key=lambda each: each["value"])
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
    assert "best trial is too good by the choice" in page(run)
    assert main(["report", str(tmp_path / "small.yaml"), "--runs", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    assert "stopped early" in printed
    assert "training.learning_rate" in printed


def kill_within(folder: Path, first: int, *arguments: str) -> None:
    """Run the search in a process of its own, and kill it once a trial from `first` on has a checkpoint."""
    command = [sys.executable, "-m", "hfpipe", "run", "small.yaml", "--until", "topics@search", *arguments]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline, found = time.monotonic() + 120, set[str]()
        while not any(int(number) >= first for number in found):
            pattern = "small/topics@search-*/.work/trials/*/.work/checkpoint-*/complete.json"
            found = {file.parts[-4] for file in (folder / "runs").glob(pattern)}
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()


@pytest.mark.slow
def test_a_search_of_several_jobs_that_is_killed_twice_ends_as_one_trial_after_the_other(
    tmp_path: Path,
) -> None:
    """Also where a trial fails, next to others or alone."""
    rates = {
        "training.learning_rate": {"choice": [1e-3, 1e-2, 1e38]},
        "training.weight_decay": {"uniform": [0.0, 1.0]},
    }
    recipe = searching(parameters=rates, trials=6, prune=False)
    recipe["stages"]["topics"]["training"] |= {"save_steps": 2, "max_steps": 8}
    loaded = hfpipe.load(small.write(tmp_path, recipe))
    whole = api.run(loaded, tmp_path / "whole", until="topics@search", say=lambda _: None)
    kill_within(tmp_path, 0, "--jobs", "2")
    kill_within(tmp_path, 3)
    launch = Launch(processes=2, jobs=2, oversubscribe=True)  # a trial trains in one process in any case
    found = api.run(loaded, tmp_path / "runs", until="topics@search", say=lambda _: None, launch=launch)
    facts = whole.reports["topics@search"].facts["search"]
    assert found.reports["topics@search"].facts["search"] == facts
    assert "fail" in {trial["state"] for trial in facts["trials"]}
