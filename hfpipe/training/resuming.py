"""State of a resumed training that Trainer does not restore, so that the report equals that of one run.

Trainer sums up the loss twice: in `_tr_loss` since the last log, in `_total_loss_scalar` up to that log. It
forgets both when it resumes, so that the next logged loss and `train_loss` would be means over fewer steps.
It also stores the path of the best checkpoint relative to the working directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel
from transformers import TrainerCallback

from hfpipe.distributed.process_layout import read_process_layout

if TYPE_CHECKING:
    from transformers import Trainer

LOSSES = "losses.json"
"""Name of the file in a checkpoint."""


class LossSums(BaseModel):
    """Sums of the losses of a training so far."""

    total: float
    """Sum of the losses of the steps up to the last log, in nats, over all processes."""
    last_logged: int
    """Step of that log."""
    since: list[float]
    """Sum of the losses of the steps since then, in each process."""


def save_losses(trainer: Trainer, checkpoint: Path) -> None:
    """Save the sums of all processes in a checkpoint; must be called in every process."""
    since = trainer.accelerator.gather(trainer._tr_loss.reshape(1)).tolist()
    if trainer.is_world_process_zero():
        sums = LossSums(
            total=trainer._total_loss_scalar, last_logged=trainer._globalstep_last_logged, since=since
        )
        (checkpoint / LOSSES).write_text(sums.model_dump_json(), encoding="utf-8")


def compute_mean_loss(trainer: Trainer) -> float:
    """Return the mean loss of all steps at the end of a training, including steps before a checkpoint."""
    return float(trainer._total_loss_scalar / max(trainer.state.global_step, 1))


class Resume(TrainerCallback):
    """Restores the sums of `save_losses`, and finds the best checkpoint next to the resumed one."""

    def __init__(self, trainer: Trainer, checkpoint: Path) -> None:
        self._trainer, self._checkpoint = trainer, checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        best = self._checkpoint.with_name(f"checkpoint-{state.best_global_step}")
        if state.best_global_step and best.is_dir():
            state.best_model_checkpoint = str(best)
        if (self._checkpoint / LOSSES).is_file():  # missing in checkpoints of earlier versions
            self._restore(LossSums.model_validate_json((self._checkpoint / LOSSES).read_bytes()))

    def _restore(self, sums: LossSums) -> None:
        trainer, layout = self._trainer, read_process_layout()
        same = len(sums.since) == layout.world
        mine = sums.since[trainer.args.process_index] if same else sum(sums.since) / len(sums.since)
        trainer._tr_loss = torch.tensor(mine, device=trainer.args.device)
        trainer._total_loss_scalar = sums.total
        trainer._globalstep_last_logged = sums.last_logged
