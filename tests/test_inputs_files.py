"""Files as people have them: each is read to the rows that it holds, or one line says what to write."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from pydantic import ValidationError

from hfpipe.contract import RunContext
from hfpipe.data.rows import Row, sample_rows_evenly
from hfpipe.encoding.io import open_data, open_split
from hfpipe.errors import DataError
from hfpipe.metrics.scores.entities import Entity, extract_entities
from hfpipe.report import DataFacts, Report
from hfpipe.stages.dataset import Dataset
from hfpipe.tasks.token_classification import TokenClassification

INPUTS = Path(__file__).parent / "inputs"
Make = Callable[..., tuple[Report, Path]]
TABLE = [["text", "label"], ["a fine, warm soup", "pos"], ['he said "no" twice', "neg"], ["thin", "neg"]]


@pytest.fixture
def read(tmp_path: Path, make_data: Make) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that writes one file and gives the rows that are read from it, ids left out."""

    def rows(content: bytes | str, name: str = "data.csv", **source: Any) -> list[dict[str, Any]]:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        text = source.pop("text", [])
        _, folder = make_data({"source": {"files": name, **source}, "text": text})
        return records(folder)

    return rows


def records(folder: Path, split: str = "train", *, ids: bool = False) -> list[dict[str, Any]]:
    """Return rows with classes by name."""
    data = open_split(folder, split)
    names = {name: getattr(feature, "names", None) for name, feature in data.features.items()}
    return [
        {
            name: names[name][value] if names[name] else value
            for name, value in row.items()
            if ids or name != "id"
        }
        for row in data
    ]


def case(name: str, context: Callable[..., RunContext], recipe: str = "recipe.yaml") -> tuple[Report, Path]:
    """Run the dataset stage of a reported case."""
    folder = next(INPUTS.glob(f"{name}-*"))
    stage = yaml.safe_load((folder / recipe).read_text(encoding="utf-8"))["stages"]["data"]
    ctx = context()
    ctx = type(ctx)(ctx.name, ctx.folder, folder, ctx.seed, ctx.inputs, ctx.progress)
    return Dataset.model_validate(stage).run(ctx), ctx.folder


def written(separator: str = ",", quoting: Any = csv.QUOTE_MINIMAL, **options: Any) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=separator, quoting=quoting, **options).writerows(TABLE)
    return out.getvalue()


ROWS = [dict(zip(*pair, strict=True)) for pair in zip([TABLE[0]] * 3, TABLE[1:], strict=True)]


# csv and tsv


def test_a_file_separated_by_semicolons_is_read_and_that_is_reported(context: Any) -> None:
    report, folder = case("02", context)
    assert records(folder)[0] == {"text": "the soup was warm and rich on day 0, really", "label": "pos"}
    assert report.facts["files"] == [{"first": "data.csv", "files": 1, "separator": ";"}]
    assert 'data.csv: separator ";"' in report.summary


@pytest.mark.parametrize("name", ["data.csv", "data.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found_out(separator: str, name: str, read: Any) -> None:
    assert read(written(separator), name) == ROWS


def test_a_file_without_commas_separated_by_semicolons_has_two_columns(read: Any) -> None:
    content = (next(INPUTS.glob("02-*")) / "nocomma.csv").read_bytes()
    assert read(content)[1] == {"text": "the soup was cold and thin on day 0", "label": "neg"}


def test_commas_in_a_single_column_are_not_separators(read: Any) -> None:
    assert read('text\n"a, b; c"\n"d, e; f"\n', text=["text"]) == [{"text": "a, b; c"}, {"text": "d, e; f"}]


def test_a_separator_in_the_recipe_is_not_questioned(read: Any) -> None:
    content = "text,n~label\na,b~x\nc,d~y\n"
    assert read(content, separator="~", text=["text,n"])[0] == {"text,n": "a,b", "label": "x"}


def test_the_first_line_of_excel_names_the_separator(context: Any, read: Any) -> None:
    report, folder = case("58", context)
    assert records(folder) == [{"text": "a b", "label": "x"}, {"text": "c d", "label": "y"}]
    assert report.facts["files"] == [{"first": "data.csv", "files": 1, "skipped": "1 line"}]
    assert read("sep=;\r\n" + written(";")) == ROWS
    with pytest.raises(DataError, match=r"data\.csv, line 4: 3 fields, but the header has 2"):
        read("sep=|\ntext|label\na|x\nb|y|z\n")


def test_quotes_escaped_by_backslashes_are_read(context: Any, read: Any) -> None:
    report, folder = case("36", context)
    assert records(folder)[0] == {"text": 'he said "go" and left', "label": "a"}
    assert report.facts["files"][0]["escape"] == "\\"
    assert read(written(quoting=csv.QUOTE_ALL, escapechar="\\", doublequote=False)) == ROWS
    with pytest.raises(
        DataError, match=r"data\.csv, line 3: this file escapes quotes with backslashes.* before 'n'"
    ):
        read('text,label\n"a \\"b\\" c",x\n"C:\\new",y\n')
    assert read('text,label\n"a \\"b\\" c",x\n"C:\\new",y\n', escape="\\")[1]["text"] == "C:new"


def test_tsv_that_pandas_quoted_is_read_without_its_quotes(context: Any, read: Any) -> None:
    report, folder = case("36b", context)
    assert records(folder)[0] == {"text": 'he said "go", and left', "label": "b"}
    assert report.facts["files"][0]["quote"] == '"'
    _, folder = case("36c", context)
    assert records(folder)[0] == {"text": "two\nlines", "label": "b"}
    assert read(written("\t", csv.QUOTE_ALL), "data.tsv") == ROWS


def test_quotes_of_a_tsv_that_no_writer_put_are_text(read: Any) -> None:
    assert read('text\tlabel\n"good" film\ta\n"fine ."\tb\n', "data.tsv") == [
        {"text": '"good" film', "label": "a"},
        {"text": '"fine ."', "label": "b"},
    ]


def test_quotes_that_come_late_in_a_tsv_are_named_with_their_line(read: Any) -> None:
    plain = "text\tlabel\n" + "plain words and more of them\tx\n" * 5000
    with pytest.raises(DataError, match=r"^data\.tsv, line 5002: a field is quoted as .*`quote: "):
        read(plain + '"he said ""go"""\ty\n', "data.tsv")
    with pytest.raises(DataError, match=r"^data\.tsv, line 5002: 1 field, .* write `quote: "):
        read(plain + '"two\nlines"\ty\n', "data.tsv")
    late = read(plain + '"he said ""go"""\ty\n"two\nlines"\tx\n', "data.tsv", quote='"')
    assert [row["text"] for row in late[5000:]] == ['he said "go"', "two\nlines"]
    assert read(plain + '"he said ""go"""\ty\n', "data.tsv", quote=False)[5000]["text"] == '"he said ""go"""'


def test_a_csv_whose_quotes_are_text_is_read_once_the_recipe_says_so(read: Any) -> None:
    content = 'text,label\n"good" film,a\nbad,b\n'
    with pytest.raises(DataError, match=r"^data\.csv, line 2: more text follows .* `quote: false`"):
        read(content)
    assert read(content, quote=False)[0] == {"text": '"good" film', "label": "a"}
    assert read("text,label\n'a, b',x\n", quote="'")[0] == {"text": "a, b", "label": "x"}


def test_the_line_where_a_quote_opens_is_named(read: Any) -> None:
    with pytest.raises(DataError, match=r"^data\.csv, line 3: the quote that opens here is never closed"):
        read('text,label\nfine,a\n"never,b\n' + "more,c\n" * 50)


def test_a_row_is_named_by_the_line_where_it_begins(read: Any) -> None:
    with pytest.raises(DataError, match=r"^data\.csv, line 5: 3 fields"):
        read('text,label\n"a\nb",x\n\nc,d,e\n')


# Headers


def test_a_first_line_that_looks_like_data_is_not_taken_for_a_header(context: Any, read: Any) -> None:
    with pytest.raises(DataError, match=r"^data\.csv, line 1: the first line looks like data") as caught:
        case("93b", context)
    [advice] = re.findall(r"`(header: \[.*?\])`", str(caught.value))
    content = (next(INPUTS.glob("93b-*")) / "data.csv").read_bytes()
    rows = read(content, **yaml.safe_load(advice))
    assert len(rows) == content.count(b"\n") + (not content.endswith(b"\n"))
    assert rows[0] == {"text": "the soup was warm and rich on day 0", "label": "pos"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("good,pos\nbad,neg\nfine,pos\nawful,neg\n", "'pos' is also a value below it"),
        ("a,0.5\nb,1.5\nc,2.5\n", "0.5 is a number like those below it"),
        ("これはとても良い映画でした\nあれはひどく退屈な映画だ\n", "is a text like those below it"),
    ],
)
def test_the_reason_why_a_first_line_is_data_is_reported(content: str, why: str, read: Any) -> None:
    with pytest.raises(DataError, match=why):
        read(content)
    column = read(content, header=False, text=["column_1"])
    assert [row["column_1"] for row in column] == [line.split(",")[0] for line in content.splitlines()]


@pytest.mark.parametrize(
    "content", ["word,count\nthe,5\nword,3\nof,2\n", "0,1\na,x\nb,y\n", "text,year\na,1990\n"]
)
def test_a_header_that_is_one_is_taken(content: str, read: Any) -> None:
    head = content.partition("\n")[0].split(",")
    assert list(read(content, text=head[:1])[0]) == head
    assert list(read(content, text=head[:1], header=True)[0]) == head


def test_names_are_stripped_and_an_empty_one_gets_that_of_pandas(read: Any) -> None:
    content = "\ufeff, text ,\u00a0label\n0,a,x\n"
    assert read(content, text=["text"])[0] == {"Unnamed: 0": "0", "text": "a", "label": "x"}
    assert list(pd.read_csv(io.StringIO(",text\n0,a\n")).columns) == ["Unnamed: 0", "text"]


def test_a_header_of_the_recipe_names_every_column(read: Any) -> None:
    assert read("a b,x\nc d,y\n", header=["text", "label"])[1] == {"text": "c d", "label": "y"}
    with pytest.raises(DataError, match=r"line 1: has 2 fields, but header names 3"):
        read("a b,x\n", header=["text", "label", "n"])


def test_a_second_header_within_a_file_is_named(read: Any) -> None:
    with pytest.raises(DataError, match=r"^data\.csv, line 3: repeats the header"):
        read("text,label\na,x\ntext,label\nb,y\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separator": ";;"}, "is not one character"),
        ({"quote": "\n"}, "is not one character"),
        ({"separator": ";", "quote": ";"}, "are three characters"),
        ({"quote": False, "escape": "\\"}, "`escape` needs a quote"),
        ({"header": ["a", "a"]}, "`header` names each column once"),
        ({"header": []}, "`header` names each column once"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_anything_runs(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Dataset.model_validate({"source": {"files": "a.csv", **options}})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("data.jsonl", {"separator": ";"}, "separator is for csv, tsv, and this file is read as jsonl"),
        ("data.csv", {"field": "data"}, "field is for json, and this file is read as csv"),
        ("data.parquet", {"encoding": "latin-1"}, "encoding is for txt, jsonl"),
    ],
)
def test_an_option_that_a_format_does_not_have_is_refused(
    name: str, options: dict[str, Any], message: str, read: Any
) -> None:
    with pytest.raises(DataError, match=message):
        read(b"x", name, **options)


# Encodings


def test_utf_16_of_excel_is_read_by_its_byte_order_mark(context: Any) -> None:
    report, folder = case("03", context)
    assert len(records(folder)) + len(records(folder, "test")) == 80
    assert report.facts["files"] == [{"first": "data.txt", "files": 1, "encoding": "utf-16"}]


@pytest.mark.parametrize("mark", ["UTF8", "UTF16_LE", "UTF16_BE", "UTF32_LE", "UTF32_BE"])
@pytest.mark.parametrize("name", ["data.csv", "data.jsonl", "data.json"])
def test_every_byte_order_mark_is_followed(mark: str, name: str, read: Any) -> None:
    rows = [{"text": "Übung 熟能 🦊", "label": "x"}, {"text": "b", "label": "y"}]
    text = {
        "data.csv": "text,label\nÜbung 熟能 🦊,x\nb,y\n",
        "data.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        "data.json": json.dumps(rows, ensure_ascii=False),
    }[name]
    codec = {"UTF8": "utf-8"}.get(mark, f"{mark[:3]}-{mark[3:5]}-{mark[-2:]}".lower())
    content = getattr(codecs, f"BOM_{mark}") + text.encode(codec)
    assert read(content, name) == rows
    if mark != "UTF8":
        assert read(content, name, encoding=codec) == rows


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_without_a_mark_the_message_names_the_encoding_and_its_advice_works(codec: str, read: Any) -> None:
    content = "text,label\nfine words,x\n".encode(codec)
    for given in ({}, {"encoding": codec[:6]}):
        with pytest.raises(DataError, match=r"without a byte order mark|has no byte order mark") as caught:
            read(content, **given)
        [advice] = re.findall(r"`(encoding: .*?)`", str(caught.value))
        assert read(content, **yaml.safe_load(advice)) == [{"text": "fine words", "label": "x"}]


def test_a_mark_that_contradicts_the_recipe_is_an_error(read: Any) -> None:
    with pytest.raises(DataError, match=r"^data\.csv: begins with the byte order mark of utf-8; delete `enc"):
        read("\ufefftext,label\na,x\n", encoding="cp1252")
    with pytest.raises(DataError, match="mark of utf-16"):
        read("text,label\na,x\n".encode("utf-16"), encoding="latin-1")


@pytest.mark.parametrize(
    "name", ["rot13", "hex", "punycode", "idna", "base64", "undefined", "utf-9", "zlib", ""]
)
def test_a_codec_that_is_not_a_text_encoding_is_refused_by_check(name: str) -> None:
    with pytest.raises(ValidationError, match="is not a text encoding; write utf-8"):
        Dataset.model_validate({"source": {"files": "a.txt", "encoding": name}})


@pytest.mark.parametrize(
    "name", ["utf-8", "latin-1", "cp1252", "utf-16", "gb18030", "shift_jis", "big5", "cp037", "utf-8-sig"]
)
def test_an_encoding_of_text_is_taken(name: str) -> None:
    assert Dataset.model_validate({"source": {"files": "a.txt", "encoding": name}}).source.encoding == name


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(b"text\na\n", mtime=0), r"is not text but a gzip file; rename it to end in \.gz"),
        (zstandard.compress(b"text\na\n"), r"is not text but a zstd file; rename it to end in \.zst"),
        (b"PK\x03\x04rest", r"is not text but a zip archive \(unpack it\) or an Excel workbook"),
        (b"PAR1rest", "is not text but a Parquet file; write `format: parquet`"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is not text but an old Office file"),
    ],
)
def test_a_file_that_is_not_text_is_named_for_what_it_is(content: bytes, what: str, read: Any) -> None:
    with pytest.raises(DataError, match=rf"^data\.csv: {what}"):
        read(content)


def test_a_byte_that_is_not_utf_8_is_named_with_its_line(read: Any) -> None:
    with pytest.raises(DataError, match=r"^data\.csv, line 3: byte 18 \(0xe9\) is not utf-8"):
        read(b"text,label\na,x\ncaf\xe9,y\n")


# JSON


def test_json_written_column_by_column_is_never_read_as_rows(context: Any, read: Any) -> None:
    with pytest.raises(DataError, match=r"^data\.json: is written column by column.*orient='records'"):
        case("22", context)
    frame = pd.DataFrame({"text": ["a b", "c d", "e f"], "label": ["x", "y", "x"]})
    for content in (
        frame.to_json(orient="columns"),
        frame.set_index(pd.Index(["one", "two", "three"])).rename(columns={"label": "kind"}).to_json(),
        frame[frame.label == "x"].to_json(),
        frame[:2].set_index(pd.Index(["one", "two"])).to_json(),
        json.dumps(frame.to_dict("list")),
    ):
        with pytest.raises(DataError, match="column by column"):
            read(content, "data.json")
    with pytest.raises(DataError, match=r"pandas' orient='split'.*orient='records'"):
        read(frame.to_json(orient="split"), "data.json")
    with pytest.raises(DataError, match=r"its records are under 'data'; add `field: data`"):
        read(frame.to_json(orient="table"), "data.json")
    assert read(frame.to_json(orient="records"), "data.json") == frame.to_dict("records")
    index = frame.set_index(pd.Index(["one", "two", "three"])).to_json(orient="index")
    assert read(index, "data.json") == frame.to_dict("records")


def test_field_reaches_nested_records(read: Any) -> None:
    rows = [{"text": "a b", "label": "x"}, {"text": "c d", "label": "y"}]
    assert read(json.dumps({"version": 1, "data": rows}), "data.json", field="data") == rows
    assert read(json.dumps({"a": {"b": rows}}), "data.json", field="a.b") == rows
    assert read(json.dumps({"a.b": rows, "a": 1}), "data.json", field="a.b") == rows
    with pytest.raises(
        DataError, match=r"^data\.json: there is no 'c', which `field: .a\.c.` names; there is 'b'"
    ):
        read(json.dumps({"a": {"b": rows}}), "data.json", field="a.c")
    with pytest.raises(DataError, match=r"add `field: .a\.b.`"):
        read(json.dumps({"a": {"n": 2, "b": rows}}), "data.json", field="a")


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_inside_jsonl_is_read(indent: int | None, read: Any) -> None:
    rows = [{"text": "a b", "label": "x"}, {"text": "c d", "label": "y"}]
    assert read(json.dumps(rows, indent=indent), "data.jsonl") == rows


@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_a_key_that_is_there_twice_is_an_error(name: str, read: Any) -> None:
    line = '{"text": "a", "label": "x", "text": "b"}'
    with pytest.raises(DataError, match=r"the key 'text' occurs twice in one object"):
        read(line if name == "data.jsonl" else f"[{line}]", name)
    with pytest.raises(DataError, match=r"the key 'n' occurs twice"):
        read(
            '{"text": "a", "meta": {"n": 1, "n": 2}}'
            if name == "data.jsonl"
            else '[{"m": {"n": 1, "n": 2}}]',
            name,
        )


@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_json_nested_too_deep_is_one_line(name: str, brackets: str, read: Any) -> None:
    inside = "[" * 100_000 + "]" * 100_000 if brackets == "[]" else '{"a":' * 100_000 + "1" + "}" * 100_000
    line = f'{{"text": {inside}}}'
    with pytest.raises(DataError, match=r"^data\.json.*nested too deeply") as caught:
        read(line if name == "data.jsonl" else f"[{line}]", name)
    assert len(str(caught.value)) < 200


def test_a_key_that_some_rows_lack_is_null_there(context: Any, read: Any) -> None:
    report, folder = case("23", context)
    rows = records(folder) + records(folder, "test")
    assert report.facts["filled"] == {"input": 1}
    assert "'input' is null in 1 rows that lack it" in report.summary
    assert len(rows) + report.ledger["rows"]["missing text"] == 40
    lines = '{"text": "a", "n": 1}\n{"text": "b"}\n{"n": 3, "text": "c", "page": {"title": "t"}}\n'
    assert [row["n"] for row in read(lines, "data.jsonl")] == [1, None, 3]


def test_a_key_that_comes_after_the_first_rows_is_an_error(read: Any) -> None:
    late = '{"text": "a"}\n' * 1500 + '{"text": "b", "new": 1}\n'
    with pytest.raises(DataError, match=r"^data\.jsonl, line 1501: the columns are 'text' and 'new'"):
        read(late, "data.jsonl")


def test_a_column_name_of_half_a_character_is_named(read: Any) -> None:
    with pytest.raises(DataError, match=r"^data\.jsonl, line 1: the column name '\\ud83d' holds half a char"):
        read('{"text": "a b", "\\ud83d": 1}\n', "data.jsonl")
    with pytest.raises(DataError, match=r"the column name 'n\\x00m' holds a zero byte; rename it"):
        read('{"text": "a b", "n\\u0000m": 1}\n', "data.jsonl")


# Numbers and types


def test_whole_numbers_of_64_bits_are_kept(context: Any, read: Any) -> None:
    _, folder = case("11", context)
    assert records(folder)[0]["simhash"] == 18329103420363166824
    big = 2**64 - 1
    assert read(f'{{"text": "a b", "n": {big}}}\n{{"text": "c", "n": null}}\n', "data.jsonl")[0]["n"] == big
    table = pa.table({"text": ["a b", "c"], "n": pa.array([1, big], pa.uint64())})
    assert [row["n"] for row in read(parquet(table), "data.parquet")] == [1, big]


def test_the_row_with_a_number_too_large_is_named(read: Any) -> None:
    for value in (2**64, -(2**63) - 1):
        with pytest.raises(DataError, match=rf"^data\.jsonl, line 2: 'n' is {value}, too large"):
            read(f'{{"text": "a b", "n": 1}}\n{{"text": "c", "n": {value}}}\n', "data.jsonl")
    many = '{"text": "a b", "n": 1}\n' * 1200 + f'{{"text": "c", "n": {2**63}}}\n'
    with pytest.raises(
        DataError, match=r"^data\.jsonl, line 1201: 'n' is 9223372036854775808, too large for int64"
    ):
        read(many, "data.jsonl")


def test_a_number_among_texts_is_named_with_its_line(context: Any) -> None:
    with pytest.raises(DataError, match=r"^data\.jsonl, line 2: 'text' is 12345, not a string"):
        case("67", context)


@pytest.mark.parametrize(("odd", "line"), [(0, 1), (1, 2), (7, 8)])
@pytest.mark.parametrize("column", ["text", "year"])
def test_the_row_that_differs_from_the_others_is_named(column: str, odd: int, line: int, read: Any) -> None:
    rows = [{"text": "a b", "year": f"in {n}"} for n in range(10)]
    rows[odd] = {**rows[odd], column: 12345}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    with pytest.raises(DataError, match=rf"^data\.jsonl, line {line}: '{column}' is 12345"):
        read(lines, "data.jsonl", text=["text"])


# Parquet and Arrow


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


ODD = sorted(path.name for path in next(INPUTS.glob("52-*")).glob("*.yaml"))


@pytest.mark.parametrize("recipe", ODD)
def test_odd_types_of_parquet_are_read_as_they_are(recipe: str, context: Any) -> None:
    _, folder = case("52", context, recipe)
    rows = [row for split in open_data(folder) for row in records(folder, split)]
    name = "data.parquet" if recipe == "recipe.yaml" else recipe.replace(".yaml", ".parquet")
    table = pq.read_table(next(INPUTS.glob("52-*")) / name)
    [given] = [{row["text"]: row for row in table.to_pylist()}]
    assert len(rows) == len(given) == 40
    for row in rows:
        expected = given[row["text"]]
        if "meta" in expected:
            expected["meta"] = [{"key": key, "value": value} for key, value in expected["meta"]]
        assert row == expected


KEPT: dict[str, tuple[pa.DataType, list[Any]]] = {
    "decimals that grow": (pa.decimal128(20, 3), [Decimal("1.100"), Decimal("12345678901.125")]),
    "nanoseconds": (pa.timestamp("ns"), [pd.Timestamp(1), pd.Timestamp(1_700_000_000_123_456_789)]),
    "a zone": (pa.timestamp("us", "Europe/Berlin"), [datetime(2024, 1, 2, tzinfo=timezone.utc)] * 2),
    "durations": (pa.duration("ms"), [timedelta(seconds=1), None]),
    "days": (pa.date64(), [date(2024, 1, 2), None]),
    "large strings": (pa.large_string(), ["a", "b"]),
    "string views": (pa.string_view(), ["a", "b"]),
    "half floats": (pa.float16(), [0.5, 1.5]),
    "fixed lists": (pa.list_(pa.int32(), 2), [[1, 2], [3, 4]]),
    "nulls": (pa.null(), [None, None]),
}


@pytest.mark.parametrize("title", KEPT)
def test_a_type_of_arrow_is_kept(title: str, read: Any) -> None:
    kind, values = KEPT[title]
    table = pa.table({"text": ["one text", "another"], "odd": pa.array(values, kind)})
    assert [row["odd"] for row in read(arrow(table), "data.arrow", text=["text"])] == values


def test_maps_at_any_depth_become_lists_of_key_and_value(read: Any) -> None:
    kind = pa.struct([("m", pa.list_(pa.map_(pa.string(), pa.int64())))])
    table = pa.table({"text": ["one text", "b"], "odd": pa.array([{"m": [[("k", 1)], []]}, None], kind)})
    [first, second] = read(parquet(table), "data.parquet", text=["text"])
    assert first["odd"] == {"m": [[{"key": "k", "value": 1}], []]}
    assert second["odd"] is None or second["odd"] == {"m": None}


def test_two_columns_of_one_name_are_an_error(read: Any) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    for name, content in (("data.parquet", parquet(table)), ("data.arrow", arrow(table))):
        with pytest.raises(DataError, match=rf"^{name}: has two columns of the name 'text'; rename one"):
            read(content, name)
    inside = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])
    nested = pa.table({"text": ["a"], "odd": inside})
    with pytest.raises(DataError, match=r"^data\.arrow, row 1: column 'odd' .*duplicate field names"):
        read(arrow(nested), "data.arrow")


def test_text_that_is_not_utf_8_inside_arrow_and_parquet_is_named(read: Any) -> None:
    raw = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    table = pa.table({"text": raw})
    with pytest.raises(DataError, match=r"^data\.parquet, row 2: column 'text' \(string\) cannot be read"):
        read(parquet(table), "data.parquet")
    with pytest.raises(DataError, match=r"^data\.arrow: cannot be read as arrow \(.*UTF8"):
        read(arrow(table), "data.arrow")


@pytest.mark.parametrize("name", ["data.parquet", "data.arrow", "data.csv.gz", "data.jsonl.zst", "data.xlsx"])
def test_a_file_that_is_cut_or_damaged_at_any_place_is_one_line(name: str, tmp_path: Path, read: Any) -> None:
    content = whole(name)
    wrong = 0
    for part in range(1, 12):
        cut = content[: len(content) * part // 12]
        place = len(content) * part // 12
        changed = (
            content[:place] + bytes(byte ^ 0xFF for byte in content[place : place + 4]) + content[place + 4 :]
        )
        for damaged in (cut, changed):
            with suppress(DataError):
                read(damaged, name)
                continue
            with pytest.raises(DataError, match=rf"^{re.escape(name)}[^\n]*$"):
                read(damaged, name)
            wrong += 1
    assert wrong > 11


def whole(name: str) -> bytes:
    rows = {"text": [f"text number {n} and more" for n in range(300)], "label": ["x", "y", "z"] * 100}
    table = pa.table(rows)
    lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    sink = io.BytesIO()
    if name.endswith("xlsx"):
        table.to_pandas().to_excel(sink, index=False)
    return {
        "data.parquet": lambda: parquet(table),
        "data.arrow": lambda: arrow(table),
        "data.csv.gz": lambda: gzip.compress(table.to_pandas().to_csv(index=False).encode()),
        "data.jsonl.zst": lambda: zstandard.compress(lines),
        "data.xlsx": sink.getvalue,
    }[name]()


# SQuAD


def test_squad_of_version_1_is_read_into_questions(context: Any) -> None:
    report, folder = case("21", context)
    rows = records(folder, ids=True) + records(folder, "test", ids=True)
    assert len(rows) == 40
    [row] = [row for row in rows if row["id"] == "q3"]
    assert set(row) == {"id", "question", "context", "answers"}
    start = row["answers"]["answer_start"][0]
    assert row["context"][start:].startswith(row["answers"]["text"][0])
    assert report.facts["files"] == [{"first": "train.json", "files": 1, "format": "SQuAD"}]


def squad(*questions: dict[str, Any]) -> str:
    paragraph = {"context": "It was Ada.", "qas": list(questions)}
    return json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": [paragraph]}]})


ANSWER = {"text": "Ada", "answer_start": 7}


def test_squad_of_version_2_has_questions_without_answers(read: Any) -> None:
    rows = read(
        squad(
            {"id": "a", "question": "Who?", "answers": [ANSWER, ANSWER], "is_impossible": False},
            {
                "id": "b",
                "question": "Why?",
                "answers": [],
                "is_impossible": True,
                "plausible_answers": [ANSWER],
            },
        ),
        "data.json",
    )
    assert [row["answers"] for row in rows] == [
        {"text": ["Ada", "Ada"], "answer_start": [7, 7]},
        {"text": [], "answer_start": []},
    ]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"id": "a", "question": "Who?"}, "question 1: there is no 'answers', which a SQuAD file has here"),
        ({"id": "a", "question": "Who?", "answers": ["Ada"]}, "question 1: there is no 'text'"),
        ({"id": "a", "question": "Who?", "answers": None}, "question 1: 'answers' is None, not a list"),
        (
            {"id": "a", "question": "?", "answers": [ANSWER], "is_impossible": True},
            "question 1: has answers and `is_impossible: true`",
        ),
    ],
)
def test_a_question_that_squad_does_not_have_is_named(
    question: dict[str, Any], message: str, read: Any
) -> None:
    with pytest.raises(DataError, match=rf"^data\.json, {re.escape(message)}"):
        read(squad(question), "data.json")


# CoNLL


def test_conll_2003_is_read_into_words_and_tags(context: Any) -> None:
    report, folder = case("24", context)
    assert report.data is not None
    assert report.data.columns == {"id": "string", "words": "strings", "tags": "labels"}
    names = report.data.labels["tags"]
    rows = [row for split in ("train", "test") for row in open_split(folder, split)]
    assert len(rows) == 40
    assert Counter(tuple(names[tag] for tag in row["tags"]) for row in rows) == {
        ("B-PER", "O", "B-LOC", "O"): 40
    }
    assert {row["words"][0] for row in rows} == {"Ada"}


@pytest.mark.parametrize("name", ["data.conll", "data.iob", "data.txt"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_words_of_tabs_hold_spaces_and_blank_lines_end_sentences(name: str, newline: str, read: Any) -> None:
    text = "\n\nNew York\tB-LOC\nis\tO\n \t\n\nAda\tB-PER\n".replace("\n", newline)
    rows = read(text, name, format="conll", text=["words"])
    assert [row["words"] for row in rows] == [["New York", "is"], ["Ada"]]


def test_every_column_of_conll_can_be_named(read: Any) -> None:
    text = "Ada NNP I-NP B-PER\nsaw VBD I-VP O\n"
    [row] = read(text, "data.conll", header=["words", "pos", "chunks", "tags"], text=["words"])
    assert row["pos"] == ["NNP", "VBD"]
    assert row["chunks"] == ["I-NP", "I-VP"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ada B-PER\nsaw\n", r"line 2: 1 columns, but the first line has 2"),
        ("Ada\nsaw\n", r"line 1: 'Ada' has no tag"),
        ("Ada|B-PER saw|O\n", r"line 1: has a whole sentence on one line"),
        ("# text = Ada\n1\tAda\tAda\tPROPN\t_\t_\t0\troot\t_\t_\n", r"line 1: this is a CoNLL-U file"),
    ],
)
def test_what_is_not_conll_is_named_with_its_line(text: str, message: str, read: Any) -> None:
    with pytest.raises(DataError, match=rf"^data\.conll, {message}"):
        read(text, "data.conll")


SCHEMES = {
    "BIO": ["B-PER", "I-PER", "B-PER", "O", "B-LOC"],
    "IOB1": ["I-PER", "I-PER", "B-PER", "O", "I-LOC"],
    "BIOES": ["B-PER", "E-PER", "S-PER", "O", "S-LOC"],
    "BMES": ["B-PER", "E-PER", "S-PER", "O", "S-LOC"],
    "BMES of four": ["B-PER", "M-PER", "M-PER", "E-PER", "S-LOC"],
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_of_tags_marks_the_same_entities(scheme: str) -> None:
    expected = [Entity("PER", 0, 2), Entity("PER", 2, 3), Entity("LOC", 4, 5)]
    if scheme == "BMES of four":
        expected = [Entity("PER", 0, 4), Entity("LOC", 4, 5)]
        assert extract_entities(SCHEMES[scheme], "BMES") == expected
    assert extract_entities(SCHEMES[scheme]) == expected
    names = sorted({"O", *SCHEMES[scheme]})
    facts = DataFacts(columns={"words": "strings", "tags": "labels"}, splits={}, labels={"tags": names})
    assert list(TokenClassification().check(facts)) == []


def test_an_entity_that_bmes_breaks_off_does_not_run_into_the_next() -> None:
    assert extract_entities(["B-PER", "M-PER", "B-PER", "E-PER"]) == [
        Entity("PER", 0, 2),
        Entity("PER", 2, 4),
    ]


# Excel


def workbook(rows: list[list[Any]], **others: list[list[Any]]) -> bytes:
    book, sink = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    for title, cells in others.items():
        sheet = book.create_sheet(title)
        for row in cells:
            sheet.append(row)
    book.save(sink)
    return sink.getvalue()


def test_a_workbook_is_read_with_the_types_of_its_cells(read: Any) -> None:
    rows = [["text", "label", "n"], ["a b", "x", 1], [None, None, None], ["c d", "y", None]]
    assert read(workbook(rows), "data.xlsx") == [
        {"text": "a b", "label": "x", "n": 1},
        {"text": "c d", "label": "y", "n": None},
    ]


def test_a_sheet_is_named_where_there_are_several(read: Any) -> None:
    content = workbook(TABLE, more=[["text", "label"], ["other words", "z"]])
    with pytest.raises(
        DataError, match=r"^data\.xlsx: has sheets 'Sheet', 'more'; name one with `sheet: Sheet`"
    ):
        read(content, "data.xlsx")
    assert read(content, "data.xlsx", sheet="Sheet") == ROWS
    assert read(content, "data.xlsx", sheet="more") == [{"text": "other words", "label": "z"}]
    with pytest.raises(DataError, match=r"there is no sheet 'most'; there is 'Sheet', 'more'"):
        read(content, "data.xlsx", sheet="most")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["a b", "=1+2"], "Sheet row 3: cell B3 is a formula whose value is not stored"),
        (["a b", "#N/A"], "Sheet row 3: cell B3 shows #N/A"),
        (["a b", "x", "y"], "Sheet row 3: 3 cells, but the first row names 2 columns"),
    ],
)
def test_a_cell_that_cannot_be_read_is_named(row: list[Any], message: str, read: Any) -> None:
    with pytest.raises(DataError, match=rf"^data\.xlsx, {re.escape(message)}"):
        read(workbook([["text", "label"], ["c d", "x"], row]), "data.xlsx")


def test_an_old_workbook_is_named(read: Any) -> None:
    with pytest.raises(DataError, match=r"^data\.xls: is in the old Excel format; save it as \.xlsx"):
        read(b"\xd0\xcf\x11\xe0", "data.xls")


# Splits by the names of files


def write_files(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text,label\nfrom {name},x\nand {number},y\n")


@pytest.mark.parametrize(
    ("files", "names", "splits"),
    [
        ("data/*.csv", ["data/train.csv", "data/test.csv"], {"train": 2, "test": 2}),
        (
            "data",
            ["data/train.csv", "data/valid.csv", "data/test.csv"],
            {"train": 2, "validation": 2, "test": 2},
        ),
        ("data/", ["data/training-1.csv", "data/dev-1.csv"], {"train": 2, "validation": 2}),
        (
            "data/**/*.csv",
            ["data/train/a.csv", "data/train/b.csv", "data/test/a.csv"],
            {"train": 4, "test": 2},
        ),
        (
            "my-*.csv",
            ["my-train-00000-of-00002.csv", "my-train-00001-of-00002.csv", "my-val.csv"],
            {"train": 4, "validation": 2},
        ),
        ("data/test*.csv", ["data/test-1.csv", "data/test-2.csv"], {"train": 4}),
        ("data/*.csv", ["data/latest.csv", "data/contest.csv"], {"train": 4}),
        ("test/data/*.csv", ["test/data/a.csv", "test/data/b.csv"], {"train": 4}),
        (["data/train*.csv", "more.csv"], ["data/train.csv", "data/train2.csv", "more.csv"], {"train": 6}),
    ],
)
def test_files_go_to_the_splits_that_their_names_state(
    files: Any, names: list[str], splits: dict[str, int], tmp_path: Path, make_data: Make
) -> None:
    write_files(tmp_path, *names)
    report, folder = make_data({"source": {"files": files}})
    assert report.data is not None
    assert report.data.splits == splits
    if "test" in splits:
        assert all("test" in row["text"] for row in records(folder, "test")[::2])


def test_files_of_a_folder_that_are_not_data_are_reported(tmp_path: Path, make_data: Make) -> None:
    write_files(tmp_path, "data/train.csv", "data/test.csv", "data/README.md", "data/.cache/x.csv")
    report, _ = make_data({"source": {"files": "data"}})
    assert report.facts["left_out"] == ["data/.cache/x.csv", "data/README.md"]
    assert "left out of the folder: data/.cache/x.csv and 1 more" in report.summary


@pytest.mark.parametrize(
    ("files", "names", "message"),
    [
        (
            "data/*.csv",
            ["data/train.csv", "data/extra.csv"],
            r"data/extra\.csv: its name contains no split, but that of data/train\.csv",
        ),
        (
            "data",
            ["data/train.csv", "data/train-test.csv"],
            r"data/train-test\.csv: its name contains test and train",
        ),
        (
            ["train.csv", "test.csv"],
            ["train.csv", "test.csv"],
            r"`files` lists train\.csv, test\.csv, whose names",
        ),
        (
            {"train": "data/*.csv"},
            ["data/a-train.csv", "data/test.csv"],
            r"data/test\.csv: matches the pattern of train, but",
        ),
        (
            "data",
            ["data/readme.md"],
            r"data: is a folder without data files; name the files to read, as data/\*\.jsonl",
        ),
    ],
)
def test_a_file_whose_split_is_not_clear_is_named(
    files: Any, names: list[str], message: str, tmp_path: Path, make_data: Make
) -> None:
    write_files(tmp_path, *names)
    with pytest.raises(DataError, match=f"^{message}"):
        make_data({"source": {"files": files}})


# limit


def test_a_limit_takes_an_even_sample_and_says_so(tmp_path: Path, make_data: Make) -> None:
    labels = ["a"] * 500 + ["b"] * 500
    lines = "".join(f"number {n},{label}\n" for n, label in enumerate(labels))
    (tmp_path / "data.csv").write_text("text,label\n" + lines)
    report, folder = make_data({"source": {"files": "data.csv"}, "limit": 200})
    rows = records(folder)
    places = [int(row["text"].split()[1]) for row in rows]
    assert len(rows) == 200
    assert places == sorted(places)
    assert 70 < Counter(row["label"] for row in rows)["a"] < 130
    assert report.facts["limit"] == {"read": 1000, "kept": 200}
    assert "an even sample of 1,000 rows" in report.summary
    again = records(make_data({"source": {"files": "data.csv"}, "limit": 200}, name="again")[1])
    other = records(make_data({"source": {"files": "data.csv"}, "limit": 200}, name="other", seed=18)[1])
    assert again == rows
    assert other != rows


def test_every_row_is_as_likely_in_a_sample() -> None:
    rows = [Row({}, "", number) for number in range(100)]
    seen = Counter(row.number for seed in range(400) for row in sample_rows_evenly(rows, 10, str(seed)))
    assert set(seen) == set(range(100))
    # A binomial of 400 draws at 0.1: mean 40, deviation 6.
    assert 40 - 5 * 6 < min(seen.values()) <= max(seen.values()) < 40 + 5 * 6
    assert sample_rows_evenly(rows, 2**70, "") == rows
