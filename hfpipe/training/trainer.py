"""Subclass of `transformers.Trainer` with hfpipe's loss, order of examples and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainingArguments

from hfpipe.encoding.padding import Collator, is_cut, list_forward_passes, make_token_mask
from hfpipe.encoding.sampler import BatchLayout, EpochLoader, StepBatches
from hfpipe.errors import StageError
from hfpipe.evaluation.loop import ModelReader, score
from hfpipe.interruption import StopRequest
from hfpipe.metrics.tally import Tally
from hfpipe.modeling.heap import keep_memory
from hfpipe.modeling.performance import compile_model, run_uncompiled
from hfpipe.training.callbacks import StopIfFinishedCallback
from hfpipe.training.crashes.watch import StepWatch
from hfpipe.training.muon import create_muon
from hfpipe.training.resuming import compute_mean_loss
from hfpipe.training.saving import complete_checkpoint
from hfpipe.training.speed.trained_rows import train_read_rows
from hfpipe.training.speed.unpadded import choose_unpadding, get_multiple, use_kernels
from hfpipe.training.split_trainer import SplitTrainer
from hfpipe.training.step import CompiledStep, TrainingStep, separate_documents
from hfpipe.training.stopping import AgreedStop, SaveWhenAsked, ignore_signals

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.encoding.encoded import Examples
    from hfpipe.encoding.padding import Batches
    from hfpipe.metrics.metric import Metric
    from hfpipe.modeling.losses.training_loss import TrainingLoss
    from hfpipe.report import DataFacts
    from hfpipe.runtime import TaskRuntime
    from hfpipe.types import Batch


@dataclass(frozen=True)
class Training:
    """The parts of a training in addition to its arguments."""

    task: TaskRuntime
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train: Examples
    validation: Examples | None
    facts: DataFacts
    attention_is_chosen: bool = False
    """Whether the recipe sets the model's attention implementation, which is then kept."""
    training_loss: TrainingLoss | None = None
    """Replaces the task's loss in training, but not in validation."""

    callbacks: Sequence[Any] = ()
    """Further callbacks of Trainer."""

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of the validation split."""
        return self.task.evaluator.validation_metrics(self.facts)


class TaskTrainer(SplitTrainer):
    """Trains a task: every TrainingArguments field keeps its meaning.

    The loss of a step is the sum over all its targets divided by their number, over all processes and
    accumulation steps; Trainer's loss is wrong for heads that return a mean (see Transformers issue #34242).

    On a CPU, a batch of different lengths is split into several forward passes with the same gradients, and a
    model that is not compiled has faster kernels, and skips what it does not read: positions, and rows of
    its embeddings. With `padding_free`, layers compute no padding.

    With `compile_mode`, a mode of torch.compile, model and loss are compiled. The batches of packed tasks
    then have one shape, unless the model is sharded, and attention gets no mask without padding. Evaluation,
    whose batches have many shapes, runs uncompiled.
    """

    _whole_head = False
    """Whether the model applies its output layer itself."""

    def __init__(
        self,
        parts: Training,
        arguments: TrainingArguments,
        shares: BatchLayout,
        *,
        compile_mode: str | None = None,
        head_in_loss: bool = False,
        padding_free: bool = False,
        muon: Mapping[str, float] | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        task, tokenizer = parts.task, parts.tokenizer
        # It may split a batch, which does not fit Trainer's type.
        collator: Any = Collator(task, tokenizer, arguments.seed, training_loss=parts.training_loss)
        super().__init__(
            model=parts.model,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=parts.train,
            eval_dataset=parts.validation,
            data_collator=collator,
        )
        self.task, self.tokenizer, self.shares = task, tokenizer, shares
        self.training_loss, self.folder = parts.training_loss, Path(str(arguments.output_dir))
        self.examples, self.validation = parts.train, parts.validation
        self.facts, self.metrics, self.loss_is_scaled_for_ga = parts.facts, parts.metrics, True
        if muon is not None:
            self._train_with_muon(muon)
        self.watch, self.stop = StepWatch(self), AgreedStop(stop or StopRequest(), self.accelerator)
        self.bare, self._attention_is_chosen = parts.model, parts.attention_is_chosen
        self._unpadding = choose_unpadding(self) if padding_free else None
        self._compile_mode, self._head_in_loss = compile_mode, head_in_loss
        static = compile_mode is not None and self._has_one_shape
        self._step = self._create_step(static=static)
        if compile_mode is not None and not static:
            compile_model(parts.model, static=False, mode=compile_mode)
        context = self.layout.context
        self.data_collator = replace(
            collator,
            static=static,
            cut=self._cuts and compile_mode is None,
            unpadded=get_multiple(self._unpadding, arguments.device),
            multiple=2 * context if context > 1 else 1,  # each process has two parts, for equal work
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(StopIfFinishedCallback())
        self.add_callback(SaveWhenAsked(self.stop))

    def _create_step(self, *, static: bool) -> TrainingStep | CompiledStep:
        args, autocast = self.args, self.accelerator.autocast
        separate = separate_documents(self.task, self.bare, args.device, chosen=self._attention_is_chosen)
        eager = TrainingStep(
            self.task,
            args.label_smoothing_factor,
            autocast,
            chunked=self._applies_head_in_loss,
            separate=separate or self._unpadding,
            objective=self.training_loss,
        )
        if not static or self._compile_mode is None:
            return eager
        return CompiledStep(eager, self.bare, self.shares.micro, autocast, self._compile_mode)

    def _train_with_muon(self, options: Mapping[str, float]) -> None:
        """Let Trainer create Muon. Raises StageError if the matrices are split over processes."""
        if self.split:
            raise StageError(
                "optim: muon needs unsharded matrices; FSDP, DeepSpeed and tensor parallelism shard them; "
                "delete optim"
            )

        def create(model: torch.nn.Module) -> torch.optim.Optimizer:
            given = self.args
            return create_muon(
                model,
                learning_rate=given.learning_rate,
                weight_decay=given.weight_decay,
                decayed=self.get_decay_parameter_names(model),
                muon=dict(options),
                adamw={"betas": (given.adam_beta1, given.adam_beta2), "eps": given.adam_epsilon},
            )

        def factory() -> Any:  # Trainer calls anything that is not a class, despite its annotation
            return create

        made: Any = factory
        self.optimizer_cls_and_kwargs = (made, {})

    @property
    def chosen_attention(self) -> str | None:
        """The attention implementation in the recipe, None if it does not set one."""
        return self.bare.config._attn_implementation if self._attention_is_chosen else None

    def apply_head_in_model(self) -> None:
        """Make the model apply its output layer from now on, so that hooks of this layer are called."""
        self._whole_head = True
        self._step = self._create_step(static=False)

    @property
    def _has_one_shape(self) -> bool:
        """Whether all batches but the last have one shape and the model is complete in each process."""
        config = self.task.config
        return config.packed and config.auto_class != "AutoModelForSeq2SeqLM" and not self.split

    @property
    def _applies_head_in_loss(self) -> bool:
        """Whether the loss may apply the output layer in chunks.

        On a CPU, which gains speed and memory, and on a GPU that needs the memory; in float16 gradients would
        be computed before they are scaled, and a search for unused parameters would count the layer's.
        """
        whole = not self.split and not self.args.ddp_find_unused_parameters and not self._whole_head
        wanted = self._head_in_loss or self.args.device.type == "cpu"
        return wanted and whole and not self.args.fp16

    @property
    def _cuts(self) -> bool:
        """Whether batches are split by length; a sharded model needs equally many passes everywhere."""
        return is_cut(self.task.config, self.args.device.type) and not self.split

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train as Trainer does, with the fastest kernels of the device."""
        compiled = self._compile_mode is not None
        memory = keep_memory(None if compiled else self.bare)
        with self.use_fast_kernels(), train_read_rows(self, compiled=compiled), memory:
            return super().train(*arguments, **options)

    def use_fast_kernels(self) -> AbstractContextManager[None]:
        """Return the context with the kernels of a training."""
        eager = self.args.device.type == "cpu" and self._compile_mode is None
        return use_kernels(self.bare, self._unpadding, eager=eager)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of this process; they are distributed here, not by Accelerate."""
        arguments = self.args
        return EpochLoader(
            self.examples,
            batch_sampler=self.create_step_batches(),
            collate_fn=self.data_collator,
            worker_init_fn=partial(ignore_signals, self.stop.request),
            num_workers=arguments.dataloader_num_workers,
            pin_memory=arguments.dataloader_pin_memory and arguments.device.type == "cuda",
            persistent_workers=arguments.dataloader_persistent_workers,
            prefetch_factor=arguments.dataloader_prefetch_factor,
            multiprocessing_context=arguments.dataloader_multiprocessing_context,
        )

    def create_step_batches(self) -> StepBatches:
        """Return the indices of the examples of this process."""
        reader = self.layout.get_reader(self.args.process_index)
        return StepBatches(
            self.examples.lengths, self.shares, reader, self.args.seed, grouped=not self.task.config.packed
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batches], num_batches: int, device: torch.device
    ) -> tuple[list[Batches], torch.Tensor]:
        """Return the batches of a step and the number of targets in them, over all shares of the step.

        There are none at the end of training, which Trainer checks only after a step.
        """
        if self.control.should_training_stop:
            return [], torch.tensor(0)
        batches = list(islice(epoch_iterator, num_batches))
        counted = (self.training_loss or self.task.objective).count
        parts = (part for batch in batches for part in list_forward_passes(batch))
        return batches, self.stop.sum_counts(sum(map(counted, parts), torch.tensor(0)), self.layout.together)

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return this micro-batch's part of the step's mean loss, times the processes that average it."""
        outputs, (total, targets) = self._step(model, inputs)
        over_all = targets if num_items_in_batch is None else num_items_in_batch
        loss = (total / over_all.masked_fill(over_all == 0, 1)).sum() * self.layout.averaged
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: Batches, num_items_in_batch: Any = None) -> torch.Tensor:
        """Train on one micro-batch, split or not. Raises StageError at the first loss that is NaN."""
        *others, last = list_forward_passes(inputs)
        self.watch.begin(num_items_in_batch)
        losses = []
        for part in others:
            with self.accelerator.no_sync(model):
                losses.append(self._compute_gradients(model, part, num_items_in_batch))
        return sum(losses, self._compute_gradients(model, last, num_items_in_batch))

    def _compute_gradients(self, model: Any, inputs: Batch, num_items_in_batch: Any) -> torch.Tensor:
        """Compute a loss and its gradients."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.watch.watch_loss(loss)
        return loss

    def _track_num_input_tokens(self, inputs: Batches) -> None:
        """Count the tokens of a micro-batch, split or not, over all processes, each token once."""
        parts = list_forward_passes(inputs)
        ids = torch.cat([part["input_ids"].flatten() for part in parts])
        masks = [make_token_mask(part).flatten() for part in parts]
        mine = slice(None if self.layout.is_counted(self.args.process_index) else 0)
        super()._track_num_input_tokens({"input_ids": ids[mine], "attention_mask": torch.cat(masks)[mine]})

    def _prepare_input(self, data: Any) -> Any:
        """Move a tensor without waiting for the accelerator; the loader's memory is pinned."""
        if isinstance(data, torch.Tensor) and not self.is_deepspeed_enabled:
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score the validation split in one streaming pass, the same on any number of processes."""
        self.watch.flush()
        started = time.monotonic()
        examples = self.validation if eval_dataset is None else eval_dataset
        assert examples is not None  # Trainer does not evaluate without them
        with run_uncompiled(self.bare), self.accelerator.autocast():
            tally = score(
                self.model_wrapped if self.split else self.model,
                examples,
                ModelReader(self.task, self.facts, self.tokenizer, self.args.seed, training=True),
                Tally(self.metrics, 0, self.args.seed),
                self.accelerator,
                batch_size=self.args.per_device_eval_batch_size,
                layout=self.layout,
            )
        self._check_best(tally.undefined())
        scores = {
            f"{metric_key_prefix}_{metric.name}": float(tally.compute_values(metric)[0])
            for metric in tally.defined
        }
        scores[f"{metric_key_prefix}_runtime"] = time.monotonic() - started
        self.log(scores)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, scores)
        return scores

    def _check_best(self, undefined: Mapping[str, str]) -> None:
        """Raise StageError if the score that selects the best model is undefined."""
        best = str(self.args.metric_for_best_model).removeprefix("eval_")
        if best in undefined:
            raise StageError(f"metric_for_best_model: {best} is undefined: {undefined[best]}; write loss")

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the norm before it is used. Raises StageError for NaN; fp16 skips such a step."""
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and self.accelerator.scaler is None:
            self.watch.watch_norm(torch.as_tensor(norm))
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as Trainer does, and at the end the mean loss of all steps."""
        whole = {"train_loss": compute_mean_loss(self)} if "train_loss" in logs else {}
        super().log({**logs, **whole}, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.watch.flush()
        with complete_checkpoint(self, self.stop):
            super()._save_checkpoint(model, trial)
