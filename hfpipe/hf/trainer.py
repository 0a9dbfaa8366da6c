"""`transformers.Trainer`, subclassed once: our loss, our order of examples, our checkpoints' seal."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from hfpipe.errors import StageError
from hfpipe.hf.batches import Shares, StepBatches
from hfpipe.hf.checkpoints import seal
from hfpipe.hf.losses import forward
from hfpipe.hf.scoring import Reading, score
from hfpipe.metrics.tally import Tally

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.contract import Batch, Task
    from hfpipe.hf.encoding import Examples
    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts


class EpochLoader(DataLoader[Any]):
    """A loader that passes the epoch on to its batches, as Trainer expects of one."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is iterated next."""
        assert isinstance(self.batch_sampler, StepBatches)
        self.batch_sampler.set_epoch(epoch)


@dataclass(frozen=True)
class Training:
    """What a training is made of, beside its arguments."""

    task: Task
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train: Examples
    validation: Examples | None
    facts: DataFacts

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of the validation split."""
        return self.task.validation_metrics(self.facts)


class TaskTrainer(Trainer):
    """Trains a task: every TrainingArguments field keeps its meaning.

    The loss of a step is the sum over all its targets divided by their number, over all processes and
    accumulation steps; Trainer's own is not for heads that build a mean (see Transformers issue #34242).
    """

    def __init__(self, parts: Training, arguments: TrainingArguments, shares: Shares) -> None:
        task, tokenizer = parts.task, parts.tokenizer
        super().__init__(
            model=parts.model,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=parts.train,
            eval_dataset=parts.validation,
            data_collator=partial(task.collate, tokenizer=tokenizer, seed=arguments.seed, train=True),
        )
        self.task = task
        self.folder = Path(str(arguments.output_dir))
        self.examples = parts.train
        self.validation = parts.validation
        self.tokenizer = tokenizer
        self.shares = shares
        self.facts = parts.facts
        self.metrics = parts.metrics
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self.add_callback(Ended())

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process' batches; they are shared out here, not by Accelerate."""
        arguments = self.args
        batches = StepBatches(
            self.examples.lengths,
            self.shares,
            arguments.process_index,
            arguments.seed,
            grouped=not self.task.packed,
        )
        return EpochLoader(
            self.examples,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=arguments.dataloader_num_workers,
            pin_memory=arguments.dataloader_pin_memory and arguments.device.type == "cuda",
            persistent_workers=arguments.dataloader_persistent_workers,
            prefetch_factor=arguments.dataloader_prefetch_factor,
            multiprocessing_context=arguments.dataloader_multiprocessing_context,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """Return the batches of a step and the number of targets in them, over all processes.

        There are none once training is over, which Trainer itself asks only after a step.
        """
        if self.control.should_training_stop:
            return [], torch.tensor(0)
        batches = list(islice(epoch_iterator, num_batches))
        count = sum((self.task.count(batch) for batch in batches), torch.tensor(0)).to(device)
        return batches, self.accelerator.reduce(count, reduction="sum")

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return this micro-batch's part of the step's mean loss, times the processes that average it."""
        outputs = forward(model, inputs, self.task.positions(inputs))
        total, targets = self.task.loss(outputs, inputs, self.args.label_smoothing_factor)
        over_all = targets if num_items_in_batch is None else num_items_in_batch
        loss = (total / over_all.clamp(min=1)).sum() * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """Train on one micro-batch. Raises StageError at the first loss that is no number."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            self._dump(inputs)
            raise StageError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; lower learning_rate, "
                f"or look at the batch in {self._bad_batch}; checkpoints from before it are whole"
            )
        return loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score the validation split in one streaming pass, the same on any number of processes."""
        started = time.monotonic()
        examples = self.validation if eval_dataset is None else eval_dataset
        assert examples is not None  # Trainer refuses to evaluate without
        tally = score(
            self.model_wrapped if self.is_fsdp_enabled or self.is_deepspeed_enabled else self.model,
            examples,
            Reading(self.task, self.facts, self.tokenizer, self.args.seed, training=True),
            Tally(self.metrics, 0, self.args.seed),
            self.accelerator,
            batch_size=self.args.per_device_eval_batch_size,
        )
        scores = {
            f"{metric_key_prefix}_{metric.name}": float(tally.values(metric)[0]) for metric in self.metrics
        }
        scores[f"{metric_key_prefix}_runtime"] = time.monotonic() - started
        self.log(scores)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, scores)
        return scores

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the norm, not used yet. Raises StageError when it is no number; fp16 skips such a step."""
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and self.accelerator.scaler is None and not math.isfinite(norm):
            raise StageError(
                f"the gradient norm is {float(norm)} at step {self.state.global_step + 1}; "
                "lower learning_rate; checkpoints from before it are whole"
            )
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            seal(self.folder / f"checkpoint-{self.state.global_step}")
            # Only now, or a kill in between would leave no checkpoint that is whole.
            rotate_checkpoints(str(self.folder), limit, self.state.best_model_checkpoint, use_mtime=True)

    @property
    def _bad_batch(self) -> Path:
        return self.folder / f"bad-batch-{self.args.process_index}.json"

    def _dump(self, inputs: Batch) -> None:
        texts = self.tokenizer.batch_decode(inputs["input_ids"].cpu())
        self._bad_batch.write_text(json.dumps(texts, ensure_ascii=False, indent=1), encoding="utf-8")


class Ended(TrainerCallback):
    """Trains no further when a run is taken up again that was killed after its last step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        kept = state.stateful_callbacks.get("TrainerControl", {})
        if kept.get("args", {}).get("should_training_stop"):
            control.should_training_stop = True
            control.should_evaluate = control.should_save = False


class Steps(TrainerCallback):
    """Tells a progress bar of every step, those of an earlier try included."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance(1)
