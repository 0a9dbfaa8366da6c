"""Some 800 small files of every format: the rows are those of another reader, or one line says why not.

The other reader (csv through pandas, json, pyarrow) is told how a file is written; hfpipe finds that out.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from hfpipe.encoding.io import open_split
from hfpipe.errors import DataError

Record = dict[str, Any]
COLUMNS = ("text", "label", "extra")
TEXTS = {
    "plain": ["a warm soup", "a cold soup", "thin tea"],
    "separators": ["one, two; three | four", "five, six", "seven; eight"],
    "quotes": ['he said "no" twice', '"quoted whole"', 'six" and 7"'],
    "lines": ["two\nlines", "three\n\nlines", "one line"],
    "scripts": ["Übung 熟能生巧 🦊", "नमस्ते दुनिया", "שלום עולם"],
    "spaces": [" leading", "trailing ", "back\\slash and 'single'"],
}
PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
LABELS: dict[str, list[Any]] = {
    "words": ["pos", "neg", "pos"],
    "whole numbers": [2, 0, 1],
    "booleans": [True, False, True],
    "lists": [["a", "b"], [], ["c"]],
    "numbers": [0.5, -1.25, 1e9],
}


@dataclass
class Case:
    """A file, and what an independent reader makes of it; None where the file is broken."""

    title: str
    name: str
    content: bytes
    expected: list[Record] | None
    source: Record = field(default_factory=dict)


def table(kind: str, extra: tuple[str, ...] = ("1", "", "NA")) -> list[list[str]]:
    return [
        list(COLUMNS),
        *(
            [text, label, other]
            for text, label, other in zip(TEXTS[kind], ("x", "y", "x"), extra, strict=True)
        ),
    ]


def delimited() -> Iterator[Case]:
    """Yield csv and tsv by separator, quoting, newline and text."""
    quotings = {
        "minimal": {"quoting": csv.QUOTE_MINIMAL},
        "all": {"quoting": csv.QUOTE_ALL},
        "not numeric": {"quoting": csv.QUOTE_NONNUMERIC},
        "escaped": {"quoting": csv.QUOTE_MINIMAL, "escapechar": "\\", "doublequote": False},
    }
    for kind, separator, (title, how), end, name in product(
        TEXTS, ",;\t|", quotings.items(), ("\n", "\r\n"), ("csv", "tsv")
    ):
        if name == "tsv" and (separator != "\t" or title == "escaped"):
            continue
        out = io.StringIO()
        csv.writer(out, delimiter=separator, lineterminator=end, **how).writerows(table(kind))
        content = out.getvalue().encode()
        frame = pd.read_csv(
            io.BytesIO(content),
            sep=separator,
            dtype=str,
            keep_default_na=False,
            escapechar=how.get("escapechar"),
            doublequote="escapechar" not in how,
        )
        # Without a single quote in the file, nothing shows that a backslash escapes.
        source = {"escape": "\\"} if (title, kind) == ("escaped", "spaces") else {}
        name_of_case = f"{kind}, {separator!r}, {title}, {end!r}"
        yield Case(name_of_case, f"data.{name}", content, frame.to_dict("records"), source)


def bare_tsv() -> Iterator[Case]:
    """Yield tsv as GLUE writes it, where a quote is a character."""
    for kind, end in product(("plain", "separators", "quotes", "scripts", "spaces"), ("\n", "\r\n")):
        content = "".join("\t".join(row) + end for row in table(kind)).encode()
        frame = pd.read_csv(
            io.BytesIO(content), sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
        )
        yield Case(f"bare {kind}, {end!r}", "data.tsv", content, frame.to_dict("records"))


def records(labels: list[Any], extra: list[Any], kind: str = "plain") -> list[Record]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in zip(TEXTS[kind], labels, extra, strict=True)]


EXTRA: dict[str, list[Any]] = {
    "strings": ["a", "", "NA"],
    "whole numbers": [1, -5, 2**53 + 1],
    "large numbers": [2**63, 2**64 - 1, 0],
    "numbers": [0.1, 1e-300, -2.5],
    "booleans": [True, False, True],
    "nulls": [None, None, None],
    "some null": [None, 3, None],
    "lists": [[1, 2], [], [3]],
}


def json_files() -> Iterator[Case]:
    for (named, labels), (title, extra), name, packed in product(
        LABELS.items(), EXTRA.items(), ("jsonl", "json"), ("", ".gz")
    ):
        given = records(labels, extra, "scripts")
        lines = [json.dumps(record, ensure_ascii=False) for record in given]
        text = "\r\n".join(lines) if name == "jsonl" else json.dumps(given, indent=1)
        expected = [json.loads(line) for line in lines]
        content = PACK[packed](text.encode())
        yield Case(f"labels: {named}, extra: {title}", f"data.{name}{packed}", content, expected)


def missing_keys() -> Iterator[Case]:
    for lacking in product((False, True), repeat=3):
        given = records(["x", "y", "x"], [1, 2, 3])
        short = [
            {key: value for key, value in record.items() if key != "extra" or not lacks}
            for record, lacks in zip(given, lacking, strict=True)
        ]
        expected = [{**dict.fromkeys(COLUMNS), **record} for record in short]
        content = "".join(json.dumps(record) + "\n" for record in short).encode()
        yield Case(f"missing in {lacking}", "data.jsonl", content, None if all(lacking) else expected)


def encodings() -> Iterator[Case]:
    """Yield text formats by encoding; those without a byte order mark are named in the recipe, or broken."""
    marked = ("utf-8", "utf-8-sig", "utf-16", "utf-32")
    named = ("utf-16-le", "utf-16-be", "utf-32-le", "latin-1", "cp1252", "gb18030", "shift_jis")
    for codec, (kind, write), end in product((*marked, *named), TEXT.items(), ("\n", "\r\n")):
        text = "Übung" if codec in ("latin-1", "cp1252") else "熟能" if codec == "gb18030" else "これ"
        text = "🦊" if codec.startswith("utf") else text
        given = [
            {"text": f"{text} one", "label": "x", "extra": "a"},
            {"text": "two", "label": "y", "extra": text},
        ]
        content = write(given, end).encode(codec)
        source = {"encoding": codec} if codec in named else {}
        yield Case(f"{codec}, {end!r}", f"data.{kind}", content, given, source)
        if codec in named:
            yield Case(f"{codec} unnamed, {end!r}", f"data.{kind}", content, None)


def write_delimited(separator: str) -> Callable[[list[Record], str], str]:
    def write(given: list[Record], end: str) -> str:
        return "".join(separator.join(row) + end for row in [COLUMNS, *(record.values() for record in given)])

    return write


TEXT: dict[str, Callable[[list[Record], str], str]] = {
    "csv": write_delimited(","),
    "tsv": write_delimited("\t"),
    "jsonl": lambda given, end: "".join(json.dumps(record, ensure_ascii=False) + end for record in given),
    "json": lambda given, end: json.dumps(given, ensure_ascii=False, indent=1).replace("\n", end),
}

ARROW: dict[str, tuple[pa.DataType, list[Any]]] = {
    "int8": (pa.int8(), [1, None, -3]),
    "uint64": (pa.uint64(), [2**64 - 1, 0, None]),
    "float32": (pa.float32(), [0.5, None, -1.25]),
    "bool": (pa.bool_(), [True, None, False]),
    "string": (pa.string(), ["a", None, ""]),
    "large string": (pa.large_string(), ["a", None, ""]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["a", None, "a"]),
    "date": (pa.date32(), [date(2024, 1, 2), None, date(1900, 1, 1)]),
    "timestamp": (pa.timestamp("us"), [datetime(2024, 1, 2, 3, 4, 5, 6), None, datetime(1900, 1, 1)]),
    "decimal": (pa.decimal128(20, 4), [Decimal("1.2345"), None, Decimal("-12345678901.0000")]),
    "binary": (pa.binary(), [b"\xff\x00", None, b""]),
    "list": (pa.list_(pa.int64()), [[1, 2], None, []]),
    "null": (pa.null(), [None, None, None]),
}


def arrow_files() -> Iterator[Case]:
    for (named, labels), (title, (kind, extra)), name in product(
        LABELS.items(), ARROW.items(), ("parquet", "arrow", "feather")
    ):
        given = pa.table({"text": TEXTS["scripts"], "label": labels, "extra": pa.array(extra, kind)})
        sink = pa.BufferOutputStream()
        if name == "parquet":
            pq.write_table(given, sink, compression=("snappy", "gzip", "zstd", "none")[len(title) % 4])
            expected = pq.read_table(pa.BufferReader(sink.getvalue())).to_pylist()
        else:
            with (pa.ipc.new_stream if name == "arrow" else pa.ipc.new_file)(sink, given.schema) as writer:
                writer.write_table(given)
            expected = given.to_pylist()
        content = sink.getvalue().to_pybytes()
        yield Case(f"labels: {named}, extra: {title}", f"data.{name}", content, expected)


def workbooks() -> Iterator[Case]:
    for (named, labels), (title, extra) in product(
        (item for item in LABELS.items() if item[0] != "lists"),
        (item for item in EXTRA.items() if item[0] in ("strings", "numbers", "booleans", "some null")),
    ):
        given, sink = records(labels, extra, "scripts"), io.BytesIO()
        pd.DataFrame(given, dtype=object).to_excel(sink, index=False)
        frame = pd.read_excel(io.BytesIO(sink.getvalue()), keep_default_na=False, dtype=object)
        expected = [
            {key: None if value == "" else value for key, value in row.items()}
            for row in frame.to_dict("records")
        ]
        if named == "numbers":  # Excel has one kind of number
            expected = [{**row, "label": float(row["label"])} for row in expected]
        yield Case(f"labels: {named}, extra: {title}", "data.xlsx", sink.getvalue(), expected)


GOOD = b"text,label,extra\na b,x,1\nc d,y,2\n"
LINES = b'{"text": "a b", "label": "x", "extra": 1}\n{"text": "c d", "label": "y", "extra": 2}\n'
BROKEN: dict[str, tuple[str, bytes]] = {
    "a field too many": ("data.csv", GOOD + b"e,f,x,3\n"),
    "a field too few": ("data.tsv", GOOD.replace(b",", b"\t") + b"e f\tx\n"),
    "an open quote": ("data.csv", GOOD + b'"e f,x,3\ng h,x,4\n'),
    "text after a quote": ("data.csv", GOOD + b'"e" f,x,3\n'),
    "a second header": ("data.csv", GOOD * 2),
    "no header": ("data.csv", GOOD.partition(b"\n")[2] * 3),
    "a name twice": ("data.csv", b"text,text,extra\na,b,c\n"),
    "a byte that is not UTF-8": ("data.csv", GOOD + b"caf\xe9,x,3\n"),
    "a header alone": ("data.csv", b"text,label,extra\n"),
    "nothing": ("data.csv", b""),
    "cut JSON": ("data.jsonl", LINES + b'{"text": "e'),
    "a key twice": ("data.jsonl", LINES + b'{"text": "e", "text": "f", "label": "x", "extra": 3}\n'),
    "deep": ("data.jsonl", LINES + b'{"text": ' + b"[" * 100_000),
    "a list in place of a record": ("data.jsonl", LINES + b'["e f", "x", 3]\n'),
    "a number too large": (
        "data.jsonl",
        LINES + b'{"text": "e", "label": "x", "extra": 1' + b"0" * 20 + b"}\n",
    ),
    "a number of 5,000 digits": ("data.jsonl", LINES + b'{"text": "e", "extra": ' + b"1" * 5000 + b"}\n"),
    "a text in place of a number": ("data.jsonl", LINES + b'{"text": "e", "label": "x", "extra": "3"}\n'),
    "a number in place of a text": ("data.jsonl", LINES + b'{"text": 3, "label": "x", "extra": 3}\n'),
    "a null label": ("data.jsonl", LINES + b'{"text": "e", "label": null, "extra": 3}\n'),
    "an empty label": ("data.csv", GOOD + b"e f,,3\n"),
    "half a character": ("data.jsonl", LINES + b'{"text": "\\ud83d", "label": "x", "extra": 3}\n'),
    "JSON by column": ("data.json", b'{"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}}'),
    "a cut array": ("data.json", b"[" + LINES.splitlines()[0]),
    "lines as one JSON": ("data.json", LINES),
    "a cut gzip": ("data.jsonl.gz", gzip.compress(LINES * 50)[:-9]),
    "a cut zstd": ("data.jsonl.zst", zstandard.compress(LINES * 50)[:-5]),
    "a gzip without its ending": ("data.jsonl", gzip.compress(LINES)),
    "not a gzip": ("data.csv.gz", GOOD),
    "no Parquet": ("data.parquet", GOOD),
    "no Arrow": ("data.arrow", GOOD),
    "no workbook": ("data.xlsx", GOOD),
    "CoNLL without tags": ("data.conll", b"Ada\nsaw\n\n"),
    "an unknown ending": ("data.dat", GOOD),
}


def broken() -> Iterator[Case]:
    for title, (name, content) in BROKEN.items():
        yield Case(title, name, content, None)


FAMILIES = (delimited, bare_tsv, json_files, missing_keys, encodings, arrow_files, workbooks, broken)
COUNTS = {
    "delimited": (228, 0),
    "bare_tsv": (10, 0),
    "json_files": (160, 0),
    "missing_keys": (7, 1),
    "encodings": (88, 56),
    "arrow_files": (195, 0),
    "workbooks": (16, 0),
    "broken": (0, 33),
}
"""Family → how many files are read, and how many end in one line."""


def shown(value: Any, names: list[str] | None) -> Any:
    """Return a label by its name."""
    if isinstance(value, list):
        return [shown(item, names) for item in value]
    return value if names is None else names[value]


def stored(folder: Path) -> list[Record]:
    data = open_split(folder, "train")
    feature = data.features["label"]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return [{**{name: row[name] for name in COLUMNS}, "label": shown(row["label"], names)} for row in data]


def as_classes(value: Any) -> Any:
    """Return the label of another reader as hfpipe names its class; fractions are not classes."""
    if isinstance(value, list):
        return [as_classes(item) for item in value]
    return value if isinstance(value, float) else str(value)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_is_read_as_another_reader_reads_it_or_named_in_one_line(
    family: Callable[[], Iterator[Case]], tmp_path: Path, make_data: Callable[..., Any]
) -> None:
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for number, case in enumerate(family()):
        (tmp_path / case.name).write_bytes(case.content)
        settings = {
            "source": {"files": case.name, **case.source},
            "columns": dict(zip(COLUMNS, COLUMNS, strict=True)),
        }
        try:
            _, folder = make_data({**settings, "text": ["text"]}, name=f"data-{number}")
            found = stored(folder)
        except DataError as error:
            found = None
            message = str(error)
            lines = "\n" in message or not re.match(rf"{re.escape(case.name)}\b.*[;:]", message)
            if case.expected is not None or lines:
                wrong.append(f"{case.title}, {case.name}: {message}")
            counts["errors"] += 1
        else:
            counts["rows"] += 1
            expected = [{**row, "label": as_classes(row["label"])} for row in case.expected or []]
            if found != expected:
                wrong.append(f"{case.title}, {case.name}: {found} is not {expected}")
        (tmp_path / case.name).unlink()
    print(family.__name__, dict(counts))
    assert wrong == []
    assert (counts["rows"], counts["errors"]) == COUNTS[family.__name__]


def test_the_sweep_has_more_than_three_hundred_files() -> None:
    assert sum(map(sum, COUNTS.values())) > 750
