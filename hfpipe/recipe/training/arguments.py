"""Checks `training:` against the installed TrainingArguments, with arguments added or managed by hfpipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from hfpipe.errors import Problem
from hfpipe.recipe.document import KeyProblem
from hfpipe.recipe.installed import Field, read_installed_arguments
from hfpipe.recipe.messages import Keys, describe_position, describe_value, format_keys
from hfpipe.recipe.settings import find_unknown_keys
from hfpipe.recipe.training import budget, compile_modes, muon, packages
from hfpipe.recipe.training.defaults import find_schedule_fault
from hfpipe.recipe.training.numbers import describe_number_problem

_ACCELERATE = "hardware belongs to an Accelerate config file: hfpipe run --accelerate FILE"
_OWN_ORDER = "hfpipe orders and batches the examples itself; delete it"
_OWN_EVAL = "hfpipe runs evaluation itself, in one streaming pass; delete it"
_OWN_STAGES = "the kind of the stage decides this; delete it"
_OWN_COMPILE = "write 'compile: true' or 'compile: auto'"
_OWN_LOSS = "hfpipe averages the loss over all targets of a step, and stops if it is not finite; delete it"
_OWN_HUB = "a finished stage is a plain folder: hf upload NAME FOLDER sends it; delete it"

MANAGED: dict[str, str] = {
    "output_dir": "each stage has its own folder under --runs; delete it",
    "seed": "write the recipe's 'seed'",
    "data_seed": "write the recipe's 'seed', which determines order and masks",
    "fsdp": _ACCELERATE,
    "fsdp_config": _ACCELERATE,
    "deepspeed": _ACCELERATE,
    "parallelism_config": _ACCELERATE,
    "accelerator_config": _ACCELERATE,
    "use_cpu": _ACCELERATE,
    "local_rank": _ACCELERATE,
    "ddp_backend": _ACCELERATE,
    "do_train": _OWN_STAGES,
    "do_eval": _OWN_STAGES,
    "do_predict": _OWN_STAGES,
    "resume_from_checkpoint": "an unfinished stage resumes automatically; delete it",
    "ignore_data_skip": "a resumed run continues with the data that come next; delete it",
    "save_only_model": "a resumed run needs the state of the optimizer too; delete it",
    "restore_callback_states_from_checkpoint": "a resumed run restores the state of callbacks; delete it",
    "remove_unused_columns": "the task chooses the columns; delete it",
    "label_names": "the task names its labels; delete it",
    "prediction_loss_only": _OWN_EVAL,
    "include_for_metrics": _OWN_EVAL,
    "batch_eval_metrics": _OWN_EVAL,
    "eval_do_concat_batches": _OWN_EVAL,
    "eval_accumulation_steps": _OWN_EVAL,
    "eval_use_gather_object": _OWN_EVAL,
    "bf16_full_eval": _OWN_EVAL,
    "fp16_full_eval": _OWN_EVAL,
    "average_tokens_across_devices": _OWN_LOSS,
    "logging_nan_inf_filter": _OWN_LOSS,
    "torch_compile": _OWN_COMPILE,
    "torch_compile_backend": _OWN_COMPILE,
    "disable_tqdm": "hfpipe shows its own progress, as lines where there is no terminal; delete it",
    "auto_find_batch_size": "the batch size is part of the result; set per_device_train_batch_size",
    "train_sampling_strategy": _OWN_ORDER,
    "length_column_name": _OWN_ORDER,
    "dataloader_drop_last": _OWN_ORDER,
    "dataloader_in_order": _OWN_ORDER,
    "push_to_hub": _OWN_HUB,
    "hub_model_id": _OWN_HUB,
    "hub_strategy": _OWN_HUB,
    "hub_token": _OWN_HUB,
    "hub_private_repo": _OWN_HUB,
    "hub_always_push": _OWN_HUB,
    "hub_revision": _OWN_HUB,
}
"""Arguments that hfpipe sets itself → what to use instead."""

WORDS: dict[str, str] = {
    "budget": "How long to train: a time (4min, 90s, 2h) or an amount (20M tokens, 3 epochs, 500 steps).",
    "bf16": "bfloat16 training: true, false, or auto: on GPUs that support it, and on CPUs if it is measured "
    "to be faster.",
    "compile": "torch.compile: true, false, or auto: if the training is long enough to gain; on a CPU "
    "this is measured.",
    "padding_free": "Whether the layers of the model compute no padding in fine-tuning; loss and gradients "
    "are the same.",
}
"""Arguments that hfpipe adds to TrainingArguments → their help."""
MEASURED = ("bf16", "compile")
"""Those of them that may be `auto`, the default."""

_OF_WORKERS = (
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
)


@lru_cache(maxsize=1)
def read_arguments() -> Mapping[str, Field]:
    """Return the fields of TrainingArguments; `optim` also accepts hfpipe's addition."""
    known = read_installed_arguments()
    optim, mode = known["optim"], known[compile_modes.NAME]
    choices = tuple(dict.fromkeys([*optim.form.choices, muon.NAME]))
    own = f"{optim.help} `muon`: Muon for the matrices of the layers, AdamW for all other parameters.".strip()
    return {
        **known,
        "optim": replace(optim, form=replace(optim.form, choices=choices), help=own),
        compile_modes.NAME: replace(
            mode, form=replace(mode.form, choices=compile_modes.MODES), help=compile_modes.HELP
        ),
    }


def list_arguments() -> list[str]:
    """Return every key that `training:` accepts."""
    return [*WORDS, *(name for name in read_arguments() if name not in MANAGED and name not in WORDS)]


def find_training_problems(given: Mapping[str, Any], path: Keys) -> Iterator[Problem]:
    """Yield arguments that the installed TrainingArguments rejects or would misinterpret."""
    known = read_arguments()
    for key, value in given.items():
        here = (*path, key)
        if key in MANAGED:
            yield KeyProblem(f"{key!r} cannot be set{describe_position(path)}: {MANAGED[key]}", here)
        elif key in WORDS:
            yield from _check_word(key, value, here)
        elif key in known:
            yield from _check_argument(key, value, known[key], here)
    strangers = (key for key in given if key not in MANAGED and key not in WORDS and key not in known)
    yield from find_unknown_keys(strangers, path, list_arguments())
    yield from packages.find_package_problems(given, path)
    yield from muon.find_muon_problems(given, path)
    yield from _find_contradictions(given, path)


def _check_word(key: str, value: Any, here: Keys) -> Iterator[Problem]:
    if key == "budget":
        try:
            budget.parse_budget(value if isinstance(value, str) else "")
        except ValueError as error:
            yield Problem(f"{format_keys(here)}: {error}; got {describe_value(value)}", here)
    elif not isinstance(value, bool) and (value != "auto" or key not in MEASURED):
        wanted = "true, false or 'auto'" if key in MEASURED else "true or false"
        yield Problem(f"{format_keys(here)}: expected {wanted}, got {describe_value(value)}", here)


def _check_argument(key: str, value: Any, field: Field, here: Keys) -> Iterator[Problem]:
    refusal = field.form.explain_refusal(value, loose=True)
    if refusal is None and isinstance(value, (int, float)) and not isinstance(value, bool):
        refusal = describe_number_problem(key, value, field.default)
    if refusal is not None:
        yield Problem(f"{format_keys(here)}: {refusal}", here)


def _find_contradictions(given: Mapping[str, Any], path: Keys) -> Iterator[Problem]:
    """Yield problems of pairs of arguments, one of which would be ignored or fail during training."""
    for other in ("num_train_epochs", "max_steps"):
        if "budget" in given and other in given:
            yield KeyProblem(
                f"'budget' and {other!r} both limit the training{describe_position(path)}; keep one",
                (*path, other),
            )
    if given.get("fp16") is True and given.get("bf16") is True:
        yield KeyProblem(
            f"'fp16' and 'bf16' are both true{describe_position(path)}; keep one", (*path, "fp16")
        )
    if given.get("compile") is False and given.get(compile_modes.NAME) is not None:
        yield KeyProblem(
            f"{compile_modes.NAME!r} contradicts 'compile: false'{describe_position(path)}; delete one",
            (*path, compile_modes.NAME),
        )
    for key in _OF_WORKERS:
        if given.get(key) and not given.get("dataloader_num_workers"):
            yield KeyProblem(f"{key!r}{describe_position(path)} needs 'dataloader_num_workers'", (*path, key))
    fault = find_schedule_fault(given, early=False)
    if fault is not None:
        key, message = fault
        yield KeyProblem(f"{format_keys((*path, key))}: {message}", (*path, key))
