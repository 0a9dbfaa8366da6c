"""A task of a user, in a file next to the recipe, has what the tasks of hfpipe have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small

import hfpipe
from hfpipe.cli.main import main
from hfpipe.errors import RecipeError, StageError
from hfpipe.references.places import BaselinePlace
from hfpipe.tasks import TASKS
from hfpipe.tasks.fill_mask import FillMask
from hfpipe.tasks.text_classification import TextClassification

RECIPE = """\
stages:
  data: {kind: dataset, source: {files: a.jsonl}, columns: {text: text, label: label}}
  words: {kind: tokenizer, data: stage:data, algorithm: wordpiece}
  plain: {kind: tokenizer, data: stage:data, algorithm: bpe, style: gpt}
  fit:
    kind: finetune
    task:
      kind: "mine.py:Mine"
    data: stage:data
    tokenizer: stage:words
    model: {type: bert}
  score: {kind: evaluate, model: stage:fit, data: stage:data, split: train, baselines: [major]}
"""
MINE = """\
from dataclasses import replace
from typing import ClassVar
import hfpipe
from hfpipe.task import Requirements
from hfpipe.tasks.text_classification import TextClassification

class Mine(TextClassification):
    kind: str = "mine.py:Mine"
    baselines: ClassVar[tuple[str, ...]] = ("major", "tfidf")

    def runtime(self):
        built = super().runtime()
        return replace(built, baselines={**built.baselines, "major": built.baselines["majority"]})
"""


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that gives the problems of the recipe with some code as its task."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    Path("a.jsonl").write_text('{"text": "a b", "label": "x"}\n{"text": "c d", "label": "y"}\n')

    def found(code: str, recipe: str = RECIPE) -> list[str]:
        Path("mine.py").write_text(code, encoding="utf-8")
        Path("recipe.yaml").write_text(recipe, encoding="utf-8")
        try:
            hfpipe.load("recipe.yaml")
        except RecipeError as error:
            return [str(problem).partition("\n")[0] for problem in error.problems]
        return []

    return found


def test_baselines_of_a_task_are_what_it_declares(problems: Any) -> None:
    assert problems(MINE) == []
    stages = hfpipe.load("recipe.yaml").stages
    assert [(place, place.hub) for place in stages["score"].baselines] == [("major", None)]
    assert problems(MINE, RECIPE.replace("[major]", "[major, someone/model]")) == []
    other = hfpipe.load("recipe.yaml").stages["score"].baselines[1]
    assert other.hub == ("someone/model", None)
    assert problems(MINE, RECIPE.replace("[major]", "[majr]")) == [
        "recipe.yaml:12:89: there is no baseline 'majr'; did you mean 'major'?"
    ]
    assert problems(MINE, RECIPE.replace("[major]", "[majority]")) == [
        "recipe.yaml:12:89: 'majority' is not a baseline of mine.py:Mine, which has major, tfidf"
    ]


def test_a_baseline_of_one_task_is_none_of_another(problems: Any) -> None:
    other = RECIPE.replace('"mine.py:Mine"', "text-classification")
    told = "recipe.yaml:12:89: there is no baseline 'major'; did you mean 'majority'?"
    assert problems(MINE, other) == [told]


def test_names_of_baselines_are_those_that_the_tasks_declare() -> None:
    declared = {name for task in TASKS.values() for name in task.model_construct().baselines}
    declared |= set(FillMask(pattern="{text} [MASK]", verbalizer={"a": "b", "c": "d"}).baselines)
    assert declared == BaselinePlace.trivial


def test_a_task_without_a_model_gets_the_name_of_what_to_define(
    problems: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import hfpipe\n\nclass Mine(hfpipe.TaskConfig):\n    kind: str\n    columns = property(tuple)\n"
    lacks = "'auto_class' and 'runtime'"
    told = f"recipe.yaml:8:13: mine.py:Mine cannot be used yet; it must still define {lacks}"
    assert problems(code) == [told]
    assert main(["check", "recipe.yaml"]) == 2
    assert capsys.readouterr().err.startswith(told)


EARLIER = {
    "encode": ("def encode(self, rows, tokenizer, facts): return rows", "encoder"),
    "loss": ("def loss(self, outputs, batch, smoothing=0.0): return None", "objective"),
    "outputs_to_columns": ("def outputs_to_columns(self, outputs, batch): return {}", "evaluator"),
    "generate": ("def generate(self, model, batch, tokenizer): return {}", "generator"),
    "check_model": ("def check_model(self, model): return iter(())", "model_setup"),
    "fit_baseline": ("def fit_baseline(self, name, train, facts, tokenizer): return dict", "baselines"),
    "predicted_share": ("predicted_share = property(lambda self: 0.5)", "objective"),
}
"""Method of the earlier interface → its definition, and the part of a runtime that it belongs to."""


@pytest.mark.parametrize("name", EARLIER)
@pytest.mark.parametrize("base", ["TextClassification", "hfpipe.TaskConfig"])
def test_a_method_of_the_earlier_interface_is_named_with_its_line_and_its_place(
    problems: Any, name: str, base: str
) -> None:
    definition, part = EARLIER[name]
    head = "import hfpipe\nfrom hfpipe.tasks.text_classification import TextClassification\n\n"
    assert problems(f"{head}class Mine({base}):\n    kind: str\n    {definition}\n") == [
        f"recipe.yaml:8:13: mine.py:Mine defines {name!r} in line 6, which has no effect there; "
        f"it belongs to the {part} that 'runtime' returns, see 'Adding a task' in the manual"
    ]


def test_a_task_that_composes_its_runtime_may_have_methods_of_any_name(problems: Any) -> None:
    assert problems(f"{MINE}\n    def encode(self, rows): return rows\n") == []


@pytest.mark.parametrize(
    "code", ["import hfpipe\nclass Mine(hfpipe.Task): ...\n", "from hfpipe.task import Task as Mine\n"]
)
def test_the_earlier_class_gets_its_present_name(problems: Any, code: str) -> None:
    [found] = problems(code)
    assert found.startswith("recipe.yaml:8:13: mine.py:Mine: ")
    assert found.endswith("; it is now TaskConfig, see 'Adding a task' in the manual")


def test_a_declared_baseline_that_the_runtime_lacks_is_named(problems: Any) -> None:
    code = MINE.partition("    def runtime")[0]
    assert problems(code) == []
    runtime = hfpipe.load("recipe.yaml").stages["fit"].task.runtime()
    with pytest.raises(StageError, match=r"mine\.py:Mine declares the baseline 'major', and its runtime has"):
        runtime.baseline("major")


FAILING = {
    "auto_class": ("raise NotImplementedError", "NotImplementedError; "),
    "columns": ("return self.missing", "AttributeError: "),
    "baselines": ("return [][0]", "IndexError: list index out of range"),
    "requires": ("return 1 / 0", "ZeroDivisionError: division by zero"),
}
"""Property of a task → what it does, and how the error begins."""


@pytest.mark.parametrize("name", FAILING)
def test_what_a_task_raises_is_a_problem_at_the_key_that_names_it(problems: Any, name: str) -> None:
    body, error = FAILING[name]
    code = f"{MINE}\n    @property\n    def {name}(self):\n        {body}\n"
    line = len(code.splitlines())
    found = problems(code)
    assert found[0].startswith(f"recipe.yaml:8:13: mine.py:Mine failed, line {line}: {error}")
    assert found[0].endswith("; fix the task")
    assert len(found) == len(set(found))


def test_a_value_of_a_wrong_kind_is_a_problem_of_the_task(problems: Any) -> None:
    code = MINE + "\n    @property\n    def columns(self):\n        return None\n"
    assert problems(code)[0].startswith("recipe.yaml:8:13: mine.py:Mine failed: TypeError: ")


def test_an_auto_class_that_transformers_lacks_is_named_with_the_one_that_was_meant(problems: Any) -> None:
    code = MINE + '\n    auto_class: ClassVar[str] = "AutoModelForSequenceClasification"\n'
    wanted = "did you mean 'AutoModelForSequenceClassification'?"
    assert problems(code) == [
        "recipe.yaml:7:5: mine.py:Mine: "
        f"Transformers has no auto class 'AutoModelForSequenceClasification'; {wanted}"
    ]


NEEDS = {
    "mask_token=True": "needs a mask token, and this tokenizer has none; add `style: bert` to its stage",
    "sentinels=True": "needs <extra_id_0> … for hidden spans, and this tokenizer has none; add",
    "chat_template=True": "formats conversations with a chat template, and this tokenizer has none; use one",
}
"""Requirement of a task → what is said of a tokenizer that does not meet it."""


@pytest.mark.parametrize("needs", NEEDS)
def test_what_a_task_requires_of_a_tokenizer_is_checked(problems: Any, needs: str) -> None:
    code = MINE + f"\n    @property\n    def requires(self):\n        return Requirements({needs})\n"
    [found] = problems(code, RECIPE.replace("tokenizer: stage:words", "tokenizer: stage:plain"))
    assert found.startswith(f"recipe.yaml:10:16: mine.py:Mine {NEEDS[needs]}")


def test_what_a_task_requires_of_a_model_is_checked(problems: Any) -> None:
    code = MINE + "\n    pairs: bool = False\n    @property\n    def requires(self):\n"
    code += '        return Requirements(token_types="pairs")\n'
    [found] = problems(code, RECIPE.replace("type: bert", "type: distilbert"))
    assert "pairs needs a model that distinguishes two sentences; distilbert has no token types" in found


def test_a_new_version_of_a_task_reruns_its_stages(
    problems: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hfpipe.store.identity import StageIdentity

    own = RECIPE.replace('"mine.py:Mine"', "text-classification").replace("major", "majority")
    assert problems(MINE, own) == []
    before = {step.name: step for step in hfpipe.plan(hfpipe.load("recipe.yaml"))}
    kept = before["fit"].identity.model_dump()
    assert kept.pop("task_version") == 1
    assert (
        StageIdentity.model_validate(kept).key == before["fit"].identity.key
    )  # folders made before stay valid
    monkeypatch.setattr(TextClassification, "version", 2)
    after = {step.name: step for step in hfpipe.plan(hfpipe.load("recipe.yaml"))}
    changed = [name for name, step in after.items() if step.identity.key != before[name].identity.key]
    assert changed == ["fit", "score"]
    folder = before["fit"].folder
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(
        json.dumps({"name": "fit", "base": str(tmp_path), "folders": {}, "identity": kept}), encoding="utf-8"
    )
    (folder / "report.json").write_text('{"kind": "finetune", "summary": ""}', encoding="utf-8")
    again = {step.name: step for step in hfpipe.plan(hfpipe.load("recipe.yaml"))}
    assert again["fit"].why == ("the code of its task changed: version 1 → 2",)


@pytest.mark.slow
def test_a_task_of_a_user_has_scores_baselines_sizes_and_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    made = small.recipe("bert")
    stages = made["stages"]
    del stages["pretrain"]
    stages["topics"] |= {"tokenizer": "stage:words", "model": small.MODELS["bert"]}
    stages["topics"]["task"] = {"kind": "mine.py:Mine", "length": 32}
    stages["score"]["baselines"] = ["major", "tfidf"]
    path = small.write(tmp_path, made)
    assert main(["run", str(path), "--runs", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    run = hfpipe.open(path, tmp_path / "runs")
    assert f"use:    hfpipe predict {run.folders['topics']}" in shown  # it does not declare a pipeline itself
    names = {each.baseline for score in run.reports["score"].scores for each in score.comparisons}
    assert names == {"major", "tfidf"}
    assert run.predictions("score", "major")["prediction"].nunique() == 1
    recipe = hfpipe.load(path)
    sizes = hfpipe.sizes(recipe, hfpipe.plan(recipe, tmp_path / "runs"))
    [size] = [each for each in sizes if each.stage == "topics"]
    assert {"parameters", "tokens in all", "memory per device"} <= size.amounts.keys()
    assert size.amounts["parameters"].value == run.reports["topics"].facts["parameters"]
    [answer] = hfpipe.predict(path, ["The sun is a star."], runs=tmp_path / "runs")
    assert answer["label"] in run.reports["wiki"].data.labels["label"]
    (tmp_path / "mine.py").write_text(
        MINE + '\n    pipeline: ClassVar[str] = "text-classification"\n', encoding="utf-8"
    )
    declared = hfpipe.load(path).stages["topics"].task
    assert declared.opened_by == "text-classification"
