"""The class probabilities of trained teachers for the rows that a student learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from hfpipe.encoding.encoded import encode
from hfpipe.errors import StageError
from hfpipe.evaluation.calibration import example_outputs
from hfpipe.modeling.loading.class_names import class_names_of, class_permutation
from hfpipe.modeling.loading.models import load_model
from hfpipe.recipe.messages import join_names
from hfpipe.store.files import sync_file, sync_folder
from hfpipe.tokenization.loading import load_tokenizer, set_pad_token_id

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel

    from hfpipe.references.places import Place
    from hfpipe.report import DataFacts
    from hfpipe.runtime import TaskRuntime

Teachers = Sequence[tuple["Place", "Path | Place"]]
"""How the recipe names each teacher, and where it is."""


def compute_soft_targets(
    teachers: Teachers,
    task: TaskRuntime,
    rows: datasets.Dataset,
    facts: DataFacts,
    temperature: float,
    folder: Path,
    advance: Callable[[int], None],
    *,
    trust: bool = False,
) -> np.ndarray:
    """Return the mean probabilities of the teachers at a temperature, float32 (rows, classes).

    They are kept in `folder`, from which a second call reads them. Each teacher reads the rows by its own
    tokenizer; `trust` runs the code that comes with it. Raises StageError for a teacher with other classes
    than the data.
    """
    kept = folder / "soft_targets.npy"
    if kept.is_file():
        return np.load(kept, allow_pickle=False)
    found = []
    for place, where in teachers:
        tokenizer = load_tokenizer(where, trust_remote_code=trust)
        auto_class = task.config.auto_class
        model = load_model(auto_class, where, 0, whole=True, trust_remote_code=trust)
        set_pad_token_id(model, tokenizer)
        order = _order_of_outputs(place, model, task, facts)
        logits = np.empty((len(rows), len(order)), np.float32)
        with TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch) / "teacher.arrow"
            examples, _ = encode(task, rows, tokenizer, facts, path, packed=False, advance=lambda _: None)
            for index, outputs, _ in example_outputs(model, task.encoder, examples, tokenizer):
                logits[examples.rows[index]] = outputs[:, order].numpy()
                advance(len(index))
        found.append(_probabilities(torch.from_numpy(logits) / temperature, model))
    mean: np.ndarray = np.stack(found).mean(axis=0, dtype=np.float32)
    if not np.isfinite(mean).all():
        names = join_names([str(place) for place, _ in teachers])
        raise StageError(
            f"the probabilities of {names} are not finite; train it again with less learning_rate"
        )
    _write(kept, mean)
    return mean


def _order_of_outputs(place: Place, model: PreTrainedModel, task: TaskRuntime, facts: DataFacts) -> list[int]:
    """Return the output of a teacher for each class of the data."""
    mine = facts.labels[task.config.weighted_column or ""]
    theirs = class_names_of(model.config)
    order = class_permutation(theirs, mine)
    if order is None:
        raise StageError(
            f"teacher {place} has the classes {join_names(theirs[:10])}, and the data have "
            f"{join_names(list(mine)[:10])}; a teacher needs those of the data"
        )
    return order


def _probabilities(logits: torch.Tensor, model: PreTrainedModel) -> np.ndarray:
    several = model.config.problem_type == "multi_label_classification"
    return (logits.sigmoid() if several else logits.softmax(dim=-1)).numpy()


def _write(path: Path, values: np.ndarray) -> None:
    """Write an array that is there whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.save(file, values, allow_pickle=False)
    sync_file(part)
    part.replace(path)
    sync_folder(path.parent)
