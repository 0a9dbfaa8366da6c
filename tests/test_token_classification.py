"""A tag for each word: no word is lost or counted twice, whatever the tokenizer and the length."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pieces
import pytest
import small
from pydantic import ValidationError
from transformers import BertConfig

import hfpipe
from hfpipe.contract import RunContext
from hfpipe.errors import DataError
from hfpipe.metrics.tally import Tally, compute_scores
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.report import DataFacts, Report
from hfpipe.tasks.shared.sliding_windows import encode_sliding_windows
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.token_classification import TokenClassification
from hfpipe.tasks.token_classification.token_labels import align_words, locate_words

PEOPLE = ("Ada Lovelace", "Grace Hopper", "Alan Turing", "Mary Shelley", "Emmy Noether", "John Snow")
PLACES = ("London", "Paris", "New York", "Lagos", "Kyoto", "São Paulo")
PATTERNS = (
    "{person} was born in {place} .",
    "{person} moved from {place} to {other} , and wrote home .",
    "In {place} , nobody knew {person} .",
    "The river runs through {place} .",
    "{other} is larger than {place} .",
)
NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
FACTS = DataFacts(columns={"words": "strings", "tags": "labels"}, splits={"train": 1}, labels={"tags": NAMES})


def row(pattern: str, person: str, place: str, other: str) -> dict[str, list[str]]:
    words: list[str] = []
    tags: list[str] = []
    for part in pattern.split():
        kind = {"{person}": "PER", "{place}": "LOC", "{other}": "LOC"}.get(part)
        filled = part.format(person=person, place=place, other=other).split()
        words += filled
        tags += ["O"] if kind is None else [f"B-{kind}", *[f"I-{kind}"] * (len(filled) - 1)]
    return {"words": words, "tags": tags}


ROWS = [
    row(pattern, person, place, PLACES[number % 3])
    for number, person in enumerate(PEOPLE)
    for place in PLACES[3:]
    for pattern in PATTERNS
]
TEXTS = [" ".join(each["words"]) for each in ROWS]
ODD = ["Ada", "Lovelace", "\r\n", "", "\u200b", "naïve\n", "São Paulo", "東京", "don't", "…", "."] * 4


def ids(tags: list[str]) -> list[int]:
    return [NAMES.index(tag) for tag in tags]


def encoded(task: TokenClassification, words: Any, family: str = "wordpiece", tags: Any = None) -> Any:
    rows = {"words": [words], "tags": [tags or [0] * len(words)]}
    return task.runtime().encoder.encode(rows, pieces.tokenizer(TEXTS, family), FACTS)


@pytest.mark.parametrize("family", pieces.FAMILIES)
@pytest.mark.parametrize(("length", "stride"), [(8, 0), (8, 4), (16, 5), (128, 32)])
def test_each_word_with_a_piece_is_a_target_once(family: str, length: int, stride: int) -> None:
    task = TokenClassification(length=length, stride=stride)
    found = encoded(task, ODD, family)
    assert max(map(len, found["input_ids"])) <= length
    taken = [word for each in found["word"] for word in each if word >= 0]
    assert len(taken) == len(set(taken))
    left = {ODD[word] for word in set(range(len(ODD))) - set(taken)}
    assert left <= {"\r\n", "", "\u200b"}
    for labels, marks in zip(found["labels"], found["word"], strict=True):
        assert [label != IGNORED for label in labels] == [word >= 0 for word in marks]


@pytest.mark.parametrize("family", pieces.FAMILIES)
def test_windows_hold_every_piece_of_the_text(family: str) -> None:
    tokenizer = pieces.tokenizer(TEXTS, family)
    text = locate_words(ODD).text
    spans = {
        span for window in encode_sliding_windows(tokenizer, [text], 12, 3) for span in window.spans if span
    }
    covered = {place for start, end in spans for place in range(start, end)}
    assert {place for place, sign in enumerate(text) if not sign.isspace()} - covered <= {
        place for place, sign in enumerate(text) if sign == "\u200b"
    }


def test_a_word_is_tagged_where_it_has_most_context() -> None:
    tokenizer = pieces.tokenizer(["a b c d e f g h i j"])
    words = locate_words([*"abcdefghij"])
    cut = encode_sliding_windows(
        tokenizer, [words.text], 8, 4
    )  # six pieces a window, of which four are shared
    marks = align_words(cut, words.words)
    assert [[word for word in each if word >= 0] for each in marks] == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]


def test_the_label_stands_at_the_first_piece_of_its_word() -> None:
    tokenizer = pieces.tokenizer(["ab abab"], vocab_size=16)
    found = (
        TokenClassification()
        .runtime()
        .encoder.encode({"words": [["abbab", "ba"]], "tags": [[1, 3]]}, tokenizer, FACTS)
    )
    shown = tokenizer.convert_ids_to_tokens(found["input_ids"][0])
    labelled = {shown[place]: label for place, label in enumerate(found["labels"][0]) if label != IGNORED}
    assert sorted(labelled.values()) == [1, 3]
    assert not any(piece.startswith("##") for piece in labelled)


@pytest.mark.parametrize("family", pieces.FAMILIES)
def test_words_are_cut_into_the_pieces_of_running_text(family: str) -> None:
    tokenizer = pieces.tokenizer(TEXTS, family)
    found = encoded(TokenClassification(), ROWS[0]["words"], family)
    assert found["input_ids"][0] == tokenizer(" ".join(ROWS[0]["words"]))["input_ids"]


def test_encoding_does_not_depend_on_what_was_encoded_before() -> None:
    tokenizer = pieces.tokenizer(TEXTS)
    rows = {"words": [each["words"] for each in ROWS], "tags": [ids(each["tags"]) for each in ROWS]}
    task = TokenClassification(length=8, stride=2)
    whole = task.runtime().encoder.encode(rows, tokenizer, FACTS)
    alone = task.runtime().encoder.encode(
        {name: column[7:8] for name, column in rows.items()}, tokenizer, FACTS
    )
    assert alone["input_ids"] == [
        found for found, number in zip(whole["input_ids"], whole["row"], strict=True) if number == 7
    ]


def said(task: TokenClassification, words: Any, tags: list[str], facts: DataFacts = FACTS) -> Any:
    """Return what a model that is always right says, by row."""
    tokenizer = pieces.tokenizer(TEXTS)
    names = facts.labels["tags"]
    rows = {"words": [words], "tags": [[names.index(tag) for tag in tags]]}
    found = task.runtime().encoder.encode(rows, tokenizer, facts)
    marks = [[word for word in each if word >= 0] for each in found["word"]]
    prediction = [[label for label in each if label != IGNORED] for each in found["labels"]]
    columns = {
        "word": marks,
        "prediction": prediction,
        "score": [[0.5] * len(each) for each in marks],
        **{name: np.array([len(each) for each in marks]) for name in ("nll", "tokens", "correct")},
    }
    return task.runtime().evaluator.columns_by_row(
        columns, np.zeros(len(marks), dtype=np.int64), rows, facts
    ), rows


def test_windows_of_a_sentence_come_together_again() -> None:
    columns, _ = said(TokenClassification(length=8, stride=4), ROWS[1]["words"], ROWS[1]["tags"])
    assert list(columns["prediction"][0]) == ROWS[1]["tags"] == list(columns["reference"][0])
    assert columns["tokens"].tolist() == [len(ROWS[1]["words"])]


def test_a_word_without_a_piece_counts_as_outside() -> None:
    columns, _ = said(TokenClassification(), ["Ada", "\u0007", ""], ["B-PER", "I-PER", "O"])
    assert columns["prediction"][0] == ["B-PER", "O", "O"]
    assert columns["score"][0] == [0.5, 0.0, 0.0]


def test_a_sentence_without_words_is_allowed() -> None:
    columns, _ = said(TokenClassification(), [], [])
    assert list(columns["prediction"]) == [[]]


def test_answers_are_entities_with_their_place_in_the_text() -> None:
    text = "Ada Lovelace left São Paulo, at last."
    assert [text[start:end] for start, end in locate_words(text).words] == [
        "Ada",
        "Lovelace",
        "left",
        "São",
        "Paulo",
        ",",
        "at",
        "last",
        ".",
    ]
    task = TokenClassification()
    columns, rows = said(task, text, ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", *["O"] * 4])
    assert task.runtime().evaluator.format_predictions(columns, rows, FACTS) == [
        {
            "entities": [
                {"entity_group": "PER", "score": 0.5, "word": "Ada Lovelace", "start": 0, "end": 12},
                {"entity_group": "LOC", "score": 0.5, "word": "São Paulo", "start": 18, "end": 27},
            ]
        }
    ]


def test_a_prediction_needs_no_tags() -> None:
    task = TokenClassification()
    asked = {"words": ["Ada left.", ["Ada", "left"]]}
    stands = task.runtime().encoder.placeholder("tags", asked, FACTS)
    assert task.runtime().encoder.encode({**asked, "tags": stands}, pieces.tokenizer(TEXTS), FACTS)[
        "row"
    ] == [0, 1]


@pytest.mark.parametrize(
    ("columns", "names", "options", "message"),
    [
        ({"words": "string", "tags": "labels"}, NAMES, {}, "'words' holds string, not lists of words"),
        ({"words": "strings", "tags": "strings"}, NAMES, {}, "`labels: {tags: classes}`"),
        ({"words": "strings"}, NAMES, {}, "no column 'tags'"),
        ({}, ["O", "U-PER"], {}, "write `scheme: BILOU`"),
        ({}, ["O", "B-PER", "PER"], {}, "tag 'PER' is not O and does not begin with B-, I-, E-, S-"),
        ({}, ["O", "S-PER"], {"scheme": "IOB2"}, "tag 'S-PER' is not O and does not begin with I-, B-"),
    ],
)
def test_data_that_do_not_fit_are_errors(
    columns: dict[str, str], names: list[str], options: dict[str, Any], message: str
) -> None:
    facts = FACTS.model_copy(update={"columns": columns or FACTS.columns, "labels": {"tags": names}})
    [problem] = TokenClassification(**options).check(facts)
    assert message in problem.message


def test_classes_are_those_of_their_numbers_whatever_the_order_in_a_config() -> None:
    names = ["O", *(f"B-{number}" for number in range(1, 12))]
    stored = {str(number): names[number] for number in sorted(range(12), key=str)}
    config = BertConfig.from_dict({"id2label": stored})
    assert TokenClassification().facts_from_config(config).labels == {"tags": names}
    assert TextClassification().facts_from_config(config).labels == {"label": names}


def test_a_stride_that_does_not_move_on_is_refused() -> None:
    with pytest.raises(ValidationError, match="`stride` is more than half of `length`"):
        TokenClassification(length=64, stride=40)


def test_rows_whose_words_and_tags_differ_in_number_are_named(
    tmp_path: Path, make_data: Callable[..., tuple[Report, Path]]
) -> None:
    small.write_json_lines(tmp_path / "rows.jsonl", [ROWS[0], {"words": ["Ada", "left"], "tags": ["B-PER"]}])
    with pytest.raises(DataError, match=r"rows.jsonl, line 2: 2 words but 1 tags; write one for each"):
        make_data({"source": {"files": "rows.jsonl"}})
    with pytest.raises(DataError, match="row 0: 2 words but 1 tags"):
        encoded(TokenClassification(), ["Ada", "left"], tags=[1])


def test_lists_of_words_are_text_and_tags_of_the_same_lengths_are_labels(
    tmp_path: Path, make_data: Callable[..., tuple[Report, Path]]
) -> None:
    odd = {"words": ["Ada", "le\u0007ft", "", "Kyoto"], "tags": ["B-PER", "O", "O", "B-LOC"]}
    small.write_json_lines(tmp_path / "rows.jsonl", [ROWS[0], ROWS[1], ROWS[0], odd])
    report, folder = make_data({"source": {"files": "rows.jsonl"}, "clean": ["unicode", {"dedup": "exact"}]})
    assert report.data is not None
    assert report.data.columns == {"id": "string", "words": "strings", "tags": "labels"}
    assert report.data.labels == {"tags": ["B-LOC", "B-PER", "I-PER", "O"]}
    assert report.ledger["rows"]["dedup: exact"] == 1
    kept = datasets.load_from_disk(str(folder))["train"]
    assert kept[-1]["words"] == ["Ada", "left", "", "Kyoto"]
    assert kept.features["tags"].feature.int2str(kept[-1]["tags"]) == odd["tags"]
    assert list(TokenClassification().check(report.data)) == []


def test_tags_that_are_classes_already_keep_their_order(
    tmp_path: Path, context: Callable[..., RunContext], make_data: Callable[..., tuple[Report, Path]]
) -> None:
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=NAMES)),
        }
    )
    rows = [{"tokens": each["words"], "ner_tags": ids(each["tags"])} for each in ROWS]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "hub"))
    report, folder = make_data(
        {"source": {"stage": "hub"}, "columns": {"words": "tokens", "tags": "ner_tags"}},
        inputs={"hub": tmp_path / "hub"},
    )
    assert report.data is not None
    assert report.data.labels == {"tags": NAMES}
    assert datasets.load_from_disk(str(folder))["train"]["tags"][:] == [each["ner_tags"] for each in rows]


def test_tags_that_mark_no_entities_are_scored_a_word() -> None:
    facts = FACTS.model_copy(update={"labels": {"tags": ["NOUN", "VERB"]}})
    task = TokenClassification()
    assert list(task.check(facts)) == []
    assert [metric.name for metric in task.runtime().evaluator.metrics(facts)] == ["accuracy", "loss"]
    columns, rows = said(task, ["ships", "sail"], ["NOUN", "VERB"], facts)
    assert [
        each["entity_group"]
        for each in task.runtime().evaluator.format_predictions(columns, rows, facts)[0]["entities"]
    ] == [
        "NOUN",
        "VERB",
    ]


def test_the_gazetteer_is_scored_like_a_model() -> None:
    task = TokenClassification()
    train = {"words": [each["words"] for each in ROWS], "tags": [ids(each["tags"]) for each in ROWS]}
    prediction = task.runtime().baseline("gazetteer").fit(train, FACTS, pieces.tokenizer(TEXTS))
    tally = Tally(task.runtime().baseline_metrics("gazetteer", FACTS), 100, 17)
    columns = prediction(train)
    tally.add(np.arange(len(ROWS)), columns)
    assert {score.metric: score.value for score in compute_scores(tally)}["f1"] == 1


@pytest.mark.slow
def test_the_recipe_runs_small_and_its_model_opens_elsewhere(tmp_path: Path) -> None:
    from transformers import pipeline

    rows = small.write_json_lines(tmp_path / "rows.jsonl", ROWS)
    model = pieces.save_encoder(tmp_path / "encoder", TEXTS)
    settings = {
        "news.source": {"files": str(rows)},
        "news.columns": {},
        "news.split": {"validation": 0.1, "test": 0.2},
        "tagger.task.length": 16,
        "tagger.task.stride": 4,
        "tagger.model": str(model),
        "tagger.training": {"max_steps": 60, "learning_rate": 5e-3, "bf16": False, "logging_steps": 10},
    }
    recipe = hfpipe.load(
        small.ROOT / "recipes" / "ner-conll.yaml",
        [f"{key}={json.dumps(value)}" for key, value in settings.items()],
    )
    run = hfpipe.run(recipe, tmp_path / "runs", say=lambda _: None)
    scores = {score.metric: score for score in run.reports["score"].scores}
    assert scores["f1"].value > 0.8
    assert {"precision", "recall", "accuracy", "loss", "f1[LOC]", "f1[PER]"} <= scores.keys()
    assert [comparison.baseline for comparison in scores["f1"].comparisons] == ["gazetteer"]
    assert scores["loss"].comparisons == []
    losses = [step["loss"] for step in small.history(run.reports["tagger"].model_dump())]
    assert losses[-1] < losses[0] / 2
    assert run.reports["tagger"].ledger["train"]["truncated"] == 0
    tag = pipeline("token-classification", str(run.folders["tagger"]), aggregation_strategy="simple")
    assert {each["entity_group"] for each in tag("Ada Lovelace was born in Kyoto .")} <= {"PER", "LOC"}
    text = "John Snow was born in Kyoto."
    [answer] = hfpipe.predict(str(run.folders["tagger"]), [text])
    assert ("LOC", "Kyoto") in {(each["entity_group"], each["word"]) for each in answer["entities"]}
    assert all(text[each["start"] : each["end"]] == each["word"] for each in answer["entities"])
