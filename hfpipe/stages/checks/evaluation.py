"""Checks of an evaluation: data, task, classes of the compared models, and baselines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.errors import Problem
from hfpipe.evaluation.class_alignment import AlignedSystem, align, find_alignment_problems
from hfpipe.recipe.messages import find_similar_name, suggest
from hfpipe.stages import artifacts, embedding_rows
from hfpipe.stages.checks.columns import Above, Facts, check_columns, explain_dropped, explain_missing
from hfpipe.stages.checks.models import check_architecture, check_length
from hfpipe.stages.repeats.members import get_data_split
from hfpipe.stages.scoring.bounds import check_bounds
from hfpipe.stages.scoring.clusters import check_cluster
from hfpipe.stages.scoring.row_weights import check_row_weights
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from hfpipe.stages.evaluate import Evaluate


def check_evaluation(stage: Evaluate, above: Above, facts: Facts, base: Path) -> Iterator[Problem]:
    """Yield problems that would prevent an evaluation."""
    found = artifacts.get_splits(stage.data, above, facts)
    from hfpipe.stages.repeats.folds import check_out_of_fold  # which reads the stages' classes

    yield from check_out_of_fold(stage, above)
    if found is not None and get_data_split(stage.split) not in found:
        path = ("split",) if "split" in stage.model_fields_set else ("data",)
        yield Problem(
            explain_missing("split", stage.split, stage.data, found) + explain_dropped(stage.data, facts),
            path,
        )
    trained = above.get(stage.model.stage or "")
    task = stage.get_task(above)
    facts, misfits = add_classes(stage, task, above, facts)
    if misfits:
        yield from misfits
        return
    if stage.task is not None:
        yield from (replace(p, path=("task", *p.path)) for p in stage.task.check_settings())
        yield from check_columns(stage.task, stage.data, above, facts)
        model = artifacts.find_model(stage.model, above, base)
        if model is not None:
            yield from check_architecture(stage.task, model)
            yield from check_length(stage.task, model)
    elif task is not None:
        # Problems of the model with the same data are reported at its training.
        again = getattr(trained, "data", None) == stage.data
        yield from () if again else check_columns(task, stage.data, above, facts, ("data",))
    elif stage.model.hub is not None:
        yield Problem("missing key 'task'; the task of a model from the Hub is not known", ("model",))
    yield from check_cluster(stage.cluster, artifacts.get_columns(stage.data, above, facts))
    yield from check_row_weights(stage.row_weights, facts.get(stage.data.stage or ""))
    yield from embedding_rows.check_evaluated_rows(stage.model, ("model",), above, base)
    for number, baseline in enumerate(stage.baselines):
        yield from embedding_rows.check_evaluated_rows(baseline, ("baselines", number), above, base)
    yield from _check_baselines(stage, task)
    yield from check_bounds(stage.require, stage.baselines)


def add_classes(
    stage: Evaluate, task: TaskConfig | None, above: Above, facts: Facts
) -> tuple[Facts, list[Problem]]:
    """Return the facts with the classes of the model, and problems with them, as far as both are known."""
    name = stage.data.stage or ""
    learned = artifacts.get_trained_classes(stage.model, task, above, facts) if task is not None else None
    if name not in facts or learned is None:
        return facts, []
    systems = [AlignedSystem(stage.model, learned)]
    for place in stage.baselines:
        other = getattr(above.get(place.stage or ""), "task", None)
        if task is not None and isinstance(other, TaskConfig) and other.kind == task.kind:
            theirs = artifacts.get_trained_classes(place, other, above, facts)
            systems += [AlignedSystem(place, theirs)] if theirs is not None else []
    if misfits := list(find_alignment_problems(facts[name], stage.data, systems, stage.labels)):
        return facts, misfits
    return {**facts, name: align(facts[name], systems, stage.labels).facts}, []


def _check_baselines(stage: Evaluate, task: TaskConfig | None) -> Iterator[Problem]:
    own = task.baselines if task is not None else ()
    for number, baseline in enumerate(stage.baselines):
        path = ("baselines", number)
        close = find_similar_name(baseline, [*own, *baseline.trivial]) if baseline.hub is not None else None
        if close is not None:
            yield Problem(f"there is no baseline {str(baseline)!r}{suggest(baseline, [close])}", path)
        if task is not None and baseline.is_trivial and baseline not in own:
            has = ", ".join(own) or "no trivial baseline, only other models"
            yield Problem(f"{str(baseline)!r} is not a baseline of {task.kind}, which has {has}", path)
