"""Cleaning: what each step does to text, and a ledger that balances whatever comes in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hfpipe.data.cleaning.cleaner import clean
from hfpipe.data.cleaning.edits import Edit
from hfpipe.data.cleaning.steps import Clean
from hfpipe.data.column_types import find_text_columns
from hfpipe.data.columns import take_texts
from hfpipe.data.ledger import Ledger
from hfpipe.data.rows import Row
from hfpipe.data.spans import Spans
from hfpipe.errors import StageError

STEPS = TypeAdapter(list[Clean])


def rows(*texts: str | None, **values: Any) -> list[Row]:
    return [Row({"text": text, **values}, "rows, line", number) for number, text in enumerate(texts, 1)]


def kept(steps: list[Any], *texts: str | None) -> list[str]:
    ledger = Ledger()
    found = take_texts(rows(*texts), ["text"], ledger)
    return [
        row.values["text"] for row in clean(found, ["text"], STEPS.validate_python(steps), ledger, Spans({}))
    ]


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        ("unicode", "cafe\u0301", "café"),
        ("unicode", "a\x00b\x1bc\x85d\x7f", "abcd"),
        ("unicode", "line\r\n\tnext", "line\n\tnext"),
        ("unicode", "half \ud83d", "half "),
        ("unicode", "日本語 ﬁ", "日本語 ﬁ"),
        ("html", "no markup at all", "no markup at all"),
        ("html", "a <b>bold</b> word", "a bold word"),
        ("html", "<p>one</p><p>two</p>", "one\ntwo"),
        ("html", "line<br/>break", "line\nbreak"),
        ("html", "fish &amp; chips &#8212; &eacute;t&eacute;", "fish & chips — été"),
        ("html", "<script>var x = '<p>';</script>seen<style>p {}</style>", "seen"),
        ("html", "<!-- not seen -->seen", "seen"),
        ("html", "1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("html", "<div>never <p>closed", "never \nclosed"),
        ("mask_pii", "write to jane.doe+spam@example.co.uk now", "write to <EMAIL> now"),
        ("mask_pii", "mail bob@example.com.", "mail <EMAIL>."),
        ("mask_pii", "@handle and a@b are none", "@handle and a@b are none"),
        ("mask_pii", "ping 192.168.0.1, then 8.8.8.8.", "ping <IP>, then <IP>."),
        ("mask_pii", "999.1.1.1 and version 1.2.3.4.5", "999.1.1.1 and version 1.2.3.4.5"),
        ("mask_pii", "host 2001:db8::ff00:42:8329 up", "host <IP> up"),
        ("mask_pii", "std::vector at 12:30:45", "std::vector at 12:30:45"),
        ("mask_pii", "card 4111 1111 1111 1111 charged", "card <CARD> charged"),
        ("mask_pii", "card 4111111111111111", "card <CARD>"),
        ("mask_pii", "number 4111 1111 1111 1112", "number 4111 1111 1111 1112"),
        ("mask_pii", "call +49 30 1234567 today", "call <PHONE> today"),
        ("mask_pii", "call (555) 123-4567", "call <PHONE>"),
        ("mask_pii", "call 555-123-4567 or 555.123.4567", "call <PHONE> or <PHONE>"),
        ("mask_pii", "born 1990-01-31, in 1995-2003", "born 1990-01-31, in 1995-2003"),
        ("mask_pii", "12345678 people, 3.141592653", "12345678 people, 3.141592653"),
        ({"mask_pii": ["email"]}, "a@example.org 8.8.8.8", "<EMAIL> 8.8.8.8"),
    ],
)
def test_an_edit_changes_text_as_its_name_says(step: Any, before: str, after: str) -> None:
    assert kept([step], before) == [after]


@pytest.mark.parametrize(
    ("step", "texts", "stay"),
    [
        ({"min_chars": 3}, ["ab", "abc"], ["abc"]),
        ({"max_chars": 3}, ["abc", "abcd"], ["abc"]),
        ({"min_words": 2}, ["one", "one two"], ["one two"]),
        ({"max_words": 1}, ["one", "one two"], ["one"]),
        ({"drop": {"text": ["[removed]"]}}, ["[removed]", "a"], ["a"]),
        ({"keep_matching": "^a"}, ["ab", "ba"], ["ab"]),
        ({"drop_matching": r"\d{3}"}, ["123", "12"], ["12"]),
        ({"script": "Latin"}, ["naïve, 12!", "привет", "123", "mostly латин"], ["naïve, 12!"]),
        (
            {"script": {"name": "Cyrillic", "share": 0.4}},
            ["mostly латин", "привет"],
            ["mostly латин", "привет"],
        ),
        ({"script": "Han"}, ["漢字です", "漢字漢字漢字", "kanji"], ["漢字漢字漢字"]),
        ({"dedup": "exact"}, ["a", "b", "a", "A"], ["a", "b", "A"]),
        ("dedup", ["a", "a"], ["a"]),
    ],
)
def test_a_filter_keeps_what_its_name_says(step: Any, texts: list[str], stay: list[str]) -> None:
    assert kept([step], *texts) == stay


STORY = (
    "In the beginning there was a small village by the sea, where fishermen repaired their nets each morning "
    "and told stories of storms, of ships that never came back, and of a light that only children saw"
)


def test_near_dedup_drops_what_differs_in_a_word_and_keeps_the_first() -> None:
    changed, other = STORY.replace("saw", "see"), " ".join(reversed(STORY.split()))
    assert kept([{"dedup": "near"}], STORY, other, changed, STORY.upper() + "!") == [STORY, other]


def test_near_dedup_with_a_higher_threshold_drops_less() -> None:
    changed = STORY.replace("small", "tiny")
    assert kept([{"dedup": {"kind": "near", "threshold": 0.6}}], STORY, changed) == [STORY]
    assert kept([{"dedup": {"kind": "near", "threshold": 0.95}}], STORY, changed) == [STORY, changed]


def test_near_dedup_works_without_spaces_and_on_short_texts() -> None:
    chinese = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜"
    assert kept([{"dedup": "near"}], chinese, chinese + "。", "a b", "a b", "a c", "") == [
        chinese,
        "a b",
        "a c",
        "",
    ]


def test_a_filter_sees_text_as_the_steps_above_left_it() -> None:
    steps = ["html", {"drop": {"text": ["gone"]}}, {"min_chars": 3}, {"dedup": "exact"}]
    assert kept(steps, "<b>gone</b>", "<i>a</i>", "<i>abc</i>", "abc") == ["abc"]


def test_rows_without_text_are_dropped_and_counted() -> None:
    ledger = Ledger()
    assert [row.number for row in take_texts(rows("a", None, ""), ["text"], ledger)] == [1, 3]
    assert ledger.rows_lost == {"missing text": 1}


texts = st.one_of(
    st.none(),
    st.text(max_size=30),
    st.sampled_from(
        ["<b>bold</b> &amp;", "a@example.org", "cafe\u0301\x07", "same", "Same  words here", STORY]
    ),
)
EDITS = ["unicode", "html", "mask_pii"]
FILTERS = [
    *({"min_chars": 5}, {"max_chars": 60}, {"min_words": 2}, {"max_words": 3}, {"drop": {"label": ["a"]}}),
    *({"keep_matching": "[a-e]"}, {"drop_matching": "same"}, {"script": "Latin"}, "dedup", {"dedup": "near"}),
]
steps = st.lists(st.sampled_from([*EDITS, *FILTERS]), max_size=6)


@pytest.mark.slow
@given(st.lists(st.tuples(texts, texts, st.sampled_from("ab"))), steps)
def test_the_ledger_balances_for_any_rows_and_any_steps(
    data: list[tuple[str | None, str | None, str]], names: list[Any]
) -> None:
    ledger, chosen = Ledger(), STEPS.validate_python(names)
    given_rows = [Row({"text": a, "text_b": b, "label": c}, "row", n) for n, (a, b, c) in enumerate(data, 1)]
    columns = ["text", "text_b"]
    left = list(clean(take_texts(given_rows, columns, ledger), columns, chosen, ledger, Spans({})))
    for row in left:
        ledger.keep(row, "train")
    closed = ledger.close(["missing text", *dict.fromkeys(step.reason for step in chosen)])
    # counted once more, from outside
    assert closed["rows"].pop("in") == len(data) == sum(closed["rows"].values())
    came = sum(len(text) for pair in data for text in pair[:2] if text is not None)
    assert closed["characters"].pop("in") == came == sum(closed["characters"].values())
    assert closed["characters"]["kept"] == sum(
        len((row.values["text"] or "") + (row.values["text_b"] or "")) for row in left
    )


def test_a_ledger_that_does_not_balance_stops_the_stage() -> None:
    ledger = Ledger()
    ledger.enter(3)
    with pytest.raises(StageError, match="1 rows and 3 characters were read"):
        ledger.close([])


@given(st.text(), st.sampled_from(EDITS))
def test_an_edit_never_fails_and_cleans_all_at_once(text: str, name: str) -> None:
    step = Clean.model_validate(name).step
    assert isinstance(step, Edit)
    once = step.edit(text)
    if name != "html":  # decoding &amp;lt; once must leave &lt;
        assert step.edit(once) == once


@pytest.mark.parametrize(
    ("wrong", "loc"),
    [
        ("unicod", (2, "unicod")),
        ({"min_char": 40}, (2, "min_char")),
        ({"min_chars": "many"}, (2, "min_chars")),
        ({"min_chars": 0}, (2, "min_chars")),
        ({"mask_pii": ["mail"]}, (2, "mask_pii", 0)),
        ({"script": "Latn2"}, (2, "script", "name")),
        ({"keep_matching": "("}, (2, "keep_matching")),
        ({"dedup": "fuzzy"}, (2, "dedup", "kind")),
        ({"dedup": {"kind": "exact", "threshold": 0.5}}, (2, "dedup")),
        ({"min_chars": 1, "max_chars": 2}, (2,)),
        ({}, (2,)),
        (3, (2,)),
    ],
)
def test_a_wrong_step_is_refused_with_its_place(wrong: Any, loc: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        STEPS.validate_python(["unicode", {"min_chars": 40}, wrong])
    assert caught.value.errors()[0]["loc"] == loc


@given(steps)
def test_steps_read_back_from_json_are_the_same(names: list[Any]) -> None:
    chosen = STEPS.validate_python(names)
    again = STEPS.validate_python(STEPS.dump_python(chosen, mode="json"))
    assert again == chosen
    assert [step.reason for step in again] == [step.reason for step in chosen]


def test_messages_are_text_each_cleaned_by_itself() -> None:
    talk = [{"role": "user", "content": "<b>Why?</b>"}, {"role": "assistant", "content": "<i>So.</i>"}]
    given_rows = [
        Row({"messages": messages, "topic": "a", "id": "1"}, "rows, line", 1) for messages in (talk, [])
    ]
    assert find_text_columns(given_rows, ["topic"], []) == ["messages"]
    assert find_text_columns(given_rows, [], []) == ["messages"]
    ledger = Ledger()
    found = take_texts(given_rows, ["messages"], ledger)
    first, empty = clean(found, ["messages"], STEPS.validate_python(["html"]), ledger, Spans({}))
    assert first.values["messages"] == [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
    ]
    assert empty.values["messages"] == []
    assert first.digest() != empty.digest()
