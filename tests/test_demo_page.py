"""`hfpipe demo`: the page to try a model predicts as `hfpipe predict` does, and stays on this machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pieces
import pytest
import small
from browser import launch_chromium, needs_chromium
from commands import LIMIT, start_hfpipe, wait_until
from demo_pages import DemoTab, find_url, listening_addresses, needs_gradio
from transformers import BertConfig, BertForSequenceClassification

import hfpipe
from hfpipe.cli.main import main
from hfpipe.data.rows import Row
from hfpipe.errors import DataError
from hfpipe.inference.demo_page import mark_spans, name_scores, parse_field
from hfpipe.inference.inputs import complete_rows
from hfpipe.inference.ports import find_common_obstacle, find_obstacle
from hfpipe.report import DataFacts

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
        ("", "two lines\nof one text", "two lines\nof one text"),
        ("float", "0.5", 0.5),
        ("int", "0", 0),
    ],
)
def test_a_field_is_read_by_the_type_of_its_column(kind: str, text: str, value: Any) -> None:
    assert parse_field(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text", "example"),
    [
        ("nested", "Hello", "["),
        ("strings", "[Anna]", "["),
        ("nested", "[" * 10**5, "["),
        ("float", "half", "0.5"),
    ],
)
def test_a_field_that_is_not_json_is_an_error_with_an_example(kind: str, text: str, example: str) -> None:
    with pytest.raises(DataError, match=rf"not JSON .*; write it as in {re.escape(example)}"):
        parse_field(kind, text)


@pytest.mark.parametrize("value", [0, 0.0, False])
def test_zero_is_a_value_of_a_row_and_not_an_empty_field(value: Any) -> None:
    facts = DataFacts(columns={"height": type(value).__name__}, splits={})
    [row] = complete_rows(iter([Row({"height": value}, "text", 1)]), ["height"], facts)
    assert row.values["height"] is value


@pytest.mark.parametrize("value", ["", " ", [], {}, None])
def test_a_row_without_a_value_is_refused(value: Any) -> None:
    facts = DataFacts(columns={"height": "nested"}, splits={})
    with pytest.raises(DataError, match="'height' is empty; remove it"):
        list(complete_rows(iter([Row({"height": value}, "text", 1)]), ["height"], facts))


ENTITIES = {"entities": [{"entity_group": "PER", "word": "Ada", "start": 0, "end": 3, "score": 0.5}]}


@pytest.mark.parametrize(
    ("row", "record", "marked"),
    [
        ({"words": "Ada wrote."}, ENTITIES, ("Ada wrote.", [("PER", 0, 3)])),
        ({"words": ["Ada", " ", "wrote."]}, ENTITIES, ("Ada wrote.", [("PER", 0, 3)])),
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


@pytest.mark.parametrize(
    ("port", "cause"),
    [(None, "port {} is in use"), (70_000, "--port {}: ports are numbers from 1 to 65535")],
)
@pytest.mark.usefixtures("socket_enabled")
def test_a_port_that_cannot_be_used_is_an_error_with_one_that_can_before_the_model_is_loaded(
    model: Path, port: int | None, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = port or taken.getsockname()[1]
        assert main(["demo", str(model), "--port", str(port)]) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith(f"demo: {cause.format(port)}; choose another, as --port ")
        assert find_obstacle(int(said.rpartition(" ")[2])) is None


@pytest.mark.usefixtures("socket_enabled")
def test_a_port_is_free_as_soon_as_its_server_has_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address) as client:
            server.accept()[0].close()  # first, so that the system keeps the connection for a minute
            assert client.recv(1) == b""
        assert "is in use" in str(find_obstacle(address[1]))
    assert find_obstacle(address[1]) is None


@pytest.mark.usefixtures("socket_enabled")
def test_a_range_of_ports_is_in_use_only_if_each_of_them_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        taken = [each.getsockname()[1] for each in (one, other)]
        cause = f"ports {taken[0]} to {taken[1]} are in use; choose another, as --port "
        assert str(find_common_obstacle(taken)).startswith(cause)
    assert find_common_obstacle(taken) is None


FIRST_WORDS = """
from hfpipe.tasks.text_classification import TextClassification

def shorten(text):
    if "<b>" in text:
        raise ValueError("no <b>bold</b> text")
    return " ".join(text.split()[:12])

class FirstWords(TextClassification):
    kind: str = "first_words.py:FirstWords"

    def runtime(self):
        return super().runtime().map_column(self.text, shorten)
"""
NOTES_HOSTS = """
import os, sys

def note(event, given):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with open(os.environ["HOSTS"], "a") as file:
            file.write(f"{given[1][0] if event.endswith('connect') else given[0]}\\n")

sys.addaudithook(note)
"""
"""Notes where a process connects to, if it is in a file that Python runs as it starts."""
OPEN_TO_ALL = {
    "GRADIO_ANALYTICS_ENABLED": "True",
    "GRADIO_SERVER_NAME": str(IPv4Address(0)),
    "GRADIO_SHARE": "True",
}
"""Variables that Gradio reads where hfpipe does not decide."""


@pytest.mark.slow
@needs_chromium
@needs_gradio
@pytest.mark.usefixtures("socket_enabled")
def test_the_page_of_a_task_of_a_user_is_served_to_this_machine_only_until_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "first_words.py").write_text(FIRST_WORDS, encoding="utf-8")
    recipe, runs = small.recipe("bert", max_steps=1), tmp_path / "runs"
    recipe["stages"]["words"]["vocab_size"] = 500
    recipe["stages"]["topics"] |= {
        "task": "first_words.py:FirstWords",
        "tokenizer": "stage:words",
        "model": small.MODELS["bert"],
    }
    del recipe["stages"]["pretrain"], recipe["stages"]["score"]
    path = small.write(tmp_path, recipe)
    hfpipe.run(hfpipe.load(path), runs, say=lambda _: None)
    arguments = ["demo", f"{path}:topics", "--runs", str(runs), "--set", "length=8", "--port"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([*arguments, str(taken.getsockname()[1])]) == 2
    advised = capsys.readouterr().err.split()[-1]

    (tmp_path / "sitecustomize.py").write_text(NOTES_HOSTS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("HOSTS", str(tmp_path / "hosts"))
    for name, value in OPEN_TO_ALL.items():
        monkeypatch.setenv(name, value)
    with (
        (tmp_path / "output").open("w") as output,
        start_hfpipe(*arguments, advised, stdout=output, stderr=output) as process,
        launch_chromium() as browser,
    ):
        wait_until(lambda: find_url(tmp_path / "output"), process)
        url = find_url(tmp_path / "output")
        assert url == f"http://127.0.0.1:{advised}/"
        assert listening_addresses(int(advised)) == {"127.0.0.1"}
        tab = DemoTab(browser, url)
        tab.submit({"text": "a <b>mountain</b>"})
        tab.expect_message("ValueError: no <b>bold</b> text")
        text = "The Nile is a very long river with a delta in the north of Egypt."
        tab.submit({"text": text})
        record = tab.read_prediction()
        [expected] = hfpipe.predict(f"{path}:topics", [text], runs=runs, options=["length=8"])
        assert record["label"] == expected["label"]
        assert record["score"] == pytest.approx(expected["score"], rel=1e-4)
        tab.expect_message("tokens of texts longer than 8 were truncated")
        assert tab.close() == []
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0
    assert set((tmp_path / "hosts").read_text().split()) == {"127.0.0.1"}
