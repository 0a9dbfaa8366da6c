"""Converts `training:` of a recipe to TrainingArguments, with each step distributed over the processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments
from transformers.utils.import_utils import is_torch_tf32_available

from hfpipe.distributed.process_layout import read_process_layout
from hfpipe.distributed.sharding import uses_deepspeed
from hfpipe.encoding.sampler import BatchLayout, compute_batch_layout
from hfpipe.errors import StageError, format_one_line
from hfpipe.modeling.performance import count_loader_workers, runs_on_cpu, supports_bf16
from hfpipe.recipe.training import budget, compile_modes, muon
from hfpipe.recipe.training.defaults import add_defaults
from hfpipe.training.liger import remove_liger_on_cpu
from hfpipe.training.speed.energy import remove_codecarbon

if TYPE_CHECKING:
    from hfpipe.metrics.metric import Metric
    from hfpipe.training.speed.choice import Speed

OWN = ("budget", "bf16", "compile", "padding_free", compile_modes.NAME)
"""Settings of `training:` that TrainingArguments lacks, that accept more values than there, or that hfpipe
applies itself."""
CHECKPOINTINGS = ("activation_checkpointing", "gradient_checkpointing")
"""Names of activation checkpointing in newer and older versions of Transformers."""
CHECKPOINTING = next(name for name in CHECKPOINTINGS if name in TrainingArguments.__dataclass_fields__)
"""Name in the installed version; names of model methods begin with it."""
EPOCHS = 3.0
"""Default of TrainingArguments."""


@dataclass(frozen=True)
class TrainingPlan:
    """Settings that determine the length and the cost of a training."""

    shares: BatchLayout
    steps: int
    speed: Speed
    checkpointing: bool = False
    """Whether layers are recomputed in the backward pass, if the recipe does not set it."""
    head_in_loss: bool = False
    """Whether the loss applies the output layer in chunks also on a GPU."""


def compute_shares(training: Mapping[str, Any], readers: int | None = None) -> BatchLayout:
    """Return how a step is distributed over its readers, by default the processes of the launcher."""
    per_device = training.get("per_device_train_batch_size", TrainingArguments.per_device_train_batch_size)
    accumulation = training.get("gradient_accumulation_steps", TrainingArguments.gradient_accumulation_steps)
    return compute_batch_layout(
        per_device, accumulation, read_process_layout().readers if readers is None else readers
    )


def compute_steps(training: Mapping[str, Any], examples: int, tokens: int, total: int) -> int | None:
    """Return the number of optimizer steps of a recipe, None if its budget is a time.

    `examples` and `tokens` are numbers per epoch, `total` is the number of examples per step.
    """
    epoch = -(-examples // total)
    if "budget" not in training:
        steps = training.get("max_steps", -1)
        return steps if steps > 0 else max(1, round(epoch * training.get("num_train_epochs", EPOCHS)))
    wanted = budget.parse_budget(training["budget"])
    if wanted.tokens is not None:
        return max(1, -(-wanted.tokens * examples // (tokens * total)))
    if wanted.epochs is not None:
        return max(1, round(epoch * wanted.epochs))
    return wanted.steps


def expects_bf16(training: Mapping[str, Any]) -> bool:
    """Return whether a training will probably use bfloat16; `Speed` is chosen later, by measuring."""
    wanted = training.get("bf16", "auto")
    return supports_bf16() and not training.get("fp16", False) if wanted == "auto" else bool(wanted)


def get_muon_options(training: Mapping[str, Any]) -> dict[str, int | float] | None:
    """Return the options of Muon, None for another optimizer."""
    return muon.parse_options(training.get("optim_args")) if training.get("optim") == muon.NAME else None


def select_best_metric(training: Mapping[str, Any], metrics: Sequence[Metric]) -> Metric:
    """Return the metric that selects the best model: the one named, else the loss, else the first metric.

    Raises StageError when the task has no metric of that name.
    """
    named = {metric.name: metric for metric in metrics}
    wanted = training.get("metric_for_best_model")
    if wanted is None:
        return named.get("loss", metrics[0])
    name = str(wanted).removeprefix("eval_")
    if name not in named:
        raise StageError(f"metric_for_best_model: the task has no {name!r}; it has {', '.join(named)}")
    return named[name]


def _filter_arguments(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments for Transformers: without Muon and codecarbon, which hfpipe runs itself, and
    without Liger on a CPU."""
    muon = ("optim", "optim_args") if get_muon_options(training) is not None else ()
    kept = remove_liger_on_cpu(training)
    given = {name: value for name, value in kept.items() if name not in (*OWN, *muon)}
    return given | {name: remove_codecarbon(value) for name, value in given.items() if name == "report_to"}


def create_training_arguments(
    training: Mapping[str, Any],
    folder: Path,
    seed: int,
    plan: TrainingPlan,
    best: Metric | None,
    *,
    early: bool,
) -> TrainingArguments:
    """Return the TrainingArguments of one process.

    `best` selects the best model; it is None without a validation split. Raises StageError when Transformers
    rejects them.
    """
    given = _filter_arguments(training)
    settings: dict[str, Any] = {"dataloader_num_workers": count_loader_workers()}
    if plan.checkpointing:
        given |= {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}}
    if best is not None:
        # Transformers assumes that a metric is better when higher unless its name ends in "loss".
        settings["greater_is_better"] = best.higher_is_better
        given["metric_for_best_model"] = best.name
    settings |= add_defaults(given, evaluated=best is not None, early=early)
    if "tf32" in settings and not is_torch_tf32_available():
        del settings["tf32"]  # Transformers rejects it; a message that it has no effect was logged before
    settings |= {
        "output_dir": str(folder),
        "seed": seed,
        "max_steps": plan.steps,
        "bf16": plan.speed.bf16,
        "use_cpu": runs_on_cpu() and not uses_deepspeed(),
        "per_device_train_batch_size": plan.shares.micro,
        "gradient_accumulation_steps": plan.shares.accumulation,
        "remove_unused_columns": False,
        "restore_callback_states_from_checkpoint": True,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
    }
    if runs_on_cpu() and uses_deepspeed():
        # With `use_cpu`, Accelerate ignores DeepSpeed and uses data parallelism.
        settings["ddp_backend"] = "gloo"
    try:
        made = TrainingArguments(**settings)
    except (TypeError, ValueError, ImportError) as error:
        cause = format_one_line(error)
        raise StageError(f"training: Transformers rejects these arguments: {cause}") from error
    # The recipe sets the precision; an Accelerate config would override it here.
    made.mixed_precision = "fp16" if made.fp16 else "bf16" if made.bf16 else "no"
    made._n_gpu = min(made.n_gpu, 1)  # without a launcher, several would start DataParallel
    return made
