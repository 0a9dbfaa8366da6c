"""One recipe from text to scores, and the promise that it gives the same numbers however it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small
from safetensors.torch import load_file

import hfpipe
from hfpipe.references.places import locate_in_package
from hfpipe.runs.run import Run

SILENT = {"say": lambda _: None}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs, shared so that data and tokenizer are made once."""
    return tmp_path_factory.mktemp("runs")


def made(tmp_path: Path, runs: Path, recipe: dict[str, Any], until: str | None = None) -> Run:
    return hfpipe.run(hfpipe.load(small.write(tmp_path, recipe)), runs, until=until, **SILENT)


def logged(run: Run, stage: str) -> list[tuple[float, float]]:
    """Return loss and gradient norm of every step."""
    steps = small.history(run.reports[stage].model_dump())
    return [(step["loss"], step["grad_norm"]) for step in steps]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "modernbert"])
@pytest.mark.parametrize("shape", [(4, 2), (1, 8)], ids=str)
def test_accumulation_changes_neither_loss_nor_gradient_norm_nor_weights(
    tmp_path: Path, runs: Path, model: str, shape: tuple[int, int]
) -> None:
    whole = made(tmp_path, runs, small.recipe(model), "topics")
    micro, accumulation = shape
    cut = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation}
    pieces = made(tmp_path, runs, small.recipe(model, **cut), "topics")
    for stage in ("pretrain", "topics"):
        assert whole.folders[stage] != pieces.folders[stage]
        assert len(logged(whole, stage)) == 6
        assert logged(pieces, stage) == [pytest.approx(step, abs=1e-4) for step in logged(whole, stage)]
        one, other = (load_file(run.folders[stage] / "model.safetensors") for run in (whole, pieces))
        assert one.keys() == other.keys()
        assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-5


@pytest.mark.slow
def test_a_run_leaves_folders_that_plain_transformers_opens(tmp_path: Path, runs: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, pipeline

    run = made(tmp_path, runs, small.recipe())
    pretrained, topics = str(run.folders["pretrain"]), str(run.folders["topics"])
    encoder = AutoModelForMaskedLM.from_pretrained(pretrained)
    assert encoder.num_parameters() == run.reports["pretrain"].facts["parameters"]
    classifier = AutoModelForSequenceClassification.from_pretrained(topics)
    assert sorted(classifier.config.label2id) == run.reports["wiki"].data.labels["label"]
    prediction = pipeline("text-classification", topics)("The sun is a star.")[0]
    assert prediction["label"] in classifier.config.label2id
    assert len(pipeline("fill-mask", pretrained, top_k=3)("The [MASK] is a star.")) == 3
    assert not list(run.folders["topics"].rglob("*.bin"))


@pytest.mark.slow
def test_a_classifier_of_one_class_is_refused_before_it_is_trained(tmp_path: Path, runs: Path) -> None:
    recipe = small.recipe()
    topics = {
        row["topic"]
        for row in json.loads(
            locate_in_package(*small.SUMMARIES.removeprefix("package:").split("/", 1)).read_text(
                encoding="utf-8"
            )
        ).values()
    }
    recipe["stages"]["wiki"]["clean"].append({"drop": {"label": sorted(topics - {"Geography"})}})
    with pytest.raises(hfpipe.RecipeError, match="has a single class"):
        made(tmp_path, runs, recipe)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_stage_and_keeps_the_step(tmp_path: Path, runs: Path) -> None:
    recipe = small.recipe(learning_rate=1e30, max_grad_norm=0.0)
    with pytest.raises(
        hfpipe.StageError, match=r"the loss is nan at step \d+; lower learning_rate"
    ) as caught:
        made(tmp_path, runs, recipe, "pretrain")
    crash = Path(str(caught.value).partition("hfpipe replay ")[2].partition(";")[0])
    found = hfpipe.replay(crash)
    assert len(found.crash.examples) == found.compared == len(found.culprits) == 8
    assert found.what == "the loss is nan"
    assert found.module == "model.embeddings.norm"
    unfinished = crash.parent.parent / crash.name.partition("-step-")[0]
    assert (unfinished / "stage.json").exists()
    assert not (unfinished / "report.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rises", [False, True])
def test_the_validation_loss_falls_and_the_best_model_is_kept(
    tmp_path: Path, runs: Path, rises: bool
) -> None:
    """Where the learning rate grows to 1, the last model is not the best."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "max_steps": 40}
    rate = {"learning_rate": 1.0, "warmup_steps": 40} if rises else {}
    recipe = small.recipe(**best, eval_steps=10, save_steps=10, **rate)
    report = made(tmp_path, runs, recipe, "pretrain").reports["pretrain"]
    losses = [entry["eval_loss"] for entry in report.facts["history"] if "eval_loss" in entry]
    assert len(losses) == 4
    assert (min(losses) < losses[-1]) == rises
    assert report.facts["validation"]["loss"] == pytest.approx(min(losses), rel=1e-6)


@pytest.mark.slow
def test_early_stopping_ends_a_training_that_no_longer_improves(tmp_path: Path, runs: Path) -> None:
    recipe = small.recipe(learning_rate=1e-30, max_steps=40, eval_steps=5, save_steps=5)
    recipe["stages"]["pretrain"]["early_stopping"] = {"patience": 2}
    report = made(tmp_path, runs, recipe, "pretrain").reports["pretrain"]
    assert report.facts["steps"] == 15


@pytest.mark.slow
def test_scores_do_not_depend_on_the_evaluation_batch(tmp_path: Path, runs: Path) -> None:
    found = []
    for size in (1, 7, 64):
        recipe = small.recipe()
        recipe["stages"]["score"]["batch_size"] = size
        found.append({score.metric: score for score in made(tmp_path, runs, recipe).reports["score"].scores})
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, score in found[0].items():
            # Rounding puts rows of all but equal probability in another order, which is all a rank knows.
            close = 1e-3 if name in ("roc_auc", "average_precision") else 1e-6
            assert other[name].n == score.n
            assert other[name].value == pytest.approx(score.value, abs=close)
            assert other[name].low == pytest.approx(score.low, abs=close)


@pytest.mark.slow
def test_predictions_hold_every_example_once_and_agree_with_the_score(tmp_path: Path, runs: Path) -> None:
    import pyarrow.parquet as pq
    from datasets import load_from_disk

    run = made(tmp_path, runs, small.recipe())
    test = load_from_disk(run.folders["wiki"])["test"]
    for name in ("predictions", "predictions-majority", "predictions-tfidf"):
        table = pq.read_table(run.folders["score"] / f"{name}.parquet").to_pylist()
        assert sorted(row["id"] for row in table) == sorted(test["id"])
    table = pq.read_table(run.folders["score"] / "predictions.parquet").to_pylist()
    right = sum(row["reference"] == row["prediction"] for row in table)
    accuracy = next(score for score in run.reports["score"].scores if score.metric == "accuracy")
    assert right / len(table) == pytest.approx(accuracy.value)
    reference = dict(zip(test["id"], test["label"], strict=True))
    names = test.features["label"].names
    assert all(row["reference"] == names[reference[row["id"]]] for row in table)
