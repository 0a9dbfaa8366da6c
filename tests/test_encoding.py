"""Rows that hold less than a task reads are told before anything is learned from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pieces
import pytest

from hfpipe.encoding.encoded import ROWS_AT_ONCE, Examples, encode
from hfpipe.encoding.io import extract_facts
from hfpipe.errors import DataError
from hfpipe.task import TaskConfig
from hfpipe.tasks import TASKS

TEXTS = ["The Nile flows north.", "Everest is high."]
TAGS = datasets.List(datasets.ClassLabel(names=["O", "B-LOC"]))
PATTERN = {"pattern": "{text} It is [MASK].", "verbalizer": {"low": "flows", "high": "high"}}


def read(task: TaskConfig, rows: dict[str, list[Any]], path: Path, **features: Any) -> Examples:
    table = datasets.Dataset.from_dict(rows)
    for column, feature in features.items():
        table = table.cast_column(column, feature)
    facts = extract_facts(datasets.DatasetDict(train=table))
    family = "bpe" if task.auto_class == "AutoModelForCausalLM" else "wordpiece"
    words = pieces.tokenizer(TEXTS, family)
    return encode(
        task.runtime(), table, words, facts, path / "train.arrow", packed=False, advance=lambda _: None
    )[0]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("causal-lm", {"text": [TEXTS[0], None]}),
        ("masked-lm", {"text": [TEXTS[0], None]}),
        ("summarization", {"text": TEXTS, "summary": ["a", None]}),
        ("text-generation", {"prompt": [TEXTS[0], None], "completion": TEXTS}),
        ("text-generation", {"prompt": TEXTS, "completion": [TEXTS[0], None]}),
        ("fill-mask", {"text": ["It is [MASK]."] * 2, "answer": ["high", None]}),
    ],
)
def test_a_missing_text_is_reported_with_its_row(
    name: str, rows: dict[str, list[Any]], tmp_path: Path
) -> None:
    null = "'.*' is null, not a text; fill it in, or drop such rows"
    with pytest.raises(DataError, match=f"^the data, row 2: {null}"):
        read(TASKS[name](), rows, tmp_path)
    with pytest.raises(DataError, match=rf"^the data, row 2 \(id 'b'\): {null}"):
        read(TASKS[name](), {"id": ["a", "b"], **rows}, tmp_path)


def test_choices_may_be_missing_from_as_many_rows_as_are_encoded_together(tmp_path: Path) -> None:
    choices = [[]] * ROWS_AT_ONCE + [["high", "low"]]
    rows = {
        "text": ["It is [MASK]."] * len(choices),
        "answer": ["high"] * len(choices),
        "choices": choices,
    }
    examples = read(TASKS["fill-mask"](choices="choices"), rows, tmp_path)
    assert len(examples) == len(choices)
    none, some = (len(examples.table[number]["sizes"]) for number in (0, -1))
    assert (none, some) == (0, 2)


def test_a_missing_word_is_reported_with_its_row(tmp_path: Path) -> None:
    rows = {"words": [["The", "Nile"], ["Everest", None]], "tags": [[0, 1], [1, 0]]}
    with pytest.raises(
        DataError, match=r"^the data, row 2: 'words' is \['Everest', None\], not a list of texts"
    ):
        read(TASKS["token-classification"](), rows, tmp_path, tags=TAGS)


def test_an_unknown_class_is_not_a_class(tmp_path: Path) -> None:
    rows = {"words": [["The", "Nile"], ["Everest"]], "tags": [[0, 1], [-1]]}
    with pytest.raises(DataError, match=r"^the data, row 2: 'tags' is \[-1\], not a list of classes"):
        read(TASKS["token-classification"](), rows, tmp_path, tags=TAGS)
    rows = {"text": TEXTS, "label": [-1, 0]}
    classes = datasets.ClassLabel(names=["low", "high"])
    with pytest.raises(DataError, match=r"^the data, row 1: 'label' is -1, not a class"):
        read(TASKS["fill-mask"](**PATTERN), rows, tmp_path, label=classes)
