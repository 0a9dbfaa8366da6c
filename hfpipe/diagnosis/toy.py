"""A training stage of a recipe at toy size: the same task and model type, with a few rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
from pydantic import ValidationError

from hfpipe.contract import Progress, RunContext
from hfpipe.diagnosis.sample_rows import make_sample_data
from hfpipe.diagnosis.small_configs import remove_dropout, shrink_config
from hfpipe.encoding.io import open_data, read_facts
from hfpipe.errors import StageError
from hfpipe.estimation.local_artifacts import Known
from hfpipe.modeling.loading.embeddings import count_needed_rows, get_embedding_rows
from hfpipe.modeling.loading.models import create_config, create_model, load_config
from hfpipe.references.places import DataPlace, ModelPlace, Place, TokenizerPlace
from hfpipe.stages.finetune import Finetune
from hfpipe.stages.pretrain import Pretrain
from hfpipe.stages.tokenizer import Tokenizer
from hfpipe.tokenization.loading import load_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.report import DataFacts
    from hfpipe.task import TaskConfig

TOKENS = 64
"""Length of an example, if the task supports it."""
PACKED_ROWS, ROWS = 240, 32
EXAMPLES = 8
"""Number of examples of a step."""
VOCABULARY = 400
"""Vocabulary size of a tokenizer that is trained for the toy if that of the recipe does not exist yet."""

SMALL_DEVIATION, SCALE = 0.03, 4.0
"""Standard deviation of weights below which they are scaled, and the factor."""


@dataclass(frozen=True)
class Toy:
    """What the compared trainings have in common."""

    stage: Pretrain | Finetune
    """The stage, with its data, model and tokenizer in `folder`."""
    folder: Path
    base: Path
    """Folder of the recipe, which contains user code."""
    seed: int
    facts: DataFacts
    config: PretrainedConfig
    """Config of the model, with the dropout of the recipe."""
    note: str
    """What replaces inputs that do not exist yet; empty if all exist."""

    def create_model(self, name: str, *, dropout: bool) -> ModelPlace:
        """Return the folder of a new model, always with the same weights."""
        folder = self.folder / name
        if not folder.exists():
            config = self.config if dropout else remove_dropout(self.config)
            model = create_model(self.stage.task.auto_class, config, self.seed)
            _scale_weights(model)
            model.save_pretrained(folder)
        return ModelPlace(str(folder))


def _scale_weights(model: PreTrainedModel) -> None:
    """Scale weights initialized as in BERT; otherwise the attention of a small model has almost no effect."""
    if getattr(model.config, "initializer_range", 1.0) > SMALL_DEVIATION:
        return
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(SCALE if weight.dim() > 1 else 1.0)


def make_toy(name: str, known: Known, folder: Path, seed: int, progress: Progress) -> Toy:
    """Prepare a training stage at toy size in an empty folder.

    Raises StageError when its model or its data do not exist and cannot be replaced.
    """
    stage = known.stages[name]
    assert isinstance(stage, (Pretrain, Finetune))
    notes: list[str] = []
    task = _shorten_task(stage.task)
    data = _select_rows(stage, task, known, notes)
    data.save_to_disk(str(folder / "data"))
    tokenizer = _find_tokenizer(stage, known, folder, progress, notes)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    found = read_facts(folder / "data")
    if task.packed:
        data = _select_one_step(data, task, tokenizer, found)
    data.save_to_disk(str(folder / "step"))
    config = shrink_config(_make_config(stage, task, known, tokenizer, found), task.auto_class)
    return Toy(
        stage=_move_inputs(stage, task, folder, weighted=known.find_folder(stage.data) is not None),
        folder=folder,
        base=known.base,
        seed=seed,
        facts=found,
        config=config,
        note="; ".join(notes),
    )


def _move_inputs(
    stage: Pretrain | Finetune, task: TaskConfig, folder: Path, *, weighted: bool
) -> Pretrain | Finetune:
    """Return the stage with inputs from a folder, without settings that need other splits or trainings."""
    unused: dict[str, Any] = {"early_stopping": None, "licence": None, "calibrate": []}
    unused["init_embeddings"] = "random"  # the toy continues from a stored model
    unused |= dict.fromkeys(("seeds", "seed", "folds", "fold", "teacher"))
    if not weighted:  # sample data have no column of weights
        unused["loss"] = None
    update = {name: value for name, value in unused.items() if name in type(stage).model_fields}
    inputs = {
        "task": task,
        "data": DataPlace(str(folder / "step")),
        "tokenizer": TokenizerPlace(str(folder / "tokenizer")),
    }
    return stage.model_copy(update=update | inputs)


def _shorten_task(task: TaskConfig) -> TaskConfig:
    """Return the task with short examples, if its other settings allow it."""
    if task.length <= TOKENS:
        return task
    try:
        return type(task).model_validate(task.model_dump(mode="json") | {"length": TOKENS})
    except ValidationError:
        return task


def _select_rows(
    stage: Pretrain | Finetune, task: TaskConfig, known: Known, notes: list[str]
) -> datasets.DatasetDict:
    folder = known.find_folder(stage.data)
    if folder is None:
        notes.append(f"with text of Python's manual, as {stage.data} does not exist yet")
        return make_sample_data(task, str(stage.data))
    rows = open_data(folder)["train"]
    few = rows.select(range(min(len(rows), PACKED_ROWS if task.packed else ROWS)))
    return datasets.DatasetDict(train=few)


def _select_one_step(
    data: datasets.DatasetDict, task: TaskConfig, tokenizer: PreTrainedTokenizerBase, found: DataFacts
) -> datasets.DatasetDict:
    """Return documents that fill the examples of a step except the last, which is half as long.

    A wrong mean per micro-batch is visible only if micro-batches have different numbers of targets.
    """
    rows = data["train"]
    encoded = task.runtime().encoder.encode(rows[:], tokenizer, found)["input_ids"]
    room, taken = (EXAMPLES - 0.5) * task.length, []
    for row, ids in enumerate(encoded):
        if len(ids) <= room:
            taken.append(row)
            room -= len(ids)
    return datasets.DatasetDict(train=rows.select(taken or [0]))


def _find_tokenizer(
    stage: Pretrain | Finetune, known: Known, folder: Path, progress: Progress, notes: list[str]
) -> PreTrainedTokenizerBase:
    """Return the stage's tokenizer, or one trained with the recipe's settings on the rows of the toy."""
    found = known.find_tokenizer(stage)
    if found is not None:
        return found
    place = stage.tokenizer if stage.tokenizer is not None else stage.model
    below = known.stages.get(place.stage or "") if isinstance(place, Place) else None
    if isinstance(below, (Pretrain, Finetune)):
        return _find_tokenizer(below, known, folder, progress, notes)
    if not isinstance(below, Tokenizer) or below.algorithm is None:
        raise StageError(
            f"the tokenizer {place} is not on this machine; run the stage that trains or loads it first"
        )
    notes.append(f"with a tokenizer of {VOCABULARY} entries, as {place} does not exist yet")
    text = list(stage.task.texts) or below.text
    size = min(below.vocab_size, VOCABULARY)
    toy = below.model_copy(
        update={"data": DataPlace(str(folder / "data")), "vocab_size": size, "text": text, "min_frequency": 1}
    )
    toy.run(make_toy_context(folder / "words", known.base, 0, progress))
    return load_tokenizer(folder / "words")


def _make_config(
    stage: Pretrain | Finetune,
    task: TaskConfig,
    known: Known,
    tokenizer: PreTrainedTokenizerBase,
    data: DataFacts,
) -> PretrainedConfig:
    """Return the config of the stage's model, with an embedding for each token."""
    if isinstance(stage.model, dict):
        config = create_config(stage.model, tokenizer, task.head(data), dropout=stage.dropout)
    elif (folder := known.find_folder(stage.model)) is not None:
        config = load_config(folder)
        config.update(task.head(data))
    else:
        below = known.stages.get(stage.model.stage or "")
        if not isinstance(below, (Pretrain, Finetune)):
            raise StageError(
                f"the model {stage.model} is not on this machine; download it once, or name a path"
            )
        config = _make_config(below, task, known, tokenizer, data)
    if (get_embedding_rows(config) or 0) < count_needed_rows(tokenizer):
        config.vocab_size = count_needed_rows(tokenizer)
    return config


def make_toy_context(folder: Path, base: Path, seed: int, progress: Progress) -> RunContext:
    """Return the context of a stage that runs in a separate folder."""
    (folder / ".work").mkdir(parents=True, exist_ok=True)
    return RunContext(folder.name, folder, base, seed, {}, progress)


def keep_settings(training: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the training arguments whose names begin with one of `names`."""
    return {name: value for name, value in training.items() if name.startswith(names)}
