"""`transformers.Trainer` for models split over processes, also on a CPU, and with complete checkpoints.

The overrides rely on Trainer calling them in every process, for each checkpoint and at a resume.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer import SCHEDULER_NAME

from hfpipe.distributed.process_layout import read_process_layout
from hfpipe.distributed.sharding import (
    group_shared_weights,
    keep_models_whole,
    prepare_state,
    show_embeddings,
    uses_fsdp,
)
from hfpipe.distributed.whole_state import (
    OPTIMIZER,
    count_held_parameters,
    gather_optimizer_state,
    load_optimizer_state,
    load_weights,
)
from hfpipe.errors import StageError
from hfpipe.modeling.read_rows import keep_state_whole

log = logging.getLogger(__name__)


class SplitTrainer(Trainer):
    """A Trainer whose model may be replicated, or split by FSDP2, DeepSpeed or tensor parallelism."""

    def __init__(self, *, args: TrainingArguments, **options: Any) -> None:
        """Take the arguments of Trainer.

        Trainer rejects checkpoints of a tensor parallel model, because it would save only part of the
        optimizer's state; checkpoints here are complete.
        """
        only = args.save_only_model
        args.save_only_model = only or read_process_layout().tensor > 1
        super().__init__(args=args, **options)
        args.save_only_model = only

    def create_accelerator_and_postprocess(self) -> None:
        """Create the Accelerator, with FSDP also on a CPU, but not if Transformers has split the model."""
        self.layout = read_process_layout()
        on_cpu = self.args.device.type == "cpu" and self.layout.world > 1
        with keep_models_whole() if self.layout.tensor > 1 else nullcontext():
            if on_cpu and (uses_fsdp() or self.layout.tensor > 1):
                prepare_state(str(self.args.mixed_precision))
            super().create_accelerator_and_postprocess()

    @property
    def split(self) -> bool:
        """Whether processes hold, or may hold, parts of the weights."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled or self.layout.tensor > 1)

    @property
    def _gathers(self) -> bool:
        """Whether checkpoints are gathered here; DeepSpeed writes them itself."""
        return self.split and not self.is_deepspeed_enabled

    def create_optimizer(self, *arguments: Any, **options: Any) -> Any:
        """Create the optimizer. FSDP is applied next."""
        if self.is_fsdp_enabled:
            group_shared_weights(self.model, self.accelerator.state.fsdp_plugin)
        optimizer, model = super().create_optimizer(*arguments, **options), self.model
        assert isinstance(model, torch.nn.Module)  # Trainer has none only before `model_init`
        keep_state_whole(optimizer, model)
        return optimizer

    def create_scheduler(self, *arguments: Any, **options: Any) -> Any:
        """Create the schedule, once FSDP has been applied."""
        show_embeddings(self.model)
        return super().create_scheduler(*arguments, **options)

    def _prepare_for_training(self, *arguments: Any, **options: Any) -> Any:
        prepared = super()._prepare_for_training(*arguments, **options)
        if self._gathers:
            held, whole = count_held_parameters(self.model)
            log.info(
                "process %d holds %s of %s parameters", self.args.process_index, f"{held:,}", f"{whole:,}"
            )
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._gathers:
            return super()._save_optimizer_and_scheduler(output_dir)
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        state = gather_optimizer_state(self.optimizer, keep=self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)
        return None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both. Raises StageError if there is no state, for which Trainer would create a new one."""
        if checkpoint and not self.is_deepspeed_enabled and not (Path(checkpoint) / OPTIMIZER).is_file():
            raise StageError(
                f"{checkpoint}: has no {OPTIMIZER}, like checkpoints of DeepSpeed; resume with that "
                "Accelerate config and number of processes, or delete the folder"
            )
        if not self._gathers or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        load_optimizer_state(self.optimizer, Path(checkpoint))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
        return None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._gathers:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        return load_weights(self.model if model is None else model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if not self._gathers:
            return super()._load_best_model()
        return load_weights(self.model, Path(str(self.state.best_model_checkpoint)))
