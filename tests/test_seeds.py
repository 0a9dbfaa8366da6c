"""Trainings for several seeds: one stage each, scores as means, and what their variance is due to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small

import hfpipe
from hfpipe import api
from hfpipe.contract import Advance, RunContext, show_no_progress
from hfpipe.errors import RecipeError
from hfpipe.interruption import StopRequest
from hfpipe.metrics.paired import compare_series, score_series
from hfpipe.metrics.repeated import average_series, split_variance
from hfpipe.metrics.resampling import draw_poisson_weights, sample_independent_rows
from hfpipe.metrics.series import Series
from hfpipe.report import Report, Score
from hfpipe.reporting.html import render_comparison, render_page
from hfpipe.runner import PlannedStage
from hfpipe.runner.execute import make_stage_file
from hfpipe.stages.repeats.group import measure_checkpoint_noise
from hfpipe.stages.repeats.members import get_encoded_folder
from hfpipe.store.store import Store


def recipe_with(**settings: Any) -> dict[str, Any]:
    recipe = small.recipe()
    recipe["stages"]["topics"] |= settings
    return recipe


def keys(folder: Path, recipe: dict[str, Any]) -> dict[str, str]:
    return {step.name: step.identity.key for step in hfpipe.plan(hfpipe.load(small.write(folder, recipe)))}


def test_each_seed_is_a_stage_of_its_own_and_the_last_one_sums_up(tmp_path: Path) -> None:
    names = list(hfpipe.load(small.write(tmp_path, recipe_with(seeds=[5, 1]))).stages)
    assert names == ["wiki", "words", "pretrain", "topics@5", "topics@1", "topics", "score"]


def test_another_seed_trains_only_itself_and_the_evaluation(tmp_path: Path) -> None:
    before = keys(tmp_path, recipe_with(seeds=[1, 2]))
    after = keys(tmp_path, recipe_with(seeds=[1, 2, 3]))
    assert {name for name in before if before[name] != after[name]} == {"topics", "score"}


def test_a_seed_of_a_stage_gives_the_key_that_the_recipe_s_seed_would_give(tmp_path: Path) -> None:
    """The seed of a stage is not a setting, so that a recipe without one keeps its keys."""
    plain, own = keys(tmp_path, small.recipe()), keys(tmp_path, recipe_with(seed=3))
    assert own == plain  # 3 is the recipe's
    assert keys(tmp_path, recipe_with(seed=4))["topics"] != plain["topics"]


def test_a_recipe_without_repetitions_has_no_new_settings_in_its_keys(tmp_path: Path) -> None:
    steps = hfpipe.plan(hfpipe.load(small.write(tmp_path, small.recipe())))
    assert not {"seed", "seeds"} & {key for step in steps for key in step.identity.decisive}


@pytest.mark.parametrize("other", ["topics-large@1", "topics@length=48@1"])
def test_trainings_that_have_ended_leave_the_encoded_data_of_others(other: str, tmp_path: Path) -> None:
    recipe = recipe_with(seeds=[1, 2])
    stages = recipe["stages"]
    if "=" in other:
        recipe["matrix"] = {"topics.task.length": [32, 48]}
        stages["topics"]["task"] = {"kind": "text-classification", "length": 32}
        group = "topics@length=32"
    else:
        stages["topics-large"] = stages["topics"] | {"task": {"kind": "text-classification", "length": 48}}
        group = "topics"
    del stages["score"]
    loaded = hfpipe.load(small.write(tmp_path, recipe))
    steps = {step.name: step for step in hfpipe.plan(loaded, tmp_path)}
    store, encoded, ended = Store(tmp_path / "small"), {}, [f"{group}@1", f"{group}@2"]
    for name in (*ended, other):
        store.begin(steps[name].folder, make_stage_file(loaded, steps[name]))
        encoded[name] = get_encoded_folder(context(steps[name]), cut_from_all=False)
        encoded[name].mkdir(parents=True, exist_ok=True)
    for name in ended:
        store.finish(steps[name].folder, Report(kind="finetune", summary=""))
    inputs = {name: steps[name].folder for name in ended}
    steps[group].stage.run(replace(context(steps[group]), inputs=inputs))
    assert [name for name, folder in encoded.items() if folder.exists()] == [other]


def context(step: PlannedStage) -> RunContext:
    return RunContext(step.name, step.folder, step.folder, 1, {}, show_no_progress, StopRequest())


def test_the_same_seeds_above_and_below_go_together(tmp_path: Path) -> None:
    recipe = recipe_with(seeds=[1, 2])
    recipe["stages"]["pretrain"]["seeds"] = [2, 1, 7]
    stages = hfpipe.load(small.write(tmp_path, recipe)).stages
    assert [stages[f"topics@{seed}"].model for seed in (1, 2)] == ["stage:pretrain@1", "stage:pretrain@2"]


def test_overrides_reach_every_training(tmp_path: Path) -> None:
    recipe = hfpipe.load(
        small.write(tmp_path, recipe_with(seeds=[1, 2])), ["topics.training.learning_rate=0.5"]
    )
    assert [recipe.stages[name].training["learning_rate"] for name in ("topics@1", "topics@2")] == [0.5, 0.5]


def series_of(outcomes: np.ndarray, weights: np.ndarray, sample: Any) -> Series:
    """Return a mean of rows as a score; `outcomes` (rows,), `weights` (rows, resamples)."""
    sums, counts = outcomes @ weights, weights.sum(axis=0)
    blocks = (outcomes.sum() - outcomes) / (len(outcomes) - 1)
    return Series(
        name="mean",
        values=np.concatenate([[outcomes.mean()], sums / counts]),
        blocks=blocks[:100],
        n=len(outcomes),
        sample=sample,
        seed=0,
        higher_is_better=True,
        signature="mean",
    )


def simulated(
    rng: np.random.Generator, seeds: int, rows: int = 150, *, by_seed: float, shared: float = 0.3
) -> tuple[dict[str, Series], np.ndarray]:
    """Return the scores of trainings whose components are known, and what the rows have in common.

    The standard deviation of a score by rows is `hypot(shared, 0.2) / √rows`.
    """
    weights = draw_poisson_weights(np.arange(rows), 200, int(rng.integers(2**31))).astype(float)
    common = rng.normal(0, shared, rows)
    sample = sample_independent_rows(rows)
    found = {
        str(number): series_of(common + rng.normal(0, by_seed) + rng.normal(0, 0.2, rows), weights, sample)
        for number in range(seeds)
    }
    return found, common


@pytest.mark.parametrize("by_seed", [0.0, 0.05])
def test_the_variance_is_split_into_what_rows_and_seeds_put_in(by_seed: float) -> None:
    rng = np.random.default_rng(3)
    found = [split_variance(list(simulated(rng, 6, by_seed=by_seed)[0].values())) for _ in range(60)]
    rows = np.sqrt(np.mean([each.rows**2 for each in found]))
    seeds = np.sqrt(np.mean([each.seeds**2 for each in found]))
    assert rows == pytest.approx(np.hypot(0.3, 0.2) / np.sqrt(150), rel=0.05)
    # What the rows explain of the differences is not counted as the seeds' again: 0.2 / √150 is 0.016.
    assert seeds < 0.009 if by_seed == 0 else seeds == pytest.approx(by_seed, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("by_seed", [0.0, 0.05])
def test_the_interval_of_a_mean_over_seeds_holds_the_true_score(seeds: int, by_seed: float) -> None:
    rng, held, by_rows = np.random.default_rng(seeds), [], []
    for _ in range(250):
        members, _ = simulated(rng, seeds, by_seed=by_seed)
        mean = average_series(members)
        score, alone = score_series(mean), score_series(replace(mean, members={}))
        held.append(score.low <= 0 <= score.high)
        by_rows.append(alone.low <= 0 <= alone.high)
    assert 0.925 <= np.mean(held) <= 0.99
    if by_seed:
        assert np.mean(by_rows) < 0.9  # the fault that it corrects: rows alone are not all that varies


@pytest.mark.slow
def test_two_systems_that_differ_by_their_seeds_alone_are_rarely_distinguished() -> None:
    rng, p_values, by_rows_p = np.random.default_rng(1), [], []
    for _ in range(300):
        members, _ = simulated(rng, 8, by_seed=0.04)
        names = list(members)
        halves = ({name: members[name] for name in half} for half in (names[:4], names[4:]))
        mine, other = map(average_series, halves)
        comparison = compare_series(mine, other, "twin")
        p_values.append(comparison.p_value)
        by_rows_p.append(comparison.p_bootstrap)
        covered = comparison.difference_low <= 0 <= comparison.difference_high
        assert covered == (comparison.p_value > 0.05) or abs(comparison.p_value - 0.05) < 0.03
    assert np.mean(np.array(p_values) < 0.05) <= 0.08
    assert np.mean(np.array(by_rows_p) < 0.05) > 0.15


def test_a_clear_difference_is_still_clear_with_few_seeds() -> None:
    rng = np.random.default_rng(5)
    members, _ = simulated(rng, 6, by_seed=0.01)
    names = list(members)
    lower = {name: replace(series, values=series.values - 0.3) for name, series in members.items()}
    mine = average_series({name: members[name] for name in names[:3]})
    other = average_series({name: lower[name] for name in names[3:]})
    assert compare_series(mine, other, "worse").p_value < 0.01
    assert compare_series(mine, mine, "same").p_value == 1


def test_the_noise_of_the_last_checkpoints_is_that_of_the_second_half_of_the_training() -> None:
    def history(scores: list[float]) -> list[dict[str, float]]:
        return [{"step": 10 * (n + 1), "eval_accuracy": score} for n, score in enumerate(scores)]

    rising = [0.1, 0.2, 0.3, 0.4, 0.8, 0.82, 0.84, 0.82]
    assert measure_checkpoint_noise([history(rising)], "accuracy") == pytest.approx(
        np.std(rising[4:], ddof=1)
    )
    assert measure_checkpoint_noise([history(rising[:4])], "accuracy") is None  # two are too few to tell
    assert measure_checkpoint_noise([history(rising)], "f1") is None


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[hfpipe.Run, Path, list[str]]:
    """Return a run with three seeds, its folder, and the title of everything that it did, step by step."""
    folder = tmp_path_factory.mktemp("seeded")
    recipe = recipe_with(seeds=[1, 2, 3])
    del recipe["stages"]["pretrain"]
    recipe["stages"]["topics"] |= {"model": small.MODELS["bert"], "tokenizer": "stage:words"}
    recipe["stages"]["topics"]["training"] |= {"eval_steps": 1}
    recipe["stages"]["single"] = {
        "kind": "evaluate",
        "model": "stage:topics@2",
        "data": "stage:wiki",
        "baselines": ["stage:topics"],
    }
    shown = []

    @contextmanager
    def progress(title: str, total: int | None) -> Iterator[Advance]:
        counted = 0

        def advance(done: int, note: str = "") -> None:
            nonlocal counted
            counted += done

        yield advance
        if counted:
            shown.append(title)

    path = small.write(folder, recipe)
    run = api.run(hfpipe.load(path), folder / "runs", say=lambda _: None, progress=progress)
    return run, folder, shown


Seeded = tuple[hfpipe.Run, Path, list[str]]


def score_of(run: hfpipe.Run, stage: str, metric: str = "loss") -> Score:
    return next(score for score in run.reports[stage].scores if score.metric == metric)


@pytest.mark.slow
def test_a_run_with_seeds_reports_each_training_and_their_mean(seeded: Seeded) -> None:
    run, _, _ = seeded
    losses = score_of(run, "score")
    assert losses.spread is not None
    values = list(losses.spread.values.values())
    assert len(set(values)) == 3  # the seeds do differ
    assert losses.value == pytest.approx(np.mean(values))
    assert losses.spread.sd == pytest.approx(np.std(values, ddof=1))
    assert losses.spread.checkpoints
    assert losses.spread.rows
    alone = score_of(run, "single")
    assert losses.spread.values["stage:topics@2"] == pytest.approx(alone.value)
    assert losses.high - losses.low > 0
    assert "mean-of:3" in losses.signature
    assert {each.test for each in score_of(run, "score", "accuracy").comparisons} == {"rows-seeds-t"}
    [compared] = alone.comparisons
    assert compared.value == pytest.approx(losses.value)
    assert compared.spread is not None


@pytest.mark.slow
def test_every_seed_trains_its_own_weights_and_the_seed_of_the_recipe_splits_the_data(seeded: Seeded) -> None:
    run, _, _ = seeded
    weights = {(run.folder(f"topics@{seed}") / "model.safetensors").read_bytes() for seed in (1, 2, 3)}
    assert len(weights) == 3
    assert [run.made(f"topics@{seed}").identity.seed for seed in (1, 2, 3)] == [1, 2, 3]
    assert run.made("score").identity.seed == 3


@pytest.mark.slow
def test_the_trainings_of_a_stage_share_their_encoded_data(seeded: Seeded) -> None:
    _, folder, shown = seeded
    assert [title for title in shown if "encoding train" in title] == ["topics@1: encoding train"]
    assert [title for title in shown if title.startswith("score: encoding")] == [
        "score: encoding for stage:topics"
    ]
    assert not list((folder / "runs" / "small" / ".shared").glob("*"))  # nothing of it is left


@pytest.mark.slow
def test_the_page_the_tables_and_a_comparison_show_the_trainings(
    seeded: Seeded, capsys: pytest.CaptureFixture[str]
) -> None:
    from hfpipe.cli.main import main

    run, folder, _ = seeded
    runs = ("--runs", str(folder / "runs"))
    assert main(["report", str(folder / "small.yaml"), *runs]) == 0
    printed = capsys.readouterr().out
    assert "by seeds" in printed
    assert "topics@1" in printed
    assert "±" in printed
    html = render_page(run)
    assert "How the trainings differ" in html
    assert "topics@3" in html
    frame = run.scores
    rows = frame[(frame["stage"] == "score") & (frame["metric"] == "loss")]
    assert {"stage:topics@1", "stage:topics@2", "stage:topics@3"} <= set(rows["system"])
    assert rows.set_index("system").loc["model", "sd"] > 0
    assert len(run.predictions("score", "stage:topics@1")) == score_of(run, "score").n
    with pytest.raises(RecipeError, match="was trained several times; name one training"):
        run.predictions("score")
    score, single = (run.folder(name) for name in ("score", "single"))
    found = api.compare(score, single)
    accuracy = next(each for each in found.scores if each.metric == "accuracy")
    assert accuracy.value == pytest.approx(score_of(run, "score", "accuracy").value)
    assert "How the trainings differ" in render_comparison(found)
    with pytest.raises(RecipeError, match=r"topics@1.*topics@2.*topics@3"):
        api.predict(f"{folder}/runs/small:topics", ["text"])
    assert len(api.predict(f"{folder}/runs/small:topics@2", ["text"])) == 1
    card = (run.folder("topics@2") / "README.md").read_text(encoding="utf-8")
    assert "±" in card


@pytest.mark.slow
def test_a_killed_run_with_seeds_goes_on_with_the_seed_that_was_trained(
    seeded: Seeded, tmp_path: Path
) -> None:
    run, folder, _ = seeded
    kept = folder / "runs" / "small"
    before = {name: (run.folder(name) / "report.json").read_bytes() for name in ("topics@1", "topics@2")}
    weights = (run.folder("topics@3") / "model.safetensors").read_bytes()
    for name in ("topics@3", "topics", "score", "single"):
        (run.folder(name) / "report.json").unlink()
    again = api.run(hfpipe.load(folder / "small.yaml"), folder / "runs", say=lambda _: None)
    assert (again.folder("topics@3") / "model.safetensors").read_bytes() == weights
    assert before == {name: (again.folder(name) / "report.json").read_bytes() for name in before}
    assert json.loads((again.folder("score") / "report.json").read_text())["scores"] == [
        json.loads(score.model_dump_json()) for score in run.reports["score"].scores
    ]
    assert not any(each.damage for each in api.verify(kept))
