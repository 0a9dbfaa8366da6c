"""A `matrix` on a recipe: settings that vary, equal stages shared, and one table of all combinations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import small
from browser import LOOKS, needs_chromium, open_page
from markupsafe import escape

import hfpipe
from hfpipe.cli import console
from hfpipe.errors import RecipeError
from hfpipe.reporting.html import render_page
from hfpipe.reporting.verdict import read_verdict

SIZES = {
    "small": {"topics.training.max_steps": 2, "topics.training.learning_rate": 1e-3},
    "large": {"topics.training.max_steps": 3, "topics.training.learning_rate": 2e-3},
}


def recipe_with(matrix: dict[str, Any], **stages: Any) -> dict[str, Any]:
    recipe = small.recipe() | {"matrix": matrix}
    recipe["stages"] |= stages
    return recipe


def stages(folder: Path, matrix: dict[str, Any], **more: Any) -> dict[str, Any]:
    return hfpipe.load(small.write(folder, recipe_with(matrix, **more))).stages


def folders(folder: Path, recipe: dict[str, Any]) -> dict[str, str]:
    return {step.name: step.folder.name for step in hfpipe.plan(hfpipe.load(small.write(folder, recipe)))}


def test_only_the_stages_that_depend_on_a_setting_are_copied(tmp_path: Path) -> None:
    assert list(stages(tmp_path, {"topics.training.max_steps": [1, 2]})) == [
        "wiki",
        "words",
        "pretrain",
        "topics@max_steps=1",
        "topics@max_steps=2",
        "topics",
        "score@max_steps=1",
        "score@max_steps=2",
        "score",
    ]


def test_all_combinations_are_made_and_each_reads_its_own_stages(tmp_path: Path) -> None:
    found = stages(tmp_path, {"words.vocab_size": [500, 600], "size": SIZES})
    assert [name for name in found if name.startswith("score@")] == [
        f"score@vocab_size={vocabulary},size={size}" for vocabulary in (500, 600) for size in SIZES
    ]
    last = found["topics@vocab_size=600,size=large"]
    assert last.model == "stage:pretrain@vocab_size=600"
    assert (last.training["max_steps"], last.training["learning_rate"]) == (3, 2e-3)
    assert found["score@vocab_size=600,size=large"].model == "stage:topics@vocab_size=600,size=large"


def test_listed_combinations_share_the_stages_in_which_they_agree(tmp_path: Path) -> None:
    listed = {
        name: {"wiki.limit": limit, "pretrain.training.max_steps": steps}
        for name, limit, steps in (("a", 900, 1), ("b", 900, 2), ("c", 800, 2))
    }
    found = list(stages(tmp_path, {"trial": listed}))
    assert [name for name in found if name.startswith("wiki")] == ["wiki@trial=a", "wiki@trial=c"]
    assert [name for name in found if name.startswith("topics")] == [
        *(f"topics@trial={name}" for name in "abc"),
        "topics",
    ]


def test_a_data_set_made_of_another_one_follows_it(tmp_path: Path) -> None:
    part = {"kind": "dataset", "source": {"stage": "wiki"}}
    found = stages(tmp_path, {"wiki.limit": [900, 800]}, part=part)
    assert found["part@limit=800"].source.stage == "stage:wiki@limit=800"


def test_another_value_or_axis_keeps_the_folders_of_what_is_equal(tmp_path: Path) -> None:
    plain = folders(tmp_path, small.recipe())
    before = folders(tmp_path, recipe_with({"topics.training.max_steps": [2, 6]}))
    after = folders(
        tmp_path, recipe_with({"topics.training.max_steps": [6, 4, 2], "words.vocab_size": [500, 1000]})
    )
    for name in ("topics", "score"):
        assert before[f"{name}@max_steps=6"] == plain[name]  # the recipe's own number of steps
        for steps in (2, 6):
            same = f"{name}@max_steps={steps},vocab_size=1000"
            assert after[same] == before[f"{name}@max_steps={steps}"]
    assert len({after[name] for name in after if name.startswith("topics@")}) == 6


def test_the_seeds_of_a_copy_are_its_own(tmp_path: Path) -> None:
    recipe = recipe_with({"words.vocab_size": [500, 600]})
    recipe["stages"]["pretrain"]["seeds"] = [1, 2]
    recipe["stages"]["topics"]["model"] = "stage:pretrain@2"
    found = hfpipe.load(small.write(tmp_path, recipe)).stages
    assert found["topics@vocab_size=600"].model == "stage:pretrain@vocab_size=600@2"
    assert list(found["pretrain@vocab_size=500"].members) == [f"pretrain@vocab_size=500@{n}" for n in (1, 2)]


def test_a_reference_may_name_one_combination(tmp_path: Path) -> None:
    recipe = recipe_with({"size": SIZES})
    recipe["stages"]["score"]["baselines"] = ["stage:topics@size=small"]
    recipe["stages"]["last"] = {"kind": "evaluate", "model": "stage:topics@size=large", "data": "stage:wiki"}
    found = hfpipe.load(small.write(tmp_path, recipe)).stages
    assert found["score@size=large"].baselines == ["stage:topics@size=small"]
    assert "last" in found
    assert not any(name.startswith("last@") for name in found)


def test_a_reference_that_varies_is_followed(tmp_path: Path) -> None:
    start = {name: {"topics.model": f"stage:{name}"} for name in ("pretrain", "other")}
    recipe = recipe_with({"start": start, "pretrain.training.max_steps": [1, 2]})
    before_topics = {name: recipe["stages"].pop(name) for name in ("topics", "score")}
    recipe["stages"] |= {"other": recipe["stages"]["pretrain"], **before_topics}
    found = hfpipe.load(small.write(tmp_path, recipe)).stages
    assert [name for name in found if name.startswith("topics@")] == [
        "topics@start=pretrain,max_steps=1",
        "topics@start=pretrain,max_steps=2",
        "topics@start=other",
    ]


def test_settings_with_the_same_last_name_are_told_apart(tmp_path: Path) -> None:
    matrix = {"pretrain.training.max_steps": [1, 2], "topics.training.max_steps": [1, 2]}
    names = list(stages(tmp_path, matrix))
    assert "score@pretrain.training.max_steps=1,topics.training.max_steps=2" in names


def test_a_run_may_end_at_the_name_in_the_recipe(tmp_path: Path) -> None:
    recipe = hfpipe.load(small.write(tmp_path, recipe_with({"words.vocab_size": [500, 600]})))
    for until, last in (("words", "words@vocab_size=600"), ("pretrain", "pretrain"), ("evaluate", "score")):
        assert hfpipe.plan(recipe, tmp_path, until=until)[-1].name == last


def test_a_problem_of_all_copies_is_reported_once_and_by_the_names_of_the_recipe(tmp_path: Path) -> None:
    recipe = recipe_with({"words.vocab_size": [500, 600]})
    recipe["stages"]["pretrain"]["seeds"] = [1, 2]
    with pytest.raises(RecipeError) as caught:
        hfpipe.load(small.write(tmp_path, recipe))
    [problem] = caught.value.problems
    assert "stage:pretrain@1" in problem.message
    assert "vocab_size" not in problem.message


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, hfpipe.Run]:
    """Return a folder and the run of a matrix in it, of which one value was run before."""
    folder = tmp_path_factory.mktemp("matrix")
    first = recipe_with({"topics.training.max_steps": [2]})
    hfpipe.run(hfpipe.load(small.write(folder, first)), folder / "runs", say=lambda line: None)
    recipe = recipe_with({"topics.training.max_steps": [1, 2]})
    recipe["stages"]["score"]["require"] = {"accuracy": {"min": 0.99}}
    return folder, hfpipe.run(
        hfpipe.load(small.write(folder, recipe)), folder / "runs", say=lambda line: None
    )


@pytest.mark.slow
def test_another_value_runs_only_itself(made: tuple[Path, hfpipe.Run]) -> None:
    folder, _ = made
    trained = sorted(
        (folder / "runs" / "small").glob("topics-*/report.json"), key=lambda path: path.stat().st_mtime
    )
    steps = [json.loads(path.read_text())["facts"].get("steps") for path in trained]
    assert [step for step in steps if step is not None] == [2, 1]
    assert len(list((folder / "runs" / "small").glob("pretrain-*"))) == 1


@pytest.mark.slow
def test_settings_and_scores_are_rows_in_python(made: tuple[Path, hfpipe.Run]) -> None:
    folder, run = made
    frame = run.matrix("score")
    assert list(frame["topics.training.max_steps"]) == [1, 2]
    by_stage = run.scores.query("metric == 'accuracy' and system == 'model'").set_index("stage")
    for _, row in frame.iterrows():
        assert row["accuracy"] == by_stage.value[row["stage"]]
        assert row["accuracy_low"] == by_stage.low[row["stage"]]
    trained = run.matrix("topics")
    assert list(trained["steps"]) == [1, 2]
    assert trained["parameters"].nunique() == 1
    assert trained["loss"].notna().all()
    with pytest.raises(RecipeError, match="pretrain: is not a table of a matrix"):
        run.matrix("pretrain")

    opened = hfpipe.open(folder / "runs" / "small")
    assert set(opened.folders) == set(run.folders)
    pd.testing.assert_frame_equal(opened.matrix("score"), frame)


@pytest.mark.slow
def test_all_combinations_are_in_one_table(
    made: tuple[Path, hfpipe.Run], capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = made
    console.show_scores(run)
    shown = capsys.readouterr().out
    assert "score: 2 combinations" in shown
    rows = [line.split() for line in shown.splitlines() if line[:2] in ("1 ", "2 ")]
    assert [row[0] for row in rows] == ["1", "2"] * 2  # of the trainings, and of the evaluations
    assert "majority" not in shown
    assert "not met: score@max_steps=2: require: accuracy is" in shown
    console.show_scores(run, every=True)
    assert "majority" in capsys.readouterr().out

    text = render_page(run)
    assert text.index('id="matrix"') < text.index('id="stages"')
    assert "Nothing was evaluated" not in text
    assert "<summary>Scores: score@max_steps=2</summary>" in text


@pytest.mark.slow
@needs_chromium
def test_the_page_of_a_matrix_has_a_verdict_on_each_combination(
    made: tuple[Path, hfpipe.Run], tmp_path: Path
) -> None:
    _, run = made
    text = render_page(run)
    section = text[text.index('id="matrix"') : text.index('id="leakage"')]
    for steps in (1, 2):
        title = read_verdict(run, f"score@max_steps={steps}").title
        assert ": a requirement is not met; " in title
        value = run.matrix("score").set_index("topics.training.max_steps").accuracy[steps]
        assert re.search(
            f'data-label="max_steps">{steps}</th>.*"accuracy">{value:.3f} .*"verdict">{escape(title)}</td>',
            section,
        )
        assert f"<title>max_steps={steps}: {value:.4g} [" in section
    assert section.count("Not met: require: accuracy is") == 2
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    assert open_page(tmp_path / "page.html", LOOKS[:2]) == []
