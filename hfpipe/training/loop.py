"""Runs a training from encoded data to a Transformers folder; an interrupted training resumes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import EarlyStoppingCallback

from hfpipe.distributed.process_layout import read_process_layout
from hfpipe.distributed.sharding import forget_deepspeed, split_model
from hfpipe.errors import StageError, format_one_line
from hfpipe.library_output import allow_forks, silence_libraries
from hfpipe.modeling.half_weights import halve_frozen
from hfpipe.modeling.performance import is_sharded, runs_on_cpu
from hfpipe.recipe.training import budget
from hfpipe.store.artifacts import METRICS
from hfpipe.tokenization.loading import set_pad_token_id
from hfpipe.training.arguments import (
    TrainingPlan,
    compute_shares,
    compute_steps,
    create_training_arguments,
    get_muon_options,
    select_best_metric,
)
from hfpipe.training.callbacks import MetricsFile, ProgressCallback
from hfpipe.training.checkpoints import get_chosen_checkpoint
from hfpipe.training.cost import compute_flops, find_shape
from hfpipe.training.liger import check_liger
from hfpipe.training.resuming import Resume
from hfpipe.training.speed.choice import Length, choose_speed
from hfpipe.training.speed.compile_mode import ModeTrial, check_mode, choose_mode
from hfpipe.training.speed.decision import STEPS, StepCount, decide_once
from hfpipe.training.speed.energy import measure_energy
from hfpipe.training.speed.gpu import get_gpu
from hfpipe.training.speed.micro_batch import MemoryTrial, MicroBatch, fit_micro_batch
from hfpipe.training.speed.throughput import estimate_steps
from hfpipe.training.trainer import TaskTrainer, Training

if TYPE_CHECKING:
    from hfpipe.contract import RunContext

log = logging.getLogger(__name__)


def train_model(
    parts: Training, training: Mapping[str, Any], early: tuple[int, float] | None, ctx: RunContext
) -> dict[str, Any]:
    """Train, save model and tokenizer into `ctx.folder`, and return the facts of the training.

    `early` is (patience, threshold). Raises StageError when the loss is not a number or an argument is
    invalid.
    """
    set_pad_token_id(parts.model, parts.tokenizer)
    plan, layout = _plan(parts, training, ctx), read_process_layout()
    trained = parts.model.num_parameters(only_trainable=True)
    parameters, shape = parts.model.num_parameters(), find_shape(parts.model)
    if layout.tensor > 1:
        parts = replace(parts, model=split_model(parts.model, layout))
    trainer = _create_trainer(parts, training, plan, ctx, early=early is not None)
    trainer.watch.keep_crashes_of(ctx)
    if early is not None:
        trainer.add_callback(EarlyStoppingCallback(*early))
    for callback in parts.callbacks:
        trainer.add_callback(callback)
    checkpoint = _get_checkpoint(ctx)
    if checkpoint is not None:
        trainer.add_callback(Resume(trainer, checkpoint))
    with (
        silence_libraries(),
        allow_forks(),
        ctx.stop.defer(),
        measure_energy(training.get("report_to"), first=trainer.is_world_process_zero()) as energy,
        ctx.progress(ctx.name, plan.steps if trainer.is_world_process_zero() else None) as advance,
    ):
        trainer.add_callback(ProgressCallback(advance))
        tokens = plan.shares.total * float(trainer.examples.lengths.mean())
        metrics = MetricsFile(ctx.folder / METRICS, plan.steps, tokens, advance)
        trainer.callback_handler.callbacks.insert(0, metrics)  # before those of trackers
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.watch.flush()
        trainer.save_model(str(ctx.folder))
        trainer.accelerator.wait_for_everyone()  # the best checkpoint may still be read elsewhere
    forget_deepspeed()
    if trainer.is_world_process_zero():
        _complete_folder(ctx)
    found = {"trained_parameters": trained, "parameters": parameters} | _collect_facts(trainer, plan)
    length = float(trainer.examples.lengths.mean())
    counted = (
        compute_flops(shape, found["tokens"], length, parts.task.objective.predicted_share)
        if shape is not None
        else None
    )
    return found | {"flops": counted, "energy_kwh": energy.kwh}


def _create_trainer(
    parts: Training, training: Mapping[str, Any], plan: TrainingPlan, ctx: RunContext, *, early: bool
) -> TaskTrainer:
    best = select_best_metric(training, parts.metrics) if parts.validation is not None else None
    args = create_training_arguments(training, ctx.work, ctx.seed, plan, best, early=early)
    if args.use_liger_kernel:
        check_liger(parts.model.config.model_type)
    try:
        muon = get_muon_options(training)
        return TaskTrainer(
            parts,
            args,
            plan.shares,
            compile_mode=plan.speed.compile_mode,
            head_in_loss=plan.head_in_loss,
            padding_free=training.get("padding_free", False),
            muon=muon,
            stop=ctx.stop,
        )
    except (ValueError, RuntimeError, ImportError) as error:  # for example, a tracker that is not installed
        raise StageError(
            f"training: Transformers rejects these arguments: {format_one_line(error)}"
        ) from error


def _complete_folder(ctx: RunContext) -> None:
    """Move trackers' files into the folder, and check for weights. Raises StageError when there are none."""
    (ctx.folder / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads
    if (ctx.work / "runs").is_dir():
        shutil.copytree(ctx.work / "runs", ctx.folder / "runs", dirs_exist_ok=True)
    if not any(ctx.folder.glob("*.safetensors")):
        raise StageError(
            f"{ctx.folder}: no weights were saved; let the Accelerate config gather them: "
            "fsdp_state_dict_type: FULL_STATE_DICT, or zero3_save_16bit_model: true"
        )


def _plan(parts: Training, training: Mapping[str, Any], ctx: RunContext) -> TrainingPlan:
    """Decide how long to train; the number of steps of a time budget is stored for a resumed run.

    Every process measures, because they share the machine, and all use the number of the first.
    """
    shares = compute_shares(training)
    tokens = int(parts.train.lengths.sum())
    decided = ctx.work / STEPS
    steps = compute_steps(training, len(parts.train), tokens, shares.total)
    seconds = budget.parse_budget(training["budget"]).seconds if steps is None else None
    length = Length(steps, seconds)
    speed = choose_speed(training, parts, shares, ctx.seed, length, ctx.work)
    if speed.bf16 and not is_sharded():
        halve_frozen(parts.model)
    fit, device = MicroBatch(shares), get_gpu()
    if device is not None:
        fit = fit_micro_batch(MemoryTrial(training, parts, shares, ctx.seed, speed, device), ctx.work)
    check_mode(speed, fit.shares, "cpu" if runs_on_cpu() else "cuda")
    speed = choose_mode(ModeTrial(training, parts, fit, ctx.seed, speed, length, device), ctx.work)
    if steps is None:
        measured = 0
        if not decided.exists():
            assert seconds is not None
            muon = get_muon_options(training)
            measured = estimate_steps(seconds, parts, fit, ctx.seed, speed, muon=muon)
        steps = decide_once(decided, StepCount, lambda: StepCount(steps=measured)).steps
    return TrainingPlan(fit.shares, steps, speed, fit.checkpointing, fit.head_in_loss)


def _get_checkpoint(ctx: RunContext) -> Path | None:
    checkpoint = get_chosen_checkpoint(ctx.work)
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint.name)
    return checkpoint


def _collect_facts(trainer: TaskTrainer, plan: TrainingPlan) -> dict[str, Any]:
    history = trainer.state.log_history
    seconds = next((entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry), 0.0)
    evaluated = _get_validation_scores(trainer)
    lengths = trainer.examples.lengths
    return {
        "steps": trainer.state.global_step,
        "examples_a_step": plan.shares.total,
        "tokens": round(trainer.state.global_step * plan.shares.total * float(lengths.mean())),
        "bf16": plan.speed.bf16,
        "compiled": plan.speed.compiled,
        "compile_mode": plan.speed.compile_mode,
        "speed": plan.speed.measured.model_dump() if plan.speed.measured else None,
        "train_seconds": round(seconds, 1),
        "validation": {
            name.removeprefix("eval_"): value for name, value in evaluated.items() if "eval_" in name
        },
        "history": history,
    }


def _get_validation_scores(trainer: TaskTrainer) -> dict[str, Any]:
    """Return the last validation scores of the model that is saved; empty if there are none."""
    state = trainer.state
    best = state.best_global_step if trainer.args.load_best_model_at_end else None
    return next(
        (
            entry
            for entry in reversed(state.log_history)
            if "eval_runtime" in entry and entry["step"] == (best or state.global_step)
        ),
        {},
    )
