"""Multiple choice: what Transformers computes, rows with fewer endings, and rows that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rows
import small
import torch
from pieces import save_encoder, tokenizer
from torch.nn import functional as F
from transformers import AutoModelForMultipleChoice, PreTrainedModel

import hfpipe
from hfpipe.errors import DataError
from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.references.places import Place, locate_place
from hfpipe.report import DataFacts
from hfpipe.tasks.multiple_choice import MultipleChoice

FACTS = DataFacts(columns={"context": "string", "endings": "strings", "label": "int"}, splits={})
ROWS: dict[str, list[Any]] = {
    "context": ["The river flows", "A star shines", "The town lies"],
    "endings": [
        ["to the sea", "in a book"],
        ["at noon", "by its own light", "in the sea"],
        ["in a valley", "up"],
    ],
    "label": [0, 1, 0],
}
TEXTS = [
    f"{context} {ending}"
    for context, endings in zip(ROWS["context"], ROWS["endings"], strict=True)
    for ending in endings
]


@pytest.fixture(scope="module")
def pieces() -> Any:
    return tokenizer(TEXTS * 5, "wordpiece", 120)


@pytest.fixture(scope="module")
def model(pieces: Any) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    entries = {"type": "bert", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | sizes
    made = create_model("AutoModelForMultipleChoice", create_config(entries, pieces, {}), 3)
    torch.nn.init.normal_(made.classifier.weight, std=2.0)  # so that the endings' scores are far apart
    return made.eval()


def batch_of(task: MultipleChoice, rows: dict[str, list[Any]], pieces: Any) -> dict[str, torch.Tensor]:
    encoded = task.runtime().encoder.encode(rows, pieces, FACTS)
    names = [name for name in encoded if name not in ("row", "truncated")]
    examples = [{name: encoded[name][row] for name in names} for row in encoded["row"]]
    return task.runtime().encoder.collate(examples, pieces, 0, train=False)


def logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> Any:
    inputs = {name: each for name, each in batch.items() if name != "labels" and not name.startswith("_")}
    with torch.no_grad():
        return model(**inputs)


def one_by_one(model: PreTrainedModel, pieces: Any) -> list[torch.Tensor]:
    """Return the scores of the endings of each row as the script run_swag of Transformers computes them."""
    found = []
    for context, endings in zip(ROWS["context"], ROWS["endings"], strict=True):
        encoded = pieces([context] * len(endings), endings, padding=True, return_tensors="pt")
        with torch.no_grad():
            found.append(model(**{name: each[None] for name, each in encoded.items()}).logits[0])
    return found


def test_scores_and_loss_are_those_of_each_row_alone(model: PreTrainedModel, pieces: Any) -> None:
    task = MultipleChoice()
    batch = batch_of(task, ROWS, pieces)
    outputs = logits(model, batch)
    alone = one_by_one(model, pieces)
    columns = task.runtime().evaluator.outputs_to_columns(outputs, batch)
    for scores, theirs in zip(columns["scores"], alone, strict=True):
        np.testing.assert_allclose(scores, theirs.softmax(-1), atol=1e-5)
    assert columns["prediction"].tolist() == [int(each.argmax()) for each in alone]
    for smoothing in (0.0, 0.1):
        wanted = sum(
            F.cross_entropy(each, torch.tensor(label), label_smoothing=smoothing).item()
            for each, label in zip(alone, ROWS["label"], strict=True)
        )
        total, count = task.runtime().objective.loss(outputs, batch, smoothing)
        assert (float(total), int(count)) == (pytest.approx(wanted, abs=1e-4), 3)


def test_endings_may_stand_in_columns_of_their_own_and_begin_alike(pieces: Any) -> None:
    swag = MultipleChoice(context="sent1", start="sent2", endings=["ending0", "ending1"])
    assert swag.columns == ("sent1", "sent2", "ending0", "ending1", "label")
    rows = {"sent1": ["A star"], "sent2": ["shines"], "ending0": ["at noon"], "ending1": ["up"], "label": [1]}
    whole = {"context": ["A star"], "endings": [["shines at noon", "shines up"]], "label": [1]}
    ours, theirs = batch_of(swag, rows, pieces), batch_of(MultipleChoice(), whole, pieces)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("label", [2, -1, None])
def test_a_label_that_is_not_the_number_of_an_ending_is_refused(label: Any, pieces: Any) -> None:
    with pytest.raises(
        DataError, match=rf"column 'label' holds {label}, not the index of an ending from 0 to 1"
    ):
        MultipleChoice().runtime().encoder.encode({**ROWS, "label": [label, 0, 0]}, pieces, FACTS)


@pytest.mark.parametrize("endings", [[], ["one"]])
def test_a_row_without_a_choice_is_refused(endings: list[str], pieces: Any) -> None:
    with pytest.raises(DataError, match=rf"a row has {len(endings)} endings"):
        MultipleChoice().runtime().encoder.encode(
            {**ROWS, "endings": [endings, *ROWS["endings"][1:]]}, pieces, FACTS
        )


def test_numbers_read_as_classes_are_numbers_of_endings_and_names_are_not(pieces: Any) -> None:
    columns = {**FACTS.columns, "label": "label"}
    numbers = DataFacts(columns=columns, splits={}, labels={"label": ["1", "0"]})
    task = MultipleChoice()
    assert list(task.check(numbers)) == []
    assert (
        list(task.runtime().encoder.encode({**ROWS, "label": [1, 0, 1]}, pieces, numbers)["label"])
        == ROWS["label"]
    )
    [problem] = task.check(DataFacts(columns=columns, splits={}, labels={"label": ["A", "B"]}))
    assert problem.message.startswith("column 'label' holds the class 'A', not the index of an ending")


def test_one_column_of_endings_is_not_a_choice() -> None:
    [problem] = MultipleChoice(endings=["ending0"]).check_settings()
    assert problem.path == ("endings",)


def test_what_is_cut_is_counted_for_all_endings_of_a_row(pieces: Any) -> None:
    whole = MultipleChoice(length=64).runtime().encoder.encode(ROWS, pieces, FACTS)
    short = MultipleChoice(length=6).runtime().encoder.encode(ROWS, pieces, FACTS)
    lost = whole["input_ids"].lengths - short["input_ids"].lengths
    assert short["truncated"] == lost.tolist()
    assert sum(whole["truncated"]) == 0 < lost.sum()
    assert max(max(each) for each in short["lengths"]) <= 6


def test_baselines_choose_the_longest_ending_or_any_with_equal_chances(pieces: Any) -> None:
    task = MultipleChoice()
    longest = task.runtime().baseline("longest").fit(ROWS, FACTS, pieces)(ROWS)
    assert longest["prediction"].tolist() == [0, 1, 0]
    many = {
        "context": [f"context {number}" for number in range(2000)],
        "endings": [["a", "b", "c", "d"]] * 2000,
        "label": [0] * 2000,
    }
    chance = task.runtime().baseline("chance").fit(many, FACTS, pieces)
    drawn = chance(many)["prediction"]
    assert np.array_equal(drawn, chance(many)["prediction"])
    assert np.abs(np.bincount(drawn, minlength=4) / 2000 - 0.25).max() < 0.05


def test_a_prediction_names_the_ending(model: PreTrainedModel, pieces: Any) -> None:
    task = MultipleChoice()
    batch = batch_of(task, ROWS, pieces)
    columns = task.runtime().evaluator.outputs_to_columns(logits(model, batch), batch)
    found = task.runtime().evaluator.format_predictions(
        {
            name: np.asarray(each, dtype=object) if isinstance(each, list) else each.numpy()
            for name, each in columns.items()
        },
        ROWS,
        FACTS,
    )
    for answer, endings in zip(found, ROWS["endings"], strict=True):
        assert answer["ending"] == endings[answer["label"]]
        assert 1 / len(endings) <= answer["score"] <= 1


@pytest.mark.slow
def test_the_recipe_runs_small_and_its_model_opens_elsewhere(tmp_path: Path) -> None:
    file = locate_place(Place(small.SUMMARIES), Path(), {})
    given = [
        {"sent1": row["context"], "sent2": "It", "label": row["label"]}
        | {f"ending{number}": text for number, text in enumerate(row["endings"])}
        for row in rows.endings(file)
    ]
    small.write_json_lines(tmp_path / "rows.jsonl", given)
    settings = {
        "swag.source": {"files": str(tmp_path / "rows.jsonl")},
        "swag.split": {"validation": 0.25},
        "chooser.model": str(save_encoder(tmp_path / "encoder", [row["sent1"] for row in given])),
        "chooser.training": {"max_steps": 160, "learning_rate": 1.5e-3, "bf16": False, "logging_steps": 10},
    }
    recipe = hfpipe.load(
        small.ROOT / "recipes" / "swag.yaml",
        [f"{key}={json.dumps(value)}" for key, value in settings.items()],
    )
    run = hfpipe.run(recipe, tmp_path / "runs", say=lambda _: None)
    accuracy = run.reports["score"].scores[0]
    assert (accuracy.metric, accuracy.value > 0.6) == ("accuracy", True)
    assert [(other.baseline, other.value < accuracy.low) for other in accuracy.comparisons] == [
        ("chance", True),
        ("longest", True),
    ]
    row = {name: each for name, each in given[0].items() if name != "label"}
    [answer] = hfpipe.predict(str(run.folders["chooser"]), [row])
    assert answer["ending"] in row.values()
    assert AutoModelForMultipleChoice.from_pretrained(run.folders["chooser"]).classifier.out_features == 1
