"""`hfpipe demo`: the page to try a model predicts as `hfpipe predict` does, and stays on this machine."""

from __future__ import annotations

import _thread
import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pieces
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from transformers import BertConfig, BertForSequenceClassification

import hfpipe
from hfpipe.cli.main import main
from hfpipe.errors import DataError
from hfpipe.inference.demo_page import mark_spans, name_scores, parse_field

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"
)
TEXTS = ["The Danube is a river that flows through ten countries.", "K2 is a mountain."]
AWAY = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
"""Option of Chromium with which no name of another machine is found."""


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


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Open Chromium without a network."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", AWAY])
        yield browser
        browser.close()


def open_demo(browser: Browser, url: str) -> tuple[Page, list[str]]:
    """Open a page; return it with a list of what it loads from elsewhere and of its errors."""
    page, found = browser.new_page(), []
    page.on(
        "request",
        lambda each: None if each.url.startswith((url, "data:", "blob:")) else found.append(each.url),
    )
    page.on("console", lambda each: found.append(each.text) if each.type == "error" else None)
    page.on("pageerror", lambda each: found.append(str(each)))
    page.goto(url)
    return page, found


def predict_in(page: Page, fields: Mapping[str, str]) -> Any:
    """Fill in the fields, press the button, and return the prediction."""
    for name, text in fields.items():
        page.fill(f"#input-{name} textarea", text)
    page.click("#predict")
    shown = page.locator("#json textarea")
    expect(shown).not_to_have_value("", timeout=20_000)
    return json.loads(shown.input_value())


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


@pytest.mark.slow
@needs_chromium
@pytest.mark.usefixtures("socket_enabled")
@pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting':DeprecationWarning")  # gradio 6.31 sets it
def test_the_page_predicts_explains_mistakes_and_connects_to_nothing_else(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")  # and what else could open the page to others
    monkeypatch.setenv("GRADIO_SERVER_NAME", "::")
    monkeypatch.setenv("GRADIO_SHARE", "True")
    options = ["length=8"]
    connected: list[str] = []
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        connected.append(str(address[0]))
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    with hfpipe.demo(model, options=options) as served, open_browser() as browser:
        assert served.url.startswith("http://127.0.0.1:")
        page, elsewhere = open_demo(browser, served.url)
        text = "K2 is a mountain."
        assert [predict_in(page, {"text": text})] == hfpipe.predict(model, [text], options=options)
        expect(page.locator("#scores")).to_be_visible()
        page.fill("#input-text textarea", " ")
        page.click("#predict")
        expect(page.get_by_text("text is empty; write something into it")).to_be_visible()
        page.fill("#input-text textarea", "mountain " * 20)
        page.click("#predict")
        expect(page.get_by_text("tokens were not read")).to_be_visible()
        with pytest.raises(hfpipe.RecipeError, match="is not free; name another with --port"):
            hfpipe.demo(model, port=int(served.url.rstrip("/").rpartition(":")[2]))
    assert elsewhere == []
    assert set(connected) == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.usefixtures("socket_enabled")
def test_the_command_serves_until_it_is_interrupted(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def interrupt() -> None:
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                time.sleep(0.5)
                _thread.interrupt_main()
                return
            time.sleep(0.1)

    watching = threading.Thread(target=interrupt, daemon=True)
    watching.start()
    assert main(["demo", str(model), "--port", str(port)]) == 0
    watching.join()
    line = f"open http://127.0.0.1:{port}/ in a browser on this machine; Ctrl-C ends it\n"
    assert capsys.readouterr().out == line
