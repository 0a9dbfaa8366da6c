"""`transformers.Trainer`, subclassed once: our loss, our order of examples, our checkpoints' seal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainingArguments

from hfpipe.encoding.padding import Collator, forward_passes, is_cut, token_mask
from hfpipe.encoding.sampler import BatchLayout, EpochLoader, StepBatches
from hfpipe.errors import StageError
from hfpipe.evaluation.loop import ModelReader, score
from hfpipe.interruption import StopRequest
from hfpipe.metrics.tally import Tally
from hfpipe.modeling.attention.cpu import eager_kernels
from hfpipe.modeling.performance import compile_model, uncompiled_model
from hfpipe.training.callbacks import StopIfFinishedCallback
from hfpipe.training.crashes.watch import StepWatch
from hfpipe.training.muon import create_muon
from hfpipe.training.resuming import mean_loss
from hfpipe.training.saving import whole_checkpoint
from hfpipe.training.split_trainer import SplitTrainer
from hfpipe.training.step import CompiledStep, TrainingStep, separate_documents
from hfpipe.training.stopping import AgreedStop, SaveWhenAsked, outlive_signals

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
    """What a training is made of, in addition to its arguments."""

    task: TaskRuntime
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train: Examples
    validation: Examples | None
    facts: DataFacts
    attention_is_chosen: bool = False
    """Whether the recipe names the model's attention implementation, which then stays."""
    training_loss: TrainingLoss | None = None
    """What replaces the task's loss in training; validation keeps the task's."""

    callbacks: Sequence[Any] = ()
    """Further callbacks of Trainer."""

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of the validation split."""
        return self.task.evaluator.validation_metrics(self.facts)


class TaskTrainer(SplitTrainer):
    """Trains a task: every TrainingArguments field keeps its meaning.

    The loss of a step is the sum over all its targets divided by their number, over all processes and
    accumulation steps; Trainer's own is not for heads that build a mean (see Transformers issue #34242).

    On a CPU a batch of uneven lengths is cut into several forward passes, with the gradients of one, and a
    model that is not compiled uses attention and dropout that are faster there than torch's.

    `compiled` compiles model and loss. The batches of packed tasks then have one shape, unless the model is
    sharded, and attention gets no mask where nothing is padded. Evaluation, whose batches have many shapes,
    then runs uncompiled.
    """

    _whole_head = False
    """Whether the model applies its output layer itself."""

    def __init__(
        self,
        parts: Training,
        arguments: TrainingArguments,
        shares: BatchLayout,
        *,
        compiled: bool = False,
        muon: Mapping[str, float] | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        task, tokenizer = parts.task, parts.tokenizer
        # It may cut a batch, which does not fit Trainer's type.
        collator: Any = Collator(task, tokenizer, arguments.seed, training_loss=parts.training_loss)
        super().__init__(
            model=parts.model,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=parts.train,
            eval_dataset=parts.validation,
            data_collator=collator,
        )
        self.task, self.training_loss = task, parts.training_loss
        self.folder = Path(str(arguments.output_dir))
        self.examples, self.validation = parts.train, parts.validation
        self.tokenizer = tokenizer
        self.shares = shares
        self.facts, self.metrics = parts.facts, parts.metrics
        self.loss_is_scaled_for_ga = True
        if muon is not None:
            self._train_with_muon(muon)
        self.watch = StepWatch(self)
        self.stop = AgreedStop(stop or StopRequest(), self.accelerator)
        self.bare, self._attention_is_chosen = parts.model, parts.attention_is_chosen
        static = compiled and self._has_one_shape
        self._step = self._new_step(static=static)
        if compiled and not static:
            compile_model(parts.model, static=False)
        context = self.layout.context
        self.data_collator = replace(
            collator,
            static=static,
            cut=self._cuts and not compiled,
            multiple=2 * context if context > 1 else 1,  # each process has two parts, for equal work
        )
        self._eager_on_cpu = arguments.device.type == "cpu" and not compiled
        self.remove_callback(PrinterCallback)
        self.add_callback(StopIfFinishedCallback())
        self.add_callback(SaveWhenAsked(self.stop))

    def _new_step(self, *, static: bool) -> TrainingStep | CompiledStep:
        args, autocast = self.args, self.accelerator.autocast
        separate = separate_documents(self.task, self.bare, args.device, chosen=self._attention_is_chosen)
        eager = TrainingStep(
            self.task,
            args.label_smoothing_factor,
            autocast,
            chunked=self._applies_head_in_loss,
            separate=separate,
            objective=self.training_loss,
        )
        return CompiledStep(eager, self.bare, self.shares.micro, autocast) if static else eager

    def _train_with_muon(self, options: Mapping[str, float]) -> None:
        """Let Trainer create Muon. Raises StageError where the matrices are split over processes."""
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

        def factory() -> Any:  # Trainer calls what is not a class, whatever its annotation says
            return create

        made: Any = factory
        self.optimizer_cls_and_kwargs = (made, {})

    @property
    def chosen_attention(self) -> str | None:
        """The attention implementation that the recipe names, None where it leaves that open."""
        return self.bare.config._attn_implementation if self._attention_is_chosen else None

    def apply_head_in_model(self) -> None:
        """Let the model apply its output layer itself from now on, so that hooks of that layer are called."""
        self._whole_head = True
        self._step = self._new_step(static=False)

    @property
    def _has_one_shape(self) -> bool:
        """Whether batches have one shape, except the last, and a model that is whole in each process."""
        config = self.task.config
        return config.packed and config.auto_class != "AutoModelForSeq2SeqLM" and not self.split

    @property
    def _applies_head_in_loss(self) -> bool:
        """Whether the loss may apply the output layer in chunks.

        On a CPU, which gains speed and memory; in float16 gradients would be computed before they are scaled,
        and a search for unused parameters would count the layer's among them.
        """
        whole = not self.split and not self.args.ddp_find_unused_parameters and not self._whole_head
        return self.args.device.type == "cpu" and whole and not self.args.fp16

    @property
    def _cuts(self) -> bool:
        """Whether batches are cut by length; a sharded model is passed equally often everywhere."""
        return is_cut(self.task.config, self.args.device.type) and not self.split

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train as Trainer does, with what is fast on the device."""
        with self.fast_kernels():
            return super().train(*arguments, **options)

    def fast_kernels(self) -> AbstractContextManager[None]:
        """Return the context in which the model computes as in a training."""
        return eager_kernels(self.bare) if self._eager_on_cpu else nullcontext()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process' batches; they are shared out here, not by Accelerate."""
        arguments = self.args
        return EpochLoader(
            self.examples,
            batch_sampler=self.step_batches(),
            collate_fn=self.data_collator,
            worker_init_fn=partial(outlive_signals, self.stop.request),
            num_workers=arguments.dataloader_num_workers,
            pin_memory=arguments.dataloader_pin_memory and arguments.device.type == "cuda",
            persistent_workers=arguments.dataloader_persistent_workers,
            prefetch_factor=arguments.dataloader_prefetch_factor,
            multiprocessing_context=arguments.dataloader_multiprocessing_context,
        )

    def step_batches(self) -> StepBatches:
        """Return which examples this process reads."""
        reader = self.layout.reader(self.args.process_index)
        return StepBatches(
            self.examples.lengths, self.shares, reader, self.args.seed, grouped=not self.task.config.packed
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batches], num_batches: int, device: torch.device
    ) -> tuple[list[Batches], torch.Tensor]:
        """Return the batches of a step and the number of targets in them, over all shares of the step.

        There are none once training is over, which Trainer itself asks only after a step.
        """
        if self.control.should_training_stop:
            return [], torch.tensor(0)
        batches = list(islice(epoch_iterator, num_batches))
        counted = (self.training_loss or self.task.objective).count
        parts = (part for batch in batches for part in forward_passes(batch))
        return batches, self.stop.sum_counts(sum(map(counted, parts), torch.tensor(0)), self.layout.together)

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return this micro-batch's part of the step's mean loss, times the processes that average it."""
        outputs, (total, targets) = self._step(model, inputs)
        over_all = targets if num_items_in_batch is None else num_items_in_batch
        loss = (total / over_all.masked_fill(over_all == 0, 1)).sum() * self.layout.averaged
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: Batches, num_items_in_batch: Any = None) -> torch.Tensor:
        """Train on one micro-batch, cut or whole. Raises StageError at the first loss that is NaN."""
        *others, last = forward_passes(inputs)
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
        """Count the tokens of a micro-batch, cut or whole; all processes count together, each token once."""
        parts = forward_passes(inputs)
        ids = torch.cat([part["input_ids"].flatten() for part in parts])
        masks = [token_mask(part).flatten() for part in parts]
        mine = slice(None if self.layout.counts(self.args.process_index) else 0)
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
        assert examples is not None  # Trainer refuses to evaluate without
        with uncompiled_model(self.bare), self.accelerator.autocast():
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
            f"{metric_key_prefix}_{metric.name}": float(tally.values(metric)[0]) for metric in tally.defined
        }
        scores[f"{metric_key_prefix}_runtime"] = time.monotonic() - started
        self.log(scores)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, scores)
        return scores

    def _check_best(self, undefined: Mapping[str, str]) -> None:
        """Raise StageError where the score that decides which model is best is not defined."""
        best = str(self.args.metric_for_best_model).removeprefix("eval_")
        if best in undefined:
            raise StageError(f"metric_for_best_model: {best} is left out: {undefined[best]}; write loss")

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the norm, which is not used yet. Raises StageError for NaN; fp16 skips such a step."""
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and self.accelerator.scaler is None:
            self.watch.watch_norm(torch.as_tensor(norm))
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as Trainer does, and at the end the mean loss of all steps."""
        whole = {"train_loss": mean_loss(self)} if "train_loss" in logs else {}
        super().log({**logs, **whole}, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.watch.flush()
        with whole_checkpoint(self, self.stop):
            super()._save_checkpoint(model, trial)
