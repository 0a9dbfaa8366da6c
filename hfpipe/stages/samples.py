"""Texts that a model generates at each validation: `samples` of a training stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hfpipe.contract import RunContext
from hfpipe.errors import Problem
from hfpipe.recipe.training.defaults import add_defaults
from hfpipe.store.artifacts import SAMPLES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.stages.train import TrainStage
    from hfpipe.task import TaskConfig

GENERATING = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
"""Auto classes of models that generate text."""
BEGINNING = 60
"""Maximum number of characters that a language model continues; half of a shorter text."""
CONTINUED = 48
"""Maximum number of tokens that a language model generates."""


def check_samples(stage: TrainStage) -> Iterator[Problem]:
    """Yield a problem if samples are set, and no text would be generated."""
    if not stage.samples:
        return
    if stage.task.auto_class not in GENERATING or stage.task.kind == "denoising":
        yield Problem(f"task {stage.task.kind!r} generates no texts; delete samples", ("samples",))
    settings = add_defaults(stage.training, evaluated=True, early=stage.early_stopping is not None)
    if settings["eval_strategy"] == "no":
        message = "samples are generated at each validation, and eval_strategy is 'no'; delete one"
        yield Problem(message, ("samples",))


def sample_callbacks(stage: TrainStage, tokenizer: PreTrainedTokenizerBase, ctx: RunContext) -> Sequence[Any]:
    """Return the Trainer callback that writes samples, in a list that is empty without samples."""
    from hfpipe.encoding.io import open_data
    from hfpipe.evaluation.samples import SampleWriter
    from hfpipe.stages.data_folder import get_data_folder
    from hfpipe.training.callbacks import SamplesFile

    if not stage.samples:
        return ()
    split = open_data(get_data_folder(stage.data, ctx))["validation"]  # `check` refuses data without it
    task = _get_sampling_task(stage.task)
    rows = split.select(range(min(stage.samples, len(split))))
    given: Mapping[str, list[Any]] = {name: list(rows[name]) for name in task.inputs}
    if task.kind != stage.task.kind:
        given = {name: [_get_beginning(text) for text in texts] for name, texts in given.items()}
    writer = SampleWriter(task.runtime(), tokenizer, given, ctx.work / "samples.arrow")
    return (SamplesFile(ctx.folder / SAMPLES, writer),)


def _get_sampling_task(task: TaskConfig) -> TaskConfig:
    """Return the task that generates samples: the task of the training, or one that continues texts."""
    from hfpipe.tasks import TASKS

    settings = task.prediction_task
    if settings["kind"] == task.kind:
        return task
    settings["target_length"] = min(settings["target_length"], CONTINUED)
    return TASKS[settings["kind"]].model_validate(settings)


def _get_beginning(text: str) -> str:
    """Return the first words of a text, or its first characters if it has no spaces."""
    cut = text[: min(BEGINNING, max(1, len(text) // 2))]
    return cut.rpartition(" ")[0] or cut
