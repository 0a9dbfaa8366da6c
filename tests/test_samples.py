"""What a language model generates while it is trained, and how its loss depends on single tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import small

import hfpipe
from hfpipe.encoding.io import open_split
from hfpipe.errors import RecipeError
from hfpipe.reporting.html import render_page
from hfpipe.runs.run import Run

STEPS = [4, 8]
"""Steps after which the model is validated."""


def recipe(name: str = "causal-lm", **learn: Any) -> dict[str, Any]:
    """Return a recipe that trains with dropout, whose random numbers samples must not use."""
    made = cases.recipe(name, batch_sizes=(64,))
    stage = made["stages"][f"{name}-learn"]
    stage["model"] |= {"resid_pdrop": 0.1, "embd_pdrop": 0.1}
    stage["training"] |= {"max_steps": 8, "eval_steps": 4, "save_steps": 4}
    stage |= learn
    return made


def run(folder: Path, runs: Path, **learn: Any) -> Run:
    return hfpipe.run(hfpipe.load(small.write(folder, recipe(**learn))), runs, say=lambda _: None)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("sampled")
    return run(folder, folder / "runs", samples=2)


def lines(made: Run) -> list[dict[str, Any]]:
    path = made.folders["causal-lm-learn"] / "samples.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_a_model_continues_the_beginnings_of_rows_at_each_validation(sampled: Run) -> None:
    entries = lines(sampled)
    assert [entry["step"] for entry in entries] == STEPS
    texts = open_split(sampled.folders["causal-lm-rows"], "validation")["text"]
    for entry in entries:
        assert [set(sample) for sample in entry["samples"]] == [{"input", "output"}] * 2
        for sample, text in zip(entry["samples"], texts, strict=False):
            assert text.startswith(sample["input"])
            assert 0 < len(sample["input"]) <= 60
    given = [sample["input"] for sample in entries[-1]["samples"]]
    answers = hfpipe.predict(sampled.folders["causal-lm-learn"], given)
    said = [answer["generated_text"] for answer in answers if answer is not None]
    assert [sample["output"] for sample in entries[-1]["samples"]] == said  # by the model that is saved
    text = render_page(sampled)
    assert "<h3>Generated while it was trained</h3>" in text
    assert "<dt>step 4</dt>" in text


@pytest.mark.slow
def test_samples_change_neither_the_weights_nor_the_key(sampled: Run, tmp_path: Path) -> None:
    plain = run(tmp_path, tmp_path / "runs")
    one, other = (made.folders["causal-lm-learn"] for made in (sampled, plain))
    assert one.name == other.name
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert not (other / "samples.jsonl").exists()


@pytest.mark.slow
def test_the_groups_of_tokens_add_up_to_the_loss_that_is_reported(sampled: Run) -> None:
    report = sampled.reports["causal-lm-score-64"]
    found = report.facts["token_losses"]
    loss = next(score.value for score in report.scores if score.metric == "loss")
    frame = sampled.predictions("causal-lm-score-64")
    assert found["tokens"] == frame["tokens"].sum()
    for key in ("positions", "frequencies"):
        groups = np.array(found[key])
        assert groups[:, 3].sum() == found["tokens"], key
        assert np.average(groups[:, 2], weights=groups[:, 3]) == pytest.approx(loss, rel=1e-5), key
        assert (groups[1:, 0] > groups[:-1, 1]).all(), "groups do not overlap"
    text = render_page(sampled)
    assert "<h3>Loss by how often the train split has the token</h3>" in text


@pytest.mark.parametrize("name", ["text-classification", "denoising", "masked-lm"])
def test_samples_of_a_task_that_generates_no_text_are_refused_before_anything_runs(
    tmp_path: Path, name: str
) -> None:
    made = cases.recipe(name, batch_sizes=())
    made["stages"][f"{name}-learn"]["samples"] = 2
    with pytest.raises(RecipeError, match=f"task '{name}' generates no texts; delete samples"):
        hfpipe.load(small.write(tmp_path, made))


def test_samples_without_a_validation_are_refused_before_anything_runs(tmp_path: Path) -> None:
    made = recipe(samples=2)
    made["stages"]["causal-lm-learn"]["training"] |= {"eval_strategy": "no"}
    with pytest.raises(RecipeError, match="samples are generated at each validation, and eval_strategy is"):
        hfpipe.load(small.write(tmp_path, made))
    made = recipe(samples=2)
    made["stages"]["causal-lm-rows"]["split"] = {"test": 0.2}
    with pytest.raises(RecipeError, match="samples needs a validation split, and stage:causal-lm-rows has"):
        hfpipe.load(small.write(tmp_path, made))
