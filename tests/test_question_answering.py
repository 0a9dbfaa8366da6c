"""Answers from a text: windows cut nothing away, spans are those of the raw text, and none may be right."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import exp, log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pieces
import pyarrow.parquet as pq
import pytest
import small
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertConfig, BertForQuestionAnswering

import hfpipe
from hfpipe.data.answers import Answer, locate_answer
from hfpipe.errors import DataError
from hfpipe.evaluation.predictions_file import Predictions
from hfpipe.metrics.scores.spans import find_nearest_sentence
from hfpipe.metrics.tally import Tally, compute_scores
from hfpipe.report import DataFacts, Report
from hfpipe.tasks.question_answering import QuestionAnswering
from hfpipe.tasks.question_answering.answer_spans import compute_span_loss, find_likeliest_spans
from hfpipe.tasks.shared.sliding_windows import encode_sliding_windows

FACTS = DataFacts(
    columns={"question": "string", "context": "string", "answers": "nested"}, splits={"train": 1}
)
PLACES = ("London", "Paris", "Lagos", "Kyoto", "Cairo", "Lima", "Oslo", "Quito")
TRADES = ("baker", "smith", "sailor", "teacher", "painter", "doctor")
ASKED = {
    "Where was the {trade} born?": "{place}",
    "What did the child of {place} become?": "{trade}",
}


def row(number: int, place: str, trade: str) -> dict[str, Any]:
    question, answer = list(ASKED.items())[number % 2]
    context = f"The {trade} was born in {place}. Later the {trade} went to sea, and came home rich."
    text = answer.format(place=place, trade=trade)
    return {
        "id": str(number),
        "question": question.format(place=place, trade=trade),
        "context": context,
        "answers": {"text": [text], "answer_start": [context.index(text)]},
    }


ROWS = [
    row(number, place, trade)
    for number, (place, trade) in enumerate((place, trade) for place in PLACES for trade in TRADES)
]
ASKED_FOR = ("question", "context")
TEXTS = [text for each in ROWS for text in map(each.get, ASKED_FOR)]
LONG = " ".join(["Nothing at all was said of it, and nobody came home rich."] * 8)


def asked(*rows: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [each[name] for each in rows] for name in rows[0]}


def answers(text: str, context: str) -> dict[str, Any]:
    return {"text": [text], "answer_start": [context.index(text)]}


def said(task: QuestionAnswering, rows: dict[str, list[Any]], family: str = "wordpiece") -> Any:
    """Return by row what a model says that is sure of the targets it was given."""
    tokenizer = pieces.tokenizer(TEXTS, family)
    found = task.runtime().encoder.encode(rows, tokenizer, FACTS)
    names = [name for name in found if name != "row"]
    examples = [dict(zip(names, each, strict=True)) for each in zip(*map(found.get, names), strict=True)]
    batch = task.runtime().encoder.collate(examples, tokenizer, 17, train=False)
    sure = [20 * torch.nn.functional.one_hot(side, batch["input_ids"].shape[1]) for side in batch["labels"].T]
    outputs = SimpleNamespace(start_logits=sure[0].float(), end_logits=sure[1].float())
    columns = {
        name: column.numpy()
        for name, column in task.runtime().evaluator.outputs_to_columns(outputs, batch).items()
    }
    return task.runtime().evaluator.columns_by_row(columns, np.asarray(found["row"]), rows, FACTS)


@pytest.mark.parametrize("family", pieces.FAMILIES)
@pytest.mark.parametrize("place", [0, 3, 8])
def test_the_answer_is_read_from_the_raw_text_wherever_it_stands(family: str, place: int) -> None:
    sentences = LONG.split(". ")
    sentences.insert(place, "The Baker was born in  São Paulo (Brazil)")
    context = ". ".join(sentences)
    rows = asked(
        {
            "question": "Where was the baker born?",
            "context": context,
            "answers": answers("São Paulo", context),
        }
    )
    columns = said(QuestionAnswering(length=96, stride=24), rows, family)
    assert columns["prediction"][0] == "São Paulo"
    assert context[columns["start"][0] : columns["end"][0]] == "São Paulo"
    assert columns["score"][0] > 0.9


@pytest.mark.parametrize("family", pieces.FAMILIES)
@pytest.mark.parametrize(("length", "stride"), [(64, 0), (64, 16), (80, 48), (512, 128)])
def test_windows_cut_neither_question_nor_text_away(family: str, length: int, stride: int) -> None:
    tokenizer = pieces.tokenizer(TEXTS, family)
    question = "Where was the baker born?"
    cut = encode_sliding_windows(tokenizer, [LONG, "Short."], length, stride, [question, question])
    assert max(len(window.input_ids) for window in cut) <= length
    whole = tokenizer(question, add_special_tokens=False)["input_ids"]
    for window in cut:
        front = window.input_ids[: len(whole) + 1]
        assert whole in (front[:-1], front[1:])
    seen = {span for window in cut if window.row == 0 for span in window.spans if span}
    assert {place for start, end in seen for place in range(start, end)} >= {
        place for place, sign in enumerate(LONG) if not sign.isspace()
    }


def test_a_long_question_leaves_less_to_be_shared() -> None:
    tokenizer = pieces.tokenizer(TEXTS)
    questions = ["Where was the baker born, " * count for count in (1, 3)]
    cut = encode_sliding_windows(tokenizer, [LONG, LONG], 32, 12, questions)
    assert [window.row for window in cut] == sorted(window.row for window in cut)
    assert {window.row for window in cut} == {0, 1}
    with pytest.raises(DataError, match="tokens and leaves no room; raise `length`"):
        encode_sliding_windows(tokenizer, [LONG], 32, 12, ["Where was the baker born, " * 9])


def test_windows_without_the_answer_point_at_nothing() -> None:
    context = f"{LONG} The baker was born in Oslo."
    rows = asked({"question": "Where?", "context": context, "answers": answers("Oslo", context)})
    tokenizer = pieces.tokenizer(TEXTS)
    found = QuestionAnswering(length=48, stride=8).runtime().encoder.encode(rows, tokenizer, FACTS)
    assert len(found["row"]) > 2
    assert found["span"][0] == [0, 0]
    start, end = found["span"][-1]
    assert tokenizer.decode(found["input_ids"][-1][start : end + 1]) == "oslo"


def test_an_answer_is_looked_for_where_it_is_nearest_to_its_place() -> None:
    assert locate_answer(Answer("sea", 8), "sea and sea") == (8, 11)
    assert locate_answer(Answer("sea", 7), "sea and sea") == (8, 11)
    assert locate_answer(Answer("sea", 2), "sea and sea") == (0, 3)
    assert locate_answer(Answer("lake", 2), "sea and sea") is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": [], "answer_start": []}, r"^'Where\?' has no answer; add `version_2: true`"),
        ({"text": ["Rome"], "answer_start": [0]}, "^the answer 'Rome' is not in its context"),
        ([{"word": "Oslo"}], r"^'answers' holds .* write \{text: \[...\], answer_start: \[...\]\}"),
        (None, "^'answers' holds None"),
        ({"text": ["Oslo"], "answer_start": []}, r"^'answers' holds .* write \{text: \[...\]"),
    ],
)
def test_answers_that_cannot_be_learned_are_errors(given: Any, message: str) -> None:
    rows = asked({"id": "7", "question": "Where?", "context": "In Oslo.", "answers": given})
    with pytest.raises(DataError, match=message):
        QuestionAnswering().runtime().encoder.encode(rows, pieces.tokenizer(TEXTS), FACTS)


def test_columns_of_another_kind_are_errors() -> None:
    facts = FACTS.model_copy(update={"columns": {**FACTS.columns, "answers": "label", "context": "strings"}})
    messages = [problem.message for problem in QuestionAnswering().check(facts)]
    assert messages == [
        "column 'context' holds strings, not text",
        "column 'answers' holds label, not objects {text: [...], answer_start: [...]}",
    ]


def test_the_loss_is_that_of_transformers_and_does_not_mind_padding() -> None:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = BertForQuestionAnswering(config).eval()
    ids = torch.randint(5, 50, (4, 11))
    spans = torch.tensor([[1, 3], [0, 0], [10, 10], [4, 9]])
    with torch.no_grad():
        theirs = model(ids, start_positions=spans[:, 0], end_positions=spans[:, 1])
        padded = torch.nn.functional.pad(ids, (0, 5))
        mask = (torch.arange(16) < 11).expand(4, 16).long()
        ours = model(padded, attention_mask=mask)
    logits = theirs.start_logits, theirs.end_logits
    whole = compute_span_loss(*logits, spans, torch.ones_like(ids))
    assert whole.mean().item() == pytest.approx(theirs.loss.item(), rel=1e-6)
    assert compute_span_loss(ours.start_logits, ours.end_logits, spans, mask) == pytest.approx(
        whole, rel=1e-5
    )
    smooth = [
        torch.nn.functional.cross_entropy(each, spans[:, side], label_smoothing=0.1)
        for side, each in enumerate(logits)
    ]
    assert compute_span_loss(*logits, spans, torch.ones_like(ids), 0.1).mean() == pytest.approx(
        sum(smooth) / 2
    )


def test_the_likeliest_span_is_ordered_short_and_inside_the_text() -> None:
    start = torch.tensor([[9.0, 0.0, 5.0, 0.0, 1.0]])
    end = torch.tensor([[0.0, 8.0, 0.0, 0.0, 6.0]])
    allowed = torch.tensor([[False, True, True, True, True]])
    wide, short = (find_likeliest_spans(start, end, allowed, longest) for longest in (5, 2))
    assert (wide["first"].item(), wide["last"].item(), wide["best"].item()) == (2, 4, 11)
    assert (short["first"].item(), short["last"].item(), short["best"].item()) == (1, 1, 8)
    spans = [(a, b) for a in range(1, 5) for b in range(a, min(a + 2, 5))]
    total = log(sum(exp(start[0, a].item() + end[0, b].item()) for a, b in spans))
    assert short["total"].item() == pytest.approx(total)


def by_row(
    task: QuestionAnswering, pieces_of: list[int], rows: dict[str, Any], **columns: list[float]
) -> Any:
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    return task.runtime().evaluator.columns_by_row(arrays, np.asarray(pieces_of), rows, FACTS)


TWO = asked(
    {
        "question": "Where?",
        "context": "In Oslo. In Lima.",
        "answers": {"text": ["Oslo"], "answer_start": [3]},
    },
    {"question": "Who?", "context": "Nobody.", "answers": {"text": [], "answer_start": []}},
)
SAID: dict[str, list[float]] = {
    "best": [1.0, 4.0, 2.0],
    "total": [1.5, 4.5, 2.5],
    "start": [3, 12, 0],
    "end": [7, 16, 6],
    "nothing": [3.0, 5.0, 2.5],
    "nll": [1.0, 3.0, 5.0],
}
"""Two windows of the first row, one of the second."""
ONE = [
    (np.zeros(1, dtype=np.int64), {name: [each[row]] for name, each in TWO.items()}, FACTS) for row in (0, 1)
]


def test_the_best_window_answers_and_version_2_may_say_nothing() -> None:
    first = by_row(QuestionAnswering(), [0, 0, 1], TWO, **SAID)
    assert list(first["prediction"]) == ["Lima", "Nobody"]
    assert first["nll"].tolist() == [2.0, 5.0]
    assert first["score"] == pytest.approx([exp(4) / (exp(1.5) + exp(4.5)), exp(-0.5)])
    second = by_row(QuestionAnswering(version_2=True), [0, 0, 1], TWO, **SAID)
    assert list(second["prediction"]) == ["Lima", ""]  # 3.0 < 4.0 in the window that doubts least, 2.5 > 2.0
    assert second["score"][1] == pytest.approx(exp(2.5) / (exp(2.5) + exp(2.5)))
    assert list(second["reference"]) == [["Oslo"], []]
    assert QuestionAnswering(version_2=True).runtime().evaluator.format_predictions(second, TWO, FACTS)[
        1
    ] == {
        "answer": "",
        "start": 0,
        "end": 0,
        "score": second["score"][1],
    }


def test_a_text_without_a_piece_has_no_answer() -> None:
    nothing = float("-inf")
    columns = {**SAID, "best": [1.0, 4.0, nothing], "total": [1.5, 4.5, nothing], "start": [3, 12, -1]}
    found = by_row(QuestionAnswering(), [0, 0, 1], TWO, **columns)
    assert (found["prediction"][1], found["score"][1]) == ("", 0.0)


def test_scores_are_those_of_the_official_script() -> None:
    task = QuestionAnswering(version_2=True)
    tally = Tally(task.runtime().evaluator.metrics(FACTS), 100, 17)
    tally.add(np.arange(2), by_row(task, [0, 0, 1], TWO, **SAID))
    scores = {score.metric: score.value for score in compute_scores(tally)}
    assert scores["exact_match"] == 50
    assert (scores["exact_match[has_answer]"], scores["exact_match[no_answer]"]) == (0, 100)
    assert scores["loss"] == 3.5
    assert [metric.name for metric in QuestionAnswering().runtime().evaluator.metrics(FACTS)] == [
        "exact_match",
        "f1",
        "loss",
    ]


def test_a_prediction_needs_no_answers() -> None:
    task = QuestionAnswering()
    rows = {"question": ["Where?"], "context": ["In Oslo."]}
    asked_for = FACTS.model_copy(update={"splits": {}})  # as a trained model knows its data
    stands = task.runtime().encoder.placeholder("answers", rows, asked_for)
    found = task.runtime().encoder.encode({**rows, "answers": stands}, pieces.tokenizer(TEXTS), asked_for)
    assert found["span"] == [[0, 0]]


def test_the_trivial_answer_is_the_sentence_nearest_to_the_question() -> None:
    context = "The sea is deep. The baker was born in Oslo! Was he? Nobody knows."
    assert find_nearest_sentence("Where was the baker born?", context) == "The baker was born in Oslo!"
    assert find_nearest_sentence("Why?", "") == ""
    prediction = QuestionAnswering().runtime().baseline("sentence").fit({}, FACTS, pieces.tokenizer(TEXTS))
    columns = prediction(asked(ROWS[0]))
    assert list(columns["prediction"]) == ["The baker was born in London."]
    assert list(columns["reference"]) == [["London"]]


def test_answers_come_through_a_data_set_as_they_are(
    tmp_path: Path, make_data: Callable[..., tuple[Report, Path]]
) -> None:
    none = {
        "id": "none",
        "question": "Who?",
        "context": "Nobody.",
        "answers": {"text": [], "answer_start": []},
    }
    small.write_json_lines(tmp_path / "rows.jsonl", [none, *ROWS, {**ROWS[0], "id": "again"}])
    settings = {"text": ["context", "question"], "clean": ["unicode", {"dedup": "exact"}]}
    report, folder = make_data({"source": {"files": "rows.jsonl"}, **settings})
    assert report.data is not None
    assert report.data.columns["answers"] == "nested"
    assert list(QuestionAnswering().check(report.data)) == []
    assert datasets.load_from_disk(str(folder))["train"].to_list() == [none, *ROWS]
    again, copy = make_data(
        {"source": {"stage": "data"}, "text": ["question"]}, name="copy", inputs={"data": folder}
    )
    assert datasets.load_from_disk(str(copy))["train"].to_list() == [none, *ROWS]
    assert again.data is not None
    assert again.data.columns == report.data.columns


def test_predictions_may_begin_with_questions_without_an_answer(tmp_path: Path) -> None:
    task, path = QuestionAnswering(version_2=True), tmp_path / "predictions.parquet"
    with Predictions(path) as predictions:
        for number in (1, 0):
            columns = task.runtime().evaluator.columns_by_row(
                {name: np.asarray(each)[[number + 1]] for name, each in SAID.items()}, *ONE[number]
            )
            predictions.add([str(number)], np.array([number]), columns)
    assert [each["reference"] for each in pq.read_table(path).to_pylist()] == [[], ["Oslo"]]


@pytest.mark.slow
def test_the_recipe_runs_small_and_its_model_opens_elsewhere(tmp_path: Path) -> None:
    rows = small.write_json_lines(tmp_path / "rows.jsonl", ROWS)
    model = pieces.save_encoder(tmp_path / "encoder", TEXTS)
    settings = {
        "squad.source": {"files": str(rows)},
        "squad.split": {"validation": 0.25},
        "reader.task.length": 40,
        "reader.task.stride": 8,
        "reader.model": str(model),
        "reader.training": {"max_steps": 120, "learning_rate": 5e-3, "bf16": False, "logging_steps": 10},
    }
    recipe = hfpipe.load(
        small.ROOT / "recipes" / "squad.yaml",
        [f"{key}={json.dumps(value)}" for key, value in settings.items()],
    )
    run = hfpipe.run(recipe, tmp_path / "runs", say=lambda _: None)
    scores = {score.metric: score for score in run.reports["score"].scores}
    assert scores["f1"].value > scores["f1"].comparisons[0].value
    assert scores["f1"].comparisons[0].baseline == "sentence"
    losses = [step["loss"] for step in small.history(run.reports["reader"].model_dump())]
    assert losses[-1] < losses[0] / 2
    ledger = run.reports["reader"].ledger["train"]
    assert ledger["truncated"] == 0
    assert ledger["examples"] >= ledger["rows"]
    [answer] = hfpipe.predict(str(run.folders["reader"]), [{name: ROWS[0][name] for name in ASKED_FOR}])
    assert ROWS[0]["context"][answer["start"] : answer["end"]] == answer["answer"] != ""
    AutoTokenizer.from_pretrained(run.folders["reader"])
    assert AutoModelForQuestionAnswering.from_pretrained(run.folders["reader"]).config.num_labels == 2
