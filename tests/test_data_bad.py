"""Bad inputs: each ends in one line that says where, what and how to fix it."""
# ruff: noqa: E501 - a message stands here on one line, as it is printed

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import pytest
import zstandard
from commands import LIMIT

from hfpipe.errors import DataError

TEXT = "The quick brown fox jumps over the lazy dog.\n"
ROWS = "".join(json.dumps({"text": f"{TEXT[:-1]} {n}", "label": "ab"[n % 2]}) + "\n" for n in range(1000))


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def code(body: str) -> bytes:
    return f"def rows(*paths):\n{body}\n".encode()


FILES = {"source": {"files": "data.jsonl"}}
PYTHON = {"source": {"python": "rows.py:rows"}}
A, B = {"text": "one text", "label": "a"}, {"text": "another text", "label": "b"}
broken = ROWS.splitlines(keepends=True)
broken[811] = '{"text": "cut off\n'

BAD: list[tuple[str, dict[str, bytes], dict[str, Any], str]] = [
    (
        "empty file",
        {"data.jsonl": b""},
        FILES,
        "data.jsonl: is empty; remove it, or fix the program that wrote it",
    ),
    (
        "missing column",
        {"data.jsonl": lines(A)},
        {**FILES, "columns": {"text": "body"}},
        "data.jsonl, line 1: there is no column 'body'; the columns are 'text' and 'label'; fix `columns`",
    ),
    (
        "missing nested column",
        {"data.jsonl": lines({"page": {"title": "x"}}, {"page": {}})},
        {**FILES, "columns": {"text": "page.body"}},
        "data.jsonl, line 1: there is no column 'page.body'; the columns are 'page'; fix `columns`",
    ),
    (
        "wrong encoding",
        {"data.txt": b"a" * 3000 + b"caf\xe9 au lait\n"},
        {"source": {"files": "data.txt"}},
        "data.txt, line 1: byte 3,003 (0xe9) is not utf-8; name the encoding of the file, such as `encoding: latin-1` or `encoding: cp1252`",
    ),
    (
        "wrong encoding in a compressed file",
        {"data.txt.gz": gzip.compress("é".encode() * 1_000_000 + b"\xe9")},
        {"source": {"files": "data.txt.gz"}},
        "data.txt.gz, line 1: byte 2,000,000 (0xe9) is not utf-8; name the encoding of the file, such as `encoding: latin-1` or `encoding: cp1252`",
    ),
    (
        "truncated gzip",
        {"data.jsonl.gz": gzip.compress(ROWS.encode())[:-100]},
        {"source": {"files": "data.jsonl.gz"}},
        "data.jsonl.gz: is truncated: the gzip stream has no end; copy or download it again",
    ),
    (
        "truncated zst",
        {"data.jsonl.zst": zstandard.compress(ROWS.encode())[:-100]},
        {"source": {"files": "data.jsonl.zst"}},
        "data.jsonl.zst: is truncated: the zstd stream has no end; copy or download it again",
    ),
    (
        "no gzip at all",
        {"data.jsonl.gz": ROWS.encode()},
        {"source": {"files": "data.jsonl.gz"}},
        "data.jsonl.gz: is not a gzip file, or damaged; copy or download it again",
    ),
    (
        "label missing in some rows",
        {"data.jsonl": lines(A, B, {"text": "third", "label": None})},
        FILES,
        "data.jsonl, line 3: 'label' is missing; fill it in, or drop such rows with `clean: [{drop: {label: [null]}}]`",
    ),
    (
        "class only in test",
        {
            "train.jsonl": lines(A, B),
            "test.jsonl": lines(A, {"text": "x", "label": "c"}, {"text": "y", "label": "c"}),
        },
        {"source": {"files": {"train": "train.jsonl", "test": "test.jsonl"}}},
        "test.jsonl, line 2: class 'c' of 'label' is only in test (2 rows), never in train; add training rows, or drop it with `clean: [{drop: {label: [c]}}]`",
    ),
    (
        "no training rows left after cleaning",
        {"data.jsonl": lines(A, B)},
        {**FILES, "clean": [{"min_chars": 10}, {"max_chars": 11}]},
        "no training rows are left of 2 (min_chars: 10 took 1, max_chars: 11 took 1); loosen `clean` or `split`",
    ),
    (
        "NaN in a float label",
        {"data.jsonl": lines({"text": "x", "label": 0.5}, {"text": "y", "label": float("nan")})},
        FILES,
        "data.jsonl, line 2: 'label' is missing; fill it in, or drop such rows with `clean: [{drop: {label: [null]}}]`",
    ),
    (
        "broken JSON in line 812",
        {"data.jsonl": "".join(broken).encode()},
        FILES,
        "data.jsonl, line 812: broken JSON (Invalid control character at character 18); fix the line",
    ),
    (
        "broken JSON array",
        {"data.json": b'[\n{"text": "a"},\n{"text": "b"\n'},
        {"source": {"files": "data.json"}},
        "data.json, line 4: broken JSON (Expecting ',' delimiter); fix it, or add `format: jsonl` if each line is a record",
    ),
    (
        "a JSON line that is not an object",
        {"data.jsonl": lines(A, ["text", "b"])},
        FILES,
        'data.jsonl, line 2: is ["text", "b"], not an object; write {"text": …}',
    ),
    (
        "a JSON file that is not an array",
        {"data.json": b'"text"'},
        {"source": {"files": "data.json"}},
        'data.json: is "text", not an object; write {"text": …}',
    ),
    (
        "a csv row with too many fields",
        {"data.csv": b"text,label\nfine,a\nnot, fine,b\n"},
        {"source": {"files": "data.csv"}},
        "data.csv, line 3: 3 fields, but the header has 2 ('text' and 'label'); quote fields that contain the separator",
    ),
    (
        "a quote that never ends",
        {"data.csv": b'text,label\nfine,a\n"never ends,b\n'},
        {"source": {"files": "data.csv"}},
        "data.csv, line 3: the quote that opens here is never closed; close it, or write `quote: false` if quotes are text",
    ),
    (
        "a header that names a column twice",
        {"data.csv": b"text,text\na,b\n"},
        {"source": {"files": "data.csv"}},
        "data.csv, line 1: the header has 'text' twice; rename one, or, if this line is not a header, name the columns with `header: [text, label]`",
    ),
    (
        "a csv with a header only",
        {"data.csv": b"text,label\n"},
        {"source": {"files": "data.csv"}},
        "data.csv: is empty; remove it, or fix the program that wrote it",
    ),
    (
        "a folder of files of two formats",
        {"data/part.jsonl": lines(A), "data/part.csv": b"text,label\nx,a\n"},
        {"source": {"files": "data"}},
        "data: holds csv and jsonl files; name the files to read, as data/*.csv",
    ),
    (
        "a damaged parquet file",
        {"data.parquet": b"text"},
        {"source": {"files": "data.parquet"}},
        "data.parquet: cannot be read as parquet (Parquet file size is 4 bytes, smaller than the minimum file footer (8 bytes)); copy or download it again, or name its format, such as `format: arrow`",
    ),
    (
        "no file matches",
        {},
        {"source": {"files": "corpus/*.txt"}},
        "corpus/*.txt: no file matches; fix the pattern, which is relative to the recipe",
    ),
    (
        "unknown ending",
        {"data.log": b"PK"},
        {"source": {"files": "data.log"}},
        "data.log: its extension does not tell the format; add `format: txt`, or jsonl, json, csv, tsv, conll, xlsx, parquet or arrow instead of txt",
    ),
    (
        "columns that differ between files",
        {"a.csv": b"text,label\nx,a\n", "b.csv": b"text,topic\nx,a\n"},
        {"source": {"files": "*.csv"}},
        "b.csv, line 2: the columns are 'text' and 'topic', but a.csv, line 2 has 'text' and 'label'; select columns with `columns`",
    ),
    (
        "package not installed",
        {},
        {"source": {"package": "no-such-package/data.jsonl"}},
        "package:no-such-package is not installed; pip install no-such-package",
    ),
    (
        "package without the file",
        {},
        {"source": {"package": "datasets/no/data.jsonl"}},
        "package:datasets/no/data.jsonl: datasets is installed but contains no no/data.jsonl",
    ),
    (
        "a function that raises",
        {"rows.py": code("    yield {'text': 'fine'}\n    yield {'text': 1 / 0}")},
        PYTHON,
        "rows.py:3: rows failed with ZeroDivisionError: division by zero",
    ),
    (
        "a function that wants other arguments",
        {"rows.py": b"def rows(path):\n    return []\n"},
        PYTHON,
        "rows.py:1: rows failed with TypeError: rows() missing 1 required positional argument: 'path'",
    ),
    (
        "a function that yields no mappings",
        {"rows.py": code("    yield {'text': 'fine'}\n    yield 'text'")},
        PYTHON,
        "rows.py:rows, row 2: is 'text' (str), not a mapping; yield {\"text\": …}",
    ),
    (
        "a function that yields nothing",
        {"rows.py": code("    return []")},
        PYTHON,
        "rows.py:rows: yielded no rows; fix the function",
    ),
    (
        "duplicate ids",
        {"data.jsonl": lines({"id": "7", "text": "x"}, {"id": 8, "text": "y"}, {"id": 7, "text": "z"})},
        FILES,
        "data.jsonl, line 3: the `id` '7' was given before; make ids unique, or leave them out with `columns`",
    ),
    (
        "an id that is null",
        {"data.jsonl": lines({"id": None, "text": "x"})},
        FILES,
        "data.jsonl, line 1: the `id` is null; fill it in, or leave it out with `columns`",
    ),
    (
        "mixed label types",
        {"data.jsonl": lines({"text": "x", "label": 1}, {"text": "y", "label": "2"})},
        FILES,
        "data.jsonl, line 2: 'label' is '2' (str), but 1 at data.jsonl, line 1; use one type, or read all values as class names with `labels: {label: class}`",
    ),
    (
        "a number that is none",
        {"data.csv": b"text,label\nx,0.5\ny,high\n"},
        {"source": {"files": "data.csv"}, "labels": {"label": "number"}},
        "data.csv, line 3: 'label' is 'high', not a decimal number such as 1000 or 2.5; fix the row, or drop such rows with `clean: [{drop: {label: [high]}}]`",
    ),
    (
        "a label column that is not there",
        {"data.jsonl": lines(A)},
        {**FILES, "labels": {"topic": "class"}},
        "`labels` names 'topic', but the columns are 'text' and 'label'",
    ),
    (
        "a text column that is not there",
        {"data.jsonl": lines(A)},
        {**FILES, "text": ["body"]},
        "data.jsonl, line 1: `text` names 'body', but the columns are 'text' and 'label'",
    ),
    (
        "a dropped column that is not there",
        {"data.jsonl": lines(A)},
        {**FILES, "clean": [{"drop": {"topic": ["x"]}}]},
        "data.jsonl, line 1: `drop` names 'topic', but the columns are 'text' and 'label'",
    ),
    (
        "labels that are all empty",
        {"data.jsonl": lines({"text": "x", "labels": []}, {"text": "y", "labels": []})},
        FILES,
        "'labels' holds no class in any row; fix it, or leave it out with `columns`",
    ),
    (
        "no text at all",
        {"data.jsonl": lines({"n": 1, "label": "a"})},
        FILES,
        "data.jsonl, line 1: no column holds text; they are 'n' and 'label': name one that does with `columns`",
    ),
    (
        "text that is a number",
        {"data.jsonl": lines({"text": "x"}, {"text": 42})},
        {**FILES, "text": ["text"]},
        "data.jsonl, line 2: 'text' is 42, not a string; write it in quotes, or name the text columns with `text`",
    ),
    (
        "half a surrogate pair",
        {"data.jsonl": b'{"text": "fine"}\n{"text": "half \\ud83d"}\n'},
        FILES,
        "data.jsonl, line 2: 'text' holds half a character (a lone surrogate); add `clean: [unicode]` if it is text, or leave it out with `columns`",
    ),
    (
        "a column of two types",
        {"data.jsonl": lines({"text": "x", "year": 1990}, {"text": "y", "year": "about 1990"})},
        FILES,
        "data.jsonl, line 2: 'year' is 'about 1990', but other rows hold int64; use one type in all rows, or leave 'year' out with `columns`",
    ),
    (
        "a Hub id where a path belongs",
        {"rows.py": code("    yield {'text': 'fine'}")},
        {"source": {"python": "rows.py:rows", "reads": ["owner/name"]}},
        "owner/name: a Hub id cannot be read as a path; write ./owner/name for a file",
    ),
]


@pytest.mark.parametrize(
    ("files", "settings", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_a_bad_input_ends_in_one_line_with_place_and_fix(
    files: dict[str, bytes],
    settings: dict[str, Any],
    message: str,
    tmp_path: Path,
    make_data: Callable[..., Any],
) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        make_data(settings)
    assert str(caught.value) == message


def test_a_function_that_is_not_there_is_named(tmp_path: Path, make_data: Callable[..., Any]) -> None:
    (tmp_path / "rows.py").write_bytes(code("    return []"))
    with pytest.raises(
        DataError, match=r"^rows\.py:rowz: .*rows\.py defines no 'rowz'; did you mean 'rows'\?$"
    ):
        make_data({"source": {"python": "rows.py:rowz"}})


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, make_data: Callable[..., Any]) -> None:
    (tmp_path / "data.txt").symlink_to("gone.txt")
    with pytest.raises(DataError, match=r"^data\.txt: is not there; name a file"):
        make_data({"source": {"files": "*.txt"}})


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, make_data: Callable[..., Any]) -> None:
    os.mkfifo(tmp_path / "data.txt")
    with pytest.raises(DataError, match=r"^data\.txt: is not a regular file; name a file"):
        make_data({"source": {"files": "data.txt"}})


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path, make_data: Callable[..., Any]) -> None:
    (tmp_path / "data.txt").write_text(TEXT)
    (tmp_path / "data.txt").chmod(0)
    with pytest.raises(DataError, match=r"^data\.txt: cannot be read \(Permission denied\); fix"):
        make_data({"source": {"files": "data.txt"}})


def test_a_hub_id_offline_names_the_id_and_the_cache(
    monkeypatch: pytest.MonkeyPatch, make_data: Callable[..., Any]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        make_data({"source": {"hub": "owner/never-fetched"}})
    cache = datasets.config.HF_DATASETS_CACHE
    assert str(caught.value) == (
        f"hub:owner/never-fetched: cannot be reached and is not in the cache {cache}; go online once, or point "
        "HF_HOME at a cache that has it"
    )


def test_a_script_data_set_gets_the_hint_about_parquet(tmp_path: Path, make_data: Callable[..., Any]) -> None:
    script = tmp_path / "old" / "old.py"
    script.parent.mkdir()
    script.write_text("raise RuntimeError('never run')\n")
    with pytest.raises(
        DataError, match=r"is a script, which Datasets no longer runs; add `revision: refs/conv"
    ):
        make_data({"source": {"hub": str(script.parent)}})


@pytest.mark.slow
def test_a_document_of_five_megabytes_is_read(tmp_path: Path, make_data: Callable[..., Any]) -> None:
    long = TEXT[:-1] * 120_000
    (tmp_path / "data.csv").write_text(f"text\n{long}\nshort\n")
    report, folder = make_data({"source": {"files": "data.csv"}, "clean": ["unicode", "html", "mask_pii"]})
    assert report.ledger["characters"]["kept"] == len(long) + len("short")
    assert len(long) > 5_000_000
    assert datasets.load_from_disk(str(folder))["train"][0]["text"] == long


FULL = """
import resource, sys
from contextlib import contextmanager
from pathlib import Path
from hfpipe.contract import RunContext
from hfpipe.errors import HfpipeError
from hfpipe.stages.dataset import Dataset
import hfpipe.data.build

@contextmanager
def quiet(what, total):
    yield lambda n: None

base = Path(sys.argv[1])
(base / "out").mkdir()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    stage = Dataset.model_validate({"source": {"files": "data.jsonl"}})
    stage.run(RunContext("data", base / "out", base, 0, {}, quiet))
except HfpipeError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(ROWS)
    done = subprocess.run(
        [sys.executable, "-B", "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT,
    )
    assert done.stdout.startswith(f"StageError {tmp_path / 'out'}: the disk is full or the file too large (")
    assert done.stdout.count("\n") == 1


def test_a_failed_stage_leaves_finished_folders_as_they_were(
    tmp_path: Path, make_data: Callable[..., Any]
) -> None:
    (tmp_path / "data.jsonl").write_text(ROWS)
    _, folder = make_data(FILES, name="first")
    before = digests(folder)
    settings = {"source": {"stage": "first"}, "clean": [{"min_chars": 40}, {"drop": {"topic": ["x"]}}]}
    with pytest.raises(DataError, match="`drop` names 'topic'"):
        make_data(settings, name="second", inputs={"first": folder})
    assert digests(folder) == before


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
