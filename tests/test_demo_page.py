"""`hfpipe demo`: the page to try a model predicts as `hfpipe predict` does, and stays on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
NOTE = """
import sys
def note(event, given):
    if event == "socket.connect":
        print("connect", given[1][0], file=sys.stderr)
sys.addaudithook(note)
"""
"""Notes where a process connects to. Gradio has its own, as it leaves sockets to the garbage collector."""
COMMAND = f"{NOTE}from hfpipe.cli.main import main; sys.exit(main(sys.argv[1:]))"
ONE_BY_ONE = f"""{NOTE}
import hfpipe
for folder in sys.argv[1:]:
    with hfpipe.demo(folder) as page:
        print(page.url, flush=True)
        sys.stdin.readline()
"""
OPEN_TO_ALL = {"GRADIO_ANALYTICS_ENABLED": "True", "GRADIO_SERVER_NAME": "::", "GRADIO_SHARE": "True"}
"""Variables that Gradio reads where hfpipe does not decide."""


@contextmanager
def serving(code: str, *arguments: str, errors: Path) -> Iterator[subprocess.Popen[str]]:
    """Run code that serves pages and prints where; then check that it connected to this machine only."""
    command = [sys.executable, "-c", code, *arguments]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        errors.open("w", encoding="utf-8") as written,
        subprocess.Popen(
            command, **pipes, stderr=written, text=True, env=os.environ | OPEN_TO_ALL
        ) as running,
    ):
        try:
            yield running
        finally:
            running.kill()
    text = errors.read_text(encoding="utf-8")
    assert set(re.findall("connect (.*)", text)) == {"127.0.0.1"}, text


def assert_close(shown: Any, predicted: Any) -> None:
    """Check that two predictions are equal but for the rounding of another thread."""
    if isinstance(predicted, dict):
        assert shown.keys() == predicted.keys()
        shown, predicted = [shown[name] for name in predicted], list(predicted.values())
    if isinstance(predicted, list):
        assert len(shown) == len(predicted)
        for one, other in zip(shown, predicted, strict=True):
            assert_close(one, other)
    else:
        assert shown == (pytest.approx(predicted, rel=1e-4) if isinstance(predicted, float) else predicted)


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


@pytest.mark.parametrize("port", [None, 70_000])
@pytest.mark.usefixtures("socket_enabled")
def test_a_port_that_is_not_free_is_an_error_before_the_model_is_loaded(
    model: Path, port: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = port or taken.getsockname()[1]
        assert main(["demo", str(model), "--port", str(port)]) == 2
    assert f"port {port} is not free; name another with --port" in capsys.readouterr().err


@pytest.mark.slow
@needs_chromium
def test_the_page_predicts_explains_mistakes_and_connects_to_nothing_else(
    model: Path, tmp_path: Path
) -> None:
    command = ["demo", str(model), "--set", "length=8"]
    with serving(COMMAND, *command, errors=tmp_path / "errors.txt") as running, open_browser() as browser:
        assert running.stdout is not None
        line = running.stdout.readline()
        found = re.fullmatch(r"open (http://127.0.0.1:\d+/) in a browser on this .*; Ctrl-C ends it\n", line)
        assert found is not None, line
        page, elsewhere = open_demo(browser, found[1])
        text = "K2 is a mountain."
        [predicted] = hfpipe.predict(model, [text], options=["length=8"])
        assert_close(predict_in(page, {"text": text}), predicted)
        expect(page.locator("#scores")).to_be_visible()
        page.fill("#input-text textarea", " ")
        page.click("#predict")
        expect(page.get_by_text("text is empty; write something into it")).to_be_visible()
        page.fill("#input-text textarea", "mountain " * 20)
        page.click("#predict")
        expect(page.get_by_text("tokens were not read")).to_be_visible()
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 0
    assert elsewhere == []
