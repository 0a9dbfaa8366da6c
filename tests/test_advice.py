"""What messages advise works when pasted: each piece of advice is taken from its message and followed."""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pytest
import small
import yaml

import hfpipe
from hfpipe.cli.parser import parse_command_line
from hfpipe.contract import RunContext
from hfpipe.data.readers.files import read_files
from hfpipe.errors import DataError, RecipeError, StageError
from hfpipe.inference import inputs
from hfpipe.modeling.losses.settings import LossSettings, check_loss
from hfpipe.references.places import DataPlace
from hfpipe.report import DataFacts, Report
from hfpipe.runner.launch import Launch, check_processes
from hfpipe.stages.data_folder import get_data_folder
from hfpipe.stages.dataset import Dataset, Source
from hfpipe.stages.scoring.row_weights import check_row_weights
from hfpipe.stages.tokenizer import Tokenizer
from hfpipe.task import TaskConfig
from hfpipe.tasks.denoising import Denoising
from hfpipe.tasks.denoising.span_corruption import get_sentinel_ids
from hfpipe.tasks.fill_mask import FillMask
from hfpipe.tasks.masked_lm.sentence_pairs import encode_sentence_pairs
from hfpipe.tasks.question_answering import QuestionAnswering
from hfpipe.tasks.shared.documents import get_boundary_ids
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.text_generation import TextGeneration
from hfpipe.tasks.token_classification import TokenClassification
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner

PACKAGE = Path(hfpipe.__file__).parent
TESTS = Path(__file__).parent
Make = Callable[..., tuple[Report, Path]]
CONCRETE = re.compile(r"`([^`]*(?:: |--|=)[^`]*)`")
"""What can be pasted: settings and options; a name alone in backticks cannot."""


def advice(message: str) -> list[str]:
    """Return the pieces of advice of a message."""
    return CONCRETE.findall(message)


# Options of files, in a recipe and on the command line


def workbook(*titles: str) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title in titles:
        sheet = book.create_sheet(title)
        for cells in (["text", "label"], ["a fine soup", "pos"], ["thin", "neg"]):
            sheet.append(cells)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


FRAME = pd.DataFrame({"text": ["a fine soup", "a thin one"], "label": ["pos", "neg"]})
PARQUET = FRAME.to_parquet()
TABLE = "text,label\na fine soup,pos\na thin one,neg\n"


def arrow() -> bytes:
    table, out = pa.Table.from_pandas(FRAME), io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


FILES: list[tuple[str, str, str | bytes, dict[str, Any]]] = [
    ("name the encoding of the file", "data.csv", "text,label\ncafé,pos\n".encode("latin-1"), {}),
    ("name the encoding of the file", "data.txt", "café", {"encoding": "ascii"}),
    ("has no byte order mark", "data.csv", TABLE.encode("utf-16-be"), {"encoding": "utf-16"}),
    ("has no byte order mark", "data.txt", "水は水".encode("utf-32-le"), {"encoding": "utf-32"}),
    ("without a byte order mark", "data.csv", TABLE.encode("utf-16-le"), {}),
    ("is not text but", "data.csv", workbook("one"), {}),
    ("is not text but", "data.jsonl", PARQUET, {}),
    ("is not text but", "data.txt", arrow(), {}),
    ("its extension does not tell the format", "data.dat", "a line of text\n", {}),
    ("cannot be read as", "data.parquet", arrow(), {}),
    ("cannot be read as", "data.arrow", PARQUET, {}),
    ("cannot be read as", "data.xlsx", TABLE, {}),
    (", or name the format with …", "data.jsonl", TABLE, {"separator": ","}),
    ("the first line looks like data", "data.csv", "a thin soup,1\na fine soup,2\nbread,3\n", {}),
    ("the first line looks like data", "data.csv", "1,yes,no\n2,no,yes\n3,yes,yes\n", {}),
    ("rename one, or, if this line is not a header", "data.csv", "yes,yes,a soup\nno,no,a bread\n", {}),
    ("but header names", "data.csv", TABLE, {"header": ["text"]}),
    ("but header names", "data.xlsx", workbook("one"), {"header": ["text", "label", "other"]}),
    ("CoNLL files have no header", "data.conll", "Ada B-PER\nlived O\n", {"header": False}),
    ("repeats the header", "data.csv", f"{TABLE}text,label\nlast,pos\n", {}),
    (
        "if that separates fields",
        "data.csv",
        "text;label\nbread;pos\nsoup, salt, bread;neg\n",
        {"separator": ","},
    ),
    ("if that separates fields", "data.csv", "text\tlabel\nbread\tpos\na, b, c\tneg\n", {"separator": ","}),
    ("write … if quotes enclose fields", "data.tsv", 'text\tlabel\n"a"\tpos\n"b\tc"\tneg\n', {}),
    ("or write … if quotes are text", "data.csv", 'text,label\n"never closed,pos\nmore,neg\n', {}),
    (
        "if a backslash precedes",
        "data.csv",
        'text,label\n"a \\"b\\" c",pos\n"e",neg\n',
        {"quote": '"'},
    ),
    (
        "this file escapes quotes with backslashes",
        "data.csv",
        'text,label\n"a \\"b\\" c",p\n"e",n\nf\\g,p\n',
        {},
    ),
    (
        "a field is quoted as by a csv writer",
        "data.tsv",
        'text\tlabel\nbare\tp\n"quoted"\tn\n"b ""c"" d"\tn\n',
        {},
    ),
    ("if the whole file is one JSON text", "data.jsonl", '{\n"a": {"text": "one"}}\n', {}),
    ("if each line is a record", "data.json", '{"text": "one"}\n{"text": "two"}\n', {}),
    ("its records are under", "data.json", '{"meta": 1, "the rows": [{"text": "one"}]}', {}),
    ("its records are under", "data.json", '{"a": {"no": [{"text": "b"}], "n": 1}}', {"field": "a"}),
    ("has sheets", "data.xlsx", workbook("Sheet 1", "it's, 2"), {}),
    ("has sheets", "data.xlsx", workbook("no", "yes"), {}),
]
"""Words of a message, a file that gives it, and the options of its source."""


def faulty(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows_of(path: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    source = Source.model_validate({"files": path.name, **options})
    return [row.values for row in read_files(path, path.name, source.to_file_options())]


@pytest.mark.parametrize(("words", "name", "content", "options"), FILES)
def test_options_of_files_are_advised_for_the_place_where_they_are_pasted(
    words: str, name: str, content: str | bytes, options: dict[str, Any], tmp_path: Path
) -> None:
    path = faulty(tmp_path / name, content)
    with pytest.raises(DataError, match=pattern(words)) as caught:
        rows_of(path, options)
    in_recipe = [rows_of(path, options | yaml.safe_load(each)) for each in advice(str(caught.value))]
    assert in_recipe
    assert all(in_recipe)
    command = [f"{key}={json.dumps(value)}" for key, value in options.items()]
    with pytest.raises(DataError) as caught:
        list(inputs.read_input_rows(path, ["text"], command))
    assert "--read" in str(caught.value)
    for each, same in zip(advice(str(caught.value)), in_recipe, strict=True):
        option, value = shlex.split(each)
        assert option == "--read"
        assert [row.values for row in inputs.read_input_rows(path, ["text"], [*command, value])] == same


def test_an_encoding_that_the_byte_order_mark_contradicts_is_deleted(tmp_path: Path) -> None:
    path = faulty(tmp_path / "data.csv", TABLE.encode("utf-16"))
    stated = {"encoding": "latin-1"}
    with pytest.raises(DataError, match=r"delete .*, which contradicts it") as caught:
        rows_of(path, stated)
    [delete] = advice(str(caught.value))
    assert yaml.safe_load(delete) == stated
    assert rows_of(path, {})[0]["label"] == "pos"


# The other settings of a data set


TEXTS = [{"text": f"a text of its own, number {n}"} for n in range(3)]
ROW = small.to_json_lines(TEXTS)
DATA: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    (
        "it is not clear which column is the text",
        {
            "data.jsonl": small.to_json_lines(
                {"no": name, "true: 1": name[::-1]} for name in ("ab", "cde", "fgh")
            )
        },
        {"source": {"files": "data.jsonl"}},
    ),
    (
        "name its split",
        {"in/train-test.jsonl": ROW},
        {"source": {"files": "in/*.jsonl"}},
    ),
    (
        "whose names contain",
        {"train.jsonl": ROW, "b-test.jsonl": small.to_json_lines([{"text": "other"}])},
        {"source": {"files": ["train.jsonl", "b-test.jsonl"]}},
    ),
    (
        "does; list the files of each split",
        {"in/test.jsonl": small.to_json_lines([{"text": "other"}]), "in/a: b.jsonl": ROW},
        {"source": {"files": "in"}},
    ),
    (
        "does; list the files of each split",
        {"in/train.jsonl": small.to_json_lines([{"text": "other"}]), "in/extra.jsonl": ROW},
        {"source": {"files": "in/*.jsonl"}},
    ),
]


def follow(settings: dict[str, Any], text: str) -> dict[str, Any]:
    """Return settings of a data set with advice pasted in, options of files into its source."""
    pasted = yaml.safe_load(text)
    if pasted.keys() <= Source.model_fields.keys():
        return {**settings, "source": {**settings["source"], **pasted}}
    return {**settings, **pasted}


@pytest.mark.parametrize(("words", "files", "settings"), DATA)
def test_settings_of_a_data_set_that_are_advised_work_when_pasted(
    words: str, files: dict[str, str], settings: dict[str, Any], tmp_path: Path, make_data: Make
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=pattern(words)) as caught:
        make_data(settings)
    found = advice(str(caught.value))
    assert found
    for each in found:
        report, _ = make_data(follow(settings, each))
        assert report.ledger["rows"]["kept"] > 0


# Recipes

STAGES = """
  wiki: {kind: dataset, source: {files: a.txt}}
  no: {kind: tokenizer, data: stage:wiki, algorithm: bpe}
  words: {kind: tokenizer, data: stage:wiki, algorithm: wordpiece}
"""
TUNED = "{kind: finetune, task: masked-lm, data: stage:wiki, adapter: {type: lora}"
RECIPES: list[tuple[str, str, str]] = [
    (
        "needs a mask token",
        "{kind: pretrain, task: masked-lm, data: stage:wiki, tokenizer: stage:no, model: {type: bert}}",
        "no",
    ),
    (
        "needs a mask token",
        "{kind: pretrain, task: {kind: denoising, noise: infilling}, data: stage:wiki, tokenizer: stage:no, "
        "model: {type: t5}}",
        "no",
    ),
    (
        "needs <extra_id_0> …",
        "{kind: pretrain, task: denoising, data: stage:wiki, tokenizer: stage:words, model: {type: t5}}",
        "words",
    ),
    (
        "… to that stage",
        "{kind: pretrain, task: masked-lm, data: stage:wiki, tokenizer: stage:words, model: {type: bert}, "
        "training: {eval_strategy: epoch}}",
        "wiki",
    ),
    (
        "to which no other can be added",
        f"{TUNED}, model: ./saved}}\n  b: {TUNED}, model: stage:a}}",
        "a",
    ),
    (
        "is code from the Hub",
        "{kind: evaluate, task: masked-lm, data: stage:wiki, split: train, model: ./saved, "
        "metrics: [me/mine]}",
        "a",
    ),
    (
        "to run the Hub's",
        "{kind: evaluate, task: masked-lm, data: stage:wiki, split: train, model: ./saved, "
        "metrics: [acuracy]}",
        "a",
    ),
    (
        "is not among the baselines",
        "{kind: evaluate, task: masked-lm, data: stage:wiki, split: train, model: ./saved, "
        "require: {perplexity: {beats: ./saved}}}",
        "a",
    ),
]
"""Words of a message, the stage of a recipe that gives it, and the stage into which its advice is pasted."""


@pytest.mark.parametrize(("words", "stage", "where"), RECIPES)
def test_what_check_advises_works_when_pasted(words: str, stage: str, where: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One line.\n")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/config.json").write_text('{"model_type": "bert", "max_position_embeddings": 512}')
    model = {"vocab": ["a"], "type": "WordPiece"}
    mask = [{"id": 0, "content": "[MASK]", "special": True}]
    (tmp_path / "saved/tokenizer.json").write_text(json.dumps({"added_tokens": mask, "model": model}))
    (tmp_path / "saved/tokenizer_config.json").write_text('{"mask_token": "[MASK]"}')
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"stages:{STAGES}  a: {stage}\n")
    [message] = [each for each in problems(recipe) if re.search(pattern(words), each)]
    assert advice(message)
    for each in advice(message):
        key, value = each.split(": ", 1)
        after = problems(recipe, f"{where}.{key}={value}")
        assert [other for other in after if re.search(f"{pattern(words)}|unknown key|--set", other)] == []


def test_a_split_of_folds_is_evaluated_as_advised(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,x\nb,y\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "stages:\n"
        "  rows: {kind: dataset, source: {files: a.csv}}\n"
        "  words: {kind: tokenizer, data: stage:rows, algorithm: wordpiece}\n"
        "  f: {kind: finetune, task: text-classification, data: stage:rows, tokenizer: stage:words, "
        "model: {type: bert}, folds: 2}\n"
        "  s: {kind: evaluate, model: stage:f, data: stage:rows}\n"
    )
    messages = {each for each in problems(path) if "is trained once without each fold" in each}
    [each] = {each for message in messages for each in advice(message)}
    assert problems(path, "s." + each.replace(": ", "=")) == []


def test_weights_of_rows_are_left_out_as_advised() -> None:
    known = DataFacts(
        columns={"text": "string", "label": "label", "tags": "labels"},
        labels={"label": ["x", "y"]},
        splits={"train": 9},
    )
    task = TextClassification()
    check = partial(check_loss, task=task, facts=known, smoothed=False)
    [problem] = check(LossSettings(row_weights="tags"))
    assert "not the weights of rows" in problem.message
    [each] = advice(problem.message)
    assert list(check(LossSettings.model_validate(yaml.safe_load(each)))) == []
    [problem] = check_row_weights("tags", known)
    assert "not the weights of rows" in problem.message
    [each] = advice(problem.message)
    assert list(check_row_weights(yaml.safe_load(each)["row_weights"], known)) == []


def problems(recipe: Path, *overrides: str) -> list[str]:
    try:
        hfpipe.load(recipe, overrides)
    except RecipeError as error:
        return [problem.message for problem in error.problems]
    return []


TASKS: list[tuple[str, Callable[..., TaskConfig], dict[str, Any], dict[str, Any]]] = [
    (
        "prompts would not include",
        TextGeneration,
        {"messages": "messages"},
        {"columns": {"messages": "nested", "tools": "nested"}},
    ),
    (
        "tag … is not O and does not begin with",
        TokenClassification,
        {},
        {"columns": {"words": "strings", "tags": "labels"}, "labels": {"tags": ["O", "B-A", "L-A", "U-A"]}},
    ),
]
"""Words of a message, the task that gives it, its settings, and facts of its data set."""


@pytest.mark.parametrize(("words", "task", "settings", "facts"), TASKS)
def test_what_a_task_advises_about_itself_works_when_pasted(
    words: str, task: Callable[..., TaskConfig], settings: dict[str, Any], facts: dict[str, Any]
) -> None:
    known = DataFacts(splits={"train": 9}, **facts)
    [problem] = [each.message for each in task(**settings).check(known)]
    assert re.search(pattern(words), problem)
    [each] = advice(problem)
    assert list(task(**settings, **yaml.safe_load(each)).check(known)) == []


CLASSES: list[tuple[str, TaskConfig, list[Any]]] = [
    ("values, not labels", TextClassification(label="no"), ["yes", "off", "yes"]),
    (
        "holds no classes",
        FillMask(pattern="{text} [MASK]", verbalizer={"a": "x", "b": "y"}, label="no"),
        ["a", "b", "a"],
    ),
    ("column … holds …, not …", TokenClassification(tags="no"), [["O"], ["B-A"], ["O"]]),
]


@pytest.mark.parametrize(("words", "task", "labels"), CLASSES)
def test_a_data_set_with_the_labels_that_were_advised_suits_the_task(
    words: str, task: TaskConfig, labels: list[Any], tmp_path: Path, make_data: Make
) -> None:
    rows = [{**text, "words": ["a"], "no": label} for text, label in zip(TEXTS, labels, strict=True)]
    small.write_json_lines(tmp_path / "data.jsonl", rows)
    settings = {"source": {"files": "data.jsonl"}, "text": ["text"]}
    report, _ = make_data(settings)
    [problem] = [each.message for each in task.check(report.data)]
    assert re.search(pattern(words), problem)
    [each] = advice(problem)
    report, _ = make_data({**settings, **yaml.safe_load(each)})
    assert list(task.check(report.data)) == []


@pytest.mark.parametrize(
    ("words", "settings", "where"),
    [
        ("`threshold` goes with `kind: near`", {"clean": [{"dedup": {"threshold": 0.8}}]}, "dedup"),
        (
            "goes with `kind: classes`",
            {"labels": {"label": {"kind": "class", "separator": ","}}},
            "label",
        ),
    ],
)
def test_what_goes_with_a_setting_is_accepted_with_it(words: str, settings: Any, where: str) -> None:
    with pytest.raises(ValueError, match=pattern(words)) as caught:
        Dataset.model_validate({"source": {"files": "a.txt"}, **settings})
    fix = yaml.safe_load(advice(str(caught.value))[0])
    inner = settings["labels"] if "labels" in settings else settings["clean"][0]
    inner[where] |= fix
    Dataset.model_validate({"source": {"files": "a.txt"}, **settings})


def test_the_source_of_a_data_set_of_the_hub_is_written_as_it_is_advised(
    context: Callable[..., RunContext],
) -> None:
    for place, wanted in (
        ("owner/name", ("owner/name", None)),
        ("owner/name@v1.0", ("owner/name", "v1.0")),
    ):
        with pytest.raises(StageError, match=r"load it in a dataset stage with") as caught:
            get_data_folder(DataPlace(place), context())
        [each] = advice(str(caught.value))
        source = Source.model_validate(yaml.safe_load(each)["source"])
        assert (source.hub, source.revision) == wanted


@pytest.mark.slow  # counts the devices, by torch
def test_more_processes_than_there_is_room_for_are_started_as_advised() -> None:
    with pytest.raises(RecipeError, match="start at most") as caught:
        check_processes(Launch(5000), {})
    [each] = advice(str(caught.value))
    options = parse_command_line(["run", "recipe.yaml", "--processes", "5000", each])
    check_processes(Launch(options.processes, oversubscribe=options.oversubscribe), {})


@pytest.mark.slow  # counts the devices, by torch
def test_more_jobs_than_there_is_room_for_run_as_advised() -> None:
    with pytest.raises(RecipeError, match="5000 jobs of 1 process") as caught:
        check_processes(Launch(jobs=5000), {})
    found = advice(str(caught.value))
    assert len(found) == 2
    for each in found:
        options = parse_command_line(["run", "recipe.yaml", "--jobs", "5000", *each.split()])
        check_processes(Launch(jobs=options.jobs, oversubscribe=options.oversubscribe), {})


def test_a_question_without_an_answer_is_taken_by_the_setting_that_is_advised() -> None:
    rows = {"question": ["Who?"], "context": ["Ada wrote it."], "answers": [{"text": [], "answer_start": []}]}
    with pytest.raises(DataError, match="has no answer") as caught:
        QuestionAnswering().runtime().encoder._get_answer_span(rows, 0)
    [each] = advice(str(caught.value))
    assert QuestionAnswering(**yaml.safe_load(each)).runtime().encoder._get_answer_span(rows, 0) is None


PROSE = ["The Danube is a river. It flows through ten countries.", "K2 is a mountain. It is high."]
TOKENIZERS: list[tuple[str, str, str, Callable[[Any], Any]]] = [
    ("begins or ends a document", "wordpiece", "bert", get_boundary_ids),
    ("begins or ends a document", "bpe", "bert", get_boundary_ids),
    ("with [CLS] and [SEP]", "bpe", "gpt", lambda given: encode_sentence_pairs(PROSE, given, 32)),
    ("… to its stage, lower length", "unigram", "bert", lambda given: get_sentinel_ids(given, 9)),
    (
        "noise: infilling needs a mask token",
        "bpe",
        "gpt",
        lambda given: denoised(Denoising(noise="infilling"), given),
    ),
]
"""Words of a message, the algorithm and style of a tokenizer that gives it, and what it is given to."""


@pytest.mark.parametrize(("words", "algorithm", "style", "use"), TOKENIZERS)
def test_a_tokenizer_of_the_style_that_is_advised_works(
    words: str, algorithm: str, style: str, use: Callable[[Any], Any]
) -> None:
    with pytest.raises(StageError, match=pattern(words)) as caught:
        use(learned(algorithm, style))
    for each in advice(str(caught.value)):
        setting = yaml.safe_load(each)
        if "style" in setting:
            checked = Tokenizer.model_validate({"data": "stage:wiki", "algorithm": algorithm, **setting})
            use(learned(algorithm, checked.style or ""))
        else:
            denoised(Denoising(**setting), learned(algorithm, style))


def denoised(task: Denoising, tokenizer: Any) -> None:
    assert task.runtime().encoder.encode({"text": PROSE}, tokenizer, DataFacts(columns={}, splits={}))


def learned(algorithm: str, style: str) -> Any:
    learner = Learner(
        algorithm=algorithm,
        style=STYLES[style],
        extra=[],
        vocab_size=400,
        min_frequency=1,
        lowercase=False,
    )
    return complete_tokenizer(learner.learn(PROSE * 20), STYLES[style])


# All of them

ELSEWHERE: dict[str, str] = {
    "pads examples, which needs": "test_best_fit_is_accepted_with_the_setting_that_is_advised",
    "which contradicts it": "test_an_encoding_that_the_byte_order_mark_contradicts_is_deleted",
    "load it in a dataset stage with": "test_the_source_of_a_data_set_of_the_hub_is_written_as_it_is_advised",
    "start at most …": "test_more_processes_than_there_is_room_for_are_started_as_advised",
    "write `--jobs …`": "test_more_jobs_than_there_is_room_for_run_as_advised",
    "has no answer; add": "test_a_question_without_an_answer_is_taken_by_the_setting_that_is_advised",
    "`threshold` goes with": "test_what_goes_with_a_setting_is_accepted_with_it",
    "goes with `kind: classes`": "test_what_goes_with_a_setting_is_accepted_with_it",
    "; give its data set …": "test_a_data_set_with_the_labels_that_were_advised_suits_the_task",
    "if that means a missing label": "test_a_class_named_like_a_missing_value_is_noted_and_can_be_dropped",
    "write … if they are classes": "test_whole_fractions_are_numbers_otherwise_and_the_summary_asks",
    "half a character (a lone": "test_half_a_character_in_a_text_goes_with_the_step_that_is_advised",
    "is null, not": "test_a_null_is_named_by_file_and_line_and_the_advice_can_be_pasted",
    "which this recipe does not name": "test_evaluate_executes_no_code_of_a_foreign_model",
    "if they are the same under other names": "test_names_that_a_message_maps_one_by_one_work_when_pasted",
    "is trained once without each fold": "test_a_split_of_folds_is_evaluated_as_advised",
    "not the weights of rows": "test_weights_of_rows_are_left_out_as_advised",
    "…; write … next to it": "test_weights_that_the_data_set_implies_are_switched_off_next_to_a_teacher",
    "limit: the source has no split": "test_a_split_that_a_stage_makes_is_sampled_by_another_as_advised",
    "`loss: {row_weights: null}` or another task": "test_a_loss_without_weights_is_the_one_of_the_task",
    "…, then add `--task …": "test_what_predict_advises_runs_when_pasted",
}
"""Words of a message → the test that pastes its advice."""
PARTS: tuple[str, ...] = (
    "add … to its stage",
    "; write …",
    "write …",
    "…; …",
    "…: … is for …, and this file is read as …; delete ……",
)
"""Texts that are a part of one of the messages here, or are filled with one."""
NO_ADVICE: dict[str, str] = {
    "needs a token that begins each text": "is the style of a tokenizer's stage, not trained here",
    "not even one example fits into": "needs several GPUs",
    "write it again with `to_json(": "is a call in the program that wrote the file",
    "there is no …, which … names; there is": "quotes the recipe",
    "this is a CoNLL-U file": "names a function that is still to be written",
    "is a script, which Datasets no longer runs": "needs the Hub",
    "and `is_impossible: true`": "quotes the file",
    "write each step as a separate list item": "shows the form of a list",
    "a key has no ':' after it": "shows the form of a mapping",
    "trials train in one process": "needs several processes",
    "no balanced weight": "shows the form of a mapping",
    "a single one is `seed: 1`": "shows a key of the recipe with the reader's own number",
    "`hfpipe stage` is started by": "names a recipe that is not known there",
}
"""Words of a message that has something in backticks → why it is not pasted."""


def templates() -> Iterator[tuple[str, str]]:
    """Yield the file and the text of every string of the package that advises something to paste.

    `…` stands for what is filled in. Documentation is left out.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "advise" not in source and not CONCRETE.search(source):
            continue
        tree = ast.parse(source)
        nodes = list(ast.walk(tree))
        joined = [node for node in nodes if isinstance(node, ast.JoinedStr)]
        left_out = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        left_out |= {id(part) for node in joined for part in ast.walk(node) if part is not node}
        advised = {
            name.id
            for node in nodes
            if isinstance(node, ast.Assign) and not isinstance(node.value, ast.JoinedStr)
            if is_advised(node.value, set())
            for target in node.targets
            for name in [target, *getattr(target, "elts", [])]
            if isinstance(name, ast.Name)
        }
        for node in nodes:
            if id(node) in left_out:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and CONCRETE.search(node.value):
                yield path.relative_to(PACKAGE).as_posix(), node.value
            elif isinstance(node, ast.JoinedStr):
                text = "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                filled = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
                if CONCRETE.search(text) or any(is_advised(value, advised) for value in filled):
                    yield path.relative_to(PACKAGE).as_posix(), text


def is_advised(node: ast.AST, names: set[str]) -> bool:
    """Tell whether an expression holds a call that writes advice, or a name to which one was given."""
    return any(
        (isinstance(part, ast.Name) and (part.id in names or part.id.startswith("advise")))
        or (isinstance(part, ast.Attribute) and part.attr.strip("_").startswith("advise"))
        for part in ast.walk(node)
    )


def pattern(words: str) -> str:
    return ".*".join(map(re.escape, words.split("…")))


def test_every_message_that_advises_something_to_paste_has_a_case() -> None:
    cases = {words for words, *_ in [*FILES, *DATA, *RECIPES, *TASKS, *CLASSES, *TOKENIZERS]}
    known = [*cases, *ELSEWHERE, *NO_ADVICE]
    found = [text for file, text in templates() if file != "data/labels/messages.py"]
    assert [text for text in found if text not in PARTS and not any(words in text for words in known)] == []
    assert [words for words in known if not any(words in text for text in found)] == []
    tests = "".join(path.read_text(encoding="utf-8") for path in TESTS.glob("test_*.py"))
    assert [test for test in ELSEWHERE.values() if f"def {test}(" not in tests] == []
