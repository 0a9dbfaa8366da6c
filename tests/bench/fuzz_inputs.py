"""Draws inputs to fuzz with: odd values, changed copies, broken bytes, data files of every format."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

RECORDS: list[dict[str, Any]] = [
    {"text": f"Übung {n} macht den Meister, sagt man. 熟能生巧 🦊", "label": "de" if n % 2 else "en", "n": n}
    for n in range(12)
]


# values

HUGE = [2**63, -(2**63) - 1, 2**64, 10**30, 1e308, -0.0, float("inf"), float("nan"), 0, -1, 1.5, 2**53 + 1]
ODD_WORDS = """../.. /dev/zero NaN null 1_000 \uff11\uff12 stage:data package:numpy/../x x.py:y http://x
    ~nobody/x %s{} <script> hex utf-16 <s>"""
ODD = [
    "",
    " ",
    "\x00",
    "\x1b[31m",
    "\u202e",
    "\ufeff",
    "e\u0301",
    "👩‍🚀",
    "\ud800",
    "a" * 5000,
    "\r\n",
    *ODD_WORDS.split(),
]
SCALARS = (
    st.sampled_from([*HUGE, *ODD, None, True, False]) | st.integers() | st.floats() | st.text(max_size=12)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=6) | st.sampled_from(ODD), inner, max_size=4)
    ),
    max_leaves=10,
)


def nested(value: Any, depth: int) -> Any:
    """Return a value inside many lists."""
    for _ in range(depth):
        value = [value]
    return value


def spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (mapping or list, key or index) inside a value."""
    for key in (
        list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    ):
        yield value, key
        yield from spots(value[key])


def changed(draw: Any, value: Any) -> Any:
    """Return a copy of a nested value with some of its parts taken out, renamed, replaced or doubled."""
    value = json.loads(json.dumps(value, default=str))
    for _ in range(draw(st.integers(1, 3))):
        there = list(spots(value))
        if not there:
            return draw(VALUES)
        above, key = there[draw(st.integers(0, len(there) - 1))]
        action = draw(st.sampled_from(["replace", "replace", "delete", "rename", "wrap", "deep"]))
        if action == "replace":
            above[key] = draw(VALUES)
        elif action == "delete":
            del above[key]
        elif action == "rename" and isinstance(above, dict):
            above[draw(st.text(max_size=8) | st.sampled_from(ODD))] = above.pop(key)
        elif action == "deep":
            above[key] = nested(above[key], draw(st.sampled_from([3, 60, 300])))
        else:
            above[key] = draw(
                st.sampled_from([[above[key]], {"kind": above[key]}, {above.__class__.__name__: above[key]}])
            )
    return value


# bytes

SPACES = [
    b"\n",
    b"\r",
    b"\n\n",
    b"\t",
    b"- ",
    b"&a ",
    b"? ",
    b"<<: *a",
    b"!!python/object:os.system ",
    b"sep=,\n",
]
LONG = [b"9" * 400, b"[" * 20_000, b'{"a":' * 20_000, b"%TAG ! x\n", b"---\n"]
BYTES = [b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\xed\xa0\x80", b"\xf0\x9f\xa6\x8a", b"\\ud800"]
PIECES = [*SPACES, *LONG, *BYTES, *b"\" ' \\ , ; { } [ ] : *a 1e999 NaN -Infinity # |".split(b" ")]


def broken(draw: Any, raw: bytes) -> bytes:
    """Return bytes with some flipped, cut off, taken out, doubled or put in."""
    data = bytearray(raw)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, 2**20)) % max(1, len(data))
        action = draw(st.sampled_from(["flip", "flip", "cut", "out", "in", "in", "twice"]))
        if action == "flip" and data:
            data[at] = draw(st.integers(0, 255))
        elif action == "cut":
            del data[at:]
        elif action == "out":
            del data[at : at + draw(st.integers(1, 40))]
        elif action == "in":
            data[at:at] = draw(st.sampled_from(PIECES))
        elif action == "twice":
            data[at:at] = data[at : at + draw(st.integers(1, 200))]
    return bytes(data)


# data files

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "A",
            "paragraphs": [
                {
                    "context": "The Nile is a river.",
                    "qas": [
                        {"id": "1", "question": "What?", "answers": [{"text": "The Nile", "answer_start": 0}]}
                    ],
                }
            ],
        }
    ],
}
CHAT = [
    {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello", "tool_calls": []},
        ]
    }
]
SHARE = [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]
WORDS = [{"words": ["a", "b"], "tags": ["O", "B-X"]}]
CONLL = "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ O O\n\nPeter NNP B-NP B-PER\n. . O O\n"


def table(kind: str, records: list[Any]) -> str:
    """Return records as text of a format."""
    records = [record if isinstance(record, dict) else {"text": record} for record in records] or [{}]
    out = io.StringIO()
    names = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.DictWriter(out, names, delimiter="\t" if kind == "tsv" else ",", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def text_file(draw: Any, kind: str) -> bytes:
    """Draw the content of a text file of a format."""
    base = draw(st.sampled_from([RECORDS, SQUAD, CHAT, SHARE, WORDS, {r["n"]: r for r in RECORDS}]))
    value = changed(draw, base) if draw(st.booleans()) else base
    items = value if isinstance(value, list) else [value]
    if kind == "json":
        text = json.dumps(value)
    elif kind == "jsonl":
        text = "\n".join(json.dumps(item) for item in items)
    elif kind == "conll":
        text = CONLL
    elif kind == "txt":
        text = "\n".join(str(item) for item in items)
    else:
        try:
            text = table(kind, items)
        except csv.Error:
            text = ",\n"
    codec = draw(
        st.sampled_from(
            ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"]
        )
    )
    return broken(draw, text.encode(codec, "surrogatepass" if "utf" in codec else "replace"))


COLUMNS: list[Callable[[], pa.Array]] = [
    lambda: pa.array([2**63, 2**64 - 1, None], pa.uint64()),
    lambda: pa.array([b"\xff", b"", None]),
    lambda: pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"\xff\xfea")]
    ),
    lambda: pa.array([datetime(1, 1, 1), datetime(9999, 12, 31), None]),
    lambda: pa.array([-(2**62), 2**62, 0], pa.timestamp("ns")),
    lambda: pa.array([2**62, 0, None], pa.timestamp("s")),
    lambda: pa.array([date(1, 1, 1), None, date(9999, 1, 1)]),
    lambda: pa.array([Decimal("1.5"), None, Decimal("-2.25")]),
    lambda: pa.array([[("a", 1), ("a", 2)], None, []], pa.map_(pa.string(), pa.int64())),
    lambda: pa.array([{"a": {"b": [1]}}, None, {"a": None}]),
    lambda: pa.array(["a", "b", "a"]).dictionary_encode(),
    lambda: pa.array([1.5, float("nan"), float("inf")]),
    lambda: pa.array([[1, 0], [], None]),
    lambda: pa.nulls(3),
    lambda: pa.array([True, None, False]),
    lambda: pa.array([2**62, None, 1], pa.duration("s")),
    lambda: pa.array([[1.0, 2.0], [3.0, 4.0], None], pa.list_(pa.float16(), 2)),
    lambda: pa.array(["x", "y", None], pa.large_string()),
    lambda: pa.array([1, None, 3], pa.time64("ns")),
]


def binary_file(draw: Any, kind: str) -> bytes:
    """Draw the content of a Parquet, Arrow or Excel file."""
    if kind == "xlsx":
        return broken(draw, excel(draw))
    columns = {"text": pa.array(["One text.", "Another text.", "A third."])}
    for _ in range(draw(st.integers(0, 3))):
        columns[draw(st.sampled_from(["label", "labels", "n", "text", *ODD[:8]])).replace("\ud800", "?")] = (
            draw(st.sampled_from(COLUMNS))()
        )
    out = io.BytesIO()
    made = pa.table(list(columns.values()), names=list(columns))
    if kind == "parquet":
        try:
            pq.write_table(made, out)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pq.write_table(made.select([0]).slice(0, 0), out)
    else:
        with draw(st.sampled_from([pa.ipc.new_stream, pa.ipc.new_file]))(out, made.schema) as writer:
            writer.write_table(made)
    return broken(draw, out.getvalue())


def excel(draw: Any) -> bytes:
    """Draw a workbook."""
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["text", "label", None][: draw(st.integers(1, 3))])
    for _ in range(draw(st.integers(0, 4))):
        cells = draw(
            st.lists(
                st.sampled_from(
                    ["a", 1, 1.5, None, True, datetime(2020, 1, 1), "=1/0", "=A1", "#N/A", 10**20]
                ),
                max_size=4,
            )
        )
        sheet.append(cells)
    out = io.BytesIO()
    book.save(out)
    return without_times(out)


def without_times(book: io.BytesIO) -> bytes:
    """Return a workbook without the moment at which it was written, so that a seed gives one file."""
    out = io.BytesIO()
    with zipfile.ZipFile(book) as given, zipfile.ZipFile(out, "w") as made:
        for name in given.namelist():
            content = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", b"2020-01-01T00:00:00Z", given.read(name))
            made.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


KINDS_OF_TEXT = ("txt", "jsonl", "json", "csv", "tsv", "conll")
KINDS_OF_FILE = (*KINDS_OF_TEXT, "parquet", "arrow", "xlsx")
ENCODINGS = "utf-8 utf-16 utf-7 latin-1 cp1252 gb18030 utf-32 rot13 hex punycode idna undefined big5"
OPTIONS: dict[str, list[Any]] = {
    "format": list(KINDS_OF_FILE),
    "encoding": ENCODINGS.split(),
    "separator": [",", ";", "\t", "|", "", "ab", "\n", '"', " ", "\x00", "🦊", "\r"],
    "header": [True, False, ["text", "label"], ["a", "a"], [], ["text", "label", "n", "x"]],
    "quote": ['"', "'", False, "", "ab", ",", "\n", "\x00"],
    "escape": ["\\", '"', "", ",", "\x00"],
    "field": ["data", "data.x", "", ".", "data.0.title", "version"],
    "sheet": ["Sheet", "x", ""],
}


def file_of(draw: Any, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Write a drawn file; return it with options to read it by."""
    kind = draw(st.sampled_from(KINDS_OF_FILE))
    raw = text_file(draw, kind) if kind in KINDS_OF_TEXT else binary_file(draw, kind)
    ending = kind
    if draw(st.integers(0, 5)) == 0:
        raw, ending = broken(draw, gzip.compress(raw, mtime=0)), f"{kind}.gz"
    path = folder / f"data.{ending}"
    path.write_bytes(raw)
    chosen = draw(st.lists(st.sampled_from(list(OPTIONS)), max_size=2, unique=True))
    return path, {name: draw(st.sampled_from(OPTIONS[name])) for name in chosen}
