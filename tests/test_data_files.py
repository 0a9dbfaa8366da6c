"""Sources: every format and compression gives the same rows, and given splits and class names are kept."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from pydantic import ValidationError

from hfpipe.contract import RunContext
from hfpipe.encoding.io import open_data, open_split, read_facts
from hfpipe.errors import DataError
from hfpipe.report import DataFacts, Report
from hfpipe.stages.dataset import Dataset

Make = Callable[..., tuple[Report, Path]]
RECORDS = [
    {"text": 'Übung macht den "Meister", sagt man', "label": "de"},
    {"text": "practice makes perfect", "label": "en"},
    {"text": "熟能生巧 🦊", "label": "zh"},
]
MANY = json.dumps([{**record, "text": f"{record['text']} {n}"} for n in range(40) for record in RECORDS])


def table_text(delimiter: str, quoting: Any) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, quotechar=None if quoting else '"')
    writer.writerow(RECORDS[0])
    writer.writerows(record.values() for record in RECORDS)
    return out.getvalue()


TEXTS: dict[str, str] = {
    "txt": "".join(f"{record['text']}\n" for record in RECORDS),
    "jsonl": "".join(json.dumps(record) + "\n\n" for record in RECORDS),
    "json": json.dumps(RECORDS, indent=1),
    "csv": table_text(",", csv.QUOTE_MINIMAL),
    "tsv": "".join(
        f"{text}\t{label}\n" for text, label in [("text", "label")] + [r.values() for r in RECORDS]
    ),
}
PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def texts(folder: Path) -> list[str]:
    return open_split(folder, "train")["text"][:]


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("kind", TEXTS)
def test_every_text_format_and_compression_gives_the_same_rows(
    kind: str, packed: str, tmp_path: Path, make_data: Make
) -> None:
    (tmp_path / f"data.{kind}{packed}").write_bytes(PACK[packed](TEXTS[kind].encode()))
    report, folder = make_data({"source": {"files": f"data.{kind}{packed}"}})
    assert texts(folder) == [record["text"] for record in RECORDS]
    assert report.data is not None
    assert report.data.labels == ({} if kind == "txt" else {"label": ["de", "en", "zh"]})


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_parquet_and_both_kinds_of_arrow_are_read(kind: str, tmp_path: Path, make_data: Make) -> None:
    table, path = (
        pa.Table.from_pylist(RECORDS),
        tmp_path / ("data.parquet" if kind == "parquet" else "data.arrow"),
    )
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with (pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)(str(path), table.schema) as writer:
            writer.write_table(table)
    _, folder = make_data({"source": {"files": path.name}})
    assert texts(folder) == [record["text"] for record in RECORDS]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_an_encoding_is_read_as_named(encoding: str, tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.csv").write_bytes("text\nÜbung\n".encode(encoding))
    _, folder = make_data({"source": {"files": "data.csv", "encoding": encoding}})
    assert texts(folder) == ["Übung"]


def test_a_byte_order_mark_is_not_part_of_a_column_name(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.csv").write_bytes("text\na\n".encode("utf-8-sig"))
    _, folder = make_data({"source": {"files": "data.csv"}, "columns": {"text": "text"}})
    assert texts(folder) == ["a"]


def test_a_mapping_of_records_keeps_its_keys_as_ids(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.json").write_text(json.dumps({"one": {"text": "a"}, "two": {"text": "b"}}))
    _, folder = make_data({"source": {"files": "data.json"}})
    assert open_split(folder, "train")["id"][:] == ["one", "two"]


def test_files_are_read_in_sorted_order_and_named_format_wins(tmp_path: Path, make_data: Make) -> None:
    for name in ("b/2.log", "a/1.log", "b/1.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    _, folder = make_data({"source": {"files": ["b/*.log", "a/**/*.log"], "format": "txt"}})
    assert texts(folder) == ["b/1.log", "b/2.log", "a/1.log"]


def test_a_file_inside_a_package_is_read(make_data: Make) -> None:
    report, _ = make_data({"source": {"package": "hypothesis/hypothesis/vendor/tlds-alpha-by-domain.txt"}})
    assert report.data is not None
    assert report.data.splits["train"] > 1000


def test_a_function_is_given_the_paths_it_reads(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "mine.txt").write_text("from the file")
    (tmp_path / "rows.py").write_text("def rows(path):\n    yield {'text': path.read_text()}\n")
    _, folder = make_data({"source": {"python": "rows.py:rows", "reads": ["./mine.txt"]}})
    assert texts(folder) == ["from the file"]


def test_nested_columns_are_reached_by_dots(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.jsonl").write_text('{"page": {"body": "deep"}, "a.b": "flat"}\n')
    _, folder = make_data(
        {"source": {"files": "data.jsonl"}, "columns": {"text": "page.body", "text_b": "a.b"}}
    )
    assert open_split(folder, "train")[0] | {"id": ""} == {"id": "", "text": "deep", "text_b": "flat"}


def test_other_columns_come_along_with_their_types(tmp_path: Path, make_data: Make) -> None:
    record = {"text": "a", "year": 1990, "share": 0.5, "tags": ["x"], "seen": True, "none": None}
    (tmp_path / "data.jsonl").write_text(json.dumps(record) + "\n")
    report, folder = make_data({"source": {"files": "data.jsonl"}})
    assert report.data is not None
    assert report.data.columns["year"] == "int"
    assert report.data.columns["share"] == "float"
    row = open_split(folder, "train")[0]
    assert {name: row[name] for name in record} == record


@pytest.mark.parametrize(
    ("labels", "kind", "names", "stored"),
    [
        (["b", "a", "b"], "label", ["a", "b"], [1, 0, 1]),
        ([10, 9, 10], "label", ["9", "10"], [1, 0, 1]),
        ([True, False, True], "label", ["False", "True"], [1, 0, 1]),
        ([["b", "a"], [], ["c"]], "labels", ["a", "b", "c"], [[1, 0], [], [2]]),
        ([0.5, 2.0, 1e3], "float", None, [0.5, 2.0, 1000.0]),
    ],
)
def test_the_kind_of_a_label_is_detected_from_its_values(
    labels: list[Any], kind: str, names: Any, stored: Any, tmp_path: Path, make_data: Make
) -> None:
    records = [{"text": f"text {n}", "label": label} for n, label in enumerate(labels)]
    (tmp_path / "data.json").write_text(json.dumps(records))
    report, folder = make_data({"source": {"files": "data.json"}})
    assert report.data is not None
    assert report.data.columns["label"] == kind
    assert report.data.labels.get("label") == names
    assert open_split(folder, "train")["label"][:] == stored


def test_a_recipe_can_say_what_a_label_is(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.csv").write_text("text,score\na,1\nb,2.5\n")
    report, folder = make_data({"source": {"files": "data.csv"}, "labels": {"score": "number"}})
    assert report.data is not None
    assert report.data.columns["score"] == "float"
    assert open_split(folder, "train")["score"][:] == [1.0, 2.5]


def test_given_splits_are_kept_and_only_missing_ones_carved(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "train.txt").write_text("".join(f"train {n}\n" for n in range(400)))
    (tmp_path / "test.txt").write_text("".join(f"test {n}\n" for n in range(7)))
    report, folder = make_data(
        {
            "source": {"files": {"train": "train.txt", "test": "test.txt"}},
            "split": {"validation": 0.2, "test": 0.3},
        }
    )
    assert report.data is not None
    assert report.data.splits["test"] == 7
    assert report.data.splits["train"] + report.data.splits["validation"] == 400
    assert 40 < report.data.splits["validation"] < 120
    assert all(text.startswith("train") for text in open_split(folder, "validation")["text"])


def test_of_duplicates_across_given_splits_the_held_out_one_stays(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "train.txt").write_text("both\nonly in train\n")
    (tmp_path / "test.txt").write_text("both\n")
    source = {"files": {"train": "train.txt", "test": "test.txt"}}
    _, folder = make_data({"source": source, "clean": [{"dedup": "exact"}]})
    assert texts(folder) == ["only in train"]
    assert open_split(folder, "test")["text"][:] == ["both"]


def test_a_stage_above_can_be_cleaned_further(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.json").write_text(MANY)
    first, above = make_data({"source": {"files": "data.json"}, "split": {"test": 0.3}}, "first")
    settings = {"source": {"stage": "first"}, "clean": [{"drop": {"label": ["de"]}}], "split": {"test": 0.5}}
    second, folder = make_data(settings, "second", inputs={"first": above})
    assert first.data is not None
    assert second.data is not None
    assert second.data.labels == {"label": ["en", "zh"]}
    for split, rows in open_data(folder).items():
        had = [row["id"] for row in open_split(above, split) if row["label"] != 0]
        assert rows["id"][:] == had


def test_class_names_keep_the_order_the_source_gives_them(tmp_path: Path, make_data: Make) -> None:
    feature = datasets.ClassLabel(names=["positive", "neutral", "negative"])
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [2, 0, 1]})
    above = tmp_path / "above"
    datasets.DatasetDict(train=data.cast_column("label", feature)).save_to_disk(str(above))
    report, folder = make_data({"source": {"stage": "above"}}, inputs={"above": above})
    assert report.data is not None
    assert report.data.labels == {"label": ["positive", "neutral", "negative"]}
    assert open_split(folder, "train")["label"][:] == [2, 0, 1]
    assert read_facts(above) == report.data.model_copy(
        update={"columns": {"text": "string", "label": "label"}}
    )


def test_a_hub_data_set_is_loaded_with_its_splits(
    tmp_path: Path, make_data: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder of files goes the same way through `load_dataset` as a repository of the Hub.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "train.csv").write_text("text,label\na,1\nb,0\n")
    (tmp_path / "repo" / "test.csv").write_text("text,label\nc,1\n")
    report, _ = make_data({"source": {"hub": str(tmp_path / "repo")}})
    assert report.data is not None
    assert report.data.splits == {"train": 2, "test": 1}
    assert report.data.labels == {"label": ["0", "1"]}


def test_a_label_that_the_hub_holds_back_is_missing(tmp_path: Path, make_data: Make) -> None:
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, -1]})
    above = tmp_path / "above"
    data.cast(datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(2))).save_to_disk(
        str(above)
    )
    with pytest.raises(DataError, match=r"train row 2: 'label' is missing"):
        make_data({"source": {"stage": "above"}}, inputs={"above": above})
    settings = {"source": {"stage": "above"}, "clean": [{"drop": {"label": [None]}}]}
    report, _ = make_data(settings, inputs={"above": above})
    assert report.ledger["rows"] == {"in": 2, "kept": 1, "missing text": 0, "drop: label None": 1}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "write exactly one of hub, files, package, python, stage, not none"),
        (
            {"hub": "a/b", "stage": "c"},
            "write exactly one of hub, files, package, python, stage, not hub and stage",
        ),
        ({"stage": "c", "revision": "main"}, "`revision` does not go with `stage`"),
        (
            {"files": "a.txt", "encoding": "utf-9"},
            "'utf-9' is not a text encoding; write utf-8, latin-1, cp1252, utf-16 …",
        ),
    ],
)
def test_a_source_is_one_thing_with_its_own_options(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Dataset.model_validate({"source": source})
    assert f"Value error, {message}" in {error["msg"] for error in caught.value.errors()}


def test_facts_come_from_the_report_or_else_from_the_features(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.json").write_text(json.dumps(RECORDS))
    report, folder = make_data({"source": {"files": "data.json"}})
    assert read_facts(folder) == report.data
    (folder / "report.json").unlink()
    assert read_facts(folder) == report.data


def test_a_folder_without_data_and_a_split_that_is_not_there_are_named(
    tmp_path: Path, make_data: Make
) -> None:
    with pytest.raises(DataError, match="cannot be opened as a data set"):
        open_data(tmp_path)
    (tmp_path / "data.txt").write_text("a\n")
    _, folder = make_data({"source": {"files": "data.txt"}})
    with pytest.raises(DataError, match="there is no split 'test'; it has train"):
        open_split(folder, "test")


def test_a_limit_holds_for_each_split(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.txt").write_text("".join(f"{n}\n" for n in range(50)))
    report, _ = make_data({"source": {"files": {"train": "data.txt", "test": "data.txt"}}, "limit": 5})
    assert isinstance(report.data, DataFacts)
    assert report.data.splits == {"train": 5, "test": 5}


def test_a_limit_of_one_split_leaves_the_others_complete(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.txt").write_text("".join(f"{n}\n" for n in range(50)))
    files = {"files": {"train": "data.txt", "test": "data.txt"}}
    report, folder = make_data({"source": files, "limit": {"train": 5}})
    assert isinstance(report.data, DataFacts)
    assert report.data.splits == {"train": 5, "test": 50}
    assert report.facts["limit"] == {"read": 100, "kept": 55}
    _, both = make_data({"source": files, "limit": 5}, name="both")
    assert open_split(folder, "train")["text"][:] == open_split(both, "train")["text"][:]


def test_a_split_that_a_stage_makes_is_sampled_by_another_as_advised(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.txt").write_text("".join(f"{n}\n" for n in range(50)))
    plain = {"source": {"files": "data.txt"}, "split": {"test": 0.2}}
    with pytest.raises(DataError, match="limit: the source has no split 'train'; its splits: none") as caught:
        make_data({**plain, "limit": {"train": 5}})
    _, above = make_data(plain, name="above")
    [advised] = re.findall("`(.*)`", str(caught.value))
    source = yaml.safe_load(advised.replace("NAME", "above"))
    report, _ = make_data({**source, "limit": {"train": 5}}, inputs={"above": above}, name="few")
    assert isinstance(report.data, DataFacts)
    assert report.data.splits == {"train": 5, "test": open_split(above, "test").num_rows}


def test_the_same_settings_write_the_same_bytes(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.json").write_text(MANY)
    settings = {"source": {"files": "data.json"}, "split": {"test": 0.3}}
    (_, one), (_, two) = make_data(settings, "one"), make_data(settings, "two")
    left = [path.relative_to(one) for path in sorted(one.rglob("*")) if path.is_file()]
    assert left == [path.relative_to(two) for path in sorted(two.rglob("*")) if path.is_file()]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in left)


@pytest.mark.slow
def test_the_demo_data_set_balances_and_no_text_is_in_two_splits(context: Callable[..., RunContext]) -> None:
    recipes = Path(__file__).parents[1] / "recipes"
    settings = yaml.safe_load((recipes / "demo.yaml").read_text(encoding="utf-8"))["stages"]["wiki"]
    ctx = replace(context(), base=recipes)
    report = Dataset.model_validate(settings).run(ctx)
    rows = dict(report.ledger["rows"])
    assert report.data is not None
    assert rows.pop("in") == sum(rows.values())
    assert rows["kept"] == sum(report.data.splits.values()) > 9000
    assert len(report.data.labels["label"]) == 11
    parts = [set(data["text"]) for data in open_data(ctx.folder).values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == rows["kept"]
    assert not (ctx.work / "rows").exists()
