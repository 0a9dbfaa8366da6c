"""A checkpoint from Trainer's first file to the manifest that says it is whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.trainer_utils import rotate_checkpoints

from hfpipe.interruption import RESUME, Interrupted
from hfpipe.training.checkpoints import seal
from hfpipe.training.resuming import save_losses
from hfpipe.training.stopping import AgreedStop

if TYPE_CHECKING:
    from transformers import Trainer


@contextmanager
def whole_checkpoint(trainer: Trainer, stop: AgreedStop) -> Iterator[None]:
    """Make the checkpoint that Trainer saves meanwhile whole, and remove older ones only then.

    Raises Interrupted after that in all processes, if one of them was requested to stop.
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
        seal(checkpoint)
        # Only now, or a kill in between would leave no checkpoint that is whole.
        rotate_checkpoints(str(folder), limit, trainer.state.best_model_checkpoint, use_mtime=True)
    if (number := stop.agreed()) is not None:
        trainer.accelerator.wait_for_everyone()  # or the first to leave ends the one that seals
        after = f"after step {step} of {trainer.state.max_steps}, with {checkpoint.name} saved"
        raise Interrupted(number, f"stopped by {signal.Signals(number).name} {after}; {RESUME}")
