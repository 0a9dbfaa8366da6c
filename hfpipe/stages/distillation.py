"""The teachers of a finetune stage: checks, and the loss that uses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.advice import advise
from hfpipe.contract import RunContext, Stage
from hfpipe.distributed.process_layout import read_process_layout
from hfpipe.errors import Problem, StageError
from hfpipe.modeling.losses.distillation_settings import DistillationSettings
from hfpipe.modeling.losses.settings import LossSettings
from hfpipe.references.places import Place, locate_place
from hfpipe.report import DataFacts
from hfpipe.stages import artifacts
from hfpipe.stages.repeats.members import get_encoded_folder
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from hfpipe.encoding.encoded import Examples
    from hfpipe.evaluation.soft_targets import Teachers
    from hfpipe.modeling.losses.training_loss import TrainingLoss
    from hfpipe.stages.finetune import Finetune


def check_teachers(
    stage: Finetune, above: Mapping[str, Stage], facts: DataFacts | None, base: Path
) -> Iterator[Problem]:
    """Yield problems with the teachers of a stage, with paths relative to the stage."""
    task = stage.task
    if task.taught_unit is None:
        yield Problem(_describe_unsupported(task), ("teacher",))
        return
    if facts is not None and facts.columns.get(task.weighted_column or "") == "float":
        message = (
            f"column {task.weighted_column!r} holds numbers, which have no probabilities; delete teacher"
        )
        yield Problem(message, ("teacher",))
    if stage.loss is not None and not stage.loss.is_plain:
        yield _describe_weighted(stage.loss)
    for number, place in enumerate(stage.teachers):
        path = ("teacher", number) if isinstance(stage.teacher, list) else ("teacher",)
        yield from (Problem(message, path) for message in _find_mismatches(stage, place, above, base))


def _describe_weighted(loss: LossSettings) -> Problem:
    """Return the problem of a loss next to a teacher; the data set may imply it, and the recipe have none."""
    if loss.model_fields_set <= {"row_weights"}:
        message = f"teacher excludes the weights of rows in column {loss.row_weights!r}"
        return Problem(f"{message}; write {advise(loss={'row_weights': None})} next to it", ("teacher",))
    return Problem("teacher and loss exclude each other; delete one of them", ("loss",))


def _describe_unsupported(task: TaskConfig) -> str:
    if getattr(task, "next_sentence", False):
        return f"{task.kind} with next_sentence cannot have a teacher; delete one of them"
    able = "text-classification, token-classification, masked-lm and causal-lm can"
    return f"{task.kind} cannot have a teacher; {able}: delete teacher"


def _find_mismatches(stage: Finetune, place: Place, above: Mapping[str, Stage], base: Path) -> Iterator[str]:
    """Yield reasons why a model that another stage trains cannot be the teacher of a stage."""
    task, other = stage.task, getattr(above.get(place.stage or ""), "task", None)
    if not isinstance(other, TaskConfig):
        return
    if other.auto_class != task.auto_class:
        yield f"{place} is trained for {other.kind}, not for {task.kind}; name another teacher"
    elif task.taught_unit == "token":
        own = stage.tokenizer if stage.tokenizer is not None else stage.model
        mine, theirs = (artifacts.find_origin(each, above, base) for each in (own, place))
        made = [above.get((each or "").removeprefix("stage:")) for each in (mine, theirs)]
        if None not in made and made[0] != made[1]:
            yield (
                f"teacher {place} has the tokenizer {theirs}, and the model has {mine}; {task.kind} needs "
                "one tokenizer for both"
            )


def create_distillation_loss(
    stage: Finetune, ctx: RunContext, train: Examples, data: DataFacts
) -> TrainingLoss:
    """Return the loss of a stage with teachers, from stages, folders or the Hub."""
    how = stage.distillation or DistillationSettings()
    teachers = [(place, locate_place(place, ctx.base, ctx.inputs) or place) for place in stage.teachers]
    if stage.task.taught_unit == "token":
        return _create_token_loss(stage, teachers, how, ctx, train)
    return _create_class_loss(stage, teachers, how, ctx, train, data)


def _create_class_loss(
    stage: Finetune,
    teachers: Teachers,
    how: DistillationSettings,
    ctx: RunContext,
    train: Examples,
    data: DataFacts,
) -> TrainingLoss:
    """Return the loss with the teachers' probabilities, which the first process computes and stores."""
    from hfpipe.evaluation.soft_targets import compute_soft_targets
    from hfpipe.modeling.losses.distillation import DistillationLoss

    task = stage.task.runtime()
    with ctx.progress(
        f"{ctx.name}: predictions of the teachers", len(train.source) * len(teachers)
    ) as advance:
        found = compute_soft_targets(
            teachers,
            task,
            train,
            data,
            how.temperature,
            get_encoded_folder(ctx, cut_from_all=False),  # shared by the trainings of several seeds
            advance,
            trust=stage.trust_remote_code,
        )
    return DistillationLoss(task.objective, found.values, how.temperature, how.weight, found.by_example)


def _create_token_loss(
    stage: Finetune, teachers: Teachers, how: DistillationSettings, ctx: RunContext, train: Examples
) -> TrainingLoss:
    """Return the loss with the teacher models, loaded in each process."""
    from hfpipe.evaluation.teachers import load_teachers
    from hfpipe.modeling.losses.token_distillation import TokenDistillation

    if read_process_layout().context > 1:
        raise StageError(
            f"stage {ctx.name}: the teachers of a language model read whole texts, which context parallelism "
            "splits; delete teacher, or launch without it"
        )
    task, tokenizer = stage.task.runtime(), stage.open_tokenizer(ctx)
    found = load_teachers(teachers, task, tokenizer, train.source, trust=stage.trust_remote_code)
    return TokenDistillation(task.objective, found, how.temperature, how.weight)
