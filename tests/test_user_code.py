"""User code runs if the present recipe or command names it, and never because a folder does."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from test_predict import TEXTS, model  # noqa: F401 - a fixture

import hfpipe
from hfpipe import api
from hfpipe.cli.main import main
from hfpipe.contract import RunContext
from hfpipe.errors import RecipeError, StageError
from hfpipe.evaluation.predictions_file import Predictions
from hfpipe.report import DataFacts, Report
from hfpipe.stages.evaluate import Evaluate
from hfpipe.store.artifacts import MODEL, get_predictions_path
from hfpipe.store.identity import StageIdentity
from hfpipe.store.store import StageFile, Store
from hfpipe.tasks.text_classification import TextClassification

EVIL = """
from pathlib import Path
from hfpipe.tasks.text_classification import TextClassification

Path(__file__).with_name("was-here").touch()

class Task(TextClassification):
    kind: str = "evil.py:Task"
"""
TASK = {**TextClassification(length=12).model_dump(mode="json"), "kind": "evil.py:Task"}
FACTS = DataFacts(
    columns={"text": "string", "label": "label"}, splits={"test": 4}, labels={"label": ["a", "b"]}
)


@pytest.fixture
def gift(tmp_path: Path, model: Path) -> Path:  # noqa: F811
    """Return a folder as somebody may hand it over: a model and an evaluated run that name code of theirs."""
    root = tmp_path / "gift"
    store = Store(root)
    folders = {}
    for name, kind, settings in (
        ("clf", "finetune", {"task": TASK}),
        ("score", "evaluate", {"model": "stage:clf", "task": None, "resamples": 100}),
    ):
        identity = StageIdentity(kind=kind, version=1, seed=1, settings=settings, files={}, inputs={})
        folders[name] = store.get_folder(name, identity.key)
        store.begin(folders[name], StageFile(name=name, base=str(root), folders={}, identity=identity))
    facts = {"task": TASK, "data": FACTS.model_dump(mode="json")}
    with Predictions(get_predictions_path(folders["score"], MODEL)) as rows:
        reference = np.array(["a", "b", "a", "b"])
        nll = np.full(4, 0.7)
        scores = np.full((4, 2), 0.5)
        said = {"reference": reference, "prediction": reference, "scores": scores, "nll": nll}
        rows.add([f"id-{number}" for number in range(4)], np.arange(4), said)
    for name, kind, more in (("clf", "finetune", {}), ("score", "evaluate", facts)):
        store.finish(folders[name], Report(kind=kind, summary="", facts=more))
    for file in model.iterdir():
        (folders["clf"] / file.name).write_bytes(file.read_bytes())
    (root / "evil.py").write_text(EVIL, encoding="utf-8")
    shutil.copytree(root, tmp_path / "second")
    return root


def folder(root: Path, name: str) -> Path:
    [found] = root.glob(f"{name}-*")
    return found


def ran(root: Path) -> bool:
    return (root / "was-here").exists()


COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "predict, a run": lambda root: ["predict", f"{root}:clf", "The Nile"],
    "predict, a folder": lambda root: ["predict", str(folder(root, "clf")), "The Nile"],
    "predict, another task": lambda root: [
        "predict",
        str(folder(root, "clf")),
        "The Nile",
        "--task",
        "fill-mask",
    ],
    "report, a run": lambda root: ["report", str(root)],
    "report, a folder": lambda root: ["report", str(folder(root, "clf"))],
    "report, a page": lambda root: ["report", str(root), "--format", "html"],
    "compare": lambda root: ["compare", str(root), str(root.parent / "second")],
    "stage": lambda root: ["stage", str(folder(root, "clf"))],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_executes_what_only_a_folder_names(
    gift: Path, command: Callable[[Path], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder(gift, "clf") / ".work").mkdir()
    (folder(gift, "clf") / "report.json").rename(gift / "kept") if command(gift)[0] == "stage" else None
    code = main(command(gift))
    said = capsys.readouterr()
    assert not ran(gift)
    if command(gift)[0] != "report":
        assert code in (1, 2)
        assert said.err.count("\n") == 1


def test_reading_a_run_in_a_notebook_executes_nothing(gift: Path) -> None:
    run = hfpipe.open(gift)
    assert list(run.stages["stage"]) == ["clf", "score"]
    assert len(run.predictions("score")) == 4
    assert (len(run.scores), len(run.curves), len(run.ledger)) == (0, 0, 0)
    for refused in (
        lambda: hfpipe.predict(run.folder("clf"), "The Nile"),
        lambda: hfpipe.predict(f"{gift}:clf", "The Nile"),
        lambda: hfpipe.compare(gift, gift.parent / "second"),
        lambda: api.run_stage(run.folder("clf")),
    ):
        with pytest.raises((RecipeError, StageError)):
            refused()
    assert not ran(gift)


@pytest.mark.slow
def test_what_predict_advises_runs_when_pasted(
    gift: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for here in (gift, gift.parent, Path("/")):
        monkeypatch.chdir(here)
        asked = ["predict", str(folder(gift, "clf")), TEXTS[0]]
        assert main(asked) == 2
        advice = shlex.split(capsys.readouterr().err.rpartition("then add ")[2].strip("`\n"))
        assert main([*asked, *advice]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["prediction"]["label"] in ("lake", "mountain", "river")
    assert ran(gift)


def test_a_task_that_is_named_from_here_is_not_looked_for_in_the_folder(
    gift: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(folder(gift, "clf")), "The Nile", "--task", "evil.py:Task"]) == 1
    assert "there is no evil.py" in capsys.readouterr().err
    Path("evil.py").write_text(EVIL, encoding="utf-8")
    assert main(["predict", str(folder(gift, "clf")), "The Nile", "--task", "evil.py:Task"]) == 0
    assert not ran(gift)
    assert ran(tmp_path)


def test_runs_that_user_code_measured_are_compared_once_it_is_named(gift: Path) -> None:
    second = gift.parent / "second"
    with pytest.raises(RecipeError, match="which runs only if you name it"):
        hfpipe.compare(gift, second)
    found = hfpipe.compare(gift, second, tasks=[f"{gift}/evil.py:Task"])
    assert found.n == 4
    assert not ran(second)
    with pytest.raises(RecipeError, match="--task text-classification: is not user code"):
        hfpipe.compare(gift, second, tasks=["text-classification"])


FOREIGN: dict[str, dict[str, Any]] = {
    "a model": {"model": "GIFT"},
    "a baseline": {
        "model": "PLAIN",
        "task": {"kind": "text-classification", "length": 12},
        "baselines": ["GIFT"],
    },
}


@pytest.fixture
def rows(tmp_path: Path, make_data: Callable[..., tuple[Report, Path]]) -> str:
    """Return the folder of a data set with the model's classes and a test split."""
    pairs = zip(TEXTS * 8, ["river", "mountain", "lake", "river", "mountain"] * 8, strict=True)
    lines = [
        json.dumps({"text": f"{text} {number}", "label": label}) for number, (text, label) in enumerate(pairs)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(make_data({"source": {"files": "rows.jsonl"}, "split": {"test": 0.5}}, "rows")[1])


@pytest.mark.parametrize("settings", FOREIGN.values(), ids=FOREIGN)
def test_evaluate_executes_no_code_of_a_foreign_model(
    gift: Path, context: Callable[..., RunContext], settings: dict[str, Any], rows: str
) -> None:
    names = {"GIFT": str(folder(gift, "clf")), "PLAIN": str(gift.parent / "plain")}
    shutil.copytree(names["GIFT"], names["PLAIN"])
    (Path(names["PLAIN"]) / "stage.json").unlink()
    given = json.loads(json.dumps(settings).replace("GIFT", names["GIFT"]).replace("PLAIN", names["PLAIN"]))
    if "task" in given:
        given["task"] = TextClassification.model_validate(given["task"])
    stage = Evaluate.model_validate({"kind": "evaluate", "data": rows, **given})
    with pytest.raises(
        StageError, match="which this recipe does not name; write it as task:, or add `trust_rem"
    ):
        stage.prepare(context("score"))
    assert not ran(gift)
    stage.model_copy(update={"trust_remote_code": True}).prepare(context("score"))
    assert ran(gift)


def test_a_folder_of_a_run_that_was_tampered_with_executes_nothing(
    gift: Path, context: Callable[..., RunContext], rows: str
) -> None:
    stage = Evaluate.model_validate({"kind": "evaluate", "data": rows, "model": "stage:clf"})
    place = gift / ("clf-" + "0" * 12)
    folder(gift, "clf").rename(place)
    with pytest.raises(StageError, match=r"its stage\.json is another stage's"):
        stage.prepare(context("score", inputs={"clf": place}))
    assert not ran(gift)


REMOTE = {
    "config.json": {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "evil.Config",
            "AutoModelForSequenceClassification": "evil.Model",
            "AutoTokenizer": ["evil.T", None],
        },
    }
}


def test_code_that_transformers_would_load_from_a_folder_is_not_asked_for(
    gift: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = folder(gift, "clf")
    (place / "stage.json").unlink()
    for name, more in REMOTE.items():
        given = json.loads((place / name).read_text(encoding="utf-8")) | more | {"model_type": "unheard-of"}
        (place / name).write_text(json.dumps(given), encoding="utf-8")
    shutil.copy(gift / "evil.py", place / "evil.py")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\ny\ny\n"))
    assert main(["predict", str(place), "The Nile"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not ran(place)


CODE = "from pathlib import Path\nPath(__file__).with_name('{name}').touch()\n"
RECIPE = """
stages:
  data: {kind: dataset, source: {python: "rows.py:rows"}, split: {test: 0.5}}
  words: {kind: tokenizer, data: stage:data, algorithm: wordpiece}
  clf:
    kind: finetune
    task: "task.py:Mine"
    data: stage:data
    tokenizer: stage:words
    model: {type: bert}
  score: {kind: evaluate, model: stage:clf, data: stage:data, metrics: [./metric.py]}
"""


def test_check_and_plan_execute_the_tasks_that_a_recipe_names_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    for name in ("rows", "task", "metric"):
        (tmp_path / f"{name}.py").write_text(CODE.format(name=f"{name}-ran") + "def rows(): ...\n")
    with (tmp_path / "task.py").open("a") as file:
        file.write("from hfpipe.tasks.text_classification.task import TextClassification as T\n")
        file.write("class Mine(T):\n    kind: str\n")
    recipe = hfpipe.load(tmp_path / "recipe.yaml")
    hfpipe.plan(recipe, tmp_path / "runs")
    assert sorted(path.name for path in tmp_path.glob("*-ran")) == ["task-ran"]


@pytest.mark.slow
def test_a_run_whose_recipe_names_its_task_needs_nothing_more(tmp_path: Path) -> None:
    shutil.copy(small.ROOT / "recipes" / "sources" / "wiki.py", tmp_path / "wiki.py")
    content = small.recipe()
    del content["stages"]["pretrain"]
    (tmp_path / "mine.py").write_text(EVIL.replace("evil.py", "mine.py"), encoding="utf-8")
    content["stages"]["topics"] |= {
        "task": {"kind": "mine.py:Task", "length": 32},
        "tokenizer": "stage:words",
        "model": small.MODELS["bert"],
    }
    content["stages"]["score"] |= {"baselines": ["majority"], "resamples": 100}
    path = small.write(tmp_path, content)
    recipe = hfpipe.load(path)
    hfpipe.run(recipe, tmp_path / "runs", say=lambda _: None)
    [answer] = hfpipe.predict(f"{path}:topics", "The Nile", runs=tmp_path / "runs")
    assert answer["label"]
    with pytest.raises(RecipeError, match="runs only if you name it"):
        hfpipe.predict(f"{tmp_path}/runs/small:topics", "The Nile")
