"""The page of a run: its verdict, its parts for each kind of prediction, and how it looks in a browser."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import needs_chromium, open_page
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix
from test_report import KEYS, Reader, compared, finish, make_run, measured

from hfpipe import api
from hfpipe.cli.main import main
from hfpipe.report import Machine, Provenance, Report
from hfpipe.reporting.blocks import EXAMPLES, Block
from hfpipe.reporting.class_blocks import compute_reliability
from hfpipe.reporting.diagrams import draw_stacked
from hfpipe.reporting.fill_blocks import make_hidden_word_blocks
from hfpipe.reporting.html import render_page
from hfpipe.reporting.model_blocks import make_explanation_blocks, make_token_loss_blocks
from hfpipe.reporting.predictions import read_blocks
from hfpipe.reporting.sections import draw_stages
from hfpipe.reporting.text_blocks import mark_differences
from hfpipe.reporting.training import draw_trainings
from hfpipe.reporting.verdict import read_verdict
from hfpipe.store.artifacts import FILLS

CLASSES = ["Arts", "People", "Science"]


def classified(rows: int, seed: int = 17) -> pd.DataFrame:
    """Return predictions of classes as `Run.predictions` opens them."""
    random = np.random.default_rng(seed)
    scores = random.dirichlet([0.4] * len(CLASSES), size=rows)
    names = np.array(CLASSES)
    frame = pd.DataFrame(
        {
            "row": range(rows),
            "reference": names[random.integers(0, len(CLASSES), rows)],
            "prediction": names[scores.argmax(axis=1)],
            "scores": list(scores),
            "text": [
                f"The abstract number {number} is about <b>bold</b> things & others."
                for number in range(rows)
            ],
        }
    )
    frame.attrs.update(classes={"scores": CLASSES}, inputs=["text"])
    return frame


def run_with(root: Path, frame: pd.DataFrame, report: Report | None = None) -> Path:
    """Return a finished run whose evaluation left these predictions."""
    make_run(root)
    if report is not None:
        settings = {"kind": "evaluate", "model": "stage:topics", "data": "stage:wiki", "split": "test"}
        finish(root, "score", settings, ["topics"], report)
    frame.to_parquet(root / f"score-{KEYS['score']}" / "predictions.parquet")
    return root


def evaluated(**changes: Any) -> Report:
    score = measured([])[0].model_copy(update=changes.pop("score", {}))
    return Report(kind="evaluate", summary="", scores=[score], **changes)


def titles(blocks: list[Block]) -> list[str]:
    return [block.title for block in blocks]


# The verdict


MAJORITY = ("majority", 0.3, 0.001)
MISSED = ["require: accuracy is 0.88, below 0.9"]
FAILED = "topics: a requirement is not met; better than tfidf"


@pytest.mark.parametrize(
    ("differences", "unmet", "title", "state"),
    [
        ([MAJORITY, ("tfidf", 0.2, 0.001)], [], "topics: better than majority and tfidf", "good"),
        (
            [MAJORITY, ("tfidf", 0.0, 0.9)],
            [],
            "topics: no clear difference from tfidf; better than majority",
            "warn",
        ),
        ([MAJORITY, ("tfidf", -0.2, 0.001)], [], "topics: worse than tfidf; better than majority", "bad"),
        ([("tfidf", 0.2, 0.001)], MISSED, FAILED, "bad"),
        ([], [], "topics: accuracy 0.884, without a baseline", "warn"),
    ],
)
def test_the_verdict_says_in_words_what_the_model_is_better_than(tmp_path, differences, unmet, title, state):
    against = [compared(name, 0.5, difference, p) for name, difference, p in differences]
    run_with(tmp_path / "demo", classified(20), evaluated(score={"comparisons": against}, unmet=unmet))

    verdict = read_verdict(api.open(tmp_path / "demo"), "score")

    assert (verdict.title, verdict.state) == (title, state)
    assert [gate.state for gate in verdict.gates] == ["bad" if unmet else "note"]
    assert verdict.belief.state != "bad", "a score that is too low is a score"
    words = [
        "No clear difference from" if p > 0.05 else "Better than" if gap > 0 else "Worse than"
        for _, gap, p in differences
    ]
    assert all(finding.text.startswith(word) for finding, word in zip(verdict.against, words, strict=True))


def test_the_verdict_names_what_speaks_against_the_number(tmp_path):
    report = evaluated(score={"n": 12, "comparisons": []}, facts={"left_out": ["bleu is left out: no text"]})
    run_with(tmp_path / "demo", classified(12), report)
    found = {
        finding.text: finding.state for finding in read_verdict(api.open(tmp_path / "demo"), "score").checks
    }
    for words in ("Only 12 rows", "No baseline", "Duplicates were not looked for"):
        assert any(text.startswith(words) and state == "warn" for text, state in found.items()), words
    assert found["Left out: bleu is left out: no text"] == "note"


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ({"kind": "causal-lm", "length": 32}, "unigram, trigram"),
        ({"kind": "text-classification"}, "majority, tfidf"),
        ({"kind": "masked-lm"}, "stage:NAME"),
        ({"kind": "own.py:Task", "more": 1}, "stage:NAME"),
        ({"kind": "causal-lm", "removed": 1}, "stage:NAME"),
    ],
)
def test_a_score_without_a_baseline_says_which_ones_its_task_has(tmp_path, task, names):
    report = evaluated(score={"comparisons": []}, facts={"task": task} | leakage([]))
    run_with(tmp_path / "demo", classified(200), report)
    belief = read_verdict(api.open(tmp_path / "demo"), "score").belief
    words = f"With caution. No baseline: the number has nothing to be compared with (baselines: [{names}])."
    assert (belief.state, belief.text) == ("warn", words)


def leakage(rows: list[int], clean: float | None = None, **changes: Any) -> dict[str, Any]:
    """Return what the audit of 1,336 rows found: some have the text of a training row."""
    score = measured([])[0]
    other = score.model_copy(
        update={
            "value": clean,
            "low": (clean or 0) - 0.01,
            "high": (clean or 0) + 0.01,
            "n": 1336 - len(rows),
        }
    )
    counts = {"exact": len(rows), "excerpt": 0, "near": 0, "short": 0}
    found = {
        "rows": rows,
        "ids": [],
        "sources": {"train split of wiki (topics)": counts},
        "conflicts": 0,
        "examples": {"exact": rows, "excerpt": [], "near": [], "conflict": []},
        "unknown": [],
        "clean_scores": [] if clean is None else [other.model_dump(mode="json")],
    }
    return {"leakage": found | changes}


LOOKED = "No evaluated row is in the data that the model was trained on (train split of wiki)."


@pytest.mark.parametrize(
    ("facts", "words", "state"),
    [
        (leakage([]), LOOKED, "good"),
        (leakage([], unknown=["base"]), "What base was trained on is not known", "note"),
        (leakage([3]), "Leakage: 1 of 1,336 rows (0.1%) are in the data of the model's training.", "warn"),
        (leakage([3], 0.881), "is 0.881 [0.871, 0.891], within the interval above.", "note"),
        (leakage([*range(20)], 0.881), "is 0.881 [0.871, 0.891], within the interval above.", "warn"),
        (leakage([*range(20)], 0.80), "is 0.800 [0.790, 0.810], outside the interval above.", "bad"),
        (leakage([*range(20)], 0.95), "is 0.950 [0.940, 0.960], outside the interval above.", "warn"),
        (leakage([], conflicts=40), "Label conflicts: 40 rows have the text of a training row", "warn"),
        (leakage([], conflicts=2), "Label conflicts: 2 rows have the text of a training row", "note"),
    ],
)
def test_rows_seen_in_training_matter_to_the_verdict_by_what_they_change(tmp_path, facts, words, state):
    run_with(tmp_path / "demo", classified(20), evaluated(facts=facts))
    checks = read_verdict(api.open(tmp_path / "demo"), "score").checks
    assert [check.state for check in checks if words in check.text] == [state]
    rows = facts["leakage"]["rows"]
    assert any(check.text == LOOKED for check in checks) == (not rows)


def test_an_audit_that_was_turned_off_is_a_caution(tmp_path):
    run_with(tmp_path / "demo", classified(20), evaluated())
    settings = {"kind": "evaluate", "model": "stage:topics", "data": "stage:wiki", "leakage": False}
    finish(tmp_path / "demo", "score", settings, ["topics"], evaluated())
    checks = read_verdict(api.open(tmp_path / "demo"), "score").checks
    assert [check.state for check in checks if "(leakage: false)" in check.text] == ["warn"]


def test_the_section_of_leakage_shows_the_rows_that_overlap_and_the_scores_without_them(tmp_path):
    planted = {"exact": [7], "excerpt": [2], "near": [], "conflict": [4]}
    facts = leakage([2, 4, 7], 0.8, examples=planted, conflicts=1, unknown=["base"])
    root = run_with(tmp_path / "demo", classified(20), evaluated(facts=facts))
    [section] = re.findall(r'<h2 id="leakage">(.*?)<h2', render_page(api.open(root)), re.DOTALL)
    texts = Reader(section).texts
    assert [text[20:22].strip() for text in texts if text.startswith("The abstract number")] == [
        "4",
        "7",
        "2",
    ]
    assert "3 of 1,336 evaluated rows (0.2%) are in the data of the model's training." in texts
    assert "0.800 [0.790, 0.810] (n = 1,333)" in texts
    assert "equal text in the training data, with another label" in texts
    assert "Trained elsewhere, on data that is not known: base." in texts
    assert "Not looked for in: wiki (clean: dedup)." in texts


def test_duplicates_are_no_worry_where_rows_of_the_train_split_were_looked_for(tmp_path):
    against = [compared("majority", 0.2, 0.6, 0.001)]
    report = evaluated(score={"comparisons": against}, facts=leakage([]))
    run_with(tmp_path / "demo", classified(200), report)
    verdict = read_verdict(api.open(tmp_path / "demo"), "score")
    texts = [check.text for check in verdict.checks]
    assert not any(text.startswith("Duplicates were not") for text in texts)
    assert LOOKED in texts
    assert verdict.belief.text == "Yes, as the score of this model on these rows: every check below passed."
    assert verdict.against[0].text.startswith("Better than majority (always the most frequent answer): +0.6")


def test_notes_are_not_checks_that_passed(tmp_path):
    against = [compared("majority", 0.2, 0.6, 0.001)]
    report = evaluated(score={"comparisons": against}, facts=leakage([], unknown=["base"]))
    run_with(tmp_path / "demo", classified(200), report)
    belief = read_verdict(api.open(tmp_path / "demo"), "score").belief
    assert belief.state == "good"
    assert belief.text.endswith("no check below speaks against it; some have notes.")


@pytest.mark.parametrize(("model", "trained"), [("stage:topics", True), ("someone/model", False)])
def test_only_a_model_that_was_trained_on_the_train_split_is_measured_on_its_own_rows(
    tmp_path, model, trained
):
    run_with(tmp_path / "demo", classified(200), evaluated())
    settings = {"kind": "evaluate", "model": model, "data": "stage:wiki", "split": "train"}
    inputs = ["wiki", "topics"] if trained else ["wiki"]
    finish(tmp_path / "demo", "score", settings, inputs, evaluated())
    checks = read_verdict(api.open(tmp_path / "demo"), "score").checks
    found = [check.state for check in checks if check.text == "Measured on the rows that it was trained on."]
    assert found == ["bad"] * trained


def test_a_score_without_a_clear_advantage_is_believed_but_not_the_advantage(tmp_path):
    against = [compared("majority", 0.2, 0.6, 0.001), compared("tfidf", 0.8, 0.0, 0.9)]
    report = evaluated(score={"comparisons": against}, facts=leakage([]))
    run_with(tmp_path / "demo", classified(200), report)
    belief = read_verdict(api.open(tmp_path / "demo"), "score").belief
    assert belief.state == "good"
    assert belief.text.endswith(" It does not show that the model is better than every baseline.")


# Predictions


def labelled() -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "reference": [np.array([1, 0]), np.array([0, 1])],
            "prediction": [np.array([1, 1]), np.array([0, 1])],
        }
    )
    frame.attrs.update(classes={"reference": ["food", "place"], "prediction": ["food", "place"]}, inputs=[])
    return frame


def frame_of(inputs: list[str], **columns: list[Any]) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    frame.attrs.update(classes={}, inputs=inputs)
    return frame


KINDS = {
    "classes": (classified(50), ["Confusion matrix", "Per class", "Reliability", "Most confident mistakes"]),
    "several classes": (labelled(), ["Per class"]),
    "choices": (
        frame_of(
            ["context", "endings"],
            context=["It rains."],
            endings=[["She opens her umbrella.", "She sings."]],
            reference=[0],
            prediction=[1],
            scores=[np.array([0.25, 0.75])],
        ),
        ["Reliability", "Most confident mistakes"],
    ),
    "numbers": (
        frame_of(["text"], reference=[1.0, 2.0], prediction=[1.5, 2.0], text=["a", "b"]),
        ["Predicted and expected", "Largest errors"],
    ),
    "tags": (
        frame_of(["words"], words=[["Ada", "ran"]], reference=[["B-PER", "O"]], prediction=[["O", "O"]]),
        ["Sentences with mistakes"],
    ),
    "answers": (
        frame_of(
            ["question", "passage"],
            question=["When?"],
            passage=["In 1903 it rained."],
            reference=[["1903"]],
            prediction=["190"],
            start=[3],
            end=[6],
            score=[0.5],
        ),
        ["Most confident wrong answers"],
    ),
    "fills": (
        frame_of(
            ["text"],
            text=["A [MASK]."],
            rank=[2],
            nll=[1.2],
            fills=[["cat", "dog"]],
            fill_scores=[[0.6, 0.3]],
        ),
        ["Place of the right word among the fills", "Top fills"],
    ),
    "texts": (
        frame_of(["source"], source=["eins"], reference=["one two"], prediction=["one three"]),
        ["Worst outputs", "Best outputs that are not exact"],
    ),
    "losses": (
        frame_of(["text"], text=["a b", "c d"], nll=[4.0, 9.0], tokens=[2, 3]),
        ["Loss by row", "Hardest texts", "Easiest texts"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_prediction_has_its_parts(kind):
    frame, expected = KINDS[kind]
    assert titles(read_blocks(frame)) == expected


def test_loss_by_length_is_the_mean_of_rows_of_like_length():
    lengths = list(range(1, 41))
    frame = frame_of(["text"], text=["a"] * 40, nll=[2.0 * length for length in lengths], tokens=lengths)
    block = next(block for block in read_blocks(frame) if block.title == "Loss by length")
    points = re.search(r'polyline class="line0" points="([^"]+)"', block.picture)
    assert points is not None
    assert len(points[1].split()) == 10
    assert len({point.split(",")[1] for point in points[1].split()}) == 1, "2 nats a token at every length"


FILLED = {
    "row": 0,
    "before": "b" * 200,
    "reference": "word",
    "after": " after.",
    "rank": 1,
    "nll": 0.1,
    "fills": ["word"],
    "fill_scores": [0.9],
}


def test_fills_show_the_right_word_where_it_stood_and_the_hardest_masks_come_apart():
    count = EXAMPLES + 5
    frame = frame_of(
        ["text"],
        text=[f"Text {number} has a [MASK]." for number in range(count)],
        reference=[f"word{number}" for number in range(count)],
        rank=[0, 2, *[1] * (count - 2)],
        nll=[float(count - number) for number in range(count)],
        fills=[["cat", f"word{number}"] for number in range(count)],
        fill_scores=[[0.6, 0.3]] * count,
    )
    places, top, hardest = read_blocks(frame)
    assert [row[1] for row in places.rows] == [str(count - 2), "1", "0", "1"]
    assert [len(block.examples) for block in (top, hardest)] == [EXAMPLES, EXAMPLES]
    first, second = (dict(example.answers) for example in hardest.examples[:2])
    assert "".join(span.text for span in first["right word"]) == (
        f"word0 (not among the first 100, loss {count}.00 nats)"
    )
    assert [(span.text, span.kind) for span in second["top fills"]][::2] == [
        ("cat (0.600)", ""),
        ("word1 (0.300)", "right"),
    ]


def test_a_hidden_word_stands_between_what_was_before_and_after_it():
    places, top = make_hidden_word_blocks(pd.DataFrame([FILLED]))
    assert places.note.startswith("One word of each of 1 texts was hidden")
    [(_, spans)] = top.examples[0].inputs
    assert [span.text for span in spans] == [f"…{'b' * 199}", "[MASK]", " after."]


def test_predictions_of_user_code_that_fit_no_kind_have_no_parts():
    assert read_blocks(frame_of(["text"], text=["a"], closeness=[0.5])) == []


def test_confusions_and_mistakes_are_those_of_the_rows():
    frame = classified(200)
    matrix, per_class, _, mistakes = read_blocks(frame)
    assert matrix.matrix is not None
    counts = [[count for count, _ in row] for row in matrix.matrix.cells]
    assert counts == confusion_matrix(frame["reference"], frame["prediction"], labels=CLASSES).tolist()
    assert [int(row[1]) for row in per_class.rows] == [sum(row) for row in counts]
    confidence = np.stack(frame["scores"].to_list()).max(axis=1)
    wrong = (frame["reference"] != frame["prediction"]).to_numpy()
    assert f"({confidence[wrong].max():.3f})" in mistakes.examples[0].answers[0][1][0].text


def test_reliability_agrees_with_scikit_learn():
    random = np.random.default_rng(17)
    confidence, right = random.uniform(0.3, 1, 500), random.uniform(size=500) < 0.7
    bins = compute_reliability(confidence, right)
    accuracy, mean = calibration_curve(right, confidence, n_bins=10)
    assert [each.accuracy for each in bins] == pytest.approx(accuracy)
    assert [each.confidence for each in bins] == pytest.approx(mean)
    assert all(each.accuracy_low < each.accuracy < each.accuracy_high for each in bins)


@pytest.mark.parametrize(
    ("text", "other", "kept"),
    [("the cat sat", "the dog sat", ["the ", "sat"]), ("", "a", []), ("你好吗", "你们好", ["你", "好"])],
)
def test_a_text_is_marked_where_the_other_differs(text, other, kept):
    spans = list(mark_differences(text, other, "wrong"))
    assert [span.text for span in spans if not span.kind] == kept
    assert "".join(span.text for span in spans) == (text or "(empty)")


# What the loss and predictions depend on


def test_exact_outputs_are_not_among_the_worst():
    frame = frame_of(
        ["source"], source=["1", "2"], reference=["one two", "two"], prediction=["two one", "two"]
    )
    worst, best = read_blocks(frame)
    assert [len(worst.examples), len(best.examples)] == [1, 1], (
        "equal words in another order are a difference"
    )
    frame = frame_of(["source"], source=["1"], reference=["one two"], prediction=["one two"])
    assert titles(read_blocks(frame)) == ["Outputs"]


def test_tokens_are_shaded_by_what_they_contribute_and_the_strongest_are_named():
    entry = {"tokens": ["a", "good", "day"], "attributions": [0.1, 2.0, -1.0], "prediction": "pos"}
    [block] = make_explanation_blocks([entry | {"reference": "neg", "score": 0.9}])
    answers = dict(block.examples[0].answers)
    assert [(span.text, span.kind) for span in answers["tokens"][::2]] == [
        ("a", ""),
        ("good", "for5"),
        ("day", "against2"),
    ]
    assert answers["strongest"][0].text == "good +2.00, day -1.00, a +0.10 (logits)"
    assert answers["predicted"][0].kind == "wrong"


def test_attributions_that_are_not_finite_do_not_cost_the_page():
    entry = {"tokens": ["a", "good", "day"], "attributions": [math.nan, 2.0, math.inf], "prediction": "pos"}
    [block] = make_explanation_blocks([entry | {"reference": "pos", "score": math.nan}])
    answers = dict(block.examples[0].answers)
    assert [span.kind for span in answers["tokens"][::2]] == ["", "for5", ""]
    assert answers["strongest"][0].text == "good +2.00 (logits); 2 of 3 values are not finite"


def test_losses_by_token_are_rows_of_a_chart():
    facts = {"token_losses": {"tokens": 9, "positions": [[1, 1, 4.0, 5], [2, 3, 3.0, 4]]}}
    [block] = make_token_loss_blocks(facts)
    assert "token 2 to 3" in block.picture
    assert list(make_token_loss_blocks({})) == []


# The page


def test_texts_of_predictions_are_escaped_and_a_damaged_file_does_not_cost_the_page(tmp_path):
    root = run_with(tmp_path / "demo", classified(20))
    whole = Reader(render_page(api.open(root)))
    assert "b" not in whole.tags
    assert any("about <b>bold</b> things" in text for text in whole.texts)

    (root / f"score-{KEYS['score']}" / "predictions.parquet").write_bytes(b"damaged")
    assert any(
        "predictions.parquet: cannot be read" in text for text in Reader(render_page(api.open(root))).texts
    )


def test_main_scores_are_shown_and_all_on_request(tmp_path, capsys):
    root = make_run(tmp_path / "demo")
    names = [f"score{number}" for number in range(6)]
    scores = [measured([])[0].model_copy(update={"metric": name, "comparisons": []}) for name in names]
    settings = {"kind": "evaluate", "model": "stage:topics", "require": {"score4": {"min": 0.1}}}
    finish(root, "score", settings, ["topics"], Report(kind="evaluate", summary="", scores=scores))

    main(["report", str(root)])
    short = capsys.readouterr().out
    main(["report", str(root), "--all"])
    every = capsys.readouterr().out

    assert re.findall(r"^score\d(?=  )", short, re.MULTILINE) == ["score0", "score1", "score2", "score4"]
    assert "2 more with --all: score3, score5\n" in short
    assert re.findall(r"^score\d(?=  )", every, re.MULTILINE) == names


def test_a_stage_stands_below_those_it_reads_though_it_was_finished_before(tmp_path):
    root = make_run(tmp_path / "demo")
    os.utime(root / f"wiki-{KEYS['wiki']}" / "report.json", (2e9, 2e9))
    run = api.open(root)
    assert list(run.reports)[-1] == "wiki"
    assert re.findall(r'class="strong">(\w+)', draw_stages(run)) == ["wiki", "topics", "score"]


def test_the_picture_says_what_a_stage_reads_and_which_were_made_by_an_earlier_run(tmp_path):
    root = make_run(tmp_path / "demo")
    machine = Machine(system="Linux", cpu="a processor", cores=2, memory=None)
    counts = {"rows": 1000, "tokens": 123_456, "truncated": 0, "examples": 1000}
    for name, kind, hour, ledger in (
        ("topics", "finetune", 9, {"train": counts}),
        ("score", "evaluate", 11, {}),
    ):
        made = Provenance(command=["hfpipe"], started=f"2026-11-27T{hour:02}:00:00+00:00", machine=machine)
        scores = measured([])[:1] if kind == "evaluate" else []
        report = Report(kind=kind, summary="done", seconds=5, ledger=ledger, provenance=made, scores=scores)
        finish(root, name, {"kind": kind, "model": "stage:topics"}, ["wiki"], report)
    chain = draw_stages(api.open(root))
    assert re.findall(r">(5.0 s.*?)</text>", chain) == ["5.0 s, cached", "5.0 s"]
    lines = re.findall(r">(reads .*?)</text>", chain)
    assert lines == [
        "reads 1,100 rows: 1,000 rows",
        "reads 1,000 rows with 123k tokens: done",
        "reads 1,336 rows: done",
    ]


def test_trainings_of_one_stage_share_their_charts():
    logs = {
        f"seed {seed}": pd.DataFrame({"step": [1, 2], "loss": [3.0, 2.0 / seed], "eval_loss": [3.0, 2.5]})
        for seed in range(1, 8)
    }
    train, validation = draw_trainings(logs)
    assert train.count("<polyline") == 7
    assert [f">seed {seed}</text>" in train for seed in (1, 5, 6)] == [True, True, False], (
        "colours take turns after 5"
    )
    assert "validation loss (nats)" in validation
    [alone] = draw_trainings({"": logs["seed 1"]})
    assert alone.count("<polyline") == 2, "train and validation"


def test_parts_of_a_bar_are_as_long_as_their_counts():
    widths = [
        float(width)
        for width in re.findall(r'width="([\d.]+)"', draw_stacked({"kept": 75, "cut": 25}, "tokens"))
    ]
    assert widths == pytest.approx([329, 109])


@pytest.mark.slow
def test_the_page_of_a_hundred_thousand_predictions_stays_small(tmp_path):
    root = run_with(tmp_path / "demo", classified(100_000))
    assert len(render_page(api.open(root)).encode()) < 3_000_000


@pytest.mark.slow
@needs_chromium
def test_a_page_of_every_kind_of_prediction_is_sound_in_a_browser(tmp_path, monkeypatch):
    root = run_with(tmp_path / "demo", classified(100_000))
    for number, (frame, _) in enumerate(KINDS.values()):
        name = f"kind{number}"
        monkeypatch.setitem(KEYS, name, f"{number:012x}")
        settings = {"kind": "evaluate", "model": "stage:topics", "data": "stage:wiki", "split": "test"}
        facts = leakage([0], 0.8, examples={"exact": [0]}, conflicts=1, unknown=["base"])
        folder = finish(root, name, settings, ["topics"], evaluated(facts=facts))
        (folder / FILLS).write_text(json.dumps(FILLED) + "\n", encoding="utf-8")
        frame.assign(row=range(len(frame))).to_parquet(folder / "predictions.parquet")
    text = render_page(api.open(root))
    assert all(f"<h3>{title}</h3>" in text for _, expected in KINDS.values() for title in expected)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")

    assert open_page(tmp_path / "page.html") == []


@pytest.mark.slow
@needs_chromium
def test_the_browser_finds_what_is_wrong_with_a_page(tmp_path):
    wrong = {
        "contrast 1": '<p style="color: #eee">pale</p>',
        "axe button-name": "<button></button>",
        "pixels wide": '<p style="width: 3000px">wide</p>',
        "loads file://": '<img alt="" src="missing.png">',
        "console error: no": "<script>console.error('no')</script>",
        "is not seen": '<a href="#results" style="outline: none">hidden focus</a>',
    }
    fold = "<details><summary>fold</summary>text</details>"
    texts = f'<a class="skip" href="#results">skip</a><main id="results">{fold}{"<p>text</p>" * 200}</main>'
    (tmp_path / "page.html").write_text(
        f'<!doctype html><html lang="en"><title>page</title><body>{texts}{"".join(wrong.values())}</body>',
        encoding="utf-8",
    )
    found = open_page(tmp_path / "page.html")
    assert [words for words in wrong if not any(words in problem for problem in found)] == []
