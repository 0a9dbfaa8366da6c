"""The quick ways by which most rows go through a data set stage give what the general ways give."""

from __future__ import annotations

import json
import sys
import unicodedata
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hfpipe.data import column_types
from hfpipe.data.cleaning.edits import _CONTROL, Unicode
from hfpipe.data.labels.labels import Label
from hfpipe.data.readers import json_records
from hfpipe.data.rows import Row
from hfpipe.encoding.origins import NUMBER, ORIGIN, make_origin_columns
from hfpipe.errors import DataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
lines = st.one_of(
    st.dictionaries(st.text(max_size=3), values, max_size=4).map(json.dumps),
    st.lists(
        st.sampled_from(['{"a"', ": ", "1", "}", ", ", '"a": 2', " ", "{", "[", "\\", '"', "x"]), max_size=6
    ).map("".join),
)


def outcome(decode: Any, line: str) -> str:
    try:
        return repr(decode(line))
    except (ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"


@given(line=lines, end=st.sampled_from(["\n", "", " \n", "\r\n", " x\n", "\x0c\n"]))
@example('{"a": 1, "a": 2}', "\n")
@example('{"a": ' + "[" * 5000, "\n")
@example("{}{}", "\n")
def test_a_line_of_json_is_read_or_refused_as_python_does(line: str, end: str) -> None:
    assert outcome(json_records._decode_line, line + end) == outcome(json_records._decode, line + end)


def test_no_control_character_is_printable() -> None:
    controls = [chr(code) for code in range(sys.maxunicode + 1) if _CONTROL.fullmatch(chr(code))]
    assert len(controls) == 30 + 33 + 2048
    assert not any(map(str.isprintable, controls))


@given(st.text(st.sampled_from("ab\n\t\x00\x1f\x7f\x85\x9f\xa0é\u0301e\u212b\ud800\ufdd0東"), max_size=12))
def test_unicode_is_composed_and_without_control_characters(text: str) -> None:
    assert Unicode().edit(text) == unicodedata.normalize("NFC", _CONTROL.sub("", text))


@given(st.lists(st.text(max_size=4), min_size=1, max_size=3))
def test_an_id_is_made_of_the_lengths_and_the_texts(texts: list[str]) -> None:
    row = Row({}, "a.csv, line", 1, texts=texts)
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    whole = b"".join([*(len(part).to_bytes(8, "little") for part in parts), *parts])
    assert row.digest() == blake2b(whole, digest_size=16).digest()
    assert row.characters == sum(map(len, texts))


@given(st.text(max_size=20), st.text(st.characters(max_codepoint=127), max_size=20))
def test_letters_are_counted_alike_in_every_script(text: str, plain: str) -> None:
    for each in (text, plain):
        assert column_types._count_letters(each) == sum(map(str.isalpha, each))


@pytest.mark.parametrize("origins", [["a"] * 3, ["a"], ["a", "b", "a"], ["a", "a", "b"]])
def test_origins_are_written_once_for_each_file(origins: list[str]) -> None:
    columns = make_origin_columns(origins, range(len(origins)))
    assert columns[ORIGIN].equals(pa.array(origins, pa.string()).dictionary_encode())
    assert columns[NUMBER].to_pylist() == [*range(len(origins))]


def test_a_class_is_counted_however_often_it_comes_and_checked_when_its_type_changes() -> None:
    label = Label("label")
    rows = [Row({"label": value}, "a.csv, line", number) for number, value in enumerate("abab", 2)]
    label.detect_kind(rows)
    for row in rows:
        row.values["label"] = label.read(row.values["label"])
    assert [label.encode(row, "train") for row in rows] == [0, 1, 0, 1]
    assert [label.ids.count_rows(number, {"train"}) for number in (0, 1)] == [2, 2]
    assert label.ids.get_place(1) == "a.csv, line 3"
    for other in (1, None):
        with pytest.raises(DataError, match=r"^a\.csv, line 9: "):
            label.encode(Row({"label": other}, "a.csv, line", 9), "train")
