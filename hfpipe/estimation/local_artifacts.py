"""Opens the inputs of a plan that are on this machine: finished stages, folders, the Hub's cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hfpipe.references.places import Place, locate_place
from hfpipe.report import DataFacts
from hfpipe.runner import PlannedStage
from hfpipe.stages import artifacts
from hfpipe.stages.finetune import Finetune
from hfpipe.stages.pretrain import Pretrain
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


class Known:
    """Opens the inputs of a plan's stages; returns None for those that are not on this machine."""

    def __init__(self, base: Path, steps: Sequence[PlannedStage]) -> None:
        self.base = base
        self.stages = {step.name: step.stage for step in steps}
        self.done = {step.name: step.folder for step in steps if step.done}

    def find_folder(self, place: Place) -> Path | None:
        """Return the local path of a place. Raises DataError for a path that does not exist."""
        if place.stage is not None:
            return self.done.get(place.stage)
        return locate_place(place, self.base, {}) if place.hub is None else _find_cached(*place.hub)

    def find_facts(self, data: Place) -> DataFacts | None:
        """Return the facts about a data set."""
        from hfpipe.encoding.io import read_facts

        folder = self.find_folder(data)
        return read_facts(folder) if folder is not None else None

    def find_tokenizer(self, stage: Pretrain | Finetune) -> PreTrainedTokenizerBase | None:
        """Return the tokenizer of a training stage, if necessary from the stage that it continues."""
        from hfpipe.tokenization.loading import load_tokenizer

        place = _get_tokenizer_place(stage)
        folder = self.find_folder(place) if place is not None else None
        if folder is not None:
            return load_tokenizer(folder)
        below = self.stages.get(place.stage or "") if place is not None else None
        return self.find_tokenizer(below) if isinstance(below, (Pretrain, Finetune)) else None

    def find_config(
        self, stage: Pretrain | Finetune, task: TaskConfig
    ) -> tuple[PretrainedConfig | None, bool]:
        """Return the config of the model that a stage trains for a task, and whether it is final.

        It is not final while the tokenizer or the classes are unknown; the recipe's `vocab_size` is used
        then.
        """
        from hfpipe.modeling.loading.models import create_config
        from hfpipe.training.cost import FutureTokenizer, read_stored_config

        data = self.find_facts(stage.data)
        head = task.head(data) if data is not None else {}
        if isinstance(stage.model, dict):
            made = self.find_tokenizer(stage)
            pieces = artifacts.find_tokenizer_facts(_get_tokenizer_place(stage), self.stages, self.base).size
            if made is None and pieces is None:
                return None, False
            stand_in = cast("PreTrainedTokenizerBase", FutureTokenizer(pieces or 0))
            config = create_config(stage.model, made or stand_in, head, dropout=stage.dropout)
            return config, made is not None and data is not None
        folder = self.find_folder(stage.model)
        if folder is not None:
            return read_stored_config(folder, head), data is not None
        below = self.stages.get(stage.model.stage or "")
        return self.find_config(below, task) if isinstance(below, (Pretrain, Finetune)) else (None, False)


def _get_tokenizer_place(stage: Pretrain | Finetune) -> Place | None:
    place = stage.tokenizer or stage.model
    return place if isinstance(place, Place) else None


def _find_cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
