"""Scores made after the pass: of ranks, and of any metric of `evaluate` that a recipe names."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest
import small

import hfpipe
from hfpipe.evaluation.class_alignment import Alignment
from hfpipe.evaluation.dataset_metrics import DatasetMetrics
from hfpipe.evaluation.evaluate import EvaluationSetup
from hfpipe.evaluation.predictions_file import Predictions, read_predictions
from hfpipe.metrics.named import NamedMetric, load_metric
from hfpipe.metrics.scores.confusion import F1
from hfpipe.metrics.scores.ranking import RocAuc
from hfpipe.metrics.tally import Tally, compare_tallies, compute_scores
from hfpipe.report import DataFacts

TOPICS = ["Arts", "History", "Science"]
CLASSES = {"reference": TOPICS, "prediction": TOPICS}
METRIC = """
import datasets
import evaluate


class Shares(evaluate.Metric):
    def _info(self):
        kind = datasets.Value("KIND")
        features = datasets.Features({"predictions": kind, "references": kind})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references, scale=1.0):
        pairs = list(zip(predictions, references, strict=True))
        return {
            "right": scale * sum(guess == gold for guess, gold in pairs) / len(pairs),
            "first": sum(guess == FIRST for guess, _ in pairs),
            "names": ["not", "a", "number"],
        }
"""


def guessed(n: int = 60, skill: float = 1.0):
    """What a classifier says, as predictions hold it: classes by name."""
    random = np.random.default_rng(5)
    reference = np.arange(n) % len(TOPICS)
    logits = random.normal(size=(n, len(TOPICS)))
    logits[np.arange(n), reference] += skill
    scores = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    ids = {"reference": reference, "prediction": scores.argmax(axis=1)}
    return ids, {name: [TOPICS[number] for number in column] for name, column in ids.items()} | {
        "scores": scores
    }


def written(path: Path, columns, order=None) -> dict[str, Path]:
    """Write predictions, as the file of a system that was trained once."""
    n = len(columns["reference"])
    with Predictions(path) as predictions:
        for rows in np.array_split(np.arange(n) if order is None else order, 3):
            batch = {name: [column[row] for row in rows] for name, column in columns.items()}
            predictions.add([str(row) for row in rows], rows, batch)
    return {"": path}


def setup(n: int = 60, resamples: int = 100) -> EvaluationSetup:
    rows = datasets.Dataset.from_dict({"text": [f"text {number}" for number in range(n)]})
    facts = DataFacts(columns={"label": "label"}, splits={"test": n}, labels={"label": TOPICS})
    return EvaluationSetup(rows, facts, 17, resamples, 8, Alignment(facts, {}, {}))


def metric(folder: Path, kind: str = "int32", first: str = "0", **options) -> NamedMetric:
    """The metric above, as a person's own file."""
    file = folder / f"shares_{kind}.py"
    file.write_text(METRIC.replace("KIND", kind).replace("FIRST", first))
    given = {"name": "shares", "inputs": {}, "arguments": {}, "higher_is_better": True} | options
    return NamedMetric(module=load_metric(f"./{file.name}", file, None, 17), **given)


def test_predictions_are_read_in_the_order_of_the_split(tmp_path):
    _, columns = guessed(20)
    order = np.random.default_rng(1).permutation(20)
    index, found = read_predictions(
        *written(tmp_path / "p.parquet", columns | {"tags": [["a"] * k for k in range(20)]}, order).values()
    )
    assert index.tolist() == list(range(20))
    assert found["reference"].tolist() == columns["reference"]
    assert found["scores"].shape == (20, 3)
    assert found["scores"].tolist() == columns["scores"].tolist()
    assert found["tags"][3] == ["a"] * 3


def test_whole_metrics_are_compared_on_the_same_resamples(tmp_path):
    _, good = guessed(skill=2.0)
    _, poor = guessed(skill=0.2)
    model, baseline = written(tmp_path / "a.parquet", good), written(tmp_path / "b.parquet", poor)
    after = DatasetMetrics([RocAuc(TOPICS)], [], CLASSES, setup())
    [score], left_out = after.compute_scores(model, {"poor": baseline, "itself": model})
    assert left_out == []
    assert score.n == 60
    assert score.low < score.value < score.high
    assert "interval:poisson-bca-95%|resamples:100|seed:17" in score.signature
    poor_one, itself = score.comparisons
    assert (poor_one.baseline, itself.baseline) == ("poor", "itself")
    assert poor_one.difference == pytest.approx(score.value - poor_one.value)
    assert poor_one.difference_low > 0
    assert (itself.difference_low, itself.difference_high, itself.p_value) == (0, 0, 1)
    [alone], _ = after.compute_scores(baseline, {})
    assert (poor_one.value, poor_one.low, poor_one.high) == (alone.value, alone.low, alone.high)


def test_the_order_in_which_rows_were_written_changes_nothing(tmp_path):
    _, columns = guessed()
    order = np.random.default_rng(3).permutation(60)
    after = DatasetMetrics([RocAuc(TOPICS)], [metric(tmp_path)], CLASSES, setup())
    one, _ = after.compute_scores(written(tmp_path / "a.parquet", columns), {})
    assert len(one) == 3
    assert after.compute_scores(written(tmp_path / "b.parquet", columns, order), {})[0] == one


def test_a_score_without_a_value_is_left_out_and_reported(tmp_path):
    _, columns = guessed()
    columns["reference"] = ["Arts"] * 60
    scores, left_out = DatasetMetrics([RocAuc(TOPICS)], [], CLASSES, setup()).compute_scores(
        written(tmp_path / "a.parquet", columns), {}
    )
    assert scores == []
    assert left_out == ["roc_auc has no value: the split has a single class"]


def test_a_baseline_without_the_columns_is_not_compared(tmp_path):
    _, columns = guessed()
    bare = {name: columns[name] for name in ("reference", "prediction")}
    after = DatasetMetrics([RocAuc(TOPICS)], [metric(tmp_path)], CLASSES, setup())
    scores, _ = after.compute_scores(
        written(tmp_path / "a.parquet", columns), {"bare": written(tmp_path / "b.parquet", bare)}
    )
    assert {score.metric: len(score.comparisons) for score in scores} == {
        "roc_auc": 0,
        "shares/right": 1,
        "shares/first": 1,
    }


def test_a_baseline_that_a_named_metric_cannot_use_is_reported(tmp_path):
    _, columns = guessed()
    named = metric(tmp_path, inputs={"predictions": "number"})
    model = written(tmp_path / "a.parquet", columns | {"number": [1] * 60})
    scores, left_out = DatasetMetrics([], [named], CLASSES, setup()).compute_scores(
        model, {"majority": written(tmp_path / "b.parquet", columns)}
    )
    assert [score.comparisons for score in scores] == [[], []]
    assert left_out == [
        "majority is not compared: metrics: shares takes 'predictions', and there is no column 'number'; "
        "name the column, as inputs: {predictions: COLUMN}"
    ]


def test_a_named_metric_has_the_interval_and_the_comparison_of_our_own(tmp_path):
    """F1, once as sums that merge and once as a module asked for each resample."""
    ids, shown = guessed(skill=2.0)
    other_ids, other_shown = guessed(skill=0.2)
    module = load_metric("f1", Path(hfpipe.metrics.path("f1_macro")), None, 17)
    named = NamedMetric("f1", module, {}, {}, higher_is_better=True)
    [theirs], _ = DatasetMetrics([], [named], CLASSES, setup()).compute_scores(
        written(tmp_path / "a.parquet", shown), {"poor": written(tmp_path / "b.parquet", other_shown)}
    )
    tallies = []
    for columns in (ids, other_ids):
        tally = Tally([F1("macro", 3)], 100, 17)
        tally.add(np.arange(60), columns)
        tallies.append(tally)
    [ours] = compute_scores(tallies[0])
    assert (theirs.value, theirs.low, theirs.high) == pytest.approx((ours.value, ours.low, ours.high))
    [poor], own = theirs.comparisons, compare_tallies(*tallies, "poor")["f1_macro"]
    for name in ("value", "low", "high", "difference", "difference_low", "difference_high", "p_bootstrap"):
        assert getattr(poor, name) == pytest.approx(getattr(own, name))
    assert (poor.test, own.test) == ("bootstrap", "randomization-midp")


@pytest.mark.parametrize(("kind", "first"), [("int32", "0"), ("string", "'Arts'")])
def test_classes_come_as_the_metric_wants_them(tmp_path, kind, first):
    ids, columns = guessed()
    named = metric(tmp_path, kind, first, arguments={"scale": 100.0})
    scores, _ = DatasetMetrics([], [named], CLASSES, setup()).compute_scores(
        written(tmp_path / "a.parquet", columns), {}
    )
    right, arts = scores
    assert (right.metric, arts.metric) == ("shares/right", "shares/first")
    assert right.value == pytest.approx(100 * np.mean(ids["reference"] == ids["prediction"]))
    assert arts.value == (ids["prediction"] == 0).sum()
    assert "|scale:100.0|" in right.signature
    assert "|sha256:" in right.signature


def test_inputs_may_be_other_columns_of_the_predictions_or_the_data(tmp_path):
    _, columns = guessed()
    inputs = {"predictions": "text", "references": "reference"}
    named = metric(tmp_path, "string", "'text 3'", inputs=inputs)
    _, arts = DatasetMetrics([], [named], CLASSES, setup()).compute_scores(
        written(tmp_path / "a.parquet", columns), {}
    )[0]
    assert arts.value == 1


@pytest.mark.slow
def test_many_rows_get_fewer_resamples_and_the_signature_says_so(tmp_path):
    _, columns = guessed(9000)
    named = metric(tmp_path)
    scores, _ = DatasetMetrics([], [named], CLASSES, setup(9000, resamples=1000)).compute_scores(
        written(tmp_path / "a.parquet", columns), {}
    )
    assert "|resamples:116|" in scores[0].signature


def test_what_a_metric_lacks_is_an_error_of_one_line(tmp_path):
    _, columns = guessed()
    path = written(tmp_path / "a.parquet", columns)
    named = metric(tmp_path, inputs={"references": "answer"})
    with pytest.raises(hfpipe.StageError) as caught:
        DatasetMetrics([], [named], CLASSES, setup()).compute_scores(path, {})
    assert str(caught.value) == (
        "metrics: shares takes 'references', and there is no column 'answer'; "
        "name the column, as inputs: {references: COLUMN}"
    )
    named = metric(tmp_path, arguments={"scale": "much"})
    with pytest.raises(hfpipe.StageError, match=r"^metrics: shares failed: TypeError: [^\n]*$"):
        DatasetMetrics([], [named], CLASSES, setup()).compute_scores(path, {})


def test_a_metric_that_cannot_be_loaded_is_an_error_of_one_line(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("import no_such_module\n")
    with pytest.raises(hfpipe.StageError, match=r"^metrics: \./broken\.py cannot be loaded: [^\n]+$"):
        load_metric("./broken.py", file, None, 17)


def test_without_a_network_a_metric_of_the_hub_is_not_said_to_be_missing_there():
    with pytest.raises(hfpipe.StageError) as caught:
        load_metric("accuracy", None, None, 17)
    message = str(caught.value)
    assert message.startswith("metrics: accuracy was not loaded: there is no copy of it here, and no network")
    assert "exist" not in message
    assert "\n" not in message


def test_loading_a_metric_of_the_hub_is_counted_nowhere(monkeypatch):
    sent = []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("evaluate.loading.head_hf_s3", lambda *asked, **_: sent.append(asked))
    with pytest.raises(hfpipe.StageError, match=r"^metrics: accuracy [^\n]*$"):
        load_metric("accuracy", None, None, 17)
    assert sent == []


@pytest.fixture
def kept(monkeypatch):
    """A copy of somebody's metric, as evaluate keeps what it once loaded from the Hub."""
    folder = evaluate.config.HF_MODULES_CACHE / "evaluate_modules" / "metrics" / "somebody--shares"
    version = folder / sha256(METRIC.encode()).hexdigest()
    version.mkdir(parents=True)
    for package in (folder.parent, folder, version):
        (package / "__init__.py").touch()
    (version / "shares.py").write_text(METRIC.replace("KIND", "int32").replace("FIRST", "0"))
    yield "somebody/shares"
    shutil.rmtree(folder)


def test_without_a_network_the_copy_of_a_metric_is_taken(tmp_path, kept):
    module = load_metric(kept, None, None, 17)
    found = module.compute(predictions=[0, 1, 2], references=[0, 1, 1])
    assert found["right"] == pytest.approx(2 / 3)
    content = recipe(metrics=[kept], trust_remote_code=True)
    [metric] = hfpipe.load(small.write(tmp_path, content)).stages["score"].metrics
    assert metric.prefix == "shares"


def recipe(**settings):
    content = small.recipe()
    content["stages"]["score"] |= settings
    return content


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"metrics": ["accuracy"]},
            "accuracy is code from the Hub; add `trust_remote_code",
        ),
        ({"metrics": ["accuracy"], "trust_remote_code": True}, "accuracy: HF_HUB_OFFLINE is set and"),
        ({"metrics": ["./absent.py"]}, "./absent.py: there is no "),
        (
            {"metrics": ["./folder"]},
            "./folder is not a metric: name a .py file, or a folder that holds",
        ),
        ({"metrics": ["./shares.py", "./shares.py"]}, "two metrics are called 'shares'; set name: of one"),
        ({"metrics": ["stage:words"]}, "'stage:words' is not a metric: write ./file.py, a folder, package:"),
        ({"metrics": [{"place": "./shares.py", "input": {}}]}, "unknown key 'input'"),
        ({"metrics": [{"name": "x"}]}, "missing key 'place'"),
    ],
)
def test_a_wrong_metric_is_found_where_it_stands(tmp_path, settings, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "shares.py").write_text(METRIC)
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(recipe(**settings), indent=1))
    with pytest.raises(hfpipe.RecipeError) as caught:
        hfpipe.load(path)
    [problem] = [problem for problem in caught.value.problems if message in problem.message]
    named = path.read_text().splitlines().index('   "metrics": [') + 1
    assert problem.spot.line > named


def test_metrics_are_named_by_place_or_with_more(tmp_path):
    (tmp_path / "shares.py").write_text(METRIC)
    long = {
        "place": "./shares.py",
        "name": "mine",
        "inputs": {"predictions": "prediction"},
        "arguments": {"scale": 2.0},
    }
    stage = hfpipe.load(small.write(tmp_path, recipe(metrics=["./shares.py", long]))).stages["score"]
    assert [metric.prefix for metric in stage.metrics] == ["shares", "mine"]


def test_the_text_of_a_metric_is_part_of_the_key(tmp_path):
    (tmp_path / "shares.py").write_text(METRIC)
    path = small.write(tmp_path, recipe(metrics=["./shares.py"]))

    def keys():
        return {step.name: step.folder.name for step in hfpipe.plan(hfpipe.load(path), tmp_path / "runs")}

    before = keys()
    (tmp_path / "shares.py").write_text(METRIC.replace("1.0", "2.0"))
    assert {name for name, key in keys().items() if key != before[name]} == {"score"}


@pytest.mark.slow
def test_a_recipe_may_name_a_metric_and_require_it(tmp_path):
    (tmp_path / "shares.py").write_text(METRIC.replace("KIND", "int32").replace("FIRST", "0"))
    content = recipe(
        metrics=["./shares.py"],
        require={"shares/right": {"max": -1}, "shares/other": {"min": 0}, "roc_auc": {"min": 0}},
    )
    del content["stages"]["pretrain"]
    content["stages"]["topics"] |= {"tokenizer": "stage:words", "model": small.MODELS["bert"]}
    path = small.write(tmp_path, content)
    run = hfpipe.run(hfpipe.load(path), tmp_path / "runs", say=lambda _: None)
    report = run.reports["score"]
    scores = {score.metric: score for score in report.scores}
    assert scores["shares/right"].value == scores["accuracy"].value
    pairs = zip(scores["shares/right"].comparisons, scores["accuracy"].comparisons, strict=True)
    for right, accuracy in pairs:
        for name in ("baseline", "value", "difference", "p_bootstrap"):
            assert getattr(right, name) == getattr(accuracy, name)
    assert {each.baseline for each in scores["roc_auc"].comparisons} == {"majority", "tfidf"}
    assert scores["roc_auc"].comparisons[0].value == 0.5
    assert report.unmet == [
        f"require: shares/right is {scores['accuracy'].value:.4g}, above -1",
        "require: shares/other has no value",
    ]
    content["stages"]["score"]["require"] = {"wer": {"min": 0}}
    with pytest.raises(
        hfpipe.RecipeError, match=r"no score 'wer' to require; there are accuracy, .*shares/…"
    ):
        hfpipe.run(hfpipe.load(small.write(tmp_path, content)), tmp_path / "runs", say=lambda _: None)
