"""Liger's kernels, which `use_liger_kernel` lets Trainer put into a model: where they exist, and where not.

Transformers says nothing for a type of model that Liger does not know, and Triton, in which the kernels are
written, fails at the first step without a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfpipe.errors import StageError, format_one_line
from hfpipe.modeling.performance import runs_on_cpu

ARGUMENTS = ("use_liger_kernel", "liger_kernel_config")
"""The arguments of TrainingArguments that concern Liger."""


def remove_liger_on_cpu(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments without those of Liger if there is no GPU, where its kernels cannot run."""
    dropped = ARGUMENTS if runs_on_cpu() else ()
    return {name: value for name, value in training.items() if name not in dropped}


def check_liger(model_type: str) -> None:
    """Raise StageError if Liger cannot be imported or has no kernels for a type of model."""
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as PATCHES
    except ImportError as error:
        cause = format_one_line(error)
        raise StageError(
            f"training.use_liger_kernel: liger_kernel cannot be imported: {cause}; pip install liger-kernel"
        ) from error
    if model_type not in PATCHES:
        raise StageError(
            f"training.use_liger_kernel: Liger has no kernels for {model_type}; delete use_liger_kernel"
        )
