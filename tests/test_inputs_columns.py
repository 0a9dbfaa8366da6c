"""Which columns are text, conversations and answers, what cleaning does to them, where a row came from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import chat
import datasets
import pieces
import pytest
import small
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import hfpipe
from hfpipe.data.cleaning.alignment import Change, apply_changes, shift_span
from hfpipe.data.cleaning.cleaner import clean
from hfpipe.data.cleaning.edits import Edit
from hfpipe.data.cleaning.steps import Clean
from hfpipe.data.column_types import detect_kind, find_text_columns
from hfpipe.data.columns import take_texts
from hfpipe.data.ledger import Ledger
from hfpipe.data.rows import Row
from hfpipe.data.spans import find_spans
from hfpipe.encoding.encoded import Examples, encode
from hfpipe.encoding.io import open_split, read_facts
from hfpipe.encoding.nested import read_rows
from hfpipe.encoding.origins import name_row
from hfpipe.errors import DataError, RecipeError
from hfpipe.report import Report
from hfpipe.stages.dataset import Source
from hfpipe.tasks import TASKS
from hfpipe.tasks.question_answering import QuestionAnswering
from hfpipe.tasks.question_answering.runtime import get_answer_texts
from hfpipe.tasks.text_generation import TextGeneration

INPUTS = Path(__file__).parent / "inputs"
Make = Callable[..., tuple[Report, Path]]


def run(case: str, runs: Path, until: str = "data") -> Any:
    """Run a reported case as it lies in tests/inputs."""
    return hfpipe.run(hfpipe.load(INPUTS / case / "recipe.yaml"), runs, until=until, say=lambda _: None)


def all_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for split in datasets.load_from_disk(str(folder)).values() for row in split.to_list()]


def head(**columns: list[Any]) -> list[Row]:
    names = list(columns)
    return [
        Row(dict(zip(names, values, strict=True)), "a.jsonl, line", number)
        for number, values in enumerate(zip(*columns.values(), strict=True), 1)
    ]


# Which columns are text

WORDS = ("harbour", "winter", "bridge", "garden", "letter", "mountain", "river", "stone", "train", "window")
PROSE = [f"The {a} was near the {b}, and nobody knew." for a in WORDS for b in WORDS]
SINGLE = [f"{a}{b}" for a in WORDS for b in WORDS]
COUNT = len(PROSE)


def cycle(*values: Any) -> list[Any]:
    return [values[number % len(values)] for number in range(COUNT)]


NOT_TEXT: dict[str, tuple[str, list[Any]]] = {
    "numbered by hex": ("code", [f"{n:012X}" for n in range(COUNT)]),
    "an index read as strings": ("code", [str(n) for n in range(COUNT)]),
    "hashes": ("code", [f"{hash((n, 1)) & (2**64 - 1):016x}" for n in range(COUNT)]),
    "uuids": ("code", [f"550e8400-e29b-41d4-a716-{n:012d}" for n in range(COUNT)]),
    "addresses": ("code", [f"https://example.org/the/path and more/{n}" for n in range(COUNT)]),
    "paths": ("code", [f"/data/my files/part {n}.txt" for n in range(COUNT)]),
    "e-mails": ("code", [f"user{n}@example.org" for n in range(COUNT)]),
    "dates": ("code", [f"2024-03-{n % 28 + 1:02d} 10:{n % 60:02d}" for n in range(COUNT)]),
    "dates in words": (
        "code",
        [f"Mon Apr {n % 28 + 1:02d} 22:19:{n % 60:02d} PDT 2009" for n in range(COUNT)],
    ),
    "dates in German order": ("code", [f"{n % 28 + 1}. 3. {1900 + n}" for n in range(COUNT)]),
    "a constant": ("constant", cycle("all rights are reserved by the author")),
    "a constant with gaps": ("constant", cycle("made by hand", None)),
    "sources": ("category", cycle("web", "book", "forum")),
    "topics in several words": (
        "category",
        cycle("Science and technology", "Sports and leisure", "World news"),
    ),
    "nothing": ("blank", cycle("", " ", None)),
    "numbers": ("other", list(range(COUNT))),
    "truth": ("other", cycle(True, False)),
    "lists of numbers": ("other", [[n, n + 1] for n in range(COUNT)]),
    "objects": ("other", [{"a": n} for n in range(COUNT)]),
}
TEXTS: dict[str, list[Any]] = {
    "prose": PROSE,
    "prose with one number": [7, *PROSE[1:]],
    "prose with one list": [["x"], *PROSE[1:]],
    "prose with gaps": [text if n % 3 else None for n, text in enumerate(PROSE)],
    "marked up": [f"<p>{text}</p>" for text in PROSE],
    "half of it twice": PROSE[: COUNT // 2] * 2,
    "mostly short": [text if n % 2 else f"ok {n}" for n, text in enumerate(PROSE)],
    "Chinese": [f"第{n}天的天气很好我们去公园" for n in range(COUNT)],
    "Thai": [f"สวัสดีครับวันที่{n}" for n in range(COUNT)],
    "Russian": [f"Сегодня хорошая погода в городе {a}" for a in SINGLE],
}


@pytest.mark.parametrize("name", NOT_TEXT)
def test_ids_dates_addresses_and_constants_are_not_text(name: str) -> None:
    kind, values = NOT_TEXT[name]
    assert detect_kind(values) == kind
    for column in ("text_id", "Unnamed: 0", "url", "body"):
        assert find_text_columns(head(**{column: values, "full": PROSE}), [], []) == ["full"]
        assert find_text_columns(head(**{"full": PROSE, column: values}), [], []) == ["full"]


@pytest.mark.parametrize("name", TEXTS)
def test_a_column_is_text_by_most_of_what_it_holds(name: str) -> None:
    assert detect_kind(TEXTS[name]) == "text"
    for other in ("sources", "an index read as strings", "a constant"):
        assert find_text_columns(head(review=TEXTS[name], kind=NOT_TEXT[other][1]), [], []) == ["review"]


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"text": PROSE, "title": PROSE}, ["text"]),
        ({"text": PROSE, "text_pair": PROSE, "text_id": SINGLE}, ["text", "text_pair"]),
        ({"text": SINGLE, "note": SINGLE}, ["text"]),
        ({"title": PROSE, "body": PROSE}, ["title", "body"]),
        ({"name": SINGLE, "body": PROSE}, ["body"]),
        ({"question": PROSE, "context": PROSE, "title": SINGLE}, ["question", "context"]),
        ({"source": SINGLE, "target": SINGLE}, ["source", "target"]),
        ({"source": cycle("web"), "body": PROSE}, ["body"]),
        ({"premise": PROSE, "hypothesis": cycle("yes", "no")}, ["premise", "hypothesis"]),
        ({"instruction": PROSE, "input": cycle("", None), "output": cycle("1", "2")}, None),
        ({"prompt": PROSE, "completion": cycle("yes", "no"), "id": SINGLE}, ["prompt", "completion"]),
        ({"word": SINGLE, "label": cycle("a", "b")}, ["word"]),
        ({"words": [["a", "b"]] * COUNT, "speaker": SINGLE, "doc": cycle("d1", "d2")}, ["words"]),
        ({"lines": [["a", "b"]] * COUNT, "doc": cycle("d1", "d2")}, ["lines"]),
    ],
)
def test_several_text_columns_are_found_together(columns: dict[str, Any], wanted: list[str] | None) -> None:
    assert find_text_columns(head(**columns), ["label"], []) == (wanted or list(columns))


@pytest.mark.parametrize(
    "columns",
    [
        {"name": SINGLE, "town": SINGLE},
        {"code": NOT_TEXT["hashes"][1], "kind": cycle("a", "b")},
        {"Unnamed: 0": SINGLE, "the name": SINGLE[::-1]},
        {"yes": SINGLE, "no": SINGLE},
        {"names": [["a"]] * COUNT, "town": SINGLE},
        {"text": cycle("n/a"), "body": PROSE},
        {"text": NOT_TEXT["hashes"][1], "body": PROSE},
    ],
)
def test_an_unclear_column_is_an_error_whose_advice_can_be_pasted(columns: dict[str, Any]) -> None:
    rows = head(**columns)
    with pytest.raises(DataError) as caught:
        find_text_columns(rows, [], [])
    message = str(caught.value)
    assert "\n" not in message
    assert all(repr(name) in message for name in columns)
    pasted = yaml.safe_load(re.findall(r"`(text: .*?)`", message)[0])["text"]
    assert pasted
    assert find_text_columns(rows, [], [str(name) for name in pasted]) == pasted


def test_no_order_of_the_rows_changes_the_choice() -> None:
    values = {"odd": [None, 7, ["x"], *SINGLE[3:]], "body": [3, *PROSE[1:]], "url": NOT_TEXT["addresses"][1]}
    for turn in range(0, COUNT, 9):
        turned = {name: column[turn:] + column[:turn] for name, column in values.items()}
        assert find_text_columns(head(**turned), [], []) == ["body"]


def test_an_id_column_called_text_id_is_not_the_text(tmp_path: Path) -> None:
    done = run("69-text-id-column", tmp_path)
    rows = all_rows(done.folders["data"])
    assert len(rows) == 40
    assert done.reports["data"].ledger["rows"]["dedup: exact"] == 40
    assert not any("<" in row["full_text"] for row in rows)
    assert "text: full_text" in done.reports["data"].summary


def test_one_message_without_content_does_not_move_the_splits(tmp_path: Path) -> None:
    done = run("95-one-null-message-splits", tmp_path)
    splits = done.reports["data"].data.splits
    assert sum(splits.values()) == 299
    for split, share in {"train": 0.6, "validation": 0.2, "test": 0.2}.items():
        assert abs(splits[split] - 300 * share) < 25
        sources = {
            row["source"] for row in datasets.load_from_disk(str(done.folders["data"]))[split].to_list()
        }
        assert sources == {"web", "book", "forum"}
    assert "1 dropped (missing text took 1)" in done.reports["data"].summary


# Conversations

TALK = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It."}]


@pytest.mark.parametrize("odd", [None, [], [{"role": "user"}], [{"role": "user", "content": None}]])
@pytest.mark.parametrize("place", [0, 5, 11])
def test_a_conversation_is_recognised_whatever_one_row_holds(
    odd: Any, place: int, tmp_path: Path, make_data: Make
) -> None:
    rows = [{"topic": "ab"[n % 2], "talk": [{**TALK[0], "content": f"Say {n}."}, TALK[1]]} for n in range(12)]
    rows[place]["talk"] = odd
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    report, folder = make_data({"source": {"files": "a.jsonl"}, "clean": ["html"], "split": {"test": 0.4}})
    assert report.facts["text"] == ["talk"]
    assert len(all_rows(folder)) == (12 if odd == [] else 11)


def test_share_gpt_is_read_as_messages(tmp_path: Path) -> None:
    done = run("14b-sharegpt-columns", tmp_path)
    rows = all_rows(done.folders["data"])
    assert len(rows) == 40
    assert {tuple(part["role"] for part in row["messages"]) for row in rows} == {
        ("system", "user", "assistant")
    }
    assert all(part.keys() == {"role", "content"} for row in rows for part in row["messages"])
    assert "messages: from, value read as role, content in 40 rows" in done.reports["data"].summary


@pytest.mark.slow
def test_roles_human_and_gpt_are_learned(tmp_path: Path) -> None:
    done = run("51b-chat-human-gpt-roles", tmp_path, until="score")
    assert done.reports["score"].scores
    assert "gpt read as assistant in 40 rows" in done.reports["data"].summary


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"from": "human", "value": "Hi"}, {"role": "user", "content": "Hi"}),
        (
            {"from": "gpt", "value": "Hi", "weight": 0.5},
            {"role": "assistant", "content": "Hi", "weight": 0.5},
        ),
        ({"from": "tool", "value": "4"}, {"role": "tool", "content": "4"}),
        ({"role": "human", "content": "Hi"}, {"role": "user", "content": "Hi"}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"role": "user", "content": "ab"},
        ),
        ({"role": "developer", "content": ""}, {"role": "developer", "content": ""}),
        (
            {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": None}}]},
            {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": None}}]},
        ),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{}"}]},
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{}"}]},
        ),
    ],
)
def test_messages_are_read_in_the_forms_people_write(
    written: dict[str, Any], read: dict[str, Any], tmp_path: Path, make_data: Make
) -> None:
    rows = [{"talk": [*TALK, {"role": "user", "content": f"{n}"}]} for n in range(3)]
    rows[1]["talk"].append(written)
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    _, folder = make_data({"source": {"files": "a.jsonl"}, "clean": ["unicode", "html"]})
    assert all_rows(folder)[1]["talk"] == [*TALK, {"role": "user", "content": "1"}, read]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"role": "narrator", "content": "x"},
            "message 2 of 'talk' has the role 'narrator', which is not known",
        ),
        ({"from": "bard", "value": "x"}, "message 2 of 'talk' has the role 'bard'"),
        ({"content": "x"}, "message 2 of 'talk' has no role; write one of system"),
        ("x", "message 2 of 'talk' is 'x'; write {role"),
        ({"role": "user", "content": 7}, "message 2 of 'talk' has the content 7; write a string"),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}],
            },
            "message 2 of 'talk' has a part of type 'image_url' (2 of 2), which is not text",
        ),
    ],
)
def test_a_message_that_cannot_be_read_is_named_with_its_row(
    wrong: Any, words: str, tmp_path: Path, make_data: Make
) -> None:
    rows = [{"talk": TALK} for _ in range(4)]
    rows[2] = {"talk": [TALK[0], wrong]}
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError) as caught:
        make_data({"source": {"files": "a.jsonl"}})
    assert str(caught.value).startswith(f"a.jsonl, line 3: {words}")


# Objects keep exactly their keys

CALLS = [
    {"city": "Oslo"},
    {"x": 1, "y": 0.1 + 0.2},
    {"city": None},
    {},
    {"big": 2**63, "deep": [{"a": []}, 3]},
]


def calling(arguments: dict[str, Any], number: int) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    asked = {"role": "user", "content": f"do {number}"}
    return {
        "messages": [asked, {"role": "assistant", "content": "", "tool_calls": [call]}, TALK[1]],
        "tools": [{"name": "f", "parameters": arguments}],
        "extra": arguments,
    }


def test_objects_of_any_column_keep_exactly_their_keys(tmp_path: Path, make_data: Make) -> None:
    rows = [calling(arguments, number) for number, arguments in enumerate(CALLS * 2)]
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    _, folder = make_data({"source": {"files": "a.jsonl"}})
    split = open_split(folder, "train")
    assert json.dumps([{name: row[name] for name in rows[0]} for row in split]) == json.dumps(rows)
    _, copy = make_data({"source": {"stage": "data"}}, name="copy", inputs={"data": folder})
    exact = read_rows(open_split(copy, "train"), range(len(rows)))
    assert json.dumps(
        [dict(zip(rows[0], each, strict=True)) for each in zip(*map(exact.get, rows[0]), strict=True)]
    ) == (json.dumps(rows))
    assert read_facts(folder).columns["messages"] == read_facts(folder).columns["extra"] == "nested"


def test_objects_that_differ_after_the_first_rows_keep_their_keys(tmp_path: Path, make_data: Make) -> None:
    rows = [{"text": str(n), "extra": {"a": n} if n < 1500 else {"b": n}} for n in range(1600)]
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    _, folder = make_data({"source": {"files": "a.jsonl"}})
    assert [row["extra"] for row in all_rows(folder)] == [row["extra"] for row in rows]


def test_the_arguments_of_a_call_reach_the_chat_template_as_written(tmp_path: Path) -> None:
    done = run("51d-chat-tool-arguments", tmp_path)
    kept = {row["id"]: row["messages"] for row in all_rows(done.folders["data"])}
    lines = (INPUTS / "51d-chat-tool-arguments" / "data.jsonl").read_text(encoding="utf-8").splitlines()
    for written in map(json.loads, lines):
        assert kept[written["id"]] == written["messages"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"x": float("nan")}, "'extra' holds the number nan"),
        ({"x": [2**70]}, "'extra' holds a whole number of more than 64 bits"),
        ({"x": "\ud83d"}, "'extra' holds half a character"),
    ],
)
def test_what_an_object_cannot_keep_is_refused_with_its_row(
    value: Any, words: str, tmp_path: Path, make_data: Make
) -> None:
    small.write_json_lines(
        tmp_path / "a.jsonl", [{"text": "a", "extra": {"x": 1}}, {"text": "b", "extra": value}]
    )
    with pytest.raises(DataError, match=f"^a.jsonl, line 2: {words}"):
        make_data({"source": {"files": "a.jsonl"}})


# Answers move with the text

STEPS = {name: Clean.model_validate(name).step for name in ("unicode", "html", "mask_pii")}
PARTS = [
    "<p>",
    "</p>",
    "<b>",
    "&amp;",
    "&eacute;",
    "AT&T",
    "<br>",
    "<!-- x -->",
    "</>",
    "<script>1900",
    "</script>",
    "\n",
]
PARTS += [
    "cafe\u0301",
    "\u1100\u1161\u11a8",
    "\x07",
    "\ud83d",
    "e\x00\u0301",
    "a@example.org",
    "+49 30 1234567",
    "8.8.8.8",
]
PARTS += ["1900", "In 1900 ", "the sea", " ", "年"]


@given(st.lists(st.sampled_from(PARTS), max_size=12).map("".join), st.data())
def test_an_answer_is_the_edited_answer_after_any_edits(text: str, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(list(STEPS)), min_size=1, max_size=3))
    start = data.draw(st.integers(0, max(0, len(text) - 1)))
    end = data.draw(st.integers(start, len(text)))
    answer = text[start:end]
    [row] = head(context=[text], answers=[{"text": [answer], "answer_start": [start]}])
    ledger = Ledger()
    taken = take_texts([row], ["context"], ledger)
    steps = [Clean.model_validate(name) for name in names]
    kept = list(clean(taken, ["context"], steps, ledger, find_spans([row], ["context"])))
    edited = text
    for name in names:
        edited = STEPS[name].edit(edited)
    if not kept:  # counted and reported
        assert all(reason.endswith(": destroys an answer") for reason in ledger.rows_lost)
        assert ledger.rows_lost.total() == 1
        return
    found, place = row.values["answers"]["text"][0], row.values["answers"]["answer_start"][0]
    assert row.values["context"] == edited
    assert edited[place : place + len(found)] == found
    before, inside, after = (STEPS[names[0]].edit(part) for part in (text[:start], answer, text[end:]))
    if len(names) == 1 and inside and before + inside + after == edited:
        assert (place, found) == (len(before), inside)


@given(st.text(), st.sampled_from(list(STEPS)))
def test_an_edit_changes_ordered_places_that_do_not_overlap(text: str, name: str) -> None:
    step = STEPS[name]
    assert isinstance(step, Edit)
    for changes in step.trace(text):
        assert all(one.end <= other.start for one, other in pairwise(changes))
        text = apply_changes(text, changes)


@pytest.mark.parametrize(
    ("step", "text", "answer", "moved"),
    [
        ("html", "<p><i>In</i> <b>the</b> year 1900 came rain, but in 1900 snow</p>", "1900", ("1900", 12)),
        ("html", "<script>1900</script> rain 1900", "1900", None),
        ("html", "a &amp; b and <b>c</b> d", "b and <b>c</b>", ("b and c", 4)),
        ("html", "say <b>so</b> and so", "so</b>", ("so", 4)),
        ("unicode", "cafe\u0301 and cafe\u0301 bar", "cafe\u0301 bar", ("café bar", 9)),
        ("unicode", "cafe\u0301 in Paris", "Paris", ("Paris", 8)),
        ("unicode", "cafe\u0301 in Paris", "cafe", None),
        ("unicode", "a\x00b\x07 1900", "1900", ("1900", 3)),
        ("unicode", "\u1100\u1161\u11a8 1900", "1900", ("1900", 2)),
        ("mask_pii", "mail a@example.org in 1900", "1900", ("1900", 16)),
        ("mask_pii", "mail a@example.org in 1900", "a@example.org", ("<EMAIL>", 5)),
        ("mask_pii", "mail a@example.org in 1900", "example", None),
        ("mask_pii", "from 8.8.8.8 to 1.1.1.1 it went", "it", ("it", 18)),
    ],
)
def test_an_answer_moves_as_its_characters_do(
    step: str, text: str, answer: str, moved: tuple[str, int] | None, tmp_path: Path, make_data: Make
) -> None:
    start = text.index(answer)
    small.write_json_lines(
        tmp_path / "a.jsonl",
        [
            {
                "question": "When was it?",
                "context": text,
                "answers": {"text": [answer], "answer_start": [start]},
            },
            {
                "question": "Why is it?",
                "context": "No reason.",
                "answers": {"text": ["No"], "answer_start": [0]},
            },
        ],
    )
    report, folder = make_data({"source": {"files": "a.jsonl"}, "clean": [step]})
    rows = all_rows(folder)
    assert rows[-1]["answers"] == {"text": ["No"], "answer_start": [0]}
    if moved is None:
        assert len(rows) == 1
        assert report.ledger["rows"][f"{Clean.model_validate(step).reason}: destroys an answer"] == 1
        assert "destroys an answer took 1" in report.summary
    else:
        assert rows[0]["answers"] == {"text": [moved[0]], "answer_start": [moved[1]]}


def test_cleaning_html_moves_the_reported_answers(tmp_path: Path) -> None:
    for row in all_rows(run("91-qa-clean-html-offsets", tmp_path).folders["data"]):
        assert row["context"].startswith("In the year 1900 came rain")
        assert row["answers"] == {"text": ["1900"], "answer_start": [12]}


@given(st.text(max_size=8), st.integers(0, 8), st.integers(0, 8), st.sampled_from(["", "x", "long"]))
def test_a_span_outside_a_change_keeps_its_characters(text: str, one: int, other: int, new: str) -> None:
    start, end = sorted((min(one, len(text)), min(other, len(text))))
    changes = [Change(start, end, new)]
    after = apply_changes(text, changes)
    for first in range(len(text)):
        for last in range(first + 1, len(text) + 1):
            moved = shift_span((first, last), changes)
            if last <= start or first >= end:
                assert moved is not None
                assert after[slice(*moved)] == text[first:last]
            elif first <= start and end <= last and moved is not None:
                assert after[slice(*moved)] in (
                    text[first:start] + new + text[end:last],
                    text[first:start] + text[end:last],  # inserted at an edge
                )


# Answers in the forms people write

FORMS: list[tuple[Any, str | None]] = [
    ({"text": ["Oslo"], "answer_start": [3]}, None),
    ({"text": ["Oslo"], "answer_start": [3.0]}, None),
    ({"text": ["Oslo"], "answer_start": [None]}, None),
    ({"text": "Oslo", "answer_start": 3}, None),
    ({"text": ["Oslo"], "answer_start": ["3"]}, "holds the answer_start '3', which is not a whole number"),
    ({"text": "Oslo", "answer_start": "3"}, "holds the answer_start '3', which is not a whole number"),
    ([{"text": "Oslo", "answer_start": 3}, {"text": "In Oslo", "answer_start": 0}], None),
    ([{"text": "Oslo"}], None),
    ("Oslo", None),
    (["Oslo", "In Oslo"], None),
    ({"text": ["Oslo"]}, None),
    (
        {"text": ["Oslo"], "answer_start": ["three"]},
        "holds the answer_start 'three', which is not a whole number",
    ),
    ({"text": ["Oslo"], "answer_start": [3.5]}, "holds the answer_start 3.5, which is not a whole number"),
    ({"text": ["Oslo"], "answer_start": [True]}, "holds the answer_start True, which is not a whole number"),
    ({"text": ["Oslo"], "answer_start": [[3]]}, "holds the answer_start [3], which is not a whole number"),
    ({"text": ["Oslo"], "answer_start": [3, 4]}, "write {text: [...], answer_start: [...]}"),
    ({"text": [7], "answer_start": [3]}, "write {text: [...], answer_start: [...]}"),
    ({"text": [""], "answer_start": [0]}, "'Where?' has no answer; add `version_2: true`"),
    ({"text": [], "answer_start": []}, "'Where?' has no answer; add `version_2: true`"),
    ("", "'Where?' has no answer; add `version_2: true`"),
    (["sea"], "the answer 'sea' occurs 2 times in its context, at 13, 17"),
    (["Bergen"], "the answer 'Bergen' is not in its context"),
]


@pytest.mark.parametrize(("answers", "words"), FORMS)
def test_answers_are_read_in_the_forms_people_write(
    answers: Any, words: str | None, tmp_path: Path, make_data: Make
) -> None:
    context = "In Oslo. The sea sea."
    rows = [{"question": "Where?", "context": context, "answers": answers} for _ in range(2)]
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    words_of = pieces.tokenizer([context, "Where?"])
    settings = {"source": {"files": "a.jsonl"}, "text": ["question", "context"]}
    path = tmp_path / "train.arrow"

    def read() -> Examples:
        _, folder = make_data(settings)
        split = open_split(folder, "train")
        assert list(QuestionAnswering().check(read_facts(folder))) == []
        examples, _ = encode(
            QuestionAnswering().runtime(),
            split,
            words_of,
            read_facts(folder),
            path,
            packed=False,
            advance=lambda _: None,
        )
        return examples

    if words is not None:
        with pytest.raises(DataError) as caught:
            read()
        assert str(caught.value).startswith("a.jsonl, line 1: ")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    examples = read()
    ids, (first, last) = (examples[0, 0][column] for column in ("input_ids", "span"))
    assert words_of.decode(ids[first : last + 1]).replace(" ", "") in ("oslo", "inoslo")
    reference = get_answer_texts(QuestionAnswering(), examples.source[:])
    assert reference[0][0] == "Oslo"


def test_a_start_that_is_a_text_is_refused_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data\.jsonl, line 1: .*holds the answer_start '12', which is not a whole number"
    ) as caught:
        run("20-answer-start-strings", tmp_path)
    assert "\n" not in str(caught.value)


def test_an_empty_answer_needs_version_2_as_no_answer_does(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data\.jsonl, line \d+: 'When .*' has no answer; add `version_2: true`"
    ):
        run("20d-answer-empty-text-v1", tmp_path, until="qa")


# Nulls

ALPACA = TextGeneration(template="{instruction}\n{input}\n", completion="output", length=32)


def test_a_null_input_of_alpaca_is_an_empty_text(tmp_path: Path) -> None:
    done = run("23d-alpaca-null-small", tmp_path)
    assert sum(done.reports["data"].data.splits.values()) == 40
    folder = done.folders["data"]
    rows = open_split(folder, "train")
    words = pieces.tokenizer(["add 1 and 10"], "bpe")
    examples, _ = encode(
        ALPACA.runtime(),
        rows,
        words,
        read_facts(folder),
        tmp_path / "a.arrow",
        packed=False,
        advance=lambda _: None,
    )
    for number, row in enumerate(rows):
        example = examples[(0, number)]
        prompt = words.decode(example["input_ids"][: int(example["prompt"])])
        assert prompt == f"{row['instruction']}\n{row['input'] or ''}\n"


def test_rows_without_any_text_are_dropped_and_others_keep_their_nulls(
    tmp_path: Path, make_data: Make
) -> None:
    rows = [{"source": a, "target": b} for a in ("one two three", None) for b in ("un deux trois", None)]
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    report, folder = make_data({"source": {"files": "a.jsonl"}, "clean": ["unicode", {"dedup": "exact"}]})
    assert [(row["source"], row["target"]) for row in all_rows(folder)] == [
        tuple(row.values()) for row in rows[:3]
    ]
    assert report.ledger["rows"] == {"in": 4, "kept": 3, "missing text": 1, "unicode": 0, "dedup: exact": 0}
    assert "1 dropped (missing text took 1)" in report.summary


def test_a_missing_second_reference_is_none(tmp_path: Path, make_data: Make) -> None:
    rows = [{"source": "a b c", "target": "d e", "other": other} for other in ("f g", None)]
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    _, folder = make_data({"source": {"files": "a.jsonl"}})
    task = TASKS["translation"](references=["other"])
    split = open_split(folder, "train")
    words = pieces.tokenizer(["a b c d e f g"], "unigram")
    encode(
        task.runtime(),
        split,
        words,
        read_facts(folder),
        tmp_path / "a.arrow",
        packed=False,
        advance=lambda _: None,
    )
    assert task.runtime().evaluator.scoring.references(split[:]).tolist() == [["d e", "f g"], ["d e"]]


@pytest.mark.parametrize("missing", ["text", "input"])
def test_dropped_rows_are_reported_with_the_split_that_is_missing(missing: str, tmp_path: Path) -> None:
    rows = [{"text": f"row {n}" if n < 5 else None, "n": n} for n in range(40)]
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    clean = [{"drop": {"n": list(range(5, 40))}}] if missing == "input" else []
    rows_of = {
        "kind": "dataset",
        "source": {"files": "a.jsonl"},
        "clean": clean,
        "split": {"validation": 0.001},
    }
    if missing == "input":
        small.write_json_lines(tmp_path / "a.jsonl", [{"text": f"row {n}", "n": n} for n in range(40)])
    score = {"kind": "evaluate", "model": "stage:lm", "data": "stage:data", "split": "validation"}
    words = {"kind": "tokenizer", "data": "stage:data", "algorithm": "bpe", "vocab_size": 300}
    model = {"type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1}
    learn = {
        "kind": "pretrain",
        "task": "causal-lm",
        "data": "stage:data",
        "tokenizer": "stage:words",
        "model": model,
    }
    stages = {"data": rows_of, "words": words, "lm": learn, "score": score}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"name": "few", "stages": stages}), encoding="utf-8")
    said: list[str] = []
    for _ in range(2):  # the second time from the data set that is done
        with pytest.raises(RecipeError, match=r"\(35 of 40 rows were dropped: .* took 35\)"):
            hfpipe.run(hfpipe.load(tmp_path / "recipe.yaml"), tmp_path / "runs", say=said.append)
    assert "35 dropped" in said[0]


def test_a_missing_key_of_alpaca_is_null_and_read(tmp_path: Path) -> None:
    done = run("23-alpaca-missing-input", tmp_path)
    rows = {row["instruction"]: row["input"] for row in all_rows(done.folders["data"])}
    assert rows["say hello"] is None
    split = open_split(done.folders["data"], "train")
    words = pieces.tokenizer(["say hello"], "bpe")
    task, known = ALPACA, read_facts(done.folders["data"])
    encode(task.runtime(), split, words, known, tmp_path / "a.arrow", packed=False, advance=lambda _: None)
    assert task.optional == ("instruction", "input")


# Where a row came from


def test_a_null_is_named_by_file_and_line_and_the_advice_can_be_pasted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run("29-null-pair", tmp_path, until="clf")
    message = str(caught.value)
    assert message.startswith("stage clf: data.jsonl, line 10: 'hypothesis' is null, not a text")
    advice = re.findall(r"`clean: (.*?)`", message)[0]
    recipe = hfpipe.load(INPUTS / "29-null-pair" / "recipe.yaml", overrides=[f"data.clean={advice}"])
    done = hfpipe.run(recipe, tmp_path, until="data", say=lambda _: None)
    assert done.reports["data"].ledger["rows"]["drop: hypothesis None"] == 1
    assert not any(row["hypothesis"] is None for row in all_rows(done.folders["data"]))


def places(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for split in datasets.load_from_disk(str(folder)).values():
        yield from ((name_row(split, number), row) for number, row in enumerate(split))


@pytest.mark.slow
def test_every_row_knows_its_file_and_line_through_splits_and_stages(tmp_path: Path, make_data: Make) -> None:
    for name in ("a", "b"):
        small.write_json_lines(
            tmp_path / f"{name}.jsonl", [{"text": f"{name} {n // 2}", "n": n} for n in range(1200)]
        )
    settings = {"clean": [{"dedup": "exact"}, {"drop": {"n": [4]}}], "split": {"test": 0.3}}
    _, folder = make_data({"source": {"files": ["a.jsonl", "b.jsonl"]}, **settings})
    found = dict(places(folder))
    assert len(found) == 2 * (600 - 1)
    assert all(place == f"{row['text'][0]}.jsonl, line {row['n'] + 1}" for place, row in found.items())
    assert {
        split.column_names == ["id", "text", "n"] for split in datasets.load_from_disk(str(folder)).values()
    } == {True}
    again = {"source": {"stage": "data"}, "clean": [{"min_chars": 4}]}
    _, copy = make_data(again, name="copy", inputs={"data": folder})
    assert {place: row["n"] for place, row in places(copy)} == {
        place: row["n"] for place, row in found.items() if len(row["text"]) >= 4
    }


def test_an_id_of_the_source_is_named_and_a_digest_is_not(tmp_path: Path, make_data: Make) -> None:
    rows = [{"text": "a"}, {"text": "b"}]
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    assert [place for place, _ in places(make_data({"source": {"files": "a.jsonl"}})[1])] == [
        "a.jsonl, line 1",
        "a.jsonl, line 2",
    ]
    small.write_json_lines(tmp_path / "b.jsonl", [{"id": f"q{n}", **row} for n, row in enumerate(rows)])
    assert [place for place, _ in places(make_data({"source": {"files": "b.jsonl"}}, name="own")[1])] == [
        "b.jsonl, line 1 (id 'q0')",
        "b.jsonl, line 2 (id 'q1')",
    ]


def test_the_row_that_a_task_cannot_read_is_named(tmp_path: Path, make_data: Make) -> None:
    rows = [{"id": f"q{n}", "messages": [{**TALK[0], "content": f"Say {n}."}, TALK[1]]} for n in range(9)]
    rows[6]["messages"].pop()
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    _, folder = make_data({"source": {"files": "a.jsonl"}})
    words = chat.taught(pieces.tokenizer(["Say it."], "bpe"))
    with pytest.raises(DataError, match=r"^a\.jsonl, line 7 \(id 'q6'\): .* has no answer"):
        encode(
            TextGeneration(messages="messages").runtime(),
            open_split(folder, "train"),
            words,
            read_facts(folder),
            tmp_path / "a.arrow",
            packed=False,
            advance=lambda _: None,
        )


# Tools

TOOLED = """{% if tools %}tools {{ tools | tojson }}
{% endif %}""" + chat.CHATML.replace(
    "{{ message.content }}",
    "{{ message.content }}{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}",
)


def tooled() -> Any:
    return chat.taught(pieces.tokenizer(["say it tools name arguments"], "bpe"), TOOLED)


@pytest.fixture
def calls(tmp_path: Path, make_data: Make) -> Path:
    """Return the folder of conversations that call tools, each other ones."""
    small.write_json_lines(
        tmp_path / "a.jsonl", [calling(arguments, number) for number, arguments in enumerate(CALLS)]
    )
    return make_data({"source": {"files": "a.jsonl"}, "columns": {"messages": "messages", "tools": "tools"}})[
        1
    ]


def test_tools_and_calls_reach_the_prompt_as_written(calls: Path, tmp_path: Path) -> None:
    words, task = tooled(), TextGeneration(messages="messages", tools="tools", length=400)
    split, known = open_split(calls, "train"), read_facts(calls)
    assert list(task.check(known)) == []
    examples, _ = encode(
        task.runtime(), split, words, known, tmp_path / "a.arrow", packed=False, advance=lambda _: None
    )
    for number, arguments in enumerate(CALLS):
        row = calling(arguments, number)
        wanted = words.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False)
        assert words.decode(examples[(0, number)]["input_ids"]) == wanted.rstrip("\n")
        assert json.dumps(arguments) in wanted


def test_tools_that_no_prompt_would_hold_are_reported(calls: Path) -> None:
    [problem] = TextGeneration(messages="messages").check(read_facts(calls))
    assert "add `tools: tools` to the task" in problem.message
    with pytest.raises(ValidationError, match="tools needs messages"):
        TextGeneration(tools="tools")


def test_a_call_without_content_is_learned(tmp_path: Path, make_data: Make) -> None:
    rows = [calling({"x": n}, n) for n in range(3)]
    for row in rows:
        del row["messages"][2], row["tools"], row["extra"]
    rows[0]["messages"][1]["content"] = None
    del rows[1]["messages"][1]["content"]
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    _, folder = make_data({"source": {"files": "a.jsonl"}, "clean": [{"dedup": "exact"}]})
    words, task = tooled(), TextGeneration(messages="messages", length=200)
    split = open_split(folder, "train")
    assert [row["messages"] for row in all_rows(folder)] == [row["messages"] for row in rows]
    examples, _ = encode(
        task.runtime(), split, words, read_facts(folder), tmp_path / "a", packed=False, advance=lambda _: None
    )
    for number in range(3):
        text = words.decode(examples[(0, number)]["input_ids"])
        assert text.endswith(f'"arguments": {{"x": {number}}}}}}}]<|im_end|>')
    assert task.runtime().evaluator.scoring.references(split[:]).tolist() == ["", "", ""]


def test_conversations_that_differ_in_their_calls_are_no_duplicates(tmp_path: Path, make_data: Make) -> None:
    rows = [{"messages": calling({"x": n // 2}, 0)["messages"]} for n in range(6)]
    small.write_json_lines(tmp_path / "a.jsonl", rows)
    report, folder = make_data({"source": {"files": "a.jsonl"}, "clean": [{"dedup": "exact"}]})
    assert report.ledger["rows"]["dedup: exact"] == 3
    assert [row["messages"] for row in all_rows(folder)] == [row["messages"] for row in rows[::2]]


FORMS_OF_TALK: dict[str, list[dict[str, Any]]] = {
    "openai": [calling({"city": city}, number) for number, city in enumerate(("Oslo", "Lima"))],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"Say {n}."}, {"from": "gpt", "value": f"{n}."}]}
        for n in range(2)
    ],
    "alpaca": [
        {"instruction": "Say it twice.", "input": "It.", "output": "It. It."},
        {"instruction": "Say hello.", "output": "Hello."},
    ],
}


@pytest.mark.parametrize("name", FORMS_OF_TALK)
def test_conversations_are_learned_as_the_manual_writes_them(
    name: str, tmp_path: Path, make_data: Make
) -> None:
    manual = (INPUTS.parent.parent / "docs" / "tasks.md").read_text(encoding="utf-8")
    [block] = [block for block in re.findall(r"(?ms)^```yaml\n(.*?)^```$", manual) if "sharegpt:" in block]
    tasks = yaml.safe_load(block)
    assert tasks.keys() == FORMS_OF_TALK.keys()
    task, words = TextGeneration.model_validate(tasks[name]), tooled()
    small.write_json_lines(tmp_path / "a.jsonl", FORMS_OF_TALK[name])
    report, folder = make_data({"source": {"files": "a.jsonl"}})
    assert report.data is not None
    assert list(task.check(report.data)) == []
    split = open_split(folder, "train")
    examples, _ = encode(
        task.runtime(), split, words, report.data, tmp_path / "t", packed=False, advance=lambda _: None
    )
    assert len(examples) == 2
    prompts = [words.decode(examples[(0, n)]["input_ids"]) for n in range(2)]
    assert all("<|im_start|>user" in prompt and "<|im_start|>assistant" in prompt for prompt in prompts)
    assert "None" not in "".join(prompts)
    assert ("Oslo" in prompts[0]) == (name == "openai")
    assert "Oslo" not in prompts[1]


# Predictions


@pytest.mark.slow
def test_objects_and_places_of_rows_reach_a_prediction_as_they_are_written(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    words = tooled()
    words.save_pretrained(tmp_path / "model")
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(words),
        n_embd=16,
        n_layer=1,
        n_head=1,
        bos_token_id=0,
        eos_token_id=words.eos_token_id,
        initializer_range=0.9,  # so that every token of the prompt counts
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    rows = [
        {name: value for name, value in calling(each, n).items() if name != "extra"}
        for n, each in enumerate(CALLS)
    ]
    options = ["messages=messages", "tools=tools", "length=600", "generation={max_new_tokens: 6}"]
    ask = {"task": "text-generation", "options": options, "batch_size": 1}
    together = hfpipe.predict(tmp_path / "model", rows, **ask)
    assert len({answer["generated_text"] for answer in together}) == len(rows)
    assert together == [hfpipe.predict(tmp_path / "model", [row], **ask)[0] for row in rows]
    rows[3]["messages"] = [{"role": "user"}]
    with pytest.raises(DataError, match=r"^text 4: column 'messages' holds"):
        hfpipe.predict(tmp_path / "model", rows, **ask)
    more = [rows[0]] * 20 + [rows[3]]  # beyond the first chunk
    with pytest.raises(DataError, match=r"^text 21: column 'messages' holds"):
        hfpipe.predict(tmp_path / "model", more, **ask)


def write_source(folder: Path, row: str) -> dict[str, str]:
    """Write user code that yields five rows, each this expression of its number `n`; return the source."""
    (folder / "rows.py").write_text(
        f"import datetime\n\ndef rows():\n    for n in range(5):\n        yield {row}\n"
    )
    return {"python": "rows.py:rows"}


def test_words_in_a_tuple_are_cleaned_as_those_in_a_list(tmp_path: Path, make_data: Make) -> None:
    source = write_source(tmp_path, "{'words': ('<b>a</b>', f'b{n}')}")
    _, folder = make_data({"source": source, "text": ["words"], "clean": ["html"]})
    assert [row["words"] for row in all_rows(folder)] == [["a", f"b{n}"] for n in range(5)]


def test_an_answer_may_carry_values_that_json_has_no_form_for(tmp_path: Path, make_data: Make) -> None:
    answers = "{'text': ['you'], 'answer_start': [6.0], 'day': datetime.date(2026, 1, 2)}"
    source = write_source(tmp_path, f"{{'context': f'hello you {{n}}', 'question': 'who', 'a': {answers}}}")
    report, folder = make_data({"source": source, "clean": ["html"]})
    assert "a: answer_start read as whole numbers in 5 rows" in report.summary
    assert all(row["a"]["answer_start"] == [6] for row in all_rows(folder))


def test_a_start_that_is_not_where_the_answer_is_is_counted(tmp_path: Path, make_data: Make) -> None:
    answers = "{'text': ['1900'], 'answer_start': [18 if n < 2 else 6]}"
    text = "f'<p>In 1900 and again in 1900 he left {n}.</p>'"
    source = write_source(tmp_path, f"{{'context': {text}, 'question': 'when', 'a': {answers}}}")
    report, folder = make_data({"source": source, "clean": ["html"]})
    assert (
        "a: answer_start does not match the answer, the nearest occurrence is used in 2 rows"
        in report.summary
    )
    assert [row["a"]["answer_start"] for row in all_rows(folder)] == [[21], [21], [3], [3], [3]]


@pytest.mark.parametrize(
    "late",
    [
        [{"role": "user", "content": "x"}, "x", {"role": "user", "content": "x"}],
        [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        [{"role": "user", "content": 7}],
    ],
)
def test_a_conversation_that_the_first_rows_do_not_announce_is_an_error_with_its_line(
    late: list[Any], tmp_path: Path, make_data: Make
) -> None:
    rows: list[dict[str, Any]] = [{"text": f"hello you {n}", "talk": None} for n in range(1000)]
    small.write_json_lines(tmp_path / "a.jsonl", [*rows, {"text": "hello", "talk": late}])
    with pytest.raises(DataError, match=re.escape("a.jsonl, line 1001: 'talk' is [")):
        make_data({"source": {"files": "a.jsonl"}, "text": ["talk", "text"]})


def test_columns_that_rows_lack_are_reported_in_the_order_of_the_columns(
    tmp_path: Path, make_data: Make
) -> None:
    names = [f"column {number}" for number in range(8)]
    first = {"text": "hello you", **dict.fromkeys(names, 1)}
    small.write_json_lines(
        tmp_path / "a.jsonl", [first, {"text": "hello me"}, {"text": "hello all", names[3]: 1}]
    )
    report, _ = make_data({"source": {"files": "a.jsonl"}})
    assert list(report.facts["filled"]) == names


def test_the_first_setting_that_does_not_go_with_a_source_is_named() -> None:
    wrong = {"python": "a.py:f", "sheet": "s", "field": "f", "quote": "'", "header": True, "revision": "r"}
    with pytest.raises(ValidationError, match="`revision` does not go with `python`"):
        Source.model_validate(wrong)
