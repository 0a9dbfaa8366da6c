"""What every task of the table must hold, asked of each in the same way."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import processes
import pyarrow.parquet as pq
import pytest
import rows
import small
import torch
from browser import LOOKS, launch_chromium, needs_chromium, open_page
from cases import CASES, recipe
from commands import LIMIT
from demo_pages import DemoTab, needs_gradio, serve_page, write_fields
from huggingface_hub import ModelCard
from processes import run_command

import hfpipe
from hfpipe.encoding.io import open_split, read_facts
from hfpipe.encoding.nested import read_rows
from hfpipe.encoding.origins import name_row
from hfpipe.errors import RecipeError, StageError
from hfpipe.inference.demo_page import name_scores
from hfpipe.modeling.loading.class_names import create_class_entries
from hfpipe.modeling.loading.models import load_parts
from hfpipe.number_format import format_answer
from hfpipe.references.places import Place, locate_place
from hfpipe.references.user_code import Trusted
from hfpipe.reporting.html import render_page
from hfpipe.reporting.predictions import read_blocks
from hfpipe.runs.run import Run, read_run
from hfpipe.task import TaskConfig
from hfpipe.tasks import TASKS, restore_task
from hfpipe.tokenization.loading import load_tokenizer
from hfpipe.tokenization.spelling import find_known_tokens

pytestmark = pytest.mark.slow
each_task = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def made(runs: Path) -> Callable[[str], Run]:
    """Return a task's run, made once."""

    def run(name: str) -> Run:
        folder = runs.parent / f"recipe-{name}"
        folder.mkdir(exist_ok=True)
        return hfpipe.run(hfpipe.load(small.write(folder, recipe(name))), runs, say=lambda _: None)

    return run


def task_of(run: Run, name: str) -> TaskConfig:
    folder = run.folders[f"{name}-learn"]
    settings = run.made(f"{name}-learn").identity.settings["task"]
    return restore_task(settings, small.ROOT, Trusted(), folder)


def outcome(run: Run, stage: str) -> dict[str, tuple[float, float, float, int]]:
    return {s.metric: (s.value, s.low, s.high, s.n) for s in run.reports[stage].scores}


def weights(run: Run, stage: str) -> str:
    return small.hash_weights(run.folders[stage])


def test_every_task_of_the_table_is_held_to_this() -> None:
    assert sorted(CASES) == sorted(TASKS)


@each_task
def test_a_task_learns_from_real_text(made: Callable[[str], Run], name: str) -> None:
    report = made(name).reports[f"{name}-learn"]
    losses = [step["loss"] for step in small.history(report.model_dump())]
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert "loss" in report.facts["validation"]


@each_task
def test_a_batch_is_encoded_purely_and_no_token_is_lost_silently(
    made: Callable[[str], Run], name: str
) -> None:
    run = made(name)
    task, tokenizer = task_of(run, name), load_tokenizer(run.folders[f"{name}-pieces"])
    rows = open_split(run.folders[f"{name}-rows"], "train")[:40]
    known = read_facts(run.folders[f"{name}-rows"])
    first, second = (
        task.runtime().encoder.encode(rows, tokenizer, known),
        task.runtime().encoder.encode(rows, tokenizer, known),
    )
    assert first.keys() == second.keys()
    assert all(same(first[column], second[column]) for column in first)
    assert sorted(set(first["row"])) == list(range(40))
    assert list(first["row"]) == sorted(first["row"])
    roomy = task.model_copy(update={"length": 1024}).runtime().encoder.encode(rows, tokenizer, known)
    whole = sum(map(len, roomy["input_ids"]))
    assert sum(map(len, first["input_ids"])) + sum(first.get("truncated", ())) >= whole
    assert sum(roomy.get("truncated", ())) == 0
    ledger = run.reports[f"{name}-learn"].ledger["train"]
    assert ledger["rows"] == run.reports[f"{name}-rows"].data.splits["train"]


def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def typed(value: Any, token: str) -> Any:
    """Return a text, or a list of words or texts, in which a word became a token."""
    if isinstance(value, str):
        return value.replace(" the ", f" {token} ").replace(" of ", f" {token} ")
    return [token if each in ("the", "of") else typed(each, token) for each in value] if value else value


@each_task
def test_a_control_token_typed_in_a_row_stays_text(made: Callable[[str], Run], name: str) -> None:
    run = made(name)
    task, tokenizer = task_of(run, name), load_tokenizer(run.folders[f"{name}-pieces"])
    task = task.model_copy(update={"length": 1024})
    rows, known = (
        open_split(run.folders[f"{name}-rows"], "train")[:40],
        read_facts(run.folders[f"{name}-rows"]),
    )
    texts = [
        column
        for column in task.inputs
        if known.columns[column] in ("string", "strings") and column != "context"  # which holds the answers
    ]
    typed_in = 0
    for token in find_known_tokens(tokenizer).control[:6]:
        number = tokenizer.convert_tokens_to_ids(token)
        if number == tokenizer.unk_token_id or token == getattr(task, "blank", None):
            continue  # what is not in the vocabulary is unknown, and a blank is the format's
        other = {**rows, **{column: [typed(value, token) for value in rows[column]] for column in texts}}
        assert other != rows
        plain, changed = (
            sum(
                list(ids).count(number)
                for ids in task.runtime().encoder.encode(each, tokenizer, known)["input_ids"]
            )
            for each in (rows, other)
        )
        assert changed == plain, token
        typed_in += 1
    assert typed_in


@each_task
def test_rows_reach_a_task_as_the_source_gave_them(made: Callable[[str], Run], name: str) -> None:
    run, case = made(name), CASES[name]
    given = list(getattr(rows, case.rows)(locate_place(Place(small.SUMMARIES), small.ROOT, {})))
    known = read_facts(run.folders[f"{name}-rows"])
    split = open_split(run.folders[f"{name}-rows"], "train")
    read = read_rows(split, range(len(split)))
    for position in range(len(split)):
        source = given[int(name_row(split, position).rpartition(" ")[2]) - 1]
        for ours, theirs in case.columns.items():
            if ours not in known.labels:
                assert read[ours][position] == source[theirs], (ours, position)


DIRTY = "<p>It is <b>said</b>, by e\u0301clair@example.org &amp; others:</p> {}<br>\x07 caf\u00e9"


def test_cleaning_leaves_the_answers_that_are_learned(tmp_path: Path) -> None:
    """Learned spans are the edited answers, whatever cleaning does to the text before them."""
    given = list(rows.questions(locate_place(Place(small.SUMMARIES), small.ROOT, {})))[:60]
    for row in given:
        row["context"] = DIRTY.format(row["context"])
        row["answers"]["answer_start"][0] += DIRTY.index("{")
    small.write_json_lines(tmp_path / "rows.jsonl", given)
    stages = recipe("question-answering", batch_sizes=())
    stages["stages"]["question-answering-rows"] |= {
        "source": {"files": str(tmp_path / "rows.jsonl")},
        "clean": ["html", "unicode", "mask_pii"],
    }
    del stages["stages"]["question-answering-learn"]
    run = hfpipe.run(hfpipe.load(small.write(tmp_path, stages)), tmp_path / "runs", say=lambda _: None)
    split = open_split(run.folders["question-answering-rows"], "train")
    tokenizer = load_tokenizer(run.folders["question-answering-pieces"])
    task = TASKS["question-answering"](length=96, stride=16)
    encoded = task.runtime().encoder.encode(
        split[:], tokenizer, read_facts(run.folders["question-answering-rows"])
    )
    asked = {row["question"]: row["answers"]["text"][0] for row in given}
    found = set()
    for ids, (first, last), number in zip(encoded["input_ids"], encoded["span"], encoded["row"], strict=True):
        row = split[number]
        [text], [start] = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["context"].startswith("It is said, by ")
        assert "<" not in row["context"].replace("<EMAIL>", "")
        assert row["context"][start : start + len(text)] == text
        if last:
            assert text == asked[row["question"]]
            plain = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert ids[first : last + 1] == plain
            found.add(number)
    assert len(found) == len(split) > 30


@each_task
def test_plain_transformers_opens_what_a_task_trained(made: Callable[[str], Run], name: str) -> None:
    import transformers

    run = made(name)
    folder = run.folders[f"{name}-learn"]
    model, found = getattr(transformers, task_of(run, name).auto_class).from_pretrained(
        folder, output_loading_info=True
    )
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert model.num_parameters() == run.reports[f"{name}-learn"].facts["parameters"]
    assert len(transformers.AutoTokenizer.from_pretrained(folder)) <= model.config.vocab_size


def predictions(run: Run, stage: str) -> list[dict[str, Any]]:
    return sorted(
        pq.read_table(run.folders[stage] / "predictions.parquet").to_pylist(), key=lambda row: row["row"]
    )


@each_task
def test_scores_and_predictions_are_the_same_at_any_batch_size(made: Callable[[str], Run], name: str) -> None:
    run = made(name)
    whole = outcome(run, f"{name}-score-64")
    rows = predictions(run, f"{name}-score-64")
    assert len(rows) == run.reports[f"{name}-rows"].data.splits["test"]
    for size in (1, 7):
        other = outcome(run, f"{name}-score-{size}")
        assert other.keys() == whole.keys()
        for metric, values in whole.items():
            assert other[metric] == pytest.approx(values, rel=1e-6, abs=1e-6), (metric, size)
        for mine, theirs in zip(predictions(run, f"{name}-score-{size}"), rows, strict=True):
            assert mine.keys() == theirs.keys()
            for column, value in theirs.items():
                exact = value is None or isinstance(value, str)
                assert mine[column] == (value if exact else like(value)), (column, size)


@each_task
def test_scores_are_counted_again_from_what_predictions_keep(made: Callable[[str], Run], name: str) -> None:
    run = made(name)
    compared = hfpipe.compare(run.folders[f"{name}-score-64"], run.folders[f"{name}-score-1"])
    again = {score.metric: (score.value, score.low, score.high, score.n) for score in compared.scores}
    reported = outcome(run, f"{name}-score-64")
    assert again.keys() == reported.keys()
    for metric, values in reported.items():
        assert again[metric] == pytest.approx(values, rel=1e-9), metric


def like(value: Any) -> Any:
    """Return what compares equal to a value up to rounding, inside lists and mappings as well."""
    if isinstance(value, list):
        return [like(each) for each in value]
    if isinstance(value, dict):
        return {key: like(each) for key, each in value.items()}
    return value if value is None or isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-5)


def test_scores_are_the_same_on_two_processes(made: Callable[[str], Run], runs: Path, tmp_path: Path) -> None:
    alone = {name: outcome(made(name), f"{name}-score-64") for name in CASES}
    path = small.write(tmp_path, recipe(*CASES, batch_sizes=(5,)))
    learned = {name: made(name).folders[f"{name}-learn"] / "report.json" for name in CASES}
    before = {name: file.stat().st_mtime_ns for name, file in learned.items()}
    processes.run(path, runs, processes.config_file(tmp_path, "ddp-cpu", 2))
    together = hfpipe.open(path, runs)
    for name, values in alone.items():
        assert together.folders[f"{name}-learn"] / "report.json" == learned[name]
        assert learned[name].stat().st_mtime_ns == before[name]
        log = (together.folders[f"{name}-score-5"] / "stage.log").read_text()
        assert sorted(re.findall(r"\[(\d)\] INFO \S+ stage \S+ begins", log)) == ["0", "1"]
        shared = outcome(together, f"{name}-score-5")
        assert shared.keys() == values.keys()
        for metric, value in values.items():
            assert shared[metric] == pytest.approx(value, rel=1e-6, abs=1e-6), (name, metric)


@each_task
def test_a_training_that_fails_half_way_goes_on_bit_for_bit(
    made: Callable[[str], Run], tmp_path: Path, name: str
) -> None:
    straight = made(name)
    path = small.write(tmp_path, recipe(name, batch_sizes=()))

    @contextmanager
    def failing(description: str, total: int | None) -> Iterator[Callable[..., None]]:
        steps = 0

        def advance(number: int, note: str = "") -> None:
            nonlocal steps
            steps += number
            if description == f"{name}-learn" and steps == 25:
                raise StageError("the power went off")

        yield advance

    with pytest.raises(StageError, match="the power went off"):
        hfpipe.run(hfpipe.load(path), tmp_path / "runs", say=lambda _: None, progress=failing)
    resumed = hfpipe.run(hfpipe.load(path), tmp_path / "runs", say=lambda _: None)
    assert "resuming from checkpoint-20" in (resumed.folders[f"{name}-learn"] / "stage.log").read_text()
    assert weights(resumed, f"{name}-learn") == weights(straight, f"{name}-learn")


def inputs_of(run: Run, name: str, count: int) -> list[dict[str, Any]]:
    """Return inputs for a trained model: those of the first rows of its test split."""
    rows = open_split(run.folders[f"{name}-rows"], "test")[:count]
    found = [
        {column: rows[column][number] for column in task_of(run, name).inputs} for number in range(count)
    ]
    if name == "masked-lm":  # which fills a blank then
        found = [{"text": f"{row['text']} [MASK]"} for row in found]
    return found


@each_task
def test_a_trained_model_predicts(made: Callable[[str], Run], name: str) -> None:
    run = made(name)
    answers = hfpipe.predict(run.folders[f"{name}-learn"], inputs_of(run, name, 5))
    assert len(answers) == 5
    assert all(answers)


def test_hidden_words_are_filled_on_the_page_as_predict_fills_them(made: Callable[[str], Run]) -> None:
    run, stage = made("masked-lm"), "masked-lm-score-64"
    texts = open_split(run.folders["masked-lm-rows"], "test")["text"]
    frame = run.fills(stage)
    assert len(texts) / 2 < len(frame) <= 200
    whole = [f"{row.before}{row.reference}{row.after}" == texts[row.row] for row in frame.itertuples()]
    some = frame[whole].iloc[:20]
    assert len(some) > 5
    asked = [f"{row.before}[MASK]{row.after}" for row in some.itertuples()]
    for row, answer in zip(
        some.itertuples(), hfpipe.predict(run.folders["masked-lm-learn"], asked), strict=True
    ):
        assert [fill["token_str"] for fill in answer["fills"]] == row.fills
        assert [fill["score"] for fill in answer["fills"]] == pytest.approx(row.fill_scores, rel=1e-4)
        assert (
            (row.fills[row.rank - 1] == row.reference)
            if 0 < row.rank <= 5
            else row.reference not in row.fills
        )
    again = run.fills("masked-lm-score-7").drop(columns=["nll", "fill_scores"])
    pd.testing.assert_frame_equal(again, frame.drop(columns=["nll", "fill_scores"]))
    assert "<h3>Top fills</h3>" in render_page(run)


WRONG = {
    "fill-mask": ({"text": "It is a river."}, "[MASK]"),
    "masked-lm": ({"text": "It is a river."}, "[MASK]"),
    "multiple-choice": ({"context": "It", "endings": "[falls"}, "endings is not JSON"),
    "token-classification": ({"words": "[Anna"}, "words is not JSON"),
}
"""Task → an input that it cannot read, and a part of the message. The others read any text."""


@needs_chromium
@needs_gradio
def test_the_page_to_try_a_model_shows_for_every_task_what_predict_returns(
    made: Callable[[str], Run], tmp_path: Path
) -> None:
    folders = {name: made(name).folders[f"{name}-learn"] for name in CASES}
    with ExitStack() as stack:
        urls = {}

        def serve(name: str) -> None:
            urls[name] = stack.enter_context(serve_page(tmp_path / name, folders[name]))

        serve(next(iter(CASES)))
        browser = stack.enter_context(launch_chromium())
        for name, following in zip(CASES, [*list(CASES)[1:], None], strict=True):
            tab = DemoTab(browser, urls[name]())
            if following:  # is loaded meanwhile
                serve(following)
            run = made(name)
            tab.submit({})
            tab.expect_message(f"{task_of(run, name).inputs[0]} is empty; enter a value")
            if name in WRONG:
                fields, message = WRONG[name]
                tab.submit(fields)
                tab.expect_message(message)
            [row] = inputs_of(run, name, 1)
            tab.submit(write_fields(row))
            [expected] = hfpipe.predict(folders[name], [row])
            record = tab.read_prediction()
            assert record == like(expected), name
            tab.expect_lines(list(format_answer(record)))
            tab.expect_shown("scores", name_scores(expected).keys())
            tab.expect_shown("marked", spans_in(expected))
            assert (name, tab.close()) == (name, [])


@needs_gradio
@pytest.mark.usefixtures("socket_enabled")
def test_what_keeps_the_server_of_the_page_from_starting_is_named_as_it_is(
    made: Callable[[str], Run], tmp_path: Path
) -> None:
    model = made("text-classification").folders["text-classification-learn"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"GRADIO_SERVER_PORT": port, "GRADIO_NUM_PORTS": "1"}
        said = f"demo: port {port} is in use; choose another, as --port "
        assert said in output_of_demo(model, tmp_path, **ports)
    said = "demo: 192.0.2.1, which GRADIO_SERVER_NAME names, is not an address of this machine; unset it\n"
    assert said in output_of_demo(model, tmp_path, **ports, GRADIO_SERVER_NAME="192.0.2.1")


def output_of_demo(model: Path, folder: Path, **environ: str) -> str:
    """Return what the command says that cannot serve the page of a model."""
    with run_command(folder / "output", "demo", model, **environ) as process:
        process.join(LIMIT)
        assert process.exitcode == 2
    return (folder / "output").read_text(encoding="utf-8")


def spans_in(prediction: dict[str, Any]) -> list[str]:
    """Return the words that a prediction marks in the text."""
    spans = prediction.get("entities", [prediction])
    return [words for span in spans if (words := span.get("word", span.get("answer")))]


@each_task
def test_predictions_carry_the_inputs_and_the_order_of_the_classes(
    made: Callable[[str], Run], name: str
) -> None:
    run = made(name)
    rows = open_split(run.folders[f"{name}-rows"], "test")
    frame, task = run.predictions(f"{name}-score-7"), task_of(run, name)
    assert frame["id"].tolist() == rows["id"]
    for column in task.inputs:
        assert [plain(value) for value in frame[column]] == list(rows[column])
    known = read_facts(run.folders[f"{name}-rows"])
    classes = frame.attrs["classes"]
    assert classes == {
        column: list(names) for column, names in task.runtime().evaluator.class_order(known).items()
    }
    if name == "text-classification":
        best = [classes["scores"][scores.argmax()] for scores in frame["scores"]]
        assert best == frame["prediction"].tolist()


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


@each_task
def test_a_head_keeps_what_it_predicts_by_name_and_nothing_else_is_new(
    made: Callable[[str], Run], name: str
) -> None:
    run = made(name)
    task, folder = task_of(run, name), run.folders[f"{name}-learn"]
    head = task.head(read_facts(run.folders[f"{name}-rows"]))
    same = load_parts(task.auto_class, folder, 3, head=head)
    assert (same.changed, same.note) == ([], "")
    if "id2label" not in head:
        return
    names = [head["id2label"][number] for number in range(len(head["id2label"]))]
    turned = load_parts(task.auto_class, folder, 3, head=head | create_class_entries(names[::-1]))
    ids = torch.tensor([[2, 17, 18, 19, 3]])
    with torch.no_grad():
        mine, theirs = (each.model.eval()(input_ids=ids).logits for each in (same, turned))
    assert theirs.flip(-1).numpy() == pytest.approx(mine.numpy(), abs=1e-6)
    other = load_parts(
        task.auto_class, folder, 3, head=head | create_class_entries([f"{name}?" for name in names])
    )
    assert len(other.initialized) == 2


@each_task
def test_the_page_shows_what_a_task_predicted_and_the_card_reads_as_one(
    made: Callable[[str], Run], name: str
) -> None:
    run = made(name)
    stage = next(stage for stage, report in run.reports.items() if report.scores)
    blocks = read_blocks(run.predictions(stage))
    assert any(block.rows or block.examples for block in blocks)
    text = render_page(run)
    assert all(f"<h3>{block.title}</h3>" in text for block in blocks)
    places = ("score1", "leakage", "stages", "training", "ledgers", "provenance")
    assert [place for place in places if f'<h2 id="{place}">' not in text] == []
    curves = ("loss (nats)", "learning rate", "gradient norm", "tokens per second")
    assert [label for label in curves if f'aria-label="{label} by optimizer step' not in text] == []
    facts_of_tokenizer = ("vocabulary (tokens)", "tokens per word", "share of unknown tokens")
    assert [fact for fact in facts_of_tokenizer if f'<th scope="row">{fact}</th>' not in text] == []
    parts = ("What was checked", "How the stages were made", "Settings", "Versions", "tokens of train")
    assert [part for part in parts if f">{part}<" not in text] == []
    assert ModelCard.load(run.folders[f"{name}-learn"] / "README.md").data.library_name == "transformers"


@needs_chromium
def test_one_page_of_every_task_is_sound_in_a_browser(made: Callable[[str], Run], tmp_path: Path) -> None:
    stages = {stage: folder for name in CASES for stage, folder in made(name).folders.items()}
    shown = {
        stage: folder for stage, folder in stages.items() if not stage.endswith(("-score-1", "-score-7"))
    }
    text = render_page(read_run(shown))
    assert all(f">Scores: {name}-score-64</h2>" in text for name in CASES)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    assert open_page(tmp_path / "page.html", LOOKS[:2]) == []


def test_predictions_are_explained_on_the_page_and_kept(made: Callable[[str], Run]) -> None:
    whole = made("text-classification")
    run = read_run({stage: whole.folders[stage] for stage in ("text-classification-score-64",)})
    [stage] = hfpipe.explain_run(run, 3)
    entries = run.explanations(stage)
    frame = run.predictions(stage).set_index("id")
    assert len(entries) == 3
    for entry in entries:
        row = frame.loc[entry["id"]]
        assert (entry["prediction"], entry["reference"]) == (row["prediction"], row["reference"])
        assert len(entry["tokens"]) == len(entry["attributions"])
    assert entries[0]["prediction"] != entries[0]["reference"], "mistakes come first"
    kept = (run.folders[stage] / "explanations.json").stat()
    hfpipe.explain_run(run, 2)
    assert (run.folders[stage] / "explanations.json").stat() == kept
    text = render_page(run)
    assert "<h3>What predictions depend on</h3>" in text
    assert f"{entries[0]['score']:.3f}" in text
    assert not any(found.damage for found in hfpipe.verify(run.folders[stage]))
    with pytest.raises(RecipeError, match="text classifier, and this run has none"):
        hfpipe.explain_run(made("fill-mask"), 1)
