"""Trains without one fold of the rows, and evaluates every row with the model that was not trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.contract import RunContext, Stage
from hfpipe.errors import DataError, Problem, StageError
from hfpipe.references.places import ModelPlace, Place
from hfpipe.report import DataFacts
from hfpipe.stages.data_folder import get_data_folder
from hfpipe.stages.repeats.group import RepeatedTraining
from hfpipe.stages.repeats.members import OUT_OF_FOLD
from hfpipe.stages.scoring.clusters import check_cluster, select_cluster_column
from hfpipe.store.files import write_atomically
from hfpipe.store.store import check_file, report_unreadable

if TYPE_CHECKING:
    import datasets
    import numpy as np

    from hfpipe.encoding.encoded import Examples
    from hfpipe.stages.evaluate import Evaluate
    from hfpipe.stages.train import TrainStage

HELD_OUT = "held_out.json"
"""File of a training without a fold: the positions of the fold's rows in the train split."""


def select_held_out_rows(
    stage: TrainStage, rows: datasets.Dataset, facts: DataFacts, seed: int
) -> np.ndarray | None:
    """Return the positions of the rows that a training holds out, None if it uses all rows.

    Raises StageError when the rows cannot be split into so many folds.
    """
    folds, task = stage.fold_settings, stage.task
    if folds is None or stage.fold is None:
        return None
    from hfpipe.data.folds import assign_folds  # scikit-learn takes a second

    label = next((name for name in task.columns if facts.columns.get(name) == "label"), None)
    try:
        found = assign_folds(
            rows,
            folds.k,
            inputs=task.inputs,
            group=select_cluster_column(folds.group, task, facts),
            label=label if folds.stratify else None,
            seed=seed,
        )
    except DataError as error:
        raise StageError(str(error)) from error
    positions: np.ndarray = (found == stage.fold).nonzero()[0]
    return positions


def write_held_out(stage: TrainStage, ctx: RunContext) -> None:
    """Store which rows a training holds out, for its evaluation."""
    from hfpipe.encoding.io import open_split, read_facts

    if stage.fold is None:
        return
    folder = get_data_folder(stage.data, ctx)
    held_out = select_held_out_rows(stage, open_split(folder, "train"), read_facts(folder), ctx.seed)
    assert held_out is not None
    write_atomically(ctx.folder / HELD_OUT, json.dumps({"rows": held_out.tolist()}))


def encode_without_fold(
    stage: TrainStage,
    rows: datasets.Dataset,
    facts: DataFacts,
    ctx: RunContext,
    encoded: Callable[[datasets.Dataset], tuple[Examples, dict[str, int]]],
) -> tuple[Examples, dict[str, int]]:
    """Return the examples of the train split without the held-out rows, and the ledger.

    All rows are encoded once for all folds; examples of a packed task are cut from the remaining rows.
    """
    import numpy as np

    held_out = select_held_out_rows(stage, rows, facts, ctx.seed)
    if held_out is None:
        return encoded(rows)
    left = np.setdiff1d(np.arange(len(rows)), held_out)
    if stage.task.packed:
        examples, ledger = encoded(rows.select(left))
    else:
        examples, ledger = encoded(rows)
        examples = examples.select_rows(left)
    return examples, {**ledger, "rows_held_out": len(held_out)}


def read_held_out(members: Mapping[Place, Path], rows: int) -> dict[str, np.ndarray]:
    """Return the positions that each training held out, by its name.

    Raises StageError when a file is damaged, or when a row was not held out by exactly one training.
    """
    import numpy as np

    found: dict[str, np.ndarray] = {}
    for place, folder in members.items():
        check_file(folder / HELD_OUT)
        with report_unreadable(folder / HELD_OUT):
            found[str(place)] = np.array(json.loads((folder / HELD_OUT).read_text(encoding="utf-8"))["rows"])
    counted = np.bincount(np.concatenate(list(found.values())), minlength=rows)
    if len(counted) != rows or (counted != 1).any():
        raise StageError(
            f"the folds of {next(iter(found))} do not hold each of {rows:,} rows once; delete their folders"
        )
    return found


def check_out_of_fold(stage: Evaluate, above: Mapping[str, Stage]) -> Iterator[Problem]:
    """Yield each system without folds if the split needs them, and with folds if it does not."""
    places: list[tuple[tuple[str | int, ...], ModelPlace]] = [(("model",), stage.model)]
    places += [(("baselines", number), place) for number, place in enumerate(stage.baselines)]
    for path, place in places:
        trained = above.get(place.stage or "")
        folded = isinstance(trained, RepeatedTraining) and trained.fold_settings is not None
        if stage.split == OUT_OF_FOLD:
            trivial = path != ("model",) and place.hub is None and place.stage is None and place.path is None
            if not folded and not trivial:
                message = (
                    f"split {OUT_OF_FOLD!r} needs a model that was trained with `folds`, and {place} was not"
                )
                yield Problem(message, path)
            elif isinstance(trained, RepeatedTraining) and trained.data != stage.data:
                message = f"{place} was trained with folds of {trained.data}, not of {stage.data}"
                yield Problem(f"{message}; write data: {trained.data}", ("data",))
        elif folded and isinstance(trained, RepeatedTraining):
            one = f"stage:{next(iter(trained.members))}"
            message = f"{place} is trained once without each fold; write `split: {OUT_OF_FOLD}`"
            yield Problem(f"{message}, or name one model, as {one}", path)


def check_folds(stage: TrainStage, columns: set[str] | None) -> Iterator[Problem]:
    """Yield a problem if the column of groups does not exist."""
    group = stage.fold_settings.group if stage.fold_settings is not None else None
    for problem in check_cluster(group, columns):
        yield Problem(problem.message.replace("resample by", "group folds by"), ("folds", "group"))
