"""The tasks a stage can name; one's own come in by `kind: "file.py:Class"`."""

from __future__ import annotations

from hfpipe.contract import Task
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tasks.text_classification import TextClassification

TASKS: dict[str, type[Task]] = {
    "masked-lm": MaskedLM,
    "text-classification": TextClassification,
}
