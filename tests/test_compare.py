"""`hfpipe compare`: evaluated models side by side, aligned row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import Reader

import hfpipe
from hfpipe.cli.main import main
from hfpipe.evaluation.predictions_file import Predictions
from hfpipe.metrics.paired import correct_by_holm
from hfpipe.metrics.tally import Tally, compute_scores
from hfpipe.report import DataFacts, Report
from hfpipe.store.artifacts import CLUSTER, MODEL, get_predictions_path
from hfpipe.store.identity import StageIdentity
from hfpipe.store.store import StageFile, Store
from hfpipe.task import TaskConfig
from hfpipe.tasks.text_classification import TextClassification

CLASSES = ["lake", "mountain", "river"]
FACTS = DataFacts(
    columns={"text": "string", "label": "label"}, splits={"test": 300}, labels={"label": CLASSES}
)
TASK = TextClassification()
RIGHT = {"good": 0.9, "fair": 0.7, "twin": 0.7}


def guesses(rows: Sequence[int], right: float, seed: int) -> dict[str, np.ndarray]:
    """Return what a classifier that is right so often said of some rows, whose class their number tells."""
    random = np.random.default_rng(seed)
    reference = np.asarray(rows) % len(CLASSES)
    prediction = np.where(random.random(len(rows)) < right, reference, (reference + 1) % len(CLASSES))
    scores = np.full((len(rows), len(CLASSES)), 0.1)
    scores[np.arange(len(rows)), prediction] = 0.8
    nll = -np.log(scores[np.arange(len(rows)), reference])
    return {"reference": reference, "prediction": prediction, "scores": scores, "nll": nll}


@pytest.fixture
def evaluated(tmp_path: Path) -> Callable[..., str]:
    """Return a maker of runs in which a classifier was measured on some rows."""

    def make(
        name: str,
        rows: Sequence[int] = range(300),
        task: TaskConfig = TASK,
        facts: DataFacts = FACTS,
        **said: Any,
    ) -> str:
        columns = guesses(rows, RIGHT.get(name, 0.5), seed=len(name)) | said
        store = Store(tmp_path / name)
        settings = {"model": "someone/model", "resamples": 200, "task": None}
        identity = StageIdentity(kind="evaluate", version=1, seed=5, settings=settings, files={}, inputs={})
        folder = store.get_folder("score", identity.key)
        store.begin(folder, StageFile(name="score", base=str(tmp_path), folders={}, identity=identity))
        order = np.random.default_rng(1).permutation(len(rows))  # as a run writes them: longest first
        with Predictions(get_predictions_path(folder, MODEL)) as predictions:
            shown = {
                key: np.asarray(each)[order]
                for key, each in task.runtime().evaluator.encode_predictions(columns, facts).items()
            }
            predictions.add([f"id-{rows[place]}" for place in order], order, shown)
        tally = Tally(task.runtime().evaluator.metrics(facts), 200, 5)
        tally.add(np.arange(len(rows)), columns)
        known = {"task": task.model_dump(mode="json"), "data": facts.model_dump(mode="json")}
        known |= {"cluster": {"column": "text", "groups": 0}} if CLUSTER in said else {}
        store.finish(folder, Report(kind="evaluate", summary="", scores=compute_scores(tally), facts=known))
        return str(tmp_path / name)

    return make


def test_a_model_scores_as_in_its_own_report(evaluated: Callable[..., str]) -> None:
    good, fair = evaluated("good"), evaluated("fair")
    found = hfpipe.compare(good, fair)
    assert found.n == 300
    assert found.left_out == {}
    for name, run in (("good", good), ("fair", fair)):
        reported = hfpipe.open(run).reports["score"].scores
        for score in reported:
            mine = next(each for each in found.scores if each.metric == score.metric)
            other = mine if name == "good" else mine.comparisons[0]
            assert (other.value, other.low, other.high) == pytest.approx((score.value, score.low, score.high))


@pytest.mark.slow
def test_a_clear_difference_is_distinguished_from_none(evaluated: Callable[..., str]) -> None:
    good, fair, twin = map(evaluated, RIGHT)
    accuracy = hfpipe.compare(good, fair, twin).scores[0]
    assert [c.baseline for c in accuracy.comparisons] == [fair, twin]
    assert all(c.p_value < 0.05 and c.difference_low > 0 for c in accuracy.comparisons)
    [same] = hfpipe.compare(fair, twin).scores[0].comparisons
    assert (same.difference, same.p_value) == (0.0, 1.0)


def test_rows_are_aligned_by_id_and_those_left_out_are_counted(evaluated: Callable[..., str]) -> None:
    good, fair = evaluated("good", range(300)), evaluated("fair", range(200, 350))
    found = hfpipe.compare(good, fair)
    assert found.n == 100
    assert found.left_out == {good: 200, fair: 50}
    shared = hfpipe.open(good).predictions("score").iloc[200:]
    assert found.scores[0].value == pytest.approx((shared["reference"] == shared["prediction"]).mean())


@pytest.mark.slow
def test_more_comparisons_make_each_less_sure(evaluated: Callable[..., str]) -> None:
    close = {
        name: evaluated(name, prediction=guesses(range(300), 0.83, 9)["prediction"])
        for name in ("left", "right")
    }
    alone = hfpipe.compare(evaluated("good"), close["left"]).scores[0].comparisons[0].p_value
    both = hfpipe.compare(evaluated("good"), *close.values()).scores[0]
    assert [c.p_value for c in both.comparisons] == pytest.approx([min(1, 2 * alone)] * 2)
    assert "|p:holm-2" in both.signature


def test_rows_that_one_evaluation_drew_in_groups_are_compared_in_groups(
    evaluated: Callable[..., str],
) -> None:
    groups = np.arange(300) // 60
    alone = hfpipe.compare(evaluated("good"), evaluated("fair")).scores[0]
    grouped = hfpipe.compare(evaluated("same"), evaluated("twin", **{CLUSTER: groups}))
    assert alone.comparisons[0].test == "mcnemar-midp"
    assert grouped.scores[0].comparisons[0].test == "randomization-midp"
    assert "|cluster:text|groups:5|" in grouped.scores[0].signature


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_raises_each_p_and_keeps_their_order(p_values: list[float]) -> None:
    corrected = correct_by_holm(p_values)
    assert all(p <= after <= min(1, len(p_values) * p) for p, after in zip(p_values, corrected, strict=True))
    assert [corrected[i] for i in np.argsort(p_values, kind="stable")] == sorted(corrected)


def test_holm_steps_down_from_the_smallest_p() -> None:
    # By hand: 4 × 0.005, 3 × 0.01, 2 × 0.03, and for 0.04 no less than for the one before.
    assert correct_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_table_says_who_wins(evaluated: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    good, fair = evaluated("good"), evaluated("fair", range(290))
    assert main(["compare", good, f"{fair}:score"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"n = 290, 95 % intervals, difference = {good} - the other"
    assert lines[2].split()[:2] == ["accuracy", good]
    assert lines[3].split()[0] == f"{fair}:score"
    assert f"left out: 10 rows of {good} on which not all were evaluated" in lines
    assert any(line.strip().startswith(f"better than {fair}:score (+0.") for line in lines)
    assert any(line.startswith("f1 by class (3): ") for line in lines)


def test_json_and_html_hold_the_same_scores(
    evaluated: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    good, fair = evaluated("good"), evaluated("fair")
    main(["compare", good, fair, "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert found["scores"][0]["comparisons"][0]["baseline"] == fair
    main(["compare", good, fair, "--format", "html"])
    page = Reader(capsys.readouterr().out)
    value = f"{found['scores'][0]['value']:.3f} ["
    assert any(text.startswith(value) for text in page.texts)
    assert not {"script", "link", "img"} & set(page.tags)


def test_a_frame_has_a_row_for_each_system(evaluated: Callable[..., str]) -> None:
    good, fair = evaluated("good"), evaluated("fair")
    frame = hfpipe.compare(good, fair).frame.query("metric == 'accuracy'")
    assert frame["system"].tolist() == [good, fair]
    assert frame["difference"].isna().tolist() == [True, False]


def wrong(evaluated: Callable[..., str], capsys: pytest.CaptureFixture[str], *targets: str) -> str:
    assert main(["compare", *targets]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_models_that_share_no_row_are_not_compared(
    evaluated: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    targets = evaluated("good", range(50)), evaluated("fair", range(50, 90))
    assert "have no row in common; evaluate them on one split" in wrong(evaluated, capsys, *targets)


def test_rows_of_one_id_and_other_answers_are_not_compared(
    evaluated: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = guesses(range(300), 0.7, 1)
    targets = evaluated("good"), evaluated("fair", reference=(swapped["reference"] + 1) % 3)
    assert "row 'id-0' is 'lake' in" in wrong(evaluated, capsys, *targets)


def test_what_is_not_an_evaluated_model_is_refused(
    evaluated: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good = evaluated("good")
    assert "name two evaluated models" in wrong(evaluated, capsys, good)
    assert "name two evaluated models" in wrong(evaluated, capsys, good, good)
    assert "there is no such stage; did you mean 'score'?" in wrong(evaluated, capsys, good, f"{good}:scor")
    assert "contains no finished stage" in wrong(evaluated, capsys, good, str(tmp_path))


def test_a_score_that_both_define_otherwise_is_left_out(evaluated: Callable[..., str]) -> None:
    more = FACTS.model_copy(update={"labels": {"label": [*CLASSES, "sea"]}})
    scores = np.full((300, 4), 0.1)
    found = hfpipe.compare(evaluated("good"), evaluated("fair", facts=more, scores=scores))
    names = {score.metric for score in found.scores}
    assert "loss" in names
    assert "accuracy" not in names


KINDS = {
    "label": (
        {"reference": [0, 2], "prediction": [2, 1], "scores": [[0.1, 0.2, 0.7], [0.2, 0.5, 0.3]]},
        "label",
    ),
    "labels": ({"reference": [[0, 1, 1], [1, 0, 0]], "prediction": [[0, 1, 0], [1, 1, 0]]}, "labels"),
    "float": ({"reference": [0.5, 2.0], "prediction": [0.25, 1.5]}, "float"),
}


@pytest.mark.parametrize(("columns", "kind"), KINDS.values(), ids=KINDS)
def test_what_is_shown_leads_back_to_the_prediction(columns: dict[str, Any], kind: str) -> None:
    said = {name: np.asarray(values) for name, values in columns.items()}
    facts = FACTS.model_copy(update={"columns": {"text": "string", "label": kind}})
    shown = {
        name: np.asarray(column)
        for name, column in TASK.runtime().evaluator.encode_predictions(said, facts).items()
    }
    recalled = TASK.runtime().evaluator.decode_predictions(shown, facts)
    assert recalled.keys() == said.keys()
    for name, column in said.items():
        assert np.array_equal(recalled[name], column)
