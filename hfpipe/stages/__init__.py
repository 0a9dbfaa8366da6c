"""The kinds of stage in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfpipe.contract import Stage
from hfpipe.references.user_code import Trusted
from hfpipe.stages.dataset import Dataset
from hfpipe.stages.evaluate import Evaluate
from hfpipe.stages.export import Export
from hfpipe.stages.finetune import Finetune
from hfpipe.stages.pretrain import Pretrain
from hfpipe.stages.repeats.group import RepeatedTraining
from hfpipe.stages.repeats.matrix import MatrixTable
from hfpipe.stages.repeats.search import ParameterSearch
from hfpipe.stages.tokenizer import Tokenizer
from hfpipe.tasks import restore_task

KINDS: dict[str, type[Stage]] = {
    "dataset": Dataset,
    "tokenizer": Tokenizer,
    "pretrain": Pretrain,
    "finetune": Finetune,
    "export": Export,
    "evaluate": Evaluate,
}


def restore_stage(
    settings: Mapping[str, Any],
    base: Path,
    folder: Path,
    trusted: Trusted = Trusted(all=True),  # noqa: B008 - frozen
) -> Stage:
    """Return the stage whose settings are in the `stage.json` of a folder.

    User code in the settings is loaded from the recipe's folder `base` if it is `trusted`; all code is
    trusted by default, for a running recipe that has just written the settings. Raises RecipeError when it is
    not.
    """
    given = dict(settings)
    if isinstance(given.get("task"), Mapping):
        given["task"] = restore_task(given["task"], base, trusted, folder)
    if given["kind"] == "matrix":
        return MatrixTable.model_validate(given)
    if given["kind"] == "search":
        given["trained"] = restore_stage(given["trained"], base, folder, trusted)
        return ParameterSearch.model_validate(given)
    kind = RepeatedTraining if "members" in given else KINDS[given["kind"]]
    return kind.model_validate(given)
