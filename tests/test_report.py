"""What `hfpipe report` says of finished stages, as a table, JSON and a page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfpipe import api, number_format
from hfpipe.cli import console
from hfpipe.cli.main import main
from hfpipe.errors import RecipeError
from hfpipe.report import Comparison, DataFacts, Report, Score
from hfpipe.reporting.charts import Curve, Scale, draw_curves
from hfpipe.reporting.html import render_page
from hfpipe.runs.run import Run
from hfpipe.store.identity import StageIdentity
from hfpipe.store.store import StageFile, Store

KEYS = {"wiki": "a" * 12, "topics": "b" * 12, "score": "c" * 12}
HOSTILE = "<script>alert('&amp;')</script>"


def compared(baseline: str, value: float, difference: float, p: float) -> Comparison:
    spread = 0.5 * abs(difference)
    return Comparison(
        baseline=baseline,
        value=value,
        low=value - 0.02,
        high=value + 0.02,
        difference=difference,
        difference_low=difference - spread if p < 0.05 else -0.01,
        difference_high=difference + spread if p < 0.05 else 0.01,
        p_value=p,
    )


def measured(labels: list[str]) -> list[Score]:
    def score(metric: str, value: float, comparisons: list[Comparison], *, higher: bool = True) -> Score:
        return Score(
            metric=metric,
            value=value,
            low=value - 0.0172,
            high=value + 0.0168,
            n=1336,
            higher_is_better=higher,
            signature=f"{metric}|average:examples",
            comparisons=comparisons,
        )

    against = [
        compared("majority", 0.2131, 0.6713, 0.0),
        compared("tfidf", 0.8839, 0.0005, 0.94),
        compared("stage:from-scratch", 0.8504, 0.034, 0.012),
    ]
    classes = [score(f"f1[{label}]", 0.6 + 0.1 * number, []) for number, label in enumerate(labels)]
    return [
        score("accuracy", 0.8844, against),
        score("loss", 0.4127, [compared("stage:from-scratch", 0.5127, -0.1, 0.004)], higher=False),
        *classes,
    ]


def finish(root: Path, name: str, stage: dict[str, Any], inputs: list[str], report: Report) -> Path:
    store = Store(root)
    identity = StageIdentity(
        kind=report.kind,
        version=1,
        seed=17,
        settings=stage,
        files={},
        inputs={other: KEYS[other] for other in inputs},
    )
    folders = {other: f"{other}-{KEYS[other]}" for other in inputs}
    folder = store.get_folder(name, KEYS[name])
    store.begin(folder, StageFile(name=name, base=str(root), folders=folders, identity=identity))
    store.finish(folder, report)
    return folder


def make_run(root: Path, labels: tuple[str, ...] = ("Arts", "People"), unmet: tuple[str, ...] = ()) -> Path:
    """Write a run of three finished stages, as the runner leaves them."""
    ledger = {
        "rows": {"in": 1100, "kept": 1000, f"drop: {labels[0]}": 100},
        "characters": {"in": 90_500, "kept": 81_000, f"drop: {labels[0]}": 9_500},
        "changed": {},
    }
    facts = DataFacts(
        columns={"text": "string", "label": "label"}, splits={"train": 1000}, labels={"label": list(labels)}
    )
    dataset = Report(
        kind="dataset",
        summary="1,000 rows",
        seconds=0.94,
        ledger=ledger,
        data=facts,
        versions={"torch": "2.13.0"},
    )
    finish(root, "wiki", {"kind": "dataset"}, [], dataset)
    history = [{"step": step, "loss": 2.4 - step / 200} for step in range(10, 210, 10)]
    history += [{"step": 100, "eval_loss": 2.0}, {"step": 200, "eval_loss": 1.6}]
    trained = Report(
        kind="finetune", summary="4.3M parameters, 200 steps", seconds=192, facts={"history": history}
    )
    finish(root, "topics", {"kind": "finetune", "task": {"kind": "text-classification"}}, ["wiki"], trained)
    scored = Report(
        kind="evaluate",
        summary="accuracy 0.8844",
        seconds=21.2,
        scores=measured(list(labels)),
        unmet=list(unmet),
    )
    finish(root, "score", {"kind": "evaluate", "model": "stage:topics", "task": None}, ["topics"], scored)
    return root


class Reader(HTMLParser):
    """Collects the text and the tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_piped_report_says_how_good_better_than_what_and_where_the_model_lies(tmp_path, capsys):
    root = make_run(tmp_path / "demo")

    assert main(["report", str(root)]) == 0

    out = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    model = root / f"topics-{KEYS['topics']}"
    assert (
        out
        == f"""\
stage   kind      time        summary
wiki    dataset   0.9 s       1,000 rows
topics  finetune  3 min 12 s  4.3M parameters, 200 steps
score   evaluate  21 s        accuracy 0.8844

score: n = 1,336, 95 % intervals, difference = model - baseline
p corrected for 3 comparisons (Holm)
score     system              value                 difference  p
accuracy  model               0.884 [0.867, 0.901]
          majority            0.213 [0.193, 0.233]  +0.671      < 0.001
          tfidf               0.884 [0.864, 0.904]  +0.001      0.940
          stage:from-scratch  0.850 [0.830, 0.870]  +0.034      0.012
loss      model               0.413 [0.396, 0.429]
          stage:from-scratch  0.513 [0.493, 0.533]  -0.100      0.004
f1 by class (2): 0.600 Arts to 0.700 People; each with --all

result: accuracy 0.884 [0.867, 0.901] on 1,336 examples
        better than majority (+0.671), stage:from-scratch (+0.034)
        no clear difference from tfidf (+0.001)
model:  {model}
use:    transformers.pipeline("text-classification", "{model}")"""
    )
    assert max(len(line) for line in out.splitlines() if str(model) not in line) <= 80


def test_a_loss_that_falls_is_better():
    score = measured([])[1]
    assert "better than stage:from-scratch (-0.100)" in number_format.describe_verdict(score)


def test_a_name_longer_than_the_terminal_does_not_cut_a_number_off(tmp_path, capsys):
    long = "stage:" + "x" * 120
    root = make_run(tmp_path / "demo")
    report = Report(
        kind="evaluate",
        summary="",
        scores=[measured([])[0].model_copy(update={"comparisons": [compared(long, 0.5, 0.3844, 0.001)]})],
    )
    finish(root, "score", {"kind": "evaluate", "model": "stage:topics"}, ["topics"], report)

    main(["report", str(root)])

    line = next(line for line in capsys.readouterr().out.splitlines() if line.lstrip().startswith(long))
    assert line.split() == [long, "0.500", "[0.480,", "0.520]", "+0.384", "0.001"]


def test_labels_cannot_steer_the_terminal(tmp_path, capsys):
    root = make_run(tmp_path / "demo", ("\x1b[2Jgone", "[bold]loud[/bold]"))

    main(["report", str(root)])

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[bold]loud[/bold]" in out


def test_a_bound_that_was_missed_is_reported(tmp_path, capsys):
    main(["report", str(make_run(tmp_path / "demo", unmet=("require: accuracy is 0.88, below 0.9",)))])
    assert "not met: require: accuracy is 0.88, below 0.9" in capsys.readouterr().out


def test_json_holds_all_of_it_and_a_number_that_is_none_is_text(tmp_path, capsys):
    root = make_run(tmp_path / "demo")
    broken = Report(kind="finetune", summary="", facts={"history": [{"step": 1, "loss": float("nan")}]})
    finish(root, "topics", {"kind": "finetune", "task": {"kind": "text-classification"}}, ["wiki"], broken)

    assert main(["report", str(root), "--format", "json"]) == 0

    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["topics"]["facts"]["history"] == [{"step": 1, "loss": "NaN"}]
    assert [score["metric"] for score in found["score"]["scores"]] == [
        "accuracy",
        "loss",
        "f1[Arts]",
        "f1[People]",
    ]
    assert found["wiki"]["folder"] == str(root / f"wiki-{KEYS['wiki']}")


def test_the_page_loads_nothing_and_runs_nothing(tmp_path, capsys):
    root = make_run(tmp_path / "demo", (HOSTILE, "People"))

    assert main(["report", str(root), "--format", "html"]) == 0

    text = capsys.readouterr().out
    read = Reader(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(read.tags)
    assert not {"src", "style", "onload"} & set(read.attributes)
    assert set(re.findall(r'href="(.)', text)) == {"#"}, "only places within the page"
    assert not re.search(r"url\(|@import|https?:", text)
    assert any(HOSTILE in found for found in read.texts)
    assert read.tags.count("svg") >= 3, "scores, scores by class and the curves"
    for word in ("optimizer step", "loss (nats)", "accuracy (higher is better, 95 % intervals)", "2.13.0"):
        assert any(word in found for found in read.texts)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(label=st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=30))
def test_any_label_comes_through_the_page_as_it_is_seen(tmp_path, label):
    read = Reader(render_page(api.open(make_run(tmp_path / "demo", (label, "People")))))
    assert f"drop: {number_format.make_lines_visible(label)}" in read.texts
    assert "script" not in read.tags


def test_a_damaged_history_does_not_cost_the_page(tmp_path):
    root = make_run(tmp_path / "demo")
    history = [{"step": 1, "loss": float("inf")}, {"loss": 2.0}, "nonsense"]
    report = Report(kind="finetune", summary="", facts={"history": history})
    finish(root, "topics", {"kind": "finetune", "task": {"kind": "text-classification"}}, ["wiki"], report)
    assert "</html>" in render_page(api.open(root))


def test_a_run_without_evaluation_still_says_where_the_model_lies(tmp_path, capsys):
    root = make_run(tmp_path / "demo")
    (root / f"score-{KEYS['score']}" / "report.json").unlink()
    main(["report", str(root)])
    assert f"model:  {root}/topics-{KEYS['topics']}" in capsys.readouterr().out


def test_a_folder_without_a_finished_stage_says_what_to_give(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    found = capsys.readouterr()
    assert "contains no finished stage" in found.err
    assert found.out == ""


def test_scores_of_a_model_alone_have_no_empty_columns(tmp_path, capsys):
    run = api.open(make_run(tmp_path / "demo"))
    alone = [score.model_copy(update={"comparisons": []}) for score in run.reports["score"].scores]
    report = run.reports["score"].model_copy(update={"scores": alone})
    console.show_scores(Run(run.folders, {**run.reports, "score": report}))
    out = capsys.readouterr().out
    assert "score: n = 1,336, 95 % intervals\n" in out
    assert "difference" not in out


def test_a_recipe_that_never_ran_says_how_to_run_it(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "one line"}\n', encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: small\nstages:\n  data:\n    kind: dataset\n    source: {files: rows.jsonl}\n",
        encoding="utf-8",
    )
    with pytest.raises(RecipeError, match=r"no stage is done in .*; run hfpipe run .*recipe\.yaml first"):
        api.open(recipe, tmp_path / "runs")


def test_the_model_is_the_one_that_was_measured_though_a_newer_one_is_there(tmp_path):
    root = make_run(tmp_path / "demo")
    newer = root / f"topics-{'d' * 12}"
    (root / f"topics-{KEYS['topics']}").rename(newer)
    run = api.open(make_run(root))
    moved = Run({**run.folders, "topics": newer}, run.reports)
    assert moved.model("score").endswith(KEYS["topics"])


@given(
    low=st.floats(-1e6, 1e6, allow_nan=False),
    span=st.floats(1e-3, 1e6, allow_nan=False),
)
def test_ticks_enclose_the_data_and_read_differently(low, span):
    scale = Scale(low, low + span, 0, 100)
    assert -1e-6 <= scale(low) <= scale(low + span) <= 100 + 1e-6
    labels = [scale.label(tick) for tick in scale.ticks]
    assert 2 <= len(set(labels)) == len(labels) <= 8


def test_a_curve_of_one_point_is_drawn():
    assert draw_curves([Curve("train", [(1.0, 2.5)])], "optimizer step", "loss").count("<circle") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.88444, "0.884"), (35.863, "35.86"), (245.21, "245.2"), (12345.6, "12,346"), (3.2e7, "3.2e+07")],
)
def test_scores_have_the_digits_worth_reading(value, text):
    assert number_format.format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), (1234, "1,234"), (123_456, "123k"), (999_900, "1M"), (4.3e6, "4.3M")]
)
def test_large_counts_keep_three_digits(value, text):
    assert number_format.format_count(value) == text
