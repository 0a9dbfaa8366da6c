"""The built-in tasks; a user-defined task is named by `kind: "file.py:Class"`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import ValidationError

from hfpipe.errors import Problem, RecipeError, StageError
from hfpipe.references.places import Code
from hfpipe.references.user_code import Trusted
from hfpipe.task import TaskConfig
from hfpipe.tasks.causal_lm import CausalLM
from hfpipe.tasks.denoising import Denoising
from hfpipe.tasks.fill_mask import FillMask
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tasks.multiple_choice import MultipleChoice
from hfpipe.tasks.question_answering import QuestionAnswering
from hfpipe.tasks.summarization import Summarization
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.text_generation import TextGeneration
from hfpipe.tasks.token_classification import TokenClassification
from hfpipe.tasks.translation import Translation
from hfpipe.user_tasks import load_task_class

TASKS: dict[str, type[TaskConfig]] = {
    "causal-lm": CausalLM,
    "denoising": Denoising,
    "fill-mask": FillMask,
    "masked-lm": MaskedLM,
    "multiple-choice": MultipleChoice,
    "question-answering": QuestionAnswering,
    "summarization": Summarization,
    "text-classification": TextClassification,
    "text-generation": TextGeneration,
    "token-classification": TokenClassification,
    "translation": Translation,
}


def restore_task(settings: Mapping[str, Any], base: Path, trusted: Trusted, folder: Path) -> TaskConfig:
    """Return the task whose settings are stored in a stage's folder; `base` is the folder of its recipe.

    Anyone may have written these settings, so user code runs only if it is in `trusted`. Raises RecipeError
    when it is not, and StageError when the settings do not describe a task.
    """
    kind = str(settings.get("kind"))
    try:
        return _load_class(kind, base, trusted, folder).model_validate(dict(settings))
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False)
        where = ".".join(map(str, first["loc"]))
        raise StageError(
            f"{folder}: the settings of its task {kind} do not fit this version of hfpipe "
            f"({where}: {first['msg']}); run its recipe again"
        ) from None


def _load_class(kind: str, base: Path, trusted: Trusted, folder: Path) -> type[TaskConfig]:
    if kind in TASKS:
        return TASKS[kind]
    if not re.fullmatch(Code.pattern, kind):
        raise StageError(f"{folder}: its task {kind!r} does not exist in this version of hfpipe")
    code = Code(kind)
    if not trusted.allows(code, base):
        file = (base / code.file).resolve()
        written = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
        message = f"{folder}: its task is user code, which runs only if you name it"
        raise RecipeError(
            [
                Problem(
                    f"{message}; look at {written}, then add `--task {quote(f'{written}:{code.attribute}')}`"
                )
            ]
        )
    return load_task_class(code, base)
