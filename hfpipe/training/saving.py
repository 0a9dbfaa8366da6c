"""Saves checkpoints atomically: the manifest is written after all files of Trainer."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.trainer_utils import rotate_checkpoints

from hfpipe.interruption import RESUME, Interrupted
from hfpipe.training.checkpoints import write_manifest
from hfpipe.training.resuming import save_losses
from hfpipe.training.stopping import AgreedStop

if TYPE_CHECKING:
    from transformers import Trainer


@contextmanager
def complete_checkpoint(trainer: Trainer, stop: AgreedStop) -> Iterator[None]:
    """Complete the checkpoint that Trainer saves in this context, and then remove older ones.

    Afterwards raises Interrupted in all processes if one of them was requested to stop.
    """
    folder, step = Path(str(trainer.args.output_dir)), trainer.state.global_step
    limit, trainer.args.save_total_limit = trainer.args.save_total_limit, None
    try:
        yield
    finally:
        trainer.args.save_total_limit = limit
    checkpoint = folder / f"checkpoint-{step}"
    save_losses(trainer, checkpoint)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        write_manifest(checkpoint)
        # Only now: a kill in between would otherwise leave no complete checkpoint.
        rotate_checkpoints(str(folder), limit, trainer.state.best_model_checkpoint, use_mtime=True)
    if (number := stop.get_agreed_signal()) is not None:
        trainer.accelerator.wait_for_everyone()  # the first to exit would end the one that writes
        after = f"after step {step} of {trainer.state.max_steps}, with {checkpoint.name} saved"
        raise Interrupted(number, f"stopped by {signal.Signals(number).name} {after}; {RESUME}")
