"""Soft targets: class probabilities of trained teachers for the rows or words of a student's train split."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from hfpipe.encoding.encoded import encode
from hfpipe.encoding.origins import name_row
from hfpipe.errors import StageError
from hfpipe.evaluation.calibration import iterate_example_outputs
from hfpipe.modeling.loading.class_names import find_class_permutation, get_class_names
from hfpipe.modeling.loading.models import load_model
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.recipe.messages import join_names
from hfpipe.store.files import sync_file, sync_folder
from hfpipe.tokenization.loading import load_tokenizer, set_pad_token_id

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel

    from hfpipe.encoding.encoded import Examples
    from hfpipe.references.places import Place
    from hfpipe.report import DataFacts
    from hfpipe.runtime import TaskRuntime
    from hfpipe.task import TaskConfig

Teachers = Sequence[tuple["Place", "Path | Place"]]
"""Name of each teacher in the recipe, and its location."""


class SoftTargets(NamedTuple):
    """The class probabilities of the teachers of a classifier or tagger."""

    values: np.ndarray
    """Mean probabilities of the teachers at a temperature, float32 (rows or words of the split, classes)."""
    by_example: list[np.ndarray]
    """The rows of `values` that are the targets of each train example, int64 (targets,), in order."""


def compute_soft_targets(
    teachers: Teachers,
    task: TaskRuntime,
    train: Examples,
    facts: DataFacts,
    temperature: float,
    folder: Path,
    advance: Callable[[int], None],
    *,
    trust: bool = False,
) -> SoftTargets:
    """Return the class probabilities of the teachers for the rows of train examples.

    The probabilities are stored in `folder`, from which a second call reads them. Each teacher encodes the
    rows with its own tokenizer; `trust` allows to run its code. Raises StageError for a teacher with other
    classes than the data, or without a token for a word that the student learns.
    """
    kept = folder / "soft_targets.npy"
    starts = _compute_unit_starts(task.config, train.source)
    by_example = _find_units(task.config, train, starts)
    if kept.is_file():
        return SoftTargets(np.load(kept, allow_pickle=False), by_example)
    mean = np.zeros((int(starts[-1]), len(facts.labels[task.config.weighted_column or ""])), np.float32)
    for place, where in teachers:
        tokenizer = load_tokenizer(where, trust_remote_code=trust)
        model = load_model(task.config.auto_class, where, 0, whole=True, trust_remote_code=trust)
        set_pad_token_id(model, tokenizer)
        order = _find_output_order(place, model, task, facts)
        logits, seen = np.zeros_like(mean), np.zeros(len(mean), bool)
        with TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch) / "teacher.arrow"
            rows = train.source
            examples, _ = encode(task, rows, tokenizer, facts, path, packed=False, advance=lambda _: None)
            units = _find_units(task.config, examples, starts)
            for index, outputs, labels in iterate_example_outputs(model, task.encoder, examples, tokenizer):
                said = outputs if task.config.taught_unit == "row" else outputs[labels != IGNORED]
                told = np.concatenate([units[number] for number in index])
                logits[told], seen[told] = said[:, order].numpy(), True
                advance(len({*examples.rows[index]}))
        _check_seen(place, train, seen[np.concatenate(by_example)], by_example)
        mean += _compute_probabilities(torch.from_numpy(logits) / temperature, model)
    mean /= len(teachers)
    if not np.isfinite(mean).all():
        names = join_names([str(place) for place, _ in teachers])
        raise StageError(
            f"the probabilities of {names} are not finite; train it again with a lower learning_rate"
        )
    _write(kept, mean)
    return SoftTargets(mean, by_example)


def _compute_unit_starts(config: TaskConfig, rows: datasets.Dataset) -> np.ndarray:
    """Return the number of units (rows, or words) before each row and at the end, int64 (rows + 1,)."""
    if config.taught_unit == "row":
        return np.arange(len(rows) + 1)
    counts = [len(tags) for tags in rows[config.weighted_column or ""]]
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _find_units(config: TaskConfig, examples: Examples, starts: np.ndarray) -> list[np.ndarray]:
    """Return the target units of each example, in the order of its tokens."""
    first = starts[examples.rows]
    if config.taught_unit == "row":
        return list(first[:, None])
    words = map(np.asarray, examples.table[:]["word"])
    return [start + word[word >= 0] for start, word in zip(first, words, strict=True)]


def _check_seen(place: Place, train: Examples, seen: np.ndarray, by_example: list[np.ndarray]) -> None:
    """Raise StageError if a teacher has no prediction for a target of the student."""
    if seen.all():
        return
    row = int(np.repeat(train.rows, [*map(len, by_example)])[seen.argmin()])
    raise StageError(
        f"teacher {place} has no token for {int((~seen).sum()):,} words that the model learns, the first in "
        f"{name_row(train.source, row)}; use a teacher, or a tokenizer, that keeps the same words"
    )


def _find_output_order(
    place: Place, model: PreTrainedModel, task: TaskRuntime, facts: DataFacts
) -> list[int]:
    """Return the index of a teacher's output for each class of the data."""
    mine = facts.labels[task.config.weighted_column or ""]
    theirs = get_class_names(model.config)
    order = find_class_permutation(theirs, mine)
    if order is None:
        raise StageError(
            f"teacher {place} has the classes {join_names(theirs[:10])}, and the data set has "
            f"{join_names(list(mine)[:10])}; a teacher needs the classes of the data"
        )
    return order


def _compute_probabilities(logits: torch.Tensor, model: PreTrainedModel) -> np.ndarray:
    several = model.config.problem_type == "multi_label_classification"
    return (logits.sigmoid() if several else logits.softmax(dim=-1)).numpy()


def _write(path: Path, values: np.ndarray) -> None:
    """Write an array atomically; two runs may compute the targets of different seeds at the same time."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, values, allow_pickle=False)
    sync_file(part)
    part.replace(path)
    sync_folder(path.parent)
