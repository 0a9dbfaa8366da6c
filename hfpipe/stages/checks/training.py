"""Checks of a training stage: task, data, model, and what needs a validation split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.advice import advise
from hfpipe.errors import Problem
from hfpipe.recipe.messages import Keys, find_similar_name, join_names
from hfpipe.recipe.training.defaults import find_schedule_fault
from hfpipe.references.places import Place
from hfpipe.report import DataFacts
from hfpipe.stages import artifacts
from hfpipe.stages.checks.columns import Above, Facts, check_columns, explain_dropped
from hfpipe.stages.checks.models import check_adapter, check_model
from hfpipe.task import TaskConfig
from hfpipe.tasks import TASKS

if TYPE_CHECKING:
    from hfpipe.stages.train import TrainStage


def check_training(stage: TrainStage, above: Above, facts: Facts, base: Path) -> Iterator[Problem]:
    """Yield problems that would stop a training stage at its start or later."""
    if stage.kind not in stage.task.stages:
        fit = join_names([name for name, task in TASKS.items() if stage.kind in task.stages], "or")
        yield Problem(f"task {stage.task.kind!r} does not fit {stage.kind}, which takes {fit}", ("task",))
    if stage.tokenizer is None and not isinstance(stage.model, Place):
        yield Problem("missing key 'tokenizer'; a model trained from scratch has none", ("model",))
    yield from (replace(p, path=("task", *p.path)) for p in stage.task.check_settings())
    misfits = list(check_columns(stage.task, stage.data, above, facts))
    yield from misfits or _check_smoothing(stage, facts)
    yield from check_model(stage, above, base)
    yield from check_adapter(stage, above, base)
    yield from _check_validation(stage, above, facts)
    yield from _check_best_metric(stage, facts)


def _check_smoothing(stage: TrainStage, facts: Facts) -> Iterator[Problem]:
    data = facts.get(stage.data.stage or "")
    if data is None or not stage.training.get("label_smoothing_factor"):
        return
    problem = stage.task.head(data).get("problem_type")
    if problem in ("multi_label_classification", "regression"):
        what = problem.replace("_", " ")
        message = f"label_smoothing_factor is not supported for {what}; delete it"
        yield Problem(message, ("training", "label_smoothing_factor"))


def _check_validation(stage: TrainStage, above: Above, facts: Facts) -> Iterator[Problem]:
    strategy = stage.training.get("eval_strategy")
    fault = find_schedule_fault(stage.training, early=True) if stage.early_stopping is not None else None
    if fault is not None:
        key, message = fault
        yield Problem(message, (key,) if key == "early_stopping" else ("training", key))
    found = artifacts.get_splits(stage.data, above, facts)
    if found is None or "validation" in found:
        return
    asking: list[Keys] = [("early_stopping",)] if stage.early_stopping is not None else []
    asking += [(name,) for name in ("calibrate", "samples") if getattr(stage, name, None)]
    asking += [("training", "eval_strategy")] if strategy not in (None, "no") else []
    asking += [("training", "load_best_model_at_end")] if stage.training.get("load_best_model_at_end") else []
    for path in asking:
        message = (
            f"{path[-1]} needs a validation split, and {stage.data} has only {join_names(sorted(found))}"
        )
        message += explain_dropped(stage.data, facts)
        yield Problem(f"{message}; add {advise(split={'validation': 0.05})} to that stage", path)


def _check_best_metric(stage: TrainStage, facts: Facts) -> Iterator[Problem]:
    given = stage.training.get("metric_for_best_model")
    if not isinstance(given, str):
        return
    yield from check_validation_score(
        stage, given.removeprefix("eval_"), ("training", "metric_for_best_model"), facts
    )


def check_validation_score(stage: TrainStage, name: str, path: Keys, facts: Facts) -> Iterator[Problem]:
    """Yield a problem if a stage's task has no score of this name on the validation split."""
    names = _list_validation_metrics(stage.task, facts.get(stage.data.stage or ""))
    of_class = {each.partition("[")[0] for each in names if "[" in each}
    certain = stage.data.stage in facts
    if not names or name in names or (not certain and name.partition("[")[0] in of_class and "[" in name):
        return
    there = [each for each in names if certain or "[" not in each]
    close = find_similar_name(name, there)
    tail = f"did you mean {close!r}?" if close else f"there are {', '.join(there)}"
    message = f"{stage.task.kind} has no score {name!r} on a validation split; {tail}"
    yield Problem(message, path)


def _list_validation_metrics(task: TaskConfig, facts: DataFacts | None) -> list[str]:
    """Return the names of a task's scores; if the data do not exist yet, those for any type of column.

    One class represents all classes then. The list is empty if user code gives no names yet.
    """
    columns, names = task.columns, ["A", "B"]
    guessed = [
        DataFacts(columns=dict.fromkeys(columns, kind), splits={}, labels=dict.fromkeys(columns, names))
        for kind in ("label", "labels", "float", "string", "nested")
    ]
    found: dict[str, None] = {}
    for each in guessed if facts is None else [facts]:
        try:
            found |= dict.fromkeys(
                metric.name for metric in task.runtime().evaluator.validation_metrics(each)
            )
        except Exception:  # user code that expects its own columns may raise any exception
            return []
    return list(found)
