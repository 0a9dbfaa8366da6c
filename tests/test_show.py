"""`hfpipe show`: the marks of tokens are the labels of the training's own batches, and cleaning is traced."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from typing import Any

import cases
import chat
import pytest
import small
import torch
from conftest import no_progress
from pieces import tokenizer

import hfpipe
from hfpipe import api
from hfpipe.cli.main import main
from hfpipe.contract import RunContext
from hfpipe.encoding.padding import list_forward_passes
from hfpipe.errors import RecipeError
from hfpipe.inspection.differences import compare_texts
from hfpipe.inspection.shown import ShownExample, ShownStage, ShownToken
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.training.arguments import TrainingPlan, compute_shares, create_training_arguments
from hfpipe.training.speed.choice import Speed
from hfpipe.training.trainer import TaskTrainer, Training

ROWS = 12
TOOL_TEMPLATE = (
    "{% for tool in tools or [] %}<|im_start|>tool {{ tool.function.name }}<|im_end|>\n{% endfor %}"
    + chat.CHATML
)
TALKS = [
    {
        "messages": [
            {"role": "user", "content": "Where does the Nile end?"},
            {"role": "assistant", "content": "In the sea."},
            {"role": "user", "content": "Which <sea>?" * (1 + number % 3)},
            {"role": "assistant", "content": "The Mediterranean."},
        ],
        "tools": [{"type": "function", "function": {"name": "atlas", "parameters": {}}}],
    }
    for number in range(40)
]


def conversations(folder: Path) -> Path:
    """Write a recipe that learns conversations with tools, and its tokenizer."""
    texts = [message["content"] for message in TALKS[0]["messages"]]
    chat.taught(tokenizer([*texts, "user assistant tool atlas <>"], "bpe"), TOOL_TEMPLATE).save_pretrained(
        folder / "pieces"
    )
    lines = "\n".join(json.dumps({**talk, "id": str(number)}) for number, talk in enumerate(TALKS))
    (folder / "talks.jsonl").write_text(lines, encoding="utf-8")
    stages: dict[str, Any] = {
        "rows": {"kind": "dataset", "source": {"files": "talks.jsonl"}},
        "learn": {
            "kind": "finetune",
            "task": {"kind": "text-generation", "messages": "messages", "tools": "tools", "length": 64},
            "data": "stage:rows",
            "tokenizer": "./pieces",
            "model": cases.DECODER,
            "training": {"per_device_train_batch_size": 8, "max_steps": 5},
        },
    }
    return small.write(folder, {"name": "small", "seed": 5, "stages": stages})


def made(name: str, folder: Path, change: dict[str, Any] | None = None) -> tuple[hfpipe.recipe.Recipe, str]:
    """Return a recipe all of which is run but its training, and the name of the training."""
    if name == "chat":
        recipe, learn = api.load(conversations(folder)), "learn"
        api.run(recipe, folder / "runs", until="rows", say=lambda _: None)
        return recipe, learn
    content = cases.recipe(name, batch_sizes=())
    content["stages"][f"{name}-learn"]["task"] |= change or {}
    recipe, learn = api.load(small.write(folder, content)), f"{name}-learn"
    api.run(recipe, folder / "runs", until=f"{name}-pieces", say=lambda _: None)
    return recipe, learn


def batches(recipe: hfpipe.recipe.Recipe, name: str, folder: Path) -> list[dict[str, torch.Tensor]]:
    """Return the forward passes of the first steps, from the trainer itself."""
    steps = {step.name: step for step in api.plan(recipe, folder / "runs")}
    step = steps[name]
    inputs = {above: steps[above].folder for above in step.identity.inputs}
    ctx = RunContext(name, folder / "direct", recipe.base, recipe.seed, inputs, no_progress)
    ctx.work.mkdir(parents=True)
    stage: Any = step.stage
    pieces = stage.open_tokenizer(ctx)
    examples, _ = stage.encode_split("train", ctx, pieces, reads_all=True)
    facts = api.read_run({above: steps[above].folder for above in steps}).reports[stage.data.stage].data
    assert facts is not None
    model, _ = stage._load_model(ctx, pieces, facts)
    shares = compute_shares(stage.training)
    course = TrainingPlan(shares, 5, Speed(bf16=False, compiled=False))
    given = create_training_arguments(stage.training, folder, recipe.seed, course, None, early=False)
    trainer = TaskTrainer(Training(stage.task.runtime(), model, pieces, examples, None, facts), given, shares)
    loader = iter(trainer.get_train_dataloader())
    return [part for batch in islice(loader, 4) for part in list_forward_passes(batch)]


def is_learned(tokens: list[ShownToken]) -> list[bool]:
    return [token.mark in ("target", "masked") for token in tokens]


def shifted(example: ShownExample) -> list[bool]:
    """Return for each position of a decoder whether the token after it is learned."""
    return [*is_learned(example.sequences[0].tokens)[1:], False]


TASKS = {
    "masked-lm": lambda example, batch, row: is_learned(example.sequences[0].tokens),
    "causal-lm": lambda example, batch, row: shifted(example),
    "chat": lambda example, batch, row: shifted(example),
    "token-classification": lambda example, batch, row: is_learned(example.sequences[0].tokens),
    "summarization": lambda example, batch, row: is_learned(example.sequences[1].tokens),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_learned_tokens_are_those_with_a_label_in_the_batches_of_the_training(
    name: str, tmp_path: Path
) -> None:
    recipe, learn = made(name, tmp_path)
    shown = api.show(recipe, learn, tmp_path / "runs", rows=ROWS)
    rows = [(batch, row) for batch in batches(recipe, learn, tmp_path) for row in range(len(batch["labels"]))]
    assert len(shown.examples) == ROWS
    for example, (batch, row) in zip(shown.examples, rows[:ROWS], strict=True):
        assert TASKS[name](example, batch, row) == (batch["labels"][row] != IGNORED).tolist()
        padded = (batch["attention_mask"][row] == 0).tolist()
        assert [token.mark == "padding" for token in example.sequences[0].tokens] == padded
    assert any(is_learned(sequence.tokens) for example in shown.examples for sequence in example.sequences)
    assert not list((tmp_path / "runs" / "small").glob(f"{learn}-*")), "showing trains and writes nothing"


@pytest.mark.slow
def test_one_of_several_trainings_is_shown_with_its_own_seed(tmp_path: Path) -> None:
    made("masked-lm", tmp_path)
    content = json.loads((tmp_path / "small.yaml").read_text(encoding="utf-8"))
    content["stages"]["masked-lm-learn"]["seeds"] = [5, 6]
    recipe = api.load(small.write(tmp_path, content))
    with pytest.raises(RecipeError, match="show one: 'masked-lm-learn@5' or 'masked-lm-learn@6'"):
        api.show(recipe, "masked-lm-learn", tmp_path / "runs")
    shown = [api.show(recipe, f"masked-lm-learn@{seed}", tmp_path / "runs") for seed in (5, 6)]
    assert shown[0].examples[0] != shown[1].examples[0]


@pytest.mark.slow
def test_the_answer_to_a_question_is_marked_in_the_window_that_holds_it(tmp_path: Path) -> None:
    recipe, learn = made("question-answering", tmp_path, {"length": 48, "stride": 8})
    shown = api.show(recipe, learn, tmp_path / "runs", rows=ROWS)
    rows = [(batch, row) for batch in batches(recipe, learn, tmp_path) for row in range(len(batch["labels"]))]
    found = set()
    for example, (batch, row) in zip(shown.examples, rows[:ROWS], strict=True):
        start, end = batch["labels"][row].tolist()
        marked = [place for place, mark in enumerate(is_learned(example.sequences[0].tokens)) if mark]
        assert marked == list(range(start, end + 1))
        nothing = start == end == int(batch["_nothing"][row])
        assert (example.targets == [("answer", "not in this window")]) == nothing
        found.add(nothing)
        assert ", of " in example.title, "a window names the row that it is cut from"
    assert found == {True, False}, "long texts have windows without the answer"


@pytest.mark.slow
def test_documents_of_packed_examples_begin_where_the_batch_says(tmp_path: Path) -> None:
    recipe, learn = made("masked-lm", tmp_path, {"documents": "separate"})
    shown = api.show(recipe, learn, tmp_path / "runs", rows=ROWS)
    rows = [(batch, row) for batch in batches(recipe, learn, tmp_path) for row in range(len(batch["labels"]))]
    begun = 0
    for example, (batch, row) in zip(shown.examples, rows[:ROWS], strict=True):
        numbers = batch["_documents"][row].tolist()
        begins = [number > before for before, number in zip([0, *numbers], numbers, strict=False)]
        opens = [token.opens for token in example.sequences[0].tokens]
        assert opens == begins
        begun += sum(opens)
    assert begun > ROWS


@pytest.mark.slow
def test_rows_are_shown_in_a_pipe_and_as_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, learn = made("chat", tmp_path)
    arguments = ["show", str(recipe.path), learn, "--runs", str(tmp_path / "runs"), "--rows", "2"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert re.search(r"⟦In ?.*sea ?\. ?<\|im_end\|>⟧", text), "an answer and its end are learned"
    assert "tool" in text
    assert "chat template of the tokenizer:" in text
    assert "None" not in text, "options that the recipe does not set"
    assert "\x1b" not in text
    assert main([*arguments, "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert "Which <sea>?" not in page
    assert {"target", "ignored"} <= set(_marks(page))
    assert main([*arguments, "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["examples"]) == 2


class _Marks(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "mark":
            self.found.append(str(given.get("class")))
        if tag in ("script", "img", "link") or "src" in given:
            self.loads.append(tag)


def _marks(page: str) -> list[str]:
    reader = _Marks()
    reader.feed(page)
    assert reader.loads == [], "the page needs nothing else"
    return reader.found


# Data sets


TEXTS = ["The <b>Nile</b> ends.", "K2", "The Nile ends.", "A plain text.", "Call 020 7946 0018 & ask"]


def dataset(folder: Path, clean: list[Any]) -> Path:
    lines = "\n".join(json.dumps({"text": text}) for text in TEXTS)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    stage = {"kind": "dataset", "source": {"files": "rows.jsonl"}, "clean": clean}
    words = {"kind": "tokenizer", "data": "stage:rows", "algorithm": "bpe", "vocab_size": 300}
    return small.write(folder, {"name": "small", "seed": 5, "stages": {"rows": stage, "words": words}})


def shown_rows(shown: ShownStage) -> dict[str, tuple[str, list[str], str]]:
    return {before: (row.outcome, row.steps, after) for row in shown.rows for _, before, after in row.columns}


def test_rows_of_a_data_set_are_shown_before_and_after_each_step(tmp_path: Path) -> None:
    recipe = api.load(dataset(tmp_path, ["html", {"min_chars": 5}, {"dedup": "exact"}]))
    shown = api.show(recipe, "rows", tmp_path / "runs")
    found = shown_rows(shown)
    assert found == {
        TEXTS[0]: ("changed", ["html"], "The Nile ends."),
        TEXTS[1]: ("dropped", ["min_chars: 5"], "K2"),
        TEXTS[2]: ("dropped", ["dedup: exact"], "The Nile ends."),
        TEXTS[3]: ("kept", [], TEXTS[3]),
        TEXTS[4]: ("kept", [], TEXTS[4]),
    }
    assert shown.rows[0].place == "rows.jsonl, line 1"
    assert not (tmp_path / "runs" / "small").exists()


def test_as_many_rows_of_each_outcome_are_shown_as_are_asked_for(tmp_path: Path) -> None:
    recipe = api.load(dataset(tmp_path, ["html", {"min_chars": 5}, {"dedup": "exact"}]))
    outcomes = [row.outcome for row in api.show(recipe, "rows", tmp_path / "runs", rows=1).rows]
    assert outcomes == ["changed", "dropped", "kept"]


def test_changes_are_marked_and_unchanged_stretches_are_shortened() -> None:
    before, after = compare_texts("Call <EMAIL> " + "far " * 400 + "x", "Call " + "far " * 400 + "y")
    assert next(part for part in before if part.change).text.strip() == "<EMAIL>"
    assert [part for part in after if part.change] == [("y", "added")]
    assert sum(len(part.text) for part in after) < 400


def test_a_row_of_a_data_set_is_escaped_on_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = dataset(tmp_path, [{"mask_pii": ["phone"]}])
    arguments = ["show", str(path), "rows", "--runs", str(tmp_path / "runs")]
    assert main([*arguments, "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert "<b>Nile" not in page
    assert "&lt;b&gt;Nile" in page
    assert set(_marks(page)) == {"removed", "added"}
    assert main(arguments) == 0
    assert "text, after:  Call ⟦+<PHONE>+⟧ & ask" in capsys.readouterr().out


# What cannot be shown


@pytest.mark.parametrize(
    ("stage", "split", "message"),
    [
        ("rowz", None, "show rowz: there is no such stage; did you mean 'rows'?"),
        (
            "pieces",
            None,
            "show pieces: a stage of kind tokenizer has no rows; name 'rows', 'learn' or 'score'",
        ),
        ("learn", "test", "--split test: a finetune stage reads train and validation; write one of them"),
    ],
)
def test_a_stage_without_rows_is_an_error(
    stage: str, split: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        api.show(api.load(planned(tmp_path)), stage, tmp_path / "runs", split=split)


def planned(folder: Path) -> Path:
    content = small.recipe()
    renamed = {"wiki": "rows", "words": "pieces", "topics": "learn", "score": "score"}
    text = json.dumps({new: content["stages"][old] for old, new in renamed.items()})
    for old, new in renamed.items():
        text = text.replace(f'"stage:{old}"', f'"stage:{new}"')
    stages = json.loads(text)
    stages["learn"] |= {"model": cases.ENCODER, "tokenizer": "stage:pieces"}
    return small.write(folder, {"name": "small", "seed": 3, "stages": stages})


def test_a_stage_above_that_has_not_run_is_named_with_the_command_that_runs_it(tmp_path: Path) -> None:
    path = planned(tmp_path)
    recipe = api.load(path, ["learn.task.length=16"])
    with pytest.raises(RecipeError) as error:
        api.show(recipe, "learn", tmp_path / "runs")
    command = f"hfpipe run {path} --until pieces --set learn.task.length=16 --runs {tmp_path / 'runs'}"
    assert str(error.value) == (
        f"show learn: it reads 'rows' and 'pieces', not run yet; run `{command}` first"
    )
    with pytest.raises(RecipeError, match="it reads 'rows' and 'learn', not run yet"):
        api.show(recipe, "score", tmp_path / "runs")
