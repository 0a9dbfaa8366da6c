"""A page to try a model in a browser, served by Gradio to this machine only.

By default, Gradio sends analytics, can open a public tunnel, and loads fonts from Google in some themes. All
of this is disabled here: analytics and sharing are off, the server listens on 127.0.0.1, and the theme uses
fonts of Gradio's package. Gradio is imported inside functions, because it is slow to import and optional:
`pip install 'hfpipe[demo-page]'`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from hfpipe.errors import DataError, HfpipeError, Problem, RecipeError
from hfpipe.inference.inputs import read_input_rows
from hfpipe.inference.ports import HOST, find_common_obstacle
from hfpipe.number_format import format_answer
from hfpipe.report import replace_not_finite

if TYPE_CHECKING:
    from hfpipe.inference.loaded_model import LoadedModel

NAMES = ("ending", "label", "token_str")
"""Keys of a prediction whose value the `score` next to it refers to."""
HINTS = {
    "string": "",
    "strings": "one on each line, or a list in JSON",
    "nested": "in JSON",
    "int": "a number",
    "float": "a number",
}
"""Type of a column → how to write its values."""
EXAMPLES = {
    "nested": '["a", "b"] or [{"role": "user", "content": "Hello"}]',
    "int": "12",
    "float": "0.5",
}
"""Type of a column → values of it in JSON."""


class ShownPrediction(NamedTuple):
    """A prediction as the page shows it."""

    lines: str
    """The prediction as `hfpipe predict` prints it in a terminal."""
    scores: dict[str, float]
    """Class, ending or word → score; empty if the prediction has none."""
    marked: dict[str, Any] | None
    """A text and the spans of it that were predicted, as `gradio.HighlightedText` takes them."""
    record: str
    """The prediction as JSON, with the values that `hfpipe predict --output` writes."""
    notes: tuple[str, ...]
    """Warnings, such as truncated tokens."""


class DemoPage:
    """A running page. Ends with `close`, or as a context manager.

    Args:
        model: The model to try.
        title: Heading of the page.
        port: TCP port; by default the first free one from 7860.

    Raises:
        RecipeError: Gradio is not installed, or no port is free.
        OSError: The system refuses something else that the server needs.
    """

    def __init__(self, model: LoadedModel, title: str, port: int | None = None) -> None:
        self._blocks = _build_page(model, title)
        try:
            _, url, _ = self._blocks.launch(
                server_name=HOST,
                server_port=port,
                share=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=[],
                inbrowser=False,
                inline=False,
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:  # without a number if it found no port
            cause = _explain_lack_of_ports(port) if error.errno is None else None
            if cause is None:
                raise
            raise RecipeError([Problem(f"demo: {cause}")]) from None
        self.url: str = url

    def close(self) -> None:
        """Stop the server."""
        self._blocks.close(verbose=False)

    def __enter__(self) -> DemoPage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _explain_lack_of_ports(port: int | None) -> str | None:
    """Return why Gradio can use no port, None if it could. It looks at the address that a variable names."""
    from gradio.http_server import INITIAL_PORT_VALUE, LOCALHOST_NAME, TRY_NUM_PORTS

    tried = range(INITIAL_PORT_VALUE, INITIAL_PORT_VALUE + TRY_NUM_PORTS) if port is None else [port]
    if (obstacle := find_common_obstacle(tried)) is not None or LOCALHOST_NAME == HOST:
        return obstacle
    return f"{LOCALHOST_NAME}, which GRADIO_SERVER_NAME names, is not an address of this machine; unset it"


def predict_fields(model: LoadedModel, fields: Mapping[str, str]) -> ShownPrediction:
    """Return the prediction for user input, by the code of `hfpipe predict`.

    Raises DataError when a field that the model needs is empty or has the wrong form, and StageError when the
    model gives no prediction.
    """
    row: dict[str, Any] = {}
    for name, kind in model.columns.items():
        try:
            value = parse_field(kind, fields[name])
        except DataError as error:
            raise DataError(f"{name} {error}") from None
        row |= {name: value} if value is not None else {}
    for name in model.required:
        if name not in row:
            raise DataError(f"{name} is empty; enter a value")
    with _collect_warnings() as notes:
        [(read, answer)] = model.predict(read_input_rows([row], model.task.inputs))
    record: dict[str, Any] = replace_not_finite(answer or {})
    return ShownPrediction(
        lines="\n".join(format_answer(record)),
        scores=name_scores(record),
        marked=mark_spans(read, record),
        record=json.dumps(record, ensure_ascii=False, indent=1, default=str),
        notes=tuple(notes),
    )


def parse_field(kind: str, text: str) -> Any:
    """Return the value of a column of type `kind` from user input."""
    if kind == "string" or not text.strip():
        return text if text.strip() else None
    if kind not in ("", "strings") or text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            example = EXAMPLES.get(kind, EXAMPLES["nested"])
            raise DataError(f"is not JSON ({error}); write it as in {example}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines if kind == "strings" and len(lines) > 1 else text


def name_scores(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the score of each class, ending or word of a prediction, empty if it has none."""
    parts = next((value for value in record.values() if isinstance(value, list)), [record])
    found = {}
    for part in parts:
        name = next((part[key] for key in NAMES if key in part), None) if isinstance(part, Mapping) else None
        if name is not None and isinstance(part.get("score"), float):
            found[str(name)] = part["score"]
    return found


def mark_spans(row: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the text of a row with the predicted spans, None if the prediction has none.

    The text of words is these words joined by spaces, as in the positions of entities.
    """
    parts = record.get("entities", [record])
    spans = [part for part in parts if {"start", "end"} <= set(part)]
    for value in row.values():
        text = _join_words(value)
        if text and spans and all(_matches_text(text, span) for span in spans):
            marks = [
                {"entity": span.get("entity_group", "answer"), "start": span["start"], "end": span["end"]}
                for span in spans
            ]
            return {"text": text, "entities": marks}
    return None


def _join_words(value: Any) -> str:
    """Return a text as it is, words as a text, and an empty text for anything else."""
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(word for word in value if word.strip())
    return value if isinstance(value, str) else ""


def _matches_text(text: str, span: Mapping[str, Any]) -> bool:
    """Return whether the words of a span are at its position in a text, so that it refers to this text."""
    words = span.get("word", span.get("answer"))
    return bool(words) and text[span["start"] : span["end"]] == words


@contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """Collect the warnings of hfpipe, which would otherwise appear only in the terminal of the server."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler, logger = Collector(logging.WARNING), logging.getLogger("hfpipe")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def import_gradio() -> Any:
    """Return the module. Raises RecipeError when it is not installed."""
    try:
        import gradio
    except ImportError:
        message = "demo needs Gradio, which is not installed; pip install 'hfpipe[demo-page]'"
        raise RecipeError([Problem(message)]) from None
    return gradio


def _build_page(model: LoadedModel, title: str) -> Any:
    gradio = import_gradio()
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.HTML(f"<h1>{escape(title)}</h1>")
        fields = [
            gradio.Textbox(label=name, info=_get_hint(model, name, kind), lines=3, elem_id=f"input-{name}")
            for name, kind in model.columns.items()
        ]
        button = gradio.Button("Predict", variant="primary", elem_id="predict")
        outputs = [
            gradio.Label(label="scores", visible=False, elem_id="scores"),
            gradio.HighlightedText(label="in the text", visible=False, elem_id="marked"),
            gradio.Textbox(label="prediction", lines=2, interactive=False, elem_id="prediction"),
            gradio.Textbox(
                label="as JSON", lines=2, max_lines=20, interactive=False, buttons=["copy"], elem_id="json"
            ),
        ]
        button.click(_create_handler(model), fields, outputs, api_visibility="private")
    return page


def _get_hint(model: LoadedModel, name: str, kind: str) -> str | None:
    optional = [] if name in model.required else ["may be empty"]
    return "; ".join(filter(None, [HINTS.get(kind, ""), *optional])) or None


def _create_handler(model: LoadedModel) -> Callable[..., list[Any]]:
    """Return the function that Gradio calls with the text of each field. Gradio shows messages as HTML."""
    gradio = import_gradio()

    def respond(*texts: str) -> list[Any]:
        try:
            shown = predict_fields(model, dict(zip(model.columns, texts, strict=True)))
        except HfpipeError as error:
            raise gradio.Error(escape(str(error)), duration=None, print_exception=False) from None
        except Exception as error:  # of user code; the terminal shows where
            message = f"{type(error).__name__}: {error}; see the terminal of hfpipe demo"
            raise gradio.Error(escape(message), duration=None) from error
        for note in shown.notes:
            gradio.Warning(escape(note), duration=None)
        return [
            gradio.Label(value=shown.scores or None, visible=bool(shown.scores)),
            gradio.HighlightedText(value=shown.marked, visible=shown.marked is not None),
            shown.lines,
            shown.record,
        ]

    return respond
