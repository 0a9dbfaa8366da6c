"""The tasks a stage can name; one's own come in by `kind: "file.py:Class"`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfpipe.contract import Task
from hfpipe.own_code import load_code
from hfpipe.places import Code
from hfpipe.tasks.causal_lm import CausalLM
from hfpipe.tasks.denoising import Denoising
from hfpipe.tasks.fill_mask import FillMask
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tasks.question_answering import QuestionAnswering
from hfpipe.tasks.summarization import Summarization
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.text_generation import TextGeneration
from hfpipe.tasks.token_classification import TokenClassification
from hfpipe.tasks.translation import Translation

TASKS: dict[str, type[Task]] = {
    "causal-lm": CausalLM,
    "denoising": Denoising,
    "fill-mask": FillMask,
    "masked-lm": MaskedLM,
    "question-answering": QuestionAnswering,
    "summarization": Summarization,
    "text-classification": TextClassification,
    "text-generation": TextGeneration,
    "token-classification": TokenClassification,
    "translation": Translation,
}


def revive_task(settings: Mapping[str, Any], base: Path) -> Task:
    """Return the task whose settings a stage was begun with."""
    kind = str(settings["kind"])
    cls: type[Task] = TASKS[kind] if kind in TASKS else load_code(Code(kind), base)
    return cls.model_validate(dict(settings))
