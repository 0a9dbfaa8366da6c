"""`hfpipe demo`: the page to try a model predicts as `hfpipe predict` does, and stays on this machine."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pieces
import pytest
from transformers import BertConfig, BertForSequenceClassification

from hfpipe.cli.main import main
from hfpipe.errors import DataError
from hfpipe.inference.demo_page import mark_spans, name_scores, parse_field

TEXTS = ["The Danube is a river that flows through ten countries.", "K2 is a mountain."]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a small classifier that was not trained, as it lies on the Hub."""
    folder = tmp_path / "model"
    tokenizer = pieces.tokenizer(TEXTS)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "lake", 1: "river"},
        label2id={"lake": 0, "river": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "[not a list]", "[not a list]"),
        ("string", "  ", None),
        ("strings", '["Anna", "lives"]', ["Anna", "lives"]),
        ("strings", "falls.\n\n runs. \n", ["falls.", "runs."]),
        ("strings", "Anna lives in Rome", "Anna lives in Rome"),
        ("nested", '[{"role": "user", "content": "Hi"}]', [{"role": "user", "content": "Hi"}]),
        ("nested", "", None),
    ],
)
def test_a_field_is_read_by_the_type_of_its_column(kind: str, text: str, value: Any) -> None:
    assert parse_field(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text"), [("nested", "Hello"), ("strings", "[Anna]"), ("nested", "[" * 10**5)]
)
def test_a_field_that_is_not_json_is_an_error_with_an_example(kind: str, text: str) -> None:
    with pytest.raises(DataError, match=r"not JSON .*; write it as in \["):
        parse_field(kind, text)


ENTITIES = {"entities": [{"entity_group": "PER", "word": "Ada", "start": 0, "end": 3, "score": 0.5}]}


@pytest.mark.parametrize(
    ("row", "record", "marked"),
    [
        ({"words": "Ada wrote."}, ENTITIES, ("Ada wrote.", [("PER", 0, 3)])),
        ({"words": "It was Ada."}, ENTITIES, None),  # positions of another text
        (
            {"question": "Who?", "context": "Ada did."},
            {"answer": "Ada", "start": 0, "end": 3, "score": 0.5},
            ("Ada did.", [("answer", 0, 3)]),
        ),
        ({"question": "Who?", "context": "Ada"}, {"answer": "", "start": 0, "end": 0, "score": 0.5}, None),
        ({"text": "Ada"}, {"label": "person", "score": 0.5}, None),
    ],
)
def test_only_spans_that_are_in_a_text_are_marked_in_it(
    row: dict[str, Any], record: dict[str, Any], marked: tuple[str, list[tuple[str, int, int]]] | None
) -> None:
    found = mark_spans(row, record)
    if marked is None:
        assert found is None
    else:
        marks = [dict(zip(("entity", "start", "end"), mark, strict=True)) for mark in marked[1]]
        assert found == {"text": marked[0], "entities": marks}


@pytest.mark.parametrize(
    ("record", "scores"),
    [
        ({"label": "lake", "score": 0.25}, {"lake": 0.25}),
        ({"labels": [{"label": "a", "score": 0.75}, {"label": "b", "score": 0.5}]}, {"a": 0.75, "b": 0.5}),
        ({"ending": "falls.", "label": 1, "score": 0.5}, {"falls.": 0.5}),
        ({"score": 3.5}, {}),  # a regression
        ({"generated_text": "x"}, {}),
    ],
)
def test_scores_are_shown_by_what_they_belong_to(record: dict[str, Any], scores: dict[str, float]) -> None:
    assert name_scores(record) == scores


def test_without_gradio_demo_says_how_to_install_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", str(model)]) == 2
    assert "pip install 'hfpipe[demo-page]'" in capsys.readouterr().err


@pytest.mark.parametrize("port", [None, 70_000])
@pytest.mark.usefixtures("socket_enabled")
def test_a_port_that_is_not_free_is_an_error_before_the_model_is_loaded(
    model: Path, port: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = port or taken.getsockname()[1]
        assert main(["demo", str(model), "--port", str(port)]) == 2
    assert f"port {port} is not free; name another with --port" in capsys.readouterr().err
