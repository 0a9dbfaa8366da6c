"""The README.md of a trained stage, which the Hub reads as a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from test_report import KEYS, finish, make_run, measured

import hfpipe
from hfpipe.report import DataFacts, Report
from hfpipe.reporting.model_card import refresh_card
from hfpipe.store.digests import Digests

LICENCES = {"topics": "apache-2.0", "wiki": "cc-by-sa-4.0"}
FACTS = {"parameters": 4_401_664, "steps": 200, "tokens": 1_300_000, "pipeline": "text-classification"}


def train(root: Path, **settings: Any) -> Path:
    """Finish the training stage of a run and return its folder."""
    model = {"type": "modernbert", "hidden_size": 64}
    task = {"kind": "text-classification", "length": 96}
    given = {"kind": "finetune", "task": task, "data": "stage:wiki", "model": model} | settings
    report = Report(kind="finetune", summary="", seconds=192, facts=FACTS, versions={"torch": "2.13.0"})
    return finish(root, "topics", given, ["wiki"], report)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a trained stage that an evaluation has measured."""
    root = make_run(tmp_path / "demo")
    facts = DataFacts(columns={"text": "string"}, splits={"train": 1000, "test": 1336})
    source = {"hub": "wikimedia/wikipedia", "files": None}
    finish(
        root,
        "wiki",
        {"kind": "dataset", "source": source},
        [],
        Report(kind="dataset", summary="", data=facts),
    )
    report = Report(kind="evaluate", summary="", scores=measured([]))
    finish(
        root,
        "score",
        {"kind": "evaluate", "model": "stage:topics", "data": "stage:wiki"},
        ["topics", "wiki"],
        report,
    )
    return train(root)


def test_the_hub_reads_licence_task_and_data_of_the_card(folder):
    assert refresh_card(folder, LICENCES)
    data = ModelCard.load(folder / "README.md").data.to_dict()
    assert data == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["hfpipe", "text-classification"],
        "datasets": ["wikimedia/wikipedia"],
    }


def test_the_card_says_what_it_is_how_good_against_what_and_its_limits(folder):
    refresh_card(folder, LICENCES)
    text = (folder / "README.md").read_text(encoding="utf-8")
    for line in (
        "# demo: topics",
        "| wiki | hub: wikimedia/wikipedia | train 1,000, test 1,336 | cc-by-sa-4.0 |",
        "Licence of the model: apache-2.0.",
        "| parameters | 4,401,664 |",
        r"| accuracy | model | 0.884 \[0.867, 0.901\] |  |  |",
        r"|  | majority | 0.213 \[0.193, 0.233\] | +0.671 \[0.336, 1.007\] | < 0.001 |".replace("<", "&lt;"),
        "- Duplicates were not looked for: rows measured may be in train too (clean: dedup).",
        'run = pipeline("text-classification", ".")  # this folder, its path, or the name of its repository',
        ", with torch 2.13.0.",
    ):
        assert line in text, line


def test_licences_that_the_recipe_does_not_name_are_reported_as_missing(folder):
    refresh_card(folder, {})
    card = ModelCard.load(folder / "README.md")
    assert card.data.license is None
    assert card.text.count("not named in the recipe") == 2


def test_secrets_among_the_settings_are_not_in_the_card(folder):
    training = {"learning_rate": 3e-4, "hub_token": "hf_SECRET", "nested": [{"API_KEY": "hf_SECRET"}]}
    train(folder.parent, training=training)
    refresh_card(folder, LICENCES)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "learning_rate: 0.0003" in text
    assert "hf_SECRET" not in text


@pytest.mark.parametrize("hostile", ["<script>x</script>", "a|b", "link](https://x)", "line\nbreak", "```"])
def test_names_of_the_recipe_cannot_change_the_form_of_the_card(folder, hostile):
    scores = [measured([])[0].model_copy(update={"metric": hostile})]
    settings = {"kind": "evaluate", "model": "stage:topics"}
    finish(folder.parent, "score", settings, ["topics"], Report(kind="evaluate", summary="", scores=scores))
    refresh_card(folder, LICENCES)
    text = (folder / "README.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if " model | 0.884" in line)
    assert row.replace(r"\|", "").count("|") == 6
    assert "<script>" not in text
    assert "](https" not in text.replace(r"\]", "")


def test_a_card_is_written_again_after_an_evaluation_and_only_then(folder):
    score = folder.parent / f"score-{KEYS['score']}"
    report = (score / "report.json").read_text(encoding="utf-8")
    (score / "report.json").unlink()
    assert refresh_card(folder, LICENCES)
    assert "No held-out data were measured." in (folder / "README.md").read_text(encoding="utf-8")
    assert not refresh_card(folder, LICENCES)
    (score / "report.json").write_text(report, encoding="utf-8")
    assert refresh_card(folder, LICENCES)
    assert "0.884" in (folder / "README.md").read_text(encoding="utf-8")
    assert refresh_card(folder, LICENCES | {"topics": "mit"})


@pytest.mark.parametrize("change", [lambda text: "My own words.\n", lambda text: text + "\nTested by Ada.\n"])
def test_a_card_that_somebody_wrote_or_edited_stays(folder, change):
    refresh_card(folder, LICENCES)
    mine = change((folder / "README.md").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(mine, encoding="utf-8")
    assert not refresh_card(folder, LICENCES | {"topics": "mit"})
    assert (folder / "README.md").read_text(encoding="utf-8") == mine


def test_a_damaged_folder_of_another_stage_does_not_cost_the_card(folder):
    other = folder.parent / f"other-{'e' * 12}"
    other.mkdir()
    (other / "report.json").write_text("{", encoding="utf-8")
    (other / "stage.json").write_text("{", encoding="utf-8")
    assert refresh_card(folder, LICENCES)


def test_a_licence_and_a_card_make_nothing_run_again(folder, tmp_path):
    before = Digests().compute(folder)
    refresh_card(folder, LICENCES)
    assert Digests().compute(folder) == before, "as where a recipe names the folder as its model"

    keys = []
    (tmp_path / "rows.txt").write_text("one line\n", encoding="utf-8")
    for licence in ("", "licence: mit"):
        text = (
            f"name: a\nstages:\n  rows:\n    kind: dataset\n    source: {{files: rows.txt}}\n    {licence}\n"
        )
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        recipe = hfpipe.load(tmp_path / "recipe.yaml")
        keys.append(hfpipe.plan(recipe, tmp_path / "runs")[0].folder)
    assert keys[0] == keys[1]
