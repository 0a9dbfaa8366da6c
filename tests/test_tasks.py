"""Every shape of every task learns from real text, is measured, and opens in plain Transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small

import hfpipe

ROWS = """
import json

def rows(summaries):
    for number, row in enumerate(json.loads(summaries.read_text(encoding="utf-8")).values()):
        if number % 12 == 0:
            text = row["extract"][:400]
            long, old = len(text) > 250, any(f" {century}" in text for century in (17, 18, 19))
            yield {
                "text": text,
                "description": row["description"] or "",
                "topic": row["topic"],
                "kinds": [name for name, there in (("long", long), ("old", old)) if there],
                "size": len(text) / 100,
            }
"""
SHAPES: dict[str, tuple[dict[str, str], dict[str, Any], str, str]] = {
    "single label": ({"text": "text", "label": "topic"}, {}, "accuracy", "single_label_classification"),
    "sentence pairs": (
        {"text": "text", "other": "description", "label": "topic"},
        {"text_pair": "other"},
        "accuracy",
        "single_label_classification",
    ),
    "several labels": (
        {"text": "text", "labels": "kinds"},
        {"label": "labels"},
        "f1_micro",
        "multi_label_classification",
    ),
    "a number": ({"text": "text", "label": "size"}, {}, "mse", "regression"),
}
"""Shape → columns, options of the task, the metric that says it best, Transformers' problem type."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_a_classifier_learns_is_measured_and_opens_elsewhere(tmp_path: Path, runs: Path, shape: str) -> None:
    from transformers import AutoConfig, pipeline

    columns, options, metric, problem = SHAPES[shape]
    recipe = small.recipe("bert")
    recipe["stages"]["wiki"] |= {
        "source": {"python": "rows.py:rows", "reads": [small.SUMMARIES]},
        "columns": columns,
    }
    recipe["stages"]["wiki"]["clean"] = ["unicode"]
    train = recipe["stages"]["topics"]["training"] | {
        "max_steps": 60,
        "learning_rate": 3e-3,
        "logging_steps": 10,
    }
    recipe["stages"]["topics"] = {
        "kind": "finetune",
        "task": {"kind": "text-classification", "length": 48} | options,
        "data": "stage:wiki",
        "tokenizer": "stage:words",
        "model": small.MODELS["bert"],
        "training": train,
    }
    del recipe["stages"]["pretrain"]
    (tmp_path / "rows.py").write_text(ROWS)
    run = hfpipe.run(hfpipe.load(small.write(tmp_path, recipe)), runs, say=lambda _: None)

    report = run.reports["topics"]
    losses = [step["loss"] for step in small.history(report.model_dump())]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    ledger = report.ledger["train"]
    assert ledger["rows"] == run.reports["wiki"].data.splits["train"] == ledger["examples"]
    scores = {score.metric: score for score in run.reports["score"].scores}
    assert scores[metric].n == run.reports["wiki"].data.splits["test"]
    assert {comparison.baseline for comparison in scores[metric].comparisons} == {"majority", "tfidf"}
    assert AutoConfig.from_pretrained(run.folders["topics"]).problem_type == problem
    assert pipeline("text-classification", str(run.folders["topics"]))("A star.")[0]["score"] is not None


@pytest.mark.slow
def test_a_task_next_to_the_recipe_trains_and_its_text_is_part_of_the_key(tmp_path: Path, runs: Path) -> None:
    source = '''
from hfpipe.tasks.text_classification import TextClassification

class Shouted(TextClassification):
    """Reads the text in capitals."""
    kind: str = "shouted.py:Shouted"
    twice: bool = False
    """Read it twice."""
    def runtime(self):
        return super().runtime().map_column(self.text, lambda text: text.upper() * (1 + self.twice))
'''
    (tmp_path / "shouted.py").write_text(source)
    recipe = small.recipe("bert")
    recipe["stages"]["topics"]["task"] = {"kind": "shouted.py:Shouted", "length": 16, "twice": True}
    path = small.write(tmp_path, recipe)
    run = hfpipe.run(hfpipe.load(path), runs, say=lambda _: None)
    assert run.reports["topics"].ledger["train"]["truncated"] > 0
    assert all(step.done for step in hfpipe.plan(hfpipe.load(path), runs))
    (tmp_path / "shouted.py").write_text(source.replace("capitals", "CAPITALS"))
    undone = [step for step in hfpipe.plan(hfpipe.load(path), runs) if not step.done]
    assert [step.name for step in undone] == ["topics", "score"]
    assert undone[0].why == ("file shouted.py: content changed",)


@pytest.mark.slow
def test_a_budget_of_time_is_decided_once(tmp_path: Path, runs: Path) -> None:
    recipe = small.recipe("bert")
    del recipe["stages"]["pretrain"]["training"]["max_steps"]
    recipe["stages"]["pretrain"]["training"]["budget"] = "2s"
    run = hfpipe.run(hfpipe.load(small.write(tmp_path, recipe)), runs, until="pretrain", say=lambda _: None)
    facts = run.reports["pretrain"].facts
    assert facts["steps"] >= 5
    assert facts["steps"] == max(entry["step"] for entry in facts["history"])
    json.dumps(facts)
