"""Adds hfpipe's defaults to `training:`, and checks that the save and evaluation schedules agree."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import Any

DEFAULTS: dict[str, Any] = {
    "logging_steps": 0.02,
    "save_strategy": "steps",
    "save_steps": 0.2,
    "save_total_limit": 2,
    "report_to": "none",
    "ddp_find_unused_parameters": False,
}
"""Defaults that differ from those of TrainingArguments; fractions are relative to all steps."""
EVALUATED: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 0.2, "per_device_eval_batch_size": 64}
"""Additional defaults if there is a validation split."""
TOGETHER = {
    "eval_strategy": "save_strategy",
    "save_strategy": "eval_strategy",
    "eval_steps": "save_steps",
    "save_steps": "eval_steps",
}
"""Argument → the argument that it must equal, and defaults to, if the best model is kept."""


def add_defaults(given: Mapping[str, Any], *, evaluated: bool, early: bool) -> dict[str, Any]:
    """Return the given arguments, completed by hfpipe's defaults.

    `evaluated` is whether there is a validation split, `early` whether training may stop early.
    """
    settings = {**DEFAULTS, **(EVALUATED if evaluated else {})}
    if early:
        settings["load_best_model_at_end"] = True
    if {**settings, **given}.get("load_best_model_at_end") and given.get("save_strategy") != "best":
        settings |= {name: given[other] for name, other in TOGETHER.items() if other in given}
    return {**settings, **given}


def find_schedule_fault(given: Mapping[str, Any], *, early: bool) -> tuple[str, str] | None:
    """Return the argument that prevents selection of the best model, and the reason; None if there is none.

    The best model can only be loaded from a checkpoint with a score. Transformers rejects such arguments too,
    but only after the model is built.
    """
    settings = add_defaults(given, evaluated=True, early=early)
    if not settings.get("load_best_model_at_end"):
        return None
    setting = "early_stopping" if early else "load_best_model_at_end"
    saves, evaluates = settings["save_strategy"], settings["eval_strategy"]
    if evaluates == "no":
        key = "eval_strategy" if "eval_strategy" in given else "save_strategy"
        return key, f"{setting} needs evaluations, and {key!r} is 'no'; delete one"
    if saves == "best" or saves == evaluates == "epoch":
        return None
    if saves != evaluates:
        return setting, f"{setting} needs 'save_strategy' and 'eval_strategy' to be the same"
    return _find_steps_fault(settings["save_steps"], settings["eval_steps"], given, setting)


def _find_steps_fault(
    save: float, score: float, given: Mapping[str, Any], setting: str
) -> tuple[str, str] | None:
    key = "save_steps" if "save_steps" in given else "eval_steps"
    if not all(isinstance(each, int | float) for each in (save, score)) or score <= 0:
        return None  # the value itself is rejected elsewhere
    if (save < 1) != (score < 1):
        return key, (
            f"{setting} needs a score for each save: save_steps {save:g} and eval_steps {score:g} must both "
            "be numbers of steps, or both be fractions of all steps"
        )
    times = save / score
    if times >= 1 and isclose(times, round(times), rel_tol=1e-9):
        return None
    fitting = max(1, round(times)) * score
    return key, (
        f"{setting} needs a score for each save: save_steps {save:g} must be a multiple of "
        f"eval_steps {score:g}, as {fitting:g}"
    )
