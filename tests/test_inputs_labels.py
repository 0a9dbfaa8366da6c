"""Label columns as people have them: what is read, what is refused, and advice that works when pasted."""

from __future__ import annotations

import csv
import inspect
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import small
from hypothesis import HealthCheck, given, reject
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError

from hfpipe.data.cleaning.expressions import check_expression
from hfpipe.data.cleaning.filters import Drop, Keep
from hfpipe.data.labels import messages
from hfpipe.data.labels.labels import Label, read_labels
from hfpipe.data.labels.notes import group_similar_names
from hfpipe.data.labels.settings import LabelColumn
from hfpipe.data.labels.values import equals_written, normalize_name, parse_decimal
from hfpipe.data.rows import Row
from hfpipe.errors import DataError
from hfpipe.recipe.source import parse_yaml
from hfpipe.report import DataFacts, Report
from hfpipe.stages.dataset import Dataset
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.token_classification import TokenClassification

INPUTS = Path(__file__).parent / "inputs"
Make = Callable[..., tuple[Report, Path]]
FILES = {"source": {"files": "data.jsonl"}}
CSV = {"source": {"files": "data.csv"}}
SPLITS = {"source": {"files": {"train": "train.jsonl", "test": "test.jsonl"}}}
SEPARATED = {"labels": {"kind": "classes", "separator": ","}}


def labelled(*labels: Any, column: str = "label") -> str:
    return small.to_json_lines(
        {"text": f"a text of its own, number {n}", column: label} for n, label in enumerate(labels)
    )


def table(*labels: str, column: str = "label", tab: bool = False) -> str:
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t" if tab else ",", lineterminator="\n")
    writer.writerows(
        [("text", column), *((f"a text of its own, number {n}", each) for n, each in enumerate(labels))]
    )
    return file.getvalue()


def settings_of(case: str, tmp_path: Path, recipe: str = "recipe.yaml") -> dict[str, Any]:
    shutil.copytree(INPUTS / case, tmp_path, dirs_exist_ok=True)
    document = parse_yaml((tmp_path / recipe).read_text(encoding="utf-8"), tmp_path / recipe)
    stage = document.data["stages"]["data"]
    return {key: value for key, value in stage.items() if key != "kind"}


def names(folder: Path, column: str = "label") -> list[str]:
    feature = datasets.load_from_disk(str(folder))["train"].features[column]
    return list(getattr(feature, "feature", feature).names)


def values(folder: Path, column: str = "label") -> list[Any]:
    data = datasets.load_from_disk(str(folder))["train"]
    classes = names(folder, column)
    return [[classes[i] for i in row] if isinstance(row, list) else classes[row] for row in data[column]]


# Cells


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.csv", table("pos", "", "neg")),
        ("data.csv", table("pos", "  ", "neg")),
        ("data.tsv", table("pos", "\u00a0", "neg", tab=True)),
        ("data.jsonl", labelled("pos", "", "neg")),
        ("data.jsonl", labelled("pos", None, "neg")),
        ("data.jsonl", labelled(1.5, float("nan"), 2.5)),
    ],
)
def test_an_empty_cell_is_a_missing_label_in_every_format(
    name: str, content: str, tmp_path: Path, make_data: Make
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    line = 3 if not name.endswith("jsonl") else 2
    with pytest.raises(
        DataError, match=rf"^{name}, line {line}: 'label' is missing; .* `clean: \[{{drop: {{label: "
    ) as e:
        make_data({"source": {"files": name}})
    report, _ = make_data({"source": {"files": name}, **pasted({}, advice(str(e.value))[0])})
    assert report.ledger["rows"] == {"in": 3, "kept": 2, "missing text": 0, "drop: label None": 1}


def test_an_empty_cell_of_a_workbook_is_a_missing_label(tmp_path: Path, make_data: Make) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for cells in [
        ("text", "label"),
        ("one text", "pos"),
        ("another text", None),
        ("a third", " "),
        ("last", "neg "),
    ]:
        book.active.append(cells)
    book.save(tmp_path / "data.xlsx")
    settings = {"source": {"files": "data.xlsx"}}
    with pytest.raises(
        DataError, match=r"^data\.xlsx, .* 3: 'label' is missing; fill it in, or drop"
    ) as caught:
        make_data(settings)
    report, folder = make_data(pasted(settings, advice(str(caught.value))[0]))
    assert values(folder) == ["pos", "neg"]
    assert report.ledger["rows"]["drop: label None"] == 2


@pytest.mark.parametrize(
    ("column", "works"), [("text", True), ("note", False)], ids=["a text column", "another column"]
)
def test_half_a_character_in_a_text_goes_with_the_step_that_is_advised(
    column: str, *, works: bool, tmp_path: Path, make_data: Make
) -> None:
    rows = [{"text": "fine", "note": "fine"}, {"text": "fine too", "note": "fine"}]
    rows[1][column] = "half \ud83d"
    small.write_json_lines(tmp_path / "data.jsonl", rows)
    with pytest.raises(
        DataError, match=r"line 2: .* holds half a character .* add `clean: \[unicode\]` if"
    ) as e:
        make_data(FILES)
    followed = pasted(FILES, advice(str(e.value))[0])
    if works:
        _, folder = make_data(followed)
        assert datasets.load_from_disk(str(folder))["train"]["text"][1] == "half "
    else:  # the message says so: leave it out
        make_data({**FILES, "columns": {"text": "text"}})


def test_the_case_of_empty_cells_names_the_first_of_them(tmp_path: Path, make_data: Make) -> None:
    settings = settings_of("04-empty-label-csv", tmp_path)
    with pytest.raises(
        DataError, match=r"^data\.csv, line 2: 'label' is missing; fill it in, or drop such rows"
    ):
        make_data(settings)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data.csv", table("pos", "pos ", "\u00a0pos", "neg\ufeff", "neg", "caf\u00e9", "cafe\u0301")),
        ("data.jsonl", labelled("pos", "pos ", "\tpos", "neg\u200b", "neg", "caf\u00e9", "cafe\u0301")),
    ],
)
def test_names_that_differ_by_white_space_or_composition_are_one_class(
    file: str, content: str, tmp_path: Path, make_data: Make
) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    report, folder = make_data({"source": {"files": file}})
    assert names(folder) == ["café", "neg", "pos"]
    assert Counter(values(folder)) == {"pos": 3, "neg": 2, "café": 2}
    assert "4 cells of 'label' stripped of white space or normalized to NFC" in report.summary


def test_names_in_lists_and_tags_are_in_one_spelling(tmp_path: Path, make_data: Make) -> None:
    rows = [{"words": ["a", "b"], "tags": ["O ", "B-X"]}, {"words": ["c", "d"], "tags": ["O", " B-X"]}]
    small.write_json_lines(tmp_path / "data.jsonl", rows)
    report, folder = make_data(FILES)
    assert names(folder, "tags") == ["B-X", "O"]
    assert "labels: tags (lists of 2 classes); 2 cells of 'tags' stripped" in report.summary


def test_the_case_of_spaces_behind_labels_has_two_classes(tmp_path: Path, make_data: Make) -> None:
    report, folder = make_data(settings_of("37b-label-spaces", tmp_path))
    assert names(folder) == ["neg", "pos"]
    spaced = sum(line.endswith(" ") for line in (tmp_path / "data.csv").read_text().splitlines())
    assert f"{spaced} cells of 'label'" in report.summary


def test_upper_and_lower_case_are_kept_apart_and_noted(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.csv").write_text(table("Pos", "pos", "neg", "pos", "NEG"))
    report, folder = make_data(CSV)
    assert names(folder) == ["NEG", "Pos", "neg", "pos"]
    assert (
        "note: classes of 'label' that differ by case or white space only: 'NEG' and 'neg' / 'Pos' and 'pos'"
        in report.summary
    )
    assert group_similar_names(["Straße", "STRASSE", "b"]) == [["Straße", "STRASSE"]]


@pytest.mark.parametrize(("one", "other"), [("very good", "very\u00a0good"), ("very good", "very  good")])
def test_classes_that_differ_by_white_space_inside_are_noted(
    one: str, other: str, tmp_path: Path, make_data: Make
) -> None:
    (tmp_path / "data.csv").write_text(table(one, other, "bad", one))
    report, folder = make_data(CSV)
    assert names(folder) == sorted(["bad", one, other])
    pair = " and ".join(map(repr, sorted([one, other])))
    assert f"note: classes of 'label' that differ by case or white space only: {pair}" in report.summary


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1000", 1000.0),
        ("-2.5", -2.5),
        ("+.5e-3", 0.0005),
        (" 1 ", 1.0),
        ("3.", 3.0),
        ("1_000", None),
        ("inf", None),
        ("nan", None),
        ("Infinity", None),
        ("1e999", None),
        ("\uff11\uff12", None),
        ("\u0663", None),
        ("1,5", None),
        ("0x10", None),
        ("true", None),
        ("", None),
    ],
)
def test_a_number_is_written_in_decimal_digits(text: str, number: float | None) -> None:
    assert parse_decimal(text) == number


@pytest.mark.parametrize("cell", ["1_000", "inf", "nan", "\uff11", "1,5", "high"])
def test_what_is_not_a_decimal_number_is_refused_and_can_be_dropped(
    cell: str, tmp_path: Path, make_data: Make
) -> None:
    (tmp_path / "data.csv").write_text(table("2.5", cell, "3"), encoding="utf-8")
    settings = {**CSV, "labels": {"label": "number"}}
    with pytest.raises(DataError, match=r"^data\.csv, line 3: 'label' is .*, not a decimal number") as caught:
        make_data(settings)
    _, folder = make_data(pasted(settings, advice(str(caught.value))[0]))
    assert datasets.load_from_disk(str(folder))["train"]["label"][:] == [2.5, 3.0]


def test_the_case_of_an_underscore_is_refused(tmp_path: Path, make_data: Make) -> None:
    with pytest.raises(DataError, match=r"^data\.csv, line 2: 'label' is '1_000', not a decimal number"):
        make_data(settings_of("76-number-underscore", tmp_path))


def test_whole_and_fractional_numbers_are_numbers_together(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.jsonl").write_text(labelled(1, 0.5, 2))
    report, folder = make_data(FILES)
    assert datasets.load_from_disk(str(folder))["train"]["label"][:] == [1.0, 0.5, 2.0]
    assert "labels: label (numbers)" in report.summary


@pytest.mark.parametrize("labels", [[1.0, 0.0, 2.0], [1, 0.0, "2"], ["1", 0, 2.0]])
def test_whole_fractions_are_classes_where_the_recipe_says_class(
    labels: list[Any], tmp_path: Path, make_data: Make
) -> None:
    (tmp_path / "data.jsonl").write_text(labelled(*labels))
    _, folder = make_data({**FILES, "labels": {"label": "class"}})
    assert names(folder) == ["0", "1", "2"]
    assert values(folder) == ["1", "0", "2"]


def test_whole_fractions_are_numbers_otherwise_and_the_summary_asks(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.jsonl").write_text(labelled(1.0, 0.0, 1.0))
    report, _ = make_data(FILES)
    assert "labels: label (numbers, all whole; write `labels: {label: class}` if they are" in report.summary
    _, folder = make_data(pasted(FILES, advice(report.summary)[0]))
    assert names(folder) == ["0", "1"]


def test_the_case_of_whole_fractions_has_two_classes(tmp_path: Path, make_data: Make) -> None:
    _, folder = make_data(settings_of("39b-float-class-forced", tmp_path))
    assert names(folder) == ["0", "1"]


def test_a_class_named_like_a_missing_value_is_noted_and_can_be_dropped(
    tmp_path: Path, make_data: Make
) -> None:
    (tmp_path / "data.csv").write_text(table("pos", "nan", "neg", "None"))
    report, _ = make_data(CSV)
    assert "note: 'label' has a class 'None'; if that means a missing label, write" in report.summary
    report, _ = make_data(pasted(CSV, advice(report.summary)[0]))
    report, folder = make_data(
        pasted(pasted(CSV, advice(report.summary)[0]), "clean: [{drop: {label: [None]}}]")
    )
    assert names(folder) == ["neg", "pos"]
    assert "note:" not in report.summary


# Lists


@pytest.mark.slow
def test_the_case_of_several_classes_in_a_cell_advises_a_separator(tmp_path: Path, make_data: Make) -> None:
    settings = settings_of("06-comma-labels-csv", tmp_path)
    with pytest.raises(
        DataError, match=r"^data\.csv, line 2: 'labels' is the text 'pos,food', not a list"
    ) as e:
        make_data(settings)
    _, folder = make_data(pasted(settings, advice(str(e.value))[0]))
    assert names(folder, "labels") == ["food", "neg", "place", "pos"]
    with (tmp_path / "data.csv").open() as file:
        cells = Counter(tuple(row["labels"].split(",")) for row in csv.DictReader(file))
    data = datasets.load_from_disk(str(folder))
    found = Counter(
        tuple(names(folder, "labels")[i] for i in row) for split in data.values() for row in split["labels"]
    )
    assert found == cells


@pytest.mark.parametrize(
    ("labels", "separator", "cells"),
    [
        ("class", ";", ["a;b", "b", " a ; c;"]),
        (None, "|", ["a|b", "b", "a| c|"]),
        (None, None, ['["a", "b"]', "['b']", "['a', 'c']"]),
    ],
)
def test_lists_in_cells_of_csv_are_read(
    labels: str | None, separator: str | None, cells: list[str], tmp_path: Path, make_data: Make
) -> None:
    (tmp_path / "data.csv").write_text(table(*cells))
    column = {"kind": "classes"} | ({"separator": separator} if separator else {})
    _, folder = make_data({**CSV, "labels": {"label": column}})
    assert values(folder) == [["a", "b"], ["b"], ["a", "c"]]


def test_an_empty_cell_with_a_separator_is_missing_unless_allowed(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.csv").write_text(table("a,b", "", "b", column="labels"))
    with pytest.raises(
        DataError, match=r"line 3: 'labels' is missing; .* if an empty cell has no class"
    ) as e:
        make_data({**CSV, "labels": SEPARATED})
    drop, allow = advice(str(e.value))
    _, folder = make_data(pasted({**CSV, "labels": SEPARATED}, drop))
    assert values(folder, "labels") == [["a", "b"], ["b"]]
    _, folder = make_data(pasted({**CSV, "labels": SEPARATED}, allow))
    assert values(folder, "labels") == [["a", "b"], [], ["b"]]


def test_the_case_of_multi_hot_lists_has_three_classes(tmp_path: Path, make_data: Make) -> None:
    settings = settings_of("05-multihot-int", tmp_path)
    with pytest.raises(
        DataError, match=r"^data\.jsonl, line 1: 'labels' is \[1, 1, 0\], and all rows have 3 values"
    ) as e:
        make_data(settings)
    yes, no = advice(str(e.value))
    _, folder = make_data(pasted(settings, no))
    assert names(folder, "labels") == ["0", "1"]
    _, folder = make_data(pasted(settings, yes))
    assert names(folder, "labels") == ["0", "1", "2"]
    first = json.loads((tmp_path / "data.jsonl").read_text().splitlines()[0])
    rows = [row for split in datasets.load_from_disk(str(folder)).values() for row in split]
    found = next(row for row in rows if row["text"] == first["text"])
    assert found["labels"] == [0, 1]


@pytest.mark.parametrize(
    "vectors",
    [
        [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]],
        [[True, False, True], [False, False, False], [False, True, True]],
        [["1", "0", "1"], ["0", "0", "0"], ["0", "1", "1"]],
        ["[1, 0, 1]", "[0, 0, 0]", "[0, 1, 1]"],
    ],
)
def test_multi_hot_lists_get_the_names_that_the_recipe_gives(
    vectors: list[Any], tmp_path: Path, make_data: Make
) -> None:
    (tmp_path / "data.jsonl").write_text(labelled(*vectors, column="labels"))
    settings = {**FILES, "labels": {"labels": "classes"}}
    with pytest.raises(DataError, match="and all rows have 3 values, each 0 or 1"):
        make_data(settings)
    column = {"kind": "classes", "indicators": True, "names": ["soup", "bed", "view"]}
    _, folder = make_data({**FILES, "labels": {"labels": column}})
    assert names(folder, "labels") == ["soup", "bed", "view"]
    assert values(folder, "labels") == [["soup", "view"], [], ["bed", "view"]]
    _, folder = make_data({**FILES, "labels": {"labels": column}, "clean": [{"drop": {"labels": ["bed"]}}]})
    assert values(folder, "labels") == [["soup", "view"], []]


@pytest.mark.parametrize("odd", [[1, 0], [1, 0, 2], [1, 0, 0.5], [1, 0, None]])
def test_a_row_that_is_not_multi_hot_is_named(odd: list[Any], tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.jsonl").write_text(labelled([1, 0, 1], odd, column="labels"))
    with pytest.raises(DataError, match=r"line 2: 'labels' is .*, not 3 numbers, each 0 or 1; fix"):
        make_data({**FILES, "labels": {"labels": {"indicators": True}}})


def test_tags_of_words_and_ids_of_classes_are_not_taken_for_multi_hot(
    tmp_path: Path, make_data: Make
) -> None:
    rows = [{"words": ["a", "b", "c"], "tags": [0, 1, 1]}, {"words": ["d", "e", "f"], "tags": [0, 0, 1]}]
    small.write_json_lines(tmp_path / "data.jsonl", rows)
    _, folder = make_data(FILES)
    assert names(folder, "tags") == ["0", "1"]
    (tmp_path / "data.jsonl").write_text(labelled([0, 1], [1, 2], [0, 2], column="labels"))
    _, folder = make_data(FILES)
    assert names(folder, "labels") == ["0", "1", "2"]


def test_lists_whose_classes_the_source_knows_are_not_taken_for_multi_hot(
    tmp_path: Path, make_data: Make
) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "labels": datasets.List(datasets.ClassLabel(names=["0", "1"]))}
    )
    rows = {"text": ["one", "two"], "labels": [[0, 0, 1], [1, 1, 0]]}
    datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features)).save_to_disk(str(tmp_path / "up"))
    _, folder = make_data({"source": {"stage": "up"}}, inputs={"up": tmp_path / "up"})
    assert values(folder, "labels") == [["0", "0", "1"], ["1", "1", "0"]]


def test_names_give_ids_their_classes_and_their_order(tmp_path: Path, make_data: Make) -> None:
    column = {"kind": "class", "names": ["world", "sports", "business"]}
    (tmp_path / "data.csv").write_text(table("1", "0", "sports", "1.0"))
    _, folder = make_data({**CSV, "labels": {"label": column}})
    assert names(folder) == ["world", "sports", "business"]
    assert values(folder) == ["sports", "world", "sports", "sports"]
    report, _ = make_data({**CSV, "labels": {"label": column}})
    assert "note: no row has these classes of 'label': 'business'" in report.summary
    (tmp_path / "data.csv").write_text(table("1", "0", "3"))
    with pytest.raises(
        DataError, match=r"line 4: 'label' is '3', which is not one of its 3 names; add it with"
    ):
        make_data({**CSV, "labels": {"label": column}})


# Dropping


@pytest.mark.parametrize(
    ("written", "value", "equal"),
    [
        (True, True, True),
        (True, 1, False),
        (True, 1.0, False),
        (1, True, False),
        (0, False, False),
        (1, 1.0, True),
        (2, "2", True),
        (2, "2.0", True),
        ("2", 2, True),
        ("2", "2.0", False),
        (True, "true", True),
        (True, "1", False),
        (1, "true", False),
        (False, "FALSE", True),
        ("pos ", "pos", True),
        (None, None, True),
        (None, "", True),
        (None, " ", True),
        (None, float("nan"), True),
        (None, "null", False),
        (None, 0, False),
        (None, False, False),
        ("", None, True),
        (0, "", False),
        (2, "1_0", False),
    ],
)
def test_a_written_value_equals_values_of_its_own_type(written: Any, value: Any, equal: bool) -> None:
    assert equals_written(written, value) is equal


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.csv", table("0", "1", "2", "1")),
        ("data.jsonl", labelled(0, 1, 2, 1)),
        ("data.jsonl", labelled("0", "1", "2", "1")),
    ],
)
def test_drop_takes_the_same_rows_in_every_format(
    name: str, content: str, tmp_path: Path, make_data: Make
) -> None:
    (tmp_path / name).write_text(content)
    for written in (2, "2", 2.0):
        _, folder = make_data({"source": {"files": name}, "clean": [{"drop": {"label": [written]}}]})
        assert values(folder) == ["0", "1", "1"]
    report, _ = make_data({"source": {"files": name}, "clean": [{"drop": {"label": [True]}}]})
    assert report.ledger["rows"]["kept"] == 4


@pytest.mark.parametrize("case", ["12-drop-advice-csv-number", "12d-drop-advice-tags"])
def test_the_cases_of_drop_do_what_their_advice_says(case: str, tmp_path: Path, make_data: Make) -> None:
    settings = settings_of(case, tmp_path)
    with pytest.raises(DataError, match=r"is only in test \(1 row\), never in train") as caught:
        make_data(settings)
    report, _ = make_data(pasted(settings, advice(str(caught.value))[0]))
    assert report.ledger["rows"]["in"] - report.ledger["rows"]["kept"] == 1
    followed, _ = make_data(settings_of(case, tmp_path, "followed.yaml"))
    assert followed.ledger["rows"]["kept"] == report.ledger["rows"]["kept"]
    assert followed.data == report.data


# Rare classes


def test_the_case_of_rare_classes_names_all_at_once(tmp_path: Path, make_data: Make) -> None:
    settings = settings_of("71-many-rare-classes", tmp_path)
    with pytest.raises(
        DataError, match=r"5 classes of 'label' are only in held-out splits: 'rare0' \(test 1\)"
    ) as e:
        make_data(settings)
    report, folder = make_data(pasted(settings, advice(str(e.value))[0]))
    assert report.ledger["rows"]["min_count of label: 1"] == 5
    read = [json.loads(line)["label"] for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    gone = {"rare0", "rare1", "rare3", "rare6", "rare11"}
    assert set(names(folder)) == {*read} - gone
    assert sum(report.data.splits.values()) == len(read) - 5


def test_a_hundred_untrained_classes_are_counted_and_ten_are_named(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "train.jsonl").write_text(labelled("a", "b"))
    (tmp_path / "test.jsonl").write_text(labelled("a", *(f"c{n}" for n in range(100))))
    with pytest.raises(
        DataError, match=r"^test\.jsonl, line 2: 100 classes of .*'c9' \(test 1\) and 90 more, never"
    ):
        make_data(SPLITS)


def random_rows(seed: int) -> list[dict[str, Any]]:
    choose = np.random.default_rng(seed)
    shares = np.array([40, 30, 20, 4, 2, 2, 1, 1]) / 100
    sizes = choose.integers(1, 4, size=150)
    return [
        {
            "text": f"text {n}",
            "labels": choose.choice(list("abcdefgh"), size, replace=False, p=shares).tolist(),
        }
        for n, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_rare_classes_go_until_no_class_is_rare(seed: int, tmp_path: Path, make_data: Make) -> None:
    rows = random_rows(seed)
    small.write_json_lines(tmp_path / "train.jsonl", rows[:100])
    small.write_json_lines(tmp_path / "test.jsonl", rows[100:])
    report, folder = make_data({**SPLITS, "labels": {"labels": {"min_count": 6}}})
    train, test = rows[:100], rows[100:]
    while True:
        counts = Counter(name for row in train for name in {*row["labels"]})
        rare = {name for row in train + test for name in row["labels"] if counts[name] < 6}
        if not rare:
            break
        train, test = ([row for row in part if not rare & {*row["labels"]}] for part in (train, test))
    data = datasets.load_from_disk(str(folder))
    assert values(folder, "labels") == [row["labels"] for row in train]
    assert data["test"]["text"][:] == [row["text"] for row in test]
    assert names(folder, "labels") == sorted({name for row in train for name in row["labels"]})
    kept = [row["text"] for row in train + test]
    assert report.ledger["rows"]["kept"] == len(kept) < 150
    assert report.ledger["rows"]["min_count of labels: 6"] == 150 - len(kept)
    assert report.ledger["characters"]["kept"] == sum(map(len, kept))


def test_rare_classes_become_part_of_another(tmp_path: Path, make_data: Make) -> None:
    labels = ["a", "b", "a", "b", "c", "d", "a"]
    (tmp_path / "train.jsonl").write_text(labelled(*labels))
    (tmp_path / "test.jsonl").write_text(labelled("a", "e", "c"))
    report, folder = make_data({**SPLITS, "labels": {"label": {"min_count": 2, "rare": "other"}}})
    assert names(folder) == ["a", "b", "other"]
    assert values(folder) == ["a", "b", "a", "b", "other", "other", "a"]
    assert datasets.load_from_disk(str(folder))["test"]["label"][:] == [0, 2, 2]
    assert report.ledger["rows"]["kept"] == report.ledger["rows"]["in"] == 10


def test_rare_classes_merge_into_one_that_is_there_and_lists_keep_their_length(
    tmp_path: Path, make_data: Make
) -> None:
    rows = [{"words": ["x", "y"], "tags": tags} for tags in (["O", "B"], ["O", "B"], ["C", "D"])]
    small.write_json_lines(tmp_path / "data.jsonl", rows)
    _, folder = make_data({**FILES, "labels": {"tags": {"min_count": 2, "rare": "O"}}})
    assert values(folder, "tags") == [["O", "B"], ["O", "B"], ["O", "O"]]


def test_without_train_all_rows_count_and_an_emptied_split_is_gone(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "test.jsonl").write_text(labelled("a", "a", "b"))
    settings = {"source": {"files": {"test": "test.jsonl"}}, "labels": {"label": {"min_count": 2}}}
    report, _ = make_data(settings)
    assert report.data.splits == {"test": 2}
    (tmp_path / "train.jsonl").write_text(labelled("a", "a"))
    (tmp_path / "test.jsonl").write_text(labelled("b"))
    report, _ = make_data({**SPLITS, "labels": {"label": {"min_count": 2}}})
    assert report.data.splits == {"train": 2}
    assert report.ledger["rows"] == {"in": 3, "kept": 2, "missing text": 0, "min_count of label: 2": 1}


def test_classes_without_training_rows_left_end_in_one_line(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.jsonl").write_text(labelled("a", "b", "c"))
    with pytest.raises(
        DataError, match=r"no training rows are left of 3 \(min_count of label: 2 took 3\)|no class"
    ):
        make_data({**FILES, "labels": {"label": {"min_count": 2}}})


# What is not a label column at all


def test_a_text_taken_for_a_class_is_stopped(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.jsonl").write_text(labelled("a", "word " * 200))
    with pytest.raises(
        DataError, match=r"line 2: 'label' has 999 characters, so it is a text and not a class"
    ):
        make_data(FILES)


def test_ids_taken_for_classes_are_stopped(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.csv").write_text(table(*(f"user-{n}" for n in range(1500))))
    with pytest.raises(
        DataError, match=r"^'label' has 1,500 different classes in 1,500 rows, so it holds ids or"
    ):
        make_data(CSV)


def test_half_a_character_in_a_label_names_its_row(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.jsonl").write_text(labelled("fine", "half \ud83d", "fine"))
    with pytest.raises(DataError, match=r"^data\.jsonl, line 2: 'label' is 'half \\ud83d', which has half a"):
        make_data(FILES)
    report, folder = make_data({**FILES, "clean": [{"drop": {"label": ["half \ud83d"]}}]})
    assert names(folder) == ["fine"]
    assert report.ledger["rows"]["drop: label half \\ud83d"] == 1


# Advice


def advice(message: str) -> list[str]:
    """Return the settings that a message advises."""
    return [text for text in re.findall(r"`([^`]+)`", message) if ": " in text]


def pasted(settings: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return settings with a line of recipe pasted in: steps are appended, mappings take the new entries."""
    document = parse_yaml(text, Path("pasted.yaml"))
    assert document.problems == []
    result = dict(settings)
    for key, value in document.data.items():
        before = result.get(key)
        both = isinstance(value, dict) and isinstance(before, dict)
        result[key] = (
            {**before, **value} if both else [*(before or []), *value] if isinstance(value, list) else value
        )
    return result


FAULTY: list[tuple[str, str, dict[str, Any]]] = [
    ("make_missing_error", labelled("a", None, "b"), {}),
    ("make_missing_error", labelled("a,b", "", "b"), {"labels": {"label": {"separator": ","}}}),
    ("make_missing_error", labelled("a", " ", "b", column="no: 1"), {"labels": {"no: 1": "class"}}),
    ("make_number_error", labelled(1.5, "high"), {}),
    ("make_number_error", labelled(1.5, "yes: it is", 2.5), {}),
    ("make_number_error", labelled(1.5, True, 2.5), {}),
    ("make_number_error", labelled("1", "inf", "0x10"), {"labels": {"label": "number"}}),
    ("make_list_error", labelled("a;b", "a"), {"labels": {"label": "classes"}}),
    ("make_list_error", labelled("a", "b"), {"labels": {"label": "classes"}}),
    ("make_list_error", labelled(1, 2), {"labels": {"label": "classes"}}),
    ("make_list_error", labelled(["a"], "b, c"), {}),
    ("make_class_error", labelled("a", ["a", "b"]), {}),
    ("make_class_error", labelled(1, [1, 2]), {}),
    ("make_class_error", labelled("a", 0.5, "b"), {"labels": {"label": "class"}}),
    ("make_class_error", labelled("a", 0.5), {}),
    ("make_class_error", labelled(["a"], ["b", None]), {}),
    ("make_class_error", labelled(["a"], ["b", ""]), {}),
    ("make_class_error", labelled(["a"], ["b", 0.5]), {}),
    ("make_mixed_error", labelled(1, "1", 2), {}),
    ("make_mixed_error", labelled("a", True), {}),
    ("make_mixed_error", labelled(["a"], [1]), {}),
    ("make_unnamed_error", labelled("a", "b", "a"), {"labels": {"label": {"names": ["a"]}}}),
    ("make_unnamed_error", labelled(0, 7, 0), {"labels": {"label": {"names": ["a"]}}}),
    ("make_ambiguous_indicators_error", labelled([1, 0, 1], [0, 0, 1]), {"labels": {"label": "classes"}}),
    ("make_untrained_error", labelled("a", "held: x"), {}),
    ("make_untrained_error", labelled("a", "held `b`"), {}),
    ("make_untrained_error", labelled("a", "held 1", "held 2", "held 2"), {}),
    ("make_untrained_error", labelled(1, "held true"), {"labels": {"label": "class"}}),
    ("make_untrained_error", labelled(["a"], ["a", "held"]), {}),
    (
        "make_untrained_error",
        labelled("a", "held 1", "held 2"),
        {"labels": {"label": {"min_count": 1, "rare": "held 3"}}},
    ),
]
"""Function of the message, rows (those whose label holds `held` are the test split), further settings."""
WITHOUT_ADVICE = {"check_name", "require_finite", "make_indicators_error", "make_too_many_error"}


@pytest.mark.parametrize(("function", "rows", "more"), FAULTY)
def test_every_advice_about_labels_works_when_pasted(
    function: str, rows: str, more: dict[str, Any], tmp_path: Path, make_data: Make
) -> None:
    settings = {**(SPLITS if function == "make_untrained_error" else FILES), **more}
    split = {"train.jsonl": "", "test.jsonl": "", "data.jsonl": rows}
    for row in rows.splitlines(keepends=True):
        split["test.jsonl" if "held" in row else "train.jsonl"] += row
    for name, content in split.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        make_data(settings)
    assert caught.traceback[-1].frame.code.name in (
        "_encode",
        "_check_class",
        "check",
        "detect_kind",
        "check_name",
    )
    message = str(caught.value)
    assert "\n" not in message
    advised = advice(message)
    assert advised
    for text in advised:
        errors = follow(pasted(settings, text), message, make_data)
        assert message not in errors


def follow(settings: dict[str, Any], before: str, make_data: Make) -> list[str]:
    """Follow the first advice of each message until the run passes, and return the messages on the way."""
    seen: list[str] = []
    while True:
        try:
            make_data(settings)
        except DataError as error:
            if str(error) in (before, *seen) or len(seen) == 3:
                return [*seen, str(error), before]
            seen.append(str(error))
            settings = pasted(settings, advice(str(error))[0])
        else:
            return seen


def test_every_message_about_labels_is_in_the_table_of_advice() -> None:
    there = {
        name
        for name, function in inspect.getmembers(messages, inspect.isfunction)
        if function.__module__ == messages.__name__ and not name.startswith("_")
    }
    assert there - WITHOUT_ADVICE == {function for function, _, _ in FAULTY}


@pytest.mark.parametrize(
    ("task", "kind", "line"),
    [
        (TextClassification(label="sentiment"), "string", "labels: {sentiment: class}"),
        (TextClassification(label="stars"), "int", "labels: {stars: class}"),
        (TextClassification(label="a b"), "strings", 'labels: {"a b": classes}'),
        (TokenClassification(tags="ner"), "strings", "labels: {ner: classes}"),
    ],
)
def test_a_task_says_how_its_data_set_reads_a_column_as_labels(task: Any, kind: str, line: str) -> None:
    columns = {"text": "string", "words": "strings", task.columns[-1]: kind}
    (problem,) = task.check(DataFacts(columns=columns, splits={"train": 2}))
    assert problem.message.endswith(f"; give its data set `{line}`")


def test_the_case_of_another_name_works_with_the_line_that_the_task_gives(
    tmp_path: Path, make_data: Make
) -> None:
    settings = {**settings_of("42-label-col-string", tmp_path), "text": ["review"]}
    report, _ = make_data(settings)
    task = TextClassification(text="review", label="sentiment")
    (problem,) = task.check(report.data)
    report, _ = make_data(pasted(settings, advice(problem.message)[0]))
    assert list(task.check(report.data)) == []
    assert report.data.labels == {"sentiment": ["neg", "pos"]}


# Settings and cleaning steps


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            {"kind": "class", "separator": ","},
            "`separator` goes with `kind: classes`, not with `kind: class`",
        ),
        ({"kind": "number", "min_count": 3}, "`min_count` goes with classes, not with numbers"),
        ({"rare": "other"}, "`rare` goes with `min_count`"),
        ({"allow_empty": True}, "`allow_empty` goes with `separator`"),
        ({"names": ["a", "a "]}, "`names` has 'a' twice"),
        ({"min_count": 0}, "greater than or equal to 1"),
        ({"kind": "class", "min_cuont": 1}, "Extra inputs"),
        ("clas", "'class', 'classes' or 'number'"),
    ],
)
def test_settings_of_a_label_that_do_not_fit_are_refused(column: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Dataset.model_validate({**FILES, "labels": {"label": column}})


def test_a_label_is_dumped_as_it_was_written() -> None:
    labels = {"a": "class", "b": {"separator": ","}, "c": {"kind": "classes", "indicators": False}}
    stage = Dataset.model_validate({**FILES, "labels": labels})
    assert stage.model_dump(mode="json")["labels"] == labels
    assert Dataset.model_validate(stage.model_dump()) == stage


@pytest.mark.parametrize("threshold", [0.9999999, 0.995, 1e-9])
def test_any_threshold_of_near_duplicates_works(threshold: float, tmp_path: Path, make_data: Make) -> None:
    text = "the soup was warm and rich and the staff smiled at us all day long"
    (tmp_path / "data.jsonl").write_text(
        small.to_json_lines([{"text": text}, {"text": text.upper()}, {"text": "nothing like it"}])
    )
    report, _ = make_data({**FILES, "clean": [{"dedup": {"kind": "near", "threshold": threshold}}]})
    assert report.ledger["rows"]["kept"] == 2


@pytest.mark.parametrize(
    "pattern",
    [
        "(?:(?:(?:a{1000}){1000}){1000}){1000}",
        "a{99999999999}",
        "(" * 5000 + ")" * 5000,
        "[",
        r"((x{300}y){300}){300}",
    ],
)
def test_an_expression_that_cannot_be_compiled_is_refused_at_once(pattern: str) -> None:
    with pytest.raises(
        ValueError, match=r"too many to compile|is not a regular expression|nested too deeply"
    ):
        check_expression(pattern)


@pytest.mark.parametrize(
    "pattern", [r"\d{4}-\d{2}-\d{2}", r"[{(]{3,}", r"\{100000000\}", r"(?:\w{1,50} ){200}", "é|ß"]
)
def test_usual_expressions_are_admitted(pattern: str) -> None:
    assert check_expression(pattern) == pattern


@pytest.mark.slow
def test_a_hundred_thousand_classes_are_stopped_while_rows_come_in(tmp_path: Path, make_data: Make) -> None:
    (tmp_path / "data.csv").write_text(table(*(f"user-{n}" for n in range(120_000) for _ in range(3))))
    with pytest.raises(
        DataError, match=r"^'label' has 100,001 different classes in 300,001 rows, so it holds ids"
    ):
        make_data(CSV)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["keep_matching", "drop_matching"])
def test_an_expression_that_takes_forever_names_its_row(step: str, tmp_path: Path, make_data: Make) -> None:
    small.write_json_lines(tmp_path / "data.jsonl", [{"text": "short"}, {"text": "a" * 60 + "b"}])
    with pytest.raises(
        DataError, match=rf"^data\.jsonl, line 2: the expression of `{step}`, .* takes more than 3 s"
    ):
        make_data({**FILES, "clean": [{step: r"(a|aa)+$"}]})


SCALARS = st.one_of(
    st.sampled_from(
        [None, True, 0, 1, 2, 0.0, 1.0, "a", "b", "a ", "A", "", "1", "1_0", "a,b", "[1, 0]", "['a']"]
    ),
    st.sampled_from(["[", "\ud83d", float("nan"), float("inf"), 2**64]),
    st.floats(),
    st.text(max_size=4),
)
LISTS = st.lists(SCALARS, max_size=4) | st.lists(st.sampled_from([0, 1]), min_size=3, max_size=3)
CELLS = SCALARS | LISTS | st.dictionaries(st.text(max_size=2), SCALARS, max_size=1)
COLUMNS = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from([None, "class", "classes", "number"]),
        "separator": st.sampled_from([",", " "]),
        "allow_empty": st.booleans(),
        "indicators": st.booleans(),
        "names": st.lists(st.sampled_from(["a", "b", "0", "1"]), unique=True, max_size=3),
        "min_count": st.integers(1, 3),
        "rare": st.sampled_from(["drop", "a", "other"]),
    },
)


def labels_or_message(label: Label, rows: list[Row], keep: Keep) -> tuple[list[Any], str | None]:
    try:
        label.detect_kind(rows)
        kept = [row for row in read_labels(rows, [label]) if keep(row)]
        ids = [label.encode(row, "test" if row.number == 3 else "train") for row in kept]
        label.check()
    except DataError as error:
        return [], str(error)
    return ids, None


@pytest.mark.slow
@examples(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.filter_too_much], derandomize=True
)
@given(COLUMNS, st.lists(CELLS, min_size=1, max_size=6), st.lists(SCALARS, max_size=2))
def test_any_cells_under_any_settings_are_labels_or_one_line(
    column: dict[str, Any], cells: list[Any], dropped: list[Any]
) -> None:
    try:
        label = Label("label", LabelColumn.model_validate(column))
    except ValidationError:
        reject()
    rows = [Row({"label": cell}, "data.jsonl, line", number) for number, cell in enumerate(cells, 1)]
    keep = Drop({"label": dropped}).start()
    ids, message = labels_or_message(label, rows, keep)
    if message is not None:
        assert "\n" not in message
        assert message.startswith(("data.jsonl, line ", "'label' holds no class"))
        return
    final = label.replace_ids(pa.chunked_array([pa.array(ids, label.arrow)])).to_pylist()
    flat = [number for one in final for number in (one if isinstance(one, list) else [one])]
    assert all(isfinite(number) for number in flat)
    assert label.kind == "number" or all(0 <= number < len(label.ids.sort_names()) for number in flat)


def test_names_are_normalized_once_and_for_all() -> None:
    for text in ("pos", " pos\u00a0", "\ufeffcafe\u0301 \u200b", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"):
        once = normalize_name(text)
        assert normalize_name(once) == once
    assert normalize_name("🏴󠁧󠁢󠁥󠁮󠁧󠁿") != normalize_name("🏴󠁧󠁢󠁳󠁣󠁴󠁿")
