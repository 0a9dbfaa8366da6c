"""`hfpipe predict`: a trained model is found, asked in any way, and answers in order."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pieces
import pytest
import small
import torch
from test_report import finish
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, pipeline

import hfpipe
from hfpipe import api, number_format
from hfpipe.cli.main import main
from hfpipe.inference.predictor import BATCHES_AT_ONCE
from hfpipe.library_output import silence_libraries
from hfpipe.report import DataFacts, Report
from hfpipe.tasks.text_classification import TextClassification

CLASSES = ["lake", "mountain", "river"]
TEXTS = [
    "The Danube is a river that flows through ten countries, from the Black Forest to the Black Sea.",
    "K2 is a mountain.",
    "Lake Baikal is the deepest lake in the world, and holds more water than all others.",
    "The Nile",
    "Everest is the highest mountain above the sea.",
]
LENGTH = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small classifier as it lies on the Hub: a config, weights and a tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = pieces.tokenizer(TEXTS)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(2)  # which tells the texts apart
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that was trained for nothing in particular."""
    return pieces.save_encoder(tmp_path_factory.mktemp("bare"), TEXTS)


@pytest.fixture
def run(tmp_path: Path, model: Path) -> Path:
    """Return a run of two stages that trained a model, as the runner leaves them."""
    root = tmp_path / "demo"
    settings = {"task": {"kind": "text-classification", "text": "abstract", "length": LENGTH}}
    for name in ("wiki", "topics"):
        folder = finish(root, name, settings, [], Report(kind="finetune", summary=""))
        for file in model.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    return root


def test_answers_are_those_of_transformers(model: Path) -> None:
    theirs = pipeline("text-classification", str(model))(TEXTS)
    mine = hfpipe.predict(model, TEXTS)
    assert [answer["label"] for answer in mine] == [answer["label"] for answer in theirs]
    assert [a["score"] for a in mine] == pytest.approx([a["score"] for a in theirs], abs=1e-5)
    assert len({answer["label"] for answer in mine}) > 1


def test_a_single_text_is_read_as_a_list_of_one(model: Path) -> None:
    assert hfpipe.predict(model, TEXTS[0]) == hfpipe.predict(model, [TEXTS[0]])


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_answers_come_in_order_whatever_the_batch(model: Path, batch_size: int) -> None:
    alone = [hfpipe.predict(model, text)[0] for text in TEXTS]
    together = hfpipe.predict(model, TEXTS, batch_size=batch_size)
    assert [answer["label"] for answer in together] == [answer["label"] for answer in alone]
    assert [a["score"] for a in together] == pytest.approx([a["score"] for a in alone], abs=1e-6)


def test_rows_are_read_as_they_are_answered(model: Path) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"River number {read}"

    answers = api.answers(model, endless(), batch_size=2)
    row, _ = next(answers)
    assert row == {"text": "River number 1"}
    assert read == BATCHES_AT_ONCE * 2


def test_a_stage_says_what_it_was_trained_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hfpipe.open(run).folder("topics")
    for target in (str(folder), f"{run}:topics"):
        assert main(["predict", target, TEXTS[1]]) == 0
        [said] = map(json.loads, capsys.readouterr().out.splitlines())
        assert said["abstract"] == TEXTS[1]
        assert said["prediction"]["label"] in CLASSES


def test_the_only_model_of_a_run_needs_no_name(run: Path) -> None:
    (hfpipe.open(run).folder("wiki") / "report.json").unlink()
    assert hfpipe.predict(run, "The Nile") == hfpipe.predict(f"{run}:topics", "The Nile")


OWN = """
from dataclasses import replace

from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.text_classification.runtime import TextClassificationEvaluator


class Loud(TextClassificationEvaluator):
    def format_predictions(self, columns, rows, facts):
        return [{"label": each["label"].upper()} for each in super().format_predictions(columns, rows, facts)]


class Shouted(TextClassification):
    \"\"\"Reads a text as if it were shouted.\"\"\"

    kind: str = "shouted.py:Shouted"

    def runtime(self):
        return replace(super().runtime(), evaluator=Loud(self))
"""


def test_a_task_of_a_user_is_found_next_to_its_recipe(run: Path, model: Path) -> None:
    (run / "shouted.py").write_text(OWN, encoding="utf-8")
    settings = {"task": {"kind": "shouted.py:Shouted"}}
    finish(run, "topics", settings, [], Report(kind="finetune", summary=""))
    for file in model.iterdir():
        (hfpipe.open(run).folder("topics") / file.name).write_bytes(file.read_bytes())
    [answer] = hfpipe.predict(f"{run}:topics", "The Nile", task=f"{run}/shouted.py:Shouted")
    assert answer == {"label": hfpipe.predict(model, "The Nile")[0]["label"].upper()}


def test_what_is_drawn_at_random_is_the_same_in_any_batch(tmp_path: Path) -> None:
    tokenizer = pieces.tokenizer(TEXTS, "bpe")
    tokenizer.save_pretrained(tmp_path)
    size = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    end = tokenizer.eos_token_id
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **size)
    with silence_libraries():
        GPT2LMHeadModel(config).save_pretrained(tmp_path)
    options = ["generation.do_sample=true", "length=16", "target_length=8"]
    asked = ["The Nile"] * (BATCHES_AT_ONCE + 2)
    alone = hfpipe.predict(tmp_path, asked, options=options, batch_size=1)
    assert alone == hfpipe.predict(tmp_path, asked, options=options, batch_size=64)
    assert len({answer["generated_text"] for answer in alone}) == len(asked)


def test_a_text_that_is_too_long_is_reported(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut = hfpipe.predict(f"{run}:topics", TEXTS[0])
    assert f"tokens of texts longer than {LENGTH} were truncated" in caplog.text
    caplog.clear()
    whole = hfpipe.predict(f"{run}:topics", TEXTS[0], options=["length=64"])
    assert caplog.text == ""
    assert whole != cut


def test_options_may_stand_anywhere_among_texts(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", str(model), TEXTS[0], "--set", "length=64", TEXTS[1], "--batch-size", "1", TEXTS[2]])
    said = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert said == TEXTS[:3]


def test_lines_of_standard_input_are_texts(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(TEXTS) + "\n"))
    assert main(["predict", str(model)]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in said] == TEXTS
    assert [row["prediction"] for row in said] == hfpipe.predict(model, TEXTS)


def test_a_line_may_be_a_json_object_that_holds_the_text(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"id": 3, "text": TEXTS[0]}), '{"of": "another kind"}', "{ a brace"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert main(["predict", str(model)]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in said] == [TEXTS[0], *lines[1:]]
    assert [row.get("id") for row in said] == [3, None, None]
    assert [row["prediction"]["label"] for row in said] == [
        answer["label"] for answer in hfpipe.predict(model, [TEXTS[0], *lines[1:]])
    ]


def test_rows_of_a_file_keep_their_columns(model: Path, tmp_path: Path) -> None:
    rows = [{"id": number, "label": "sea", "text": text} for number, text in enumerate(TEXTS)]
    small.write_json_lines(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "answers.jsonl"
    assert main(["predict", str(model), "--input", str(tmp_path / "rows.jsonl"), "--output", str(out)]) == 0
    said = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    predictions = hfpipe.predict(model, tmp_path / "rows.jsonl")
    assert said == [row | {"prediction": answer} for row, answer in zip(rows, predictions, strict=True)]


class CutShort(io.StringIO):
    """A stream on which Ctrl-C is pressed after ten lines."""

    lines = 0

    def readline(self, _: int | None = -1, /) -> str:
        self.lines += 1
        if self.lines > 10:
            raise KeyboardInterrupt
        return f"{TEXTS[0]}\n"


def test_ctrl_c_keeps_the_answers_so_far_and_promises_no_resumption(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", CutShort())
    out = tmp_path / "answers.jsonl"
    assert main(["predict", str(model), "--output", str(out), "--batch-size", "1"]) == 130
    kept = f"{out}.partial"
    said = capsys.readouterr().err
    assert said == f"hfpipe: stopped by SIGINT; the answers before it are in {kept}\n"
    assert Path(kept).read_text(encoding="utf-8").count("prediction") == 8
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "names.csv",
            "Der Fluß Näve ist lang und fließt,7\nDer See Ö ist tief und still und,8\n".encode("latin-1"),
        ),
        ("rows.json", b'{"meta": 1, "its rows": [{"text": "The Nile"}, {"text": "K2"}]}'),
    ],
)
def test_what_predict_advises_about_a_file_works_when_pasted(
    name: str, content: bytes, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    command = ["predict", str(model), "--input", str(tmp_path / name)]
    for _ in range(3):
        code = main(command)
        out, error = capsys.readouterr()
        if code == 0:
            break
        command += shlex.split(re.findall(r"`(--read .*?)`", error)[0])
    assert len(out.splitlines()) == 2
    assert "--read" in command


def test_python_takes_options_of_a_file_as_the_command_line_does(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("Der Fluß Näve\nDer See Ö\n".encode("cp1252"))
    read = ["encoding=cp1252", "header=[text]"]
    assert hfpipe.predict(model, tmp_path / "rows.csv", read=read) == hfpipe.predict(
        model, ["Der Fluß Näve", "Der See Ö"]
    )


def test_a_terminal_shows_predictions_in_words(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    main(["predict", str(model), TEXTS[3]])
    [answer] = hfpipe.predict(model, TEXTS[3])
    assert capsys.readouterr().out == f"The Nile\n    {answer['label']}  {answer['score']:.3f}\n"


def test_several_columns_are_written_as_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = {"text": "Is it a river?", "other": "It is a lake."}
    assert main(["predict", str(model), json.dumps(pair), "--set", "text_pair=other"]) == 0
    said = json.loads(capsys.readouterr().out)
    [theirs] = pipeline("text-classification", str(model))(
        [{"text": pair["text"], "text_pair": pair["other"]}]
    )
    assert said["prediction"] == {"label": theirs["label"], "score": pytest.approx(theirs["score"], abs=1e-5)}


WRONG: dict[str, tuple[list[str], int, str]] = {
    "no text": (["MODEL"], 1, "there is no input for the model; give texts"),
    "an empty text": (["MODEL", "The Nile", " "], 1, "text 2: 'text' is empty"),
    "texts and a file": (["MODEL", "The Nile", "--input", "ROWS"], 2, "give TEXT or --input, not both"),
    "a column that is missing": (["MODEL", "--input", "ROWS"], 1, "rows.jsonl, line 2: there is no 'text'"),
    "a column without text": (
        ["MODEL", "--input", "ROWS", "--set", "text=number"],
        1,
        "rows.jsonl, line 1: 'number' holds 7, not a text",
    ),
    "an option of files that is not there": (
        ["MODEL", "--input", "ROWS", "--read", "encodng=latin-1"],
        2,
        "--read: unknown key 'encodng'; did you mean 'encoding'?",
    ),
    "an encoding that is not there": (
        ["MODEL", "--input", "ROWS", "--read", "encoding=latin-99"],
        2,
        "'latin-99' is not a text encoding",
    ),
    "an option of files without a value": (
        ["MODEL", "--input", "ROWS", "--read", "header"],
        2,
        "--read header: expected key=value",
    ),
    "an option of files for a text": (
        ["MODEL", "The Nile", "--read", "encoding=latin-1"],
        2,
        "--read says how a file is read; name one with --input FILE",
    ),
    "an option of files of another format": (
        ["MODEL", "--input", "ROWS", "--read", "header=false"],
        1,
        "rows.jsonl: header is for csv, tsv, xlsx, conll, and this file is read as jsonl; delete header, or",
    ),
    "a file that is not there": (["MODEL", "--input", "none.jsonl"], 1, "none.jsonl: is not there"),
    "a text for two columns": (
        ["MODEL", "The Nile", "--set", "text_pair=other"],
        1,
        'text 1: the model reads 2 columns; write a JSON object such as {"text": "…", "other": "…"}',
    ),
    "an unknown option": (
        ["MODEL", "a", "--set", "lenght=3"],
        2,
        "unknown key 'lenght' in task; did you mean 'length'",
    ),
    "an option under the name that Transformers gives it": (
        ["MODEL", "a", "--task", "text-generation", "--set", "max_new_tokens=3"],
        2,
        "unknown key 'max_new_tokens' in task; write 'generation.max_new_tokens'",
    ),
    "an option as in a recipe of another tool": (
        ["MODEL", "a", "--set", "max_seq_length=3"],
        2,
        "unknown key 'max_seq_length' in task; write 'length'",
    ),
    "an option without a value": (["MODEL", "a", "--set", "length"], 2, "--set length: expected key=value"),
    "an unknown task": (
        ["MODEL", "a", "--task", "text-clasification"],
        2,
        "did you mean 'text-classification'",
    ),
    "a run with several models": (["RUN", "a"], 2, "has more than one trained model; write 'RUN:"),
    "an unknown stage": (["RUN:topic", "a"], 2, "topic: there is no such stage; did you mean 'topics'"),
    "a run that is not there": (
        ["runs/none", "a"],
        2,
        "runs/none: does not exist; run its recipe first with hfpipe run",
    ),
    "a path that is not there": (["./none", "a"], 1, "./none: there is no"),
    "a model without a head": (
        ["BARE", "a"],
        2,
        "(BertModel) does not name the task it was trained for; add --task",
    ),
    "a head that was not trained": (
        ["BARE", "a", "--task", "text-classification"],
        1,
        "was not trained for this task: it lacks classifier.bias",
    ),
}


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_clear_line(
    model: Path,
    bare: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "The Nile", "number": 7}\n{"txt": "The Rhine"}\n', encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    names = {"MODEL": model, "RUN": run, "BARE": bare, "ROWS": rows}
    for name, path in names.items():
        arguments = [each.replace(name, str(path)) for each in arguments]
        message = message.replace(name, str(path))
    assert main(["predict", *arguments]) == code
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert [json.loads(line)["text"] for line in said.out.splitlines()] in (
        [],
        ["The Nile"],
    )  # what came before


KINDS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "labels": (
        {"scores": np.array([[0.9, 0.2, 0.7], [0.1, 0.2, 0.3]])},
        [{"labels": [{"label": "lake", "score": 0.9}, {"label": "river", "score": 0.7}]}, {"labels": []}],
    ),
    "float": ({"prediction": np.array([0.5, 2.0])}, [{"score": 0.5}, {"score": 2.0}]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_several_labels_and_numbers_are_answers_too(kind: str) -> None:
    columns, answers = KINDS[kind]
    facts = DataFacts(columns={"text": "string", "label": kind}, splits={}, labels={"label": CLASSES})
    evaluator = TextClassification().runtime().evaluator
    said = evaluator.format_predictions(columns, {"text": ["a", "b"]}, facts)
    assert said == answers
    assert json.loads(json.dumps(said)) == answers


def test_a_model_of_one_output_is_known_to_give_numbers() -> None:
    known = TextClassification().facts_from_config(BertConfig(num_labels=1))
    assert known.columns["label"] == "float"
    assert known.labels == {}


SAID: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a class": ({"label": "river", "score": 0.98123}, ["river  0.981"]),
    "a text": ({"generated_text": "One.\nTwo."}, ["One.", "Two."]),
    "entities": (
        {"entities": [{"entity_group": "LOC", "score": 0.5, "word": "Nile"}, {"entity_group": "PER"}]},
        ["LOC  0.500  Nile", "PER"],
    ),
    "no entity": ({"entities": []}, ["nothing"]),
    "the best of several": (
        {"token_str": "lake", "score": 0.75, "fills": [{"score": 0.75, "token_str": "lake"}]},
        ["0.750  lake"],
    ),
}


@pytest.mark.parametrize(("said", "lines"), SAID.values(), ids=SAID)
def test_an_answer_is_a_line_for_each_thing(said: dict[str, Any], lines: list[str]) -> None:
    assert number_format.format_answer(said) == lines


def test_a_batch_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "runs/demo", "a", "--batch-size", "0"])
    assert ended.value.code == 2
    assert "expected an integer of at least 1, not '0'" in capsys.readouterr().err
