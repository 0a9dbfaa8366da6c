"""Modes of torch.compile, which a recipe may set by TrainingArguments' `torch_compile_mode`."""

from __future__ import annotations

NAME = "torch_compile_mode"
GRAPH_MODES = ("reduce-overhead", "max-autotune")
"""Modes that record CUDA graphs, whose outputs are overwritten by the next step."""
MODES = ("default", "max-autotune-no-cudagraphs", *GRAPH_MODES)
HELP = (
    "Mode of torch.compile. By default, a long training on a GPU measures which is fastest. A "
    "mode switches compilation on, unless the recipe sets compile."
)
