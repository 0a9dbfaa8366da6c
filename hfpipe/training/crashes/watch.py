"""Stops a training at the first loss or gradient that is not finite, and saves the step in a crash folder."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hfpipe.errors import StageError
from hfpipe.training.crashes.finite import FiniteCheck
from hfpipe.training.crashes.folder import CRASHES
from hfpipe.training.crashes.random_states import read_random_states
from hfpipe.training.crashes.writing import CrashedStep, find_failed_process, keep_step

if TYPE_CHECKING:
    from hfpipe.contract import RunContext
    from hfpipe.training.trainer import TaskTrainer


class StepWatch:
    """Watches the losses and gradient norms of a training."""

    def __init__(self, trainer: TaskTrainer) -> None:
        self._trainer = trainer
        self._finite = FiniteCheck()
        self._stage: RunContext | None = None
        self._began = time.time()
        self._current = CrashedStep(0, {}, torch.tensor(1))

    def keep_crashes_of(self, stage: RunContext) -> None:
        """Save the step of a crash next to the folders of the stages."""
        self._stage = stage

    def begin(self, targets: Tensor) -> None:
        """Mark the beginning of a micro-batch; random states are read before the first one of a step.

        `targets`, 0-d, is the number of targets of the step.
        """
        number = self._trainer.state.global_step + 1
        if number != self._current.number:
            self._current = CrashedStep(number, read_random_states(), targets)

    def watch_loss(self, loss: Tensor) -> None:
        """Check the loss of a micro-batch, 0-d. Raises StageError for the first one that is not finite."""
        step = self._current
        self._finite.watch(loss, lambda value: self._create_error("loss", value, step))

    def watch_norm(self, norm: Tensor) -> None:
        """Check the gradient norm of a step, 0-d. Raises StageError for the first one that is not finite."""
        step = self._current
        self._finite.watch(norm, lambda value: self._create_error("gradient norm", value, step))

    def flush(self) -> None:
        """Read the remaining values. Raises StageError for the first value that is not finite."""
        self._finite.flush()

    def _create_error(self, what: str, value: float, step: CrashedStep) -> StageError:
        start = f"the {what} is {value} at step {step.number}"
        end = "checkpoints before it are intact"
        if self._stage is None:
            return StageError(f"{start}; lower learning_rate; {end}")
        folder = self._stage.folder.parent / CRASHES / f"{self._stage.folder.name}-step-{step.number}"
        guilty = find_failed_process(self._trainer, step) if what != "loss" else None
        try:
            if guilty in (None, self._trainer.args.process_index):
                keep_step(self._trainer, self._stage, folder, what, value, step, self._began)
        except OSError as error:
            cause = f"{folder} cannot be written ({error.strerror})"
            return StageError(f"{start}; lower learning_rate; {end}; {cause}")
        finally:
            if guilty is not None:  # a process that ends would end the one that writes
                self._trainer.accelerator.wait_for_everyone()
        words = self._format_arguments(folder)
        return StageError(f"{start}; lower learning_rate, or find the cause: hfpipe replay {words}; {end}")

    def _format_arguments(self, folder: Path) -> str:
        """Return the arguments of the command that recomputes the step, quoted for a shell."""
        task, stage = self._trainer.task.config, self._stage
        assert stage is not None
        words = [str(folder)]
        if task.code is not None:
            file = (stage.base / task.code.file).resolve()
            written = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
            words += ["--task", f"{written}:{task.code.attribute}"]
        return shlex.join(words)
