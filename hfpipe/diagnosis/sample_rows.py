"""Sample rows of real text for a task whose data do not exist yet: the help texts of Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import datasets

from hfpipe.errors import StageError

if TYPE_CHECKING:
    from hfpipe.task import TaskConfig

ROWS = 240
SHORTEST = 80
"""Minimum number of characters of a paragraph."""
CLASSES = ["first", "second"]


def make_sample_data(task: TaskConfig, data: str) -> datasets.DatasetDict:
    """Return a train split with the columns that a task reads.

    Supported are tasks that read texts, and optionally classes. Raises StageError for other tasks, with the
    stage to run first; `data` is the data set as named in the recipe.
    """
    wanted = [name for name in task.columns if name not in task.texts]
    label = getattr(task, "label", None)
    if wanted not in ([], [label]):
        raise StageError(
            f"{data} does not exist yet, and {task.kind} needs more than texts; run that data set first"
        )
    texts = [text for text, _ in zip(_read_paragraphs(), range(ROWS), strict=False)]
    columns = {
        name: texts[number:] + texts[:number] for number, name in enumerate(task.texts)
    }  # paired texts differ
    rows = datasets.Dataset.from_dict(columns)
    if wanted:
        classes = datasets.ClassLabel(names=CLASSES)
        labels = [number // 3 % len(CLASSES) for number in range(len(texts))]
        rows = rows.add_column(wanted[0], labels).cast_column(wanted[0], classes)
    return datasets.DatasetDict(train=rows)


def _read_paragraphs() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            text = " ".join(paragraph.split())
            if len(text) >= SHORTEST and text[0].isalpha():
                yield text
