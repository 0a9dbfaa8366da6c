"""Temperature and thresholds: fitted on the validation split, saved in the config, read where models are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from test_weighted_loss import MANY

import hfpipe
from hfpipe.errors import RecipeError, StageError
from hfpipe.evaluation.calibration import compute_nll, fit_calibration, fit_temperature, fit_thresholds

RANDOM = torch.Generator().manual_seed(3)


def drawn(temperature: float, classes: int = 4, rows: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits that are too large by a factor, and classes drawn by the true probabilities."""
    logits = torch.randn(rows, classes, generator=RANDOM, dtype=torch.float64) * 2
    labels = torch.multinomial(logits.softmax(-1), 1, generator=RANDOM).squeeze(-1)
    return logits * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_by_which_logits_are_too_large(temperature: float) -> None:
    logits, labels = drawn(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)
    many = (torch.rand(logits.shape, generator=RANDOM) < (logits / temperature).sigmoid()).double()
    assert fit_temperature(logits, many) == pytest.approx(temperature, rel=0.05)


def test_a_calibration_does_not_raise_the_loss_and_keeps_the_classes() -> None:
    logits, labels = drawn(2.0, rows=50)
    found, facts = fit_calibration(["temperature"], logits, labels, ["a", "b", "c", "d"])
    assert compute_nll(logits / found.temperature, labels) == facts["loss_after"] <= facts["loss_before"]
    assert torch.equal((logits / found.temperature).argmax(-1), logits.argmax(-1))
    assert not found.thresholds


def test_thresholds_give_each_class_its_best_f1() -> None:
    from sklearn.metrics import f1_score

    logits = torch.randn(200, 3, generator=RANDOM, dtype=torch.float64)
    labels = (logits + torch.randn(200, 3, generator=RANDOM) > torch.tensor([1.5, 0.0, -1.0])).double()
    scores = logits.sigmoid().numpy()
    for number, limit in enumerate(fit_thresholds(logits, labels)):
        truth = labels[:, number].numpy()
        assert limit is not None
        every = [f1_score(truth, scores[:, number] > other) for other in np.linspace(0, 1, 25)]
        assert f1_score(truth, scores[:, number] > limit) >= max(every)


def test_a_class_without_rows_or_without_other_rows_keeps_the_even_threshold() -> None:
    labels = MANY.double()
    labels[:, 1], labels[:, 2] = 0, 1
    found, facts = fit_calibration(["thresholds"], torch.randn(8, 3).double(), labels, ["a", "b", "c"])
    assert facts["undecided"] == ["b", "c"]
    assert (found.thresholds["b"], found.thresholds["c"]) == (0.5, 0.5)


TABLE = """\
text,label,w
{rows}
"""
WORDS = {"river": "The long river flows north to the sea", "hill": "A steep hill of stone stands high"}


def table(folder: Path) -> None:
    """Write rows of two kinds, of which one is rare; the weights of rows are texts, as in every csv file."""
    lines = []
    for number in range(120):
        kind = "hill" if number % 6 == 0 else "river"
        lines.append(f"{WORDS[kind]} number {number},{kind},{1 + number % 3}")
    (folder / "rows.csv").write_text(TABLE.format(rows="\n".join(lines)), encoding="utf-8")


def recipe(folder: Path, **finetune: Any) -> Path:
    """Write a recipe that classifies the rows."""
    table(folder)
    made: dict[str, Any] = {
        "name": "weighted",
        "seed": 3,
        "stages": {
            "rows": {
                "kind": "dataset",
                "source": {"files": "rows.csv"},
                "columns": {"text": "text", "label": "label", "weight": "w"},
                "split": {"validation": 0.2, "test": 0.2},
            },
            "words": {"kind": "tokenizer", "data": "stage:rows", "algorithm": "wordpiece", "vocab_size": 200},
            "kinds": {
                "kind": "finetune",
                "task": {"kind": "text-classification", "length": 16},
                "data": "stage:rows",
                "tokenizer": "stage:words",
                "model": small.MODELS["bert"],
                "training": {"max_steps": 8, "learning_rate": 3e-3, "bf16": False},
            }
            | finetune,
            "score": {"kind": "evaluate", "model": "stage:kinds", "data": "stage:rows", "leakage": False},
        },
    }
    return small.write(folder, made)


def run(path: Path, folder: Path) -> Any:
    return hfpipe.run(hfpipe.load(path), folder / "runs", say=lambda _: None)


@pytest.mark.slow
def test_a_weighted_and_calibrated_classifier_says_so_and_predicts_as_it_was_measured(tmp_path: Path) -> None:
    path = recipe(tmp_path, loss={"weights": "balanced", "focal": 2}, calibrate=["temperature"])
    found = run(path, tmp_path)
    report = found.reports["kinds"]
    loss, calibration = report.facts["loss"], report.facts["calibration"]
    assert loss["class_weights"]["hill"] > 1 > loss["class_weights"]["river"]
    assert loss["sum_of_row_weights"] > report.ledger["train"]["rows"]
    assert loss["validation"] == "not weighted"
    assert "loss (not weighted)" in report.summary
    saved = json.loads((found.folders["kinds"] / "config.json").read_text())["hfpipe_calibration"]
    assert saved == {"temperature": calibration["temperature"], "thresholds": {}}
    assert calibration["temperature"] != 1
    rows = found.predictions("score")
    [said] = hfpipe.predict(found.folders["kinds"], rows["text"][:1].tolist())
    assert said["score"] == pytest.approx(float(max(rows["scores"][0])), abs=1e-5)
    logits = raw_logits(found.folders["kinds"], rows["text"][0])
    expected = (logits / calibration["temperature"]).softmax(-1).max()
    assert said["score"] == pytest.approx(float(expected), abs=1e-5)
    settings = found.made("kinds").identity.settings["loss"]
    assert settings["row_weights"] == "weight"  # as `columns` names it
    (found.folders["score"] / "report.json").unlink()
    damage(found.folders["kinds"])
    with pytest.raises(StageError, match="config"):
        run(path, tmp_path)


def raw_logits(folder: Path, text: str) -> torch.Tensor:
    """Return what plain Transformers computes, which knows nothing of a temperature."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(text, truncation=True, max_length=16, return_tensors="pt")).logits[0]


def damage(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"temperature"', '"temprature"'))


@pytest.mark.slow
def test_thresholds_decide_in_evaluation_and_prediction_until_the_model_is_trained_further(
    tmp_path: Path,
) -> None:
    path = recipe(tmp_path, calibrate=["temperature", "thresholds"])
    made = json.loads(path.read_text())
    rows = [
        {"text": f"{WORDS[kind]} {WORDS['hill'] if number % 4 == 0 else ''} {number}", "labels": labels}
        for number in range(120)
        for kind, labels in [("river", ["river", *(["hill"] if number % 4 == 0 else [])])]
    ]
    small.write_json_lines(tmp_path / "rows.jsonl", rows)
    stages = made["stages"]
    stages["rows"] |= {"source": {"files": "rows.jsonl"}, "columns": {"text": "text", "labels": "labels"}}
    stages["kinds"]["task"]["label"] = "labels"
    stages["on"] = stages["kinds"] | {"model": "stage:kinds", "tokenizer": None, "calibrate": []}
    stages["on"]["training"] = {"max_steps": 1, "bf16": False}
    stages["lora"] = stages["on"] | {"adapter": {"type": "lora"}, "calibrate": ["temperature"]}
    stages["score"] = stages.pop("score")
    found = run(small.write(tmp_path, made), tmp_path)
    thresholds = found.reports["kinds"].facts["calibration"]["thresholds"]
    assert thresholds["hill"] != 0.5
    assert found.reports["kinds"].facts["calibration"]["undecided"] == ["river"]
    config = json.loads((found.folders["kinds"] / "config.json").read_text())
    assert config["hfpipe_calibration"]["thresholds"] == thresholds
    scored = found.predictions("score")
    names = sorted(thresholds)
    for scores, predicted in zip(scored["scores"], scored["prediction"], strict=True):
        assert list(predicted) == [
            int(score > thresholds[name]) for score, name in zip(scores, names, strict=True)
        ]
    texts = scored["text"].tolist()
    for said, predicted in zip(
        hfpipe.predict(found.folders["kinds"], texts), scored["prediction"], strict=True
    ):
        assert {each["label"] for each in said["labels"]} == {
            n for n, p in zip(names, predicted, strict=True) if p
        }
    every = hfpipe.predict(found.folders["kinds"], texts[:1], options=["thresholds={hill: 0, river: 0}"])
    assert len(every[0]["labels"]) == 2
    assert "hfpipe_calibration" not in json.loads((found.folders["on"] / "config.json").read_text())
    lora = json.loads((found.folders["lora"] / "model" / "config.json").read_text())["hfpipe_calibration"]
    assert lora["temperature"] == found.reports["lora"].facts["calibration"]["temperature"] != 1
    [cold], [raw] = (answers(found.folders["lora"], texts[:1], own=own) for own in (True, False))
    assert logit(cold) == pytest.approx(logit(raw) / lora["temperature"], rel=1e-3)


def answers(folder: Path, texts: list[str], *, own: bool) -> list[float]:
    """Return the score of the first class, with the calibration of the folder or, if not `own`, without."""
    copy = folder.with_name("copy" if own else "raw")
    shutil.copytree(folder, copy)
    (copy / "report.json").unlink()  # whose digests would refuse a changed file
    if not own:
        config = copy / "model" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"hfpipe_calibration": None}))
    found = hfpipe.predict(
        copy, texts, task="text-classification", options=["thresholds={hill: 0, river: 0}"]
    )
    return [sorted((each["label"], each["score"]) for each in said["labels"])[0][1] for said in found]


def logit(score: float) -> float:
    return float(np.log(score / (1 - score)))


def stop(folder: Path, stage: dict[str, Any], **data: Any) -> str:
    """Return the message with which a run of the recipe stops."""
    made = json.loads(recipe(folder, **stage).read_text())
    made["stages"]["rows"] |= data
    with pytest.raises(RecipeError) as caught:
        run(small.write(folder, made), folder)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "data", "at", "message"),
    [
        ({"loss": {"weights": {"hil": 2}}}, {}, "2}}", "no class 'hil'; did you mean 'hill'?"),
        (
            {"loss": {"weights": "balanced"}},
            {"labels": {"label": {"names": ["hill", "river", "sea"]}}},
            '"balanced"',
            "no balanced weight: class ('sea') is in no row of the train split",
        ),
        ({"loss": {"weights": {"hill": 0, "river": 0}}}, {}, '{"hill"', "every class has weight 0"),
        (
            {"loss": {"weights": "balanced"}, "task": {"kind": "text-classification", "label": "w"}},
            {"columns": {}, "labels": {"w": "number"}},
            '"balanced"',
            "column 'w' holds numbers, not classes",
        ),
        ({"loss": {"row_weights": "v"}}, {}, '"v"', "no column 'v'"),
        ({"calibrate": ["thresholds"]}, {}, '["thresholds"]', "here each row has one"),
    ],
)
def test_a_loss_that_does_not_fit_the_data_is_an_error_with_line_and_column(
    stage: dict[str, Any], data: dict[str, Any], at: str, message: str, tmp_path: Path
) -> None:
    found = stop(tmp_path, stage, **data)
    column = (tmp_path / "small.yaml").read_text().rindex(at) + 1
    assert message in found
    assert f"small.yaml:1:{column}:" in found
