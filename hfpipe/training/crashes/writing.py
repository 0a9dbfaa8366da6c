"""Collects the data needed to recompute a step, and decides which process writes them."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor

from hfpipe.encoding.origins import name_row
from hfpipe.modeling.losses.distillation import DistillationLoss
from hfpipe.modeling.losses.token_distillation import TokenDistillation
from hfpipe.modeling.losses.weighted_loss import WeightedLoss
from hfpipe.report import read_versions
from hfpipe.training.checkpoints import find_newest_checkpoint
from hfpipe.training.crashes import folder as files
from hfpipe.training.crashes.folder import (
    Crash,
    CrashDistillation,
    CrashExample,
    CrashLoss,
    CrashTeachers,
    write_crash,
)
from hfpipe.training.crashes.probe import are_gradients_finite
from hfpipe.training.crashes.random_states import restore_random_states

if TYPE_CHECKING:
    from hfpipe.contract import RunContext
    from hfpipe.encoding.sampler import Key
    from hfpipe.training.trainer import TaskTrainer

log = logging.getLogger(__name__)

LINES = 100
"""Number of last lines of the stage's log to save."""


@dataclass(frozen=True)
class CrashedStep:
    """A step before its first micro-batch."""

    number: int
    """Counted from 1."""
    random: Mapping[str, Tensor]
    targets: Tensor
    """Number of targets of the step in all processes, 0-d."""


def find_failed_process(trainer: TaskTrainer, step: CrashedStep) -> int | None:
    """Return the first process whose gradients are not finite, None if there is only one process.

    Must be called in every process. It is process 0 if the gradients of each process are finite, or if no
    process can compute its part separately.
    """
    accelerator, device = trainer.accelerator, trainer.args.device
    if accelerator.num_processes == 1:
        return None
    finite = True
    if not trainer.split and trainer.layout.together == 1:
        restore_random_states(step.random)
        batches = map(trainer.data_collator, map(trainer.examples.__getitems__, _get_keys(trainer, step)))
        finite = are_gradients_finite(trainer, batches, step.targets)
    found = accelerator.gather(torch.tensor([int(not finite)], device=device)).tolist()
    return found.index(1) if 1 in found else 0


def keep_step(
    trainer: TaskTrainer,
    stage: RunContext,
    folder: Path,
    what: str,
    value: float,
    step: CrashedStep,
    since: float,
) -> None:
    """Write the crash of a step. Raises OSError when the disk is full."""
    keys = _get_keys(trainer, step)
    crash = Crash(
        what=what,
        value=str(value),
        stage=stage.name,
        step=step.number,
        weights_after=_count_weight_steps(trainer, step),
        process=trainer.args.process_index,
        processes=trainer.layout.world,
        micro=trainer.shares.micro,
        accumulation=trainer.shares.accumulation,
        targets=float(step.targets) / trainer.layout.averaged,
        seed=trainer.args.seed,
        bf16=trainer.args.bf16,
        device=str(trainer.args.device),
        facts=trainer.facts,
        attention=trainer.chosen_attention,
        modules_to_save=_get_modules_to_save(trainer.bare),
        loss=_describe_loss(trainer, [index for part in keys for _, index in part]),
        examples=list(map(partial(_describe_example, trainer), (key for part in keys for key in part))),
        versions=read_versions(),
        time=time.time(),
    )
    write_crash(folder, crash, crash.process, partial(_write_files, trainer, stage, step, keys, crash), since)
    log.info("step %d is saved in %s", step.number, folder)


def _describe_loss(
    trainer: TaskTrainer, indices: list[int]
) -> CrashLoss | CrashDistillation | CrashTeachers | None:
    loss = trainer.training_loss
    if isinstance(loss, TokenDistillation):
        places = [teacher.place for teacher in loss.teachers]
        return CrashTeachers(teachers=places, temperature=loss.temperature, weight=loss.weight)
    if isinstance(loss, DistillationLoss):
        targets = loss.get_targets(indices)
        return CrashDistillation(
            soft_targets=[row for each in targets for row in each.tolist()],
            temperature=loss.temperature,
            weight=loss.weight,
            counts=None if loss.words is None else [len(each) for each in targets],
        )
    if not isinstance(loss, WeightedLoss):
        return None
    classes, rows = loss.class_weights, loss.row_weights
    return CrashLoss(
        class_weights=classes.tolist() if classes is not None else None,
        focal=loss.focal,
        row_weights=rows[indices].tolist() if rows is not None else None,
    )


def _get_keys(trainer: TaskTrainer, step: CrashedStep) -> list[list[Key]]:
    """Return the examples of each micro-batch of the step in this process."""
    return trainer.create_step_batches().get_step(step.number - 1)


def _count_weight_steps(trainer: TaskTrainer, step: CrashedStep) -> int | None:
    """Return the number of training steps of the weights, None if they are not in this process.

    On a GPU, a crash is detected after the optimizer has used the gradient; the newest checkpoint is then
    loaded instead of the current weights.
    """
    if trainer.split:
        return None
    if trainer.state.global_step + 1 == step.number:
        return step.number - 1
    checkpoint, _ = find_newest_checkpoint(trainer.folder)
    if checkpoint is None:
        return None
    trainer._load_from_checkpoint(str(checkpoint))
    return int(checkpoint.name.rpartition("-")[2])


def _describe_example(trainer: TaskTrainer, key: Key) -> CrashExample:
    epoch, index = key
    examples = trainer.examples
    row, place = None, f"packed example {index + 1} of {len(examples)}"
    if "row" in examples.table.column_names:
        row = int(examples.rows[index])
        place = name_row(examples.source, row)
    text = trainer.tokenizer.decode(examples[key]["input_ids"])
    return CrashExample(epoch=epoch, index=index, row=row, place=place, text=text)


def _get_modules_to_save(model: Any) -> list[str] | None:
    """Return the modules that are trained in full in addition to an adapter, None without an adapter."""
    config = getattr(model, "peft_config", {}).get("default")
    return sorted(config.modules_to_save or ()) if config is not None else None


def _write_files(
    trainer: TaskTrainer,
    stage: RunContext,
    step: CrashedStep,
    keys: Sequence[Sequence[Key]],
    crash: Crash,
    part: Path,
) -> None:
    """Write all files except the record into a folder."""
    table = trainer.examples.table.with_format("arrow")[[index for each in keys for _, index in each]]
    with pa.OSFile(str(part / files.EXAMPLES), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    save_file({name: each.contiguous() for name, each in step.random.items()}, part / files.RANDOM)
    if crash.weights_after is not None:
        save_model(trainer.bare, str(part / files.WEIGHTS))
    trainer.bare.config.save_pretrained(part / files.MODEL)
    trainer.tokenizer.save_pretrained(str(part / files.TOKENIZER))
    if (stage.folder / files.STAGE).is_file():
        shutil.copyfile(stage.folder / files.STAGE, part / files.STAGE)
    if (stage.folder / files.LOG).is_file():
        lines = (stage.folder / files.LOG).read_text(encoding="utf-8", errors="replace").splitlines(True)
        (part / files.LOG).write_text("".join(lines[-LINES:]), encoding="utf-8")
