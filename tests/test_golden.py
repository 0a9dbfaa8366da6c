"""The golden run finds every change of a weight, a score or a prediction, and none where nothing changed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import golden
import pytest
from cases import CASES

VALUES: dict[str, Any] = {
    "task-learn": {"files": {"model.safetensors": "abc"}},
    "task-score-64": {
        "scores": [{"metric": "accuracy", "value": 0.25, "low": float("nan")}],
        "predictions": {"predictions": {"gold": ["a", "b"], "nats": [0.1, 0.2]}},
    },
}


def changed(*path: str | int, value: Any) -> dict[str, Any]:
    """Return the values with one of them changed."""
    other = copy.deepcopy(VALUES)
    *above, last = path
    inner: Any = other
    for key in above:
        inner = inner[key]
    inner[last] = value
    return other


def test_equal_values_have_no_difference_and_nan_equals_itself() -> None:
    assert list(golden.differences(VALUES, copy.deepcopy(VALUES), {})) == []


@pytest.mark.parametrize(
    ("after", "line"),
    [
        (changed("task-learn", "files", "model.safetensors", value="abd"), "'abc' became 'abd'"),
        (
            changed("task-score-64", "scores", 0, "value", value=0.25000000000000006),
            "0.25 became 0.25000000000000006",
        ),
        (
            changed("task-score-64", "predictions", "predictions", "nats", value=[0.1]),
            "nats > 1: 0.2 became nothing",
        ),
        (
            changed("task-score-64", "predictions", "predictions", "new", value=[3]),
            "new > 0: nothing became 3",
        ),
    ],
)
def test_every_change_is_a_line_with_its_place(after: dict[str, Any], line: str) -> None:
    [found] = golden.differences(VALUES, after, {})
    assert found.startswith("task-")
    assert line in found


def test_a_renamed_column_is_compared_under_its_new_name() -> None:
    after = changed(
        "task-score-64", "predictions", "predictions", value={"reference": ["a", "c"], "nats": [0.1, 0.2]}
    )
    assert len(list(golden.differences(VALUES, after, {}))) == 4
    [found] = golden.differences(VALUES, after, {"gold": "reference"})
    assert found.endswith("reference > 1: 'b' became 'c'")


def test_values_of_another_machine_or_of_other_rows_are_refused() -> None:
    tasks = ["fill-mask"]
    before = {"machine": golden.machine(), "given": golden.given(tasks), "values": {}}
    assert golden.refusal(before, tasks) == ""
    other = before | {"machine": golden.machine() | {"processor": "another", "torch": "1.0"}}
    assert golden.refusal(other, tasks).startswith("these values were made with processor another, here ")
    assert "torch 1.0, here " in golden.refusal(other, tasks)
    assert golden.refusal(before, ["causal-lm"]).startswith("these values were made of other rows")


def test_every_task_has_predictions_and_baselines_in_the_golden_run() -> None:
    from hfpipe.tasks import TASKS

    assert sorted(golden.ASKED) == sorted(CASES)
    with_baselines = {name for name in CASES if TASKS[name].model_construct().baselines}
    assert sorted(golden.BASELINES) == sorted(with_baselines)


@pytest.mark.slow
def test_a_golden_run_holds_weights_scores_and_predictions(tmp_path: Path) -> None:
    made = golden.measure(golden.ROOT, ["fill-mask"])
    values = json.loads(json.dumps(made))["values"]
    assert sorted(values) == ["fill-mask-learn", "fill-mask-pieces", "fill-mask-rows", "fill-mask-score-64"]
    assert {"model.safetensors", "tokenizer.json"} <= values["fill-mask-learn"]["files"].keys()
    assert values["fill-mask-learn"]["answer"]
    made = values["fill-mask-score-64"]
    assert made["scores"]
    assert {each["baseline"] for score in made["scores"] for each in score["comparisons"]} == {"frequent"}
    assert sorted(made["predictions"]) == ["predictions", "predictions-frequent"]
    rows = values["fill-mask-rows"]["data"]["splits"]["test"]
    assert len(made["predictions"]["predictions"]["row"]) == rows > 0
