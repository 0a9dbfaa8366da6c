"""Texts that a model generates each time it is validated: `samples` of a training stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hfpipe.contract import RunContext
from hfpipe.errors import Problem
from hfpipe.store.artifacts import SAMPLES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.stages.train import TrainStage
    from hfpipe.task import TaskConfig

GENERATING = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
"""Models that generate texts."""
BEGINNING = 60
"""Characters of a text that a language model continues, at most; half of a shorter one."""
CONTINUED = 48
"""Tokens that a language model generates, at most."""


def check_samples(stage: TrainStage) -> Iterator[Problem]:
    """Yield that a task generates no texts, where samples are asked for."""
    if stage.samples and (stage.task.auto_class not in GENERATING or stage.task.kind == "denoising"):
        yield Problem(f"task {stage.task.kind!r} generates no texts; delete samples", ("samples",))


def sample_callbacks(stage: TrainStage, tokenizer: PreTrainedTokenizerBase, ctx: RunContext) -> Sequence[Any]:
    """Return the callback of Trainer that writes the samples; none where there are none to write."""
    from hfpipe.encoding.io import open_data
    from hfpipe.evaluation.samples import SampleWriter
    from hfpipe.stages.data_folder import folder_of
    from hfpipe.training.callbacks import SamplesFile

    split = open_data(folder_of(stage.data, ctx)).get("validation")
    if not stage.samples or split is None:
        return ()
    task = _prediction_task(stage.task)
    rows = split.select(range(min(stage.samples, len(split))))
    given: Mapping[str, list[Any]] = {name: list(rows[name]) for name in task.inputs}
    if task.kind != stage.task.kind:
        given = {name: [_beginning(text) for text in texts] for name, texts in given.items()}
    writer = SampleWriter(task.runtime(), tokenizer, given, ctx.work / "samples.arrow")
    return (SamplesFile(ctx.folder / SAMPLES, writer),)


def _prediction_task(task: TaskConfig) -> TaskConfig:
    """Return the task that generates texts: that of the training, or the one that continues a beginning."""
    from hfpipe.tasks import TASKS

    settings = task.prediction_task
    if settings["kind"] == task.kind:
        return task
    settings["target_length"] = min(settings["target_length"], CONTINUED)
    return TASKS[settings["kind"]].model_validate(settings)


def _beginning(text: str) -> str:
    """Return the first words of a text; its first characters where it has no spaces."""
    cut = text[: min(BEGINNING, max(1, len(text) // 2))]
    return cut.rpartition(" ")[0] or cut
