"""The summary line of a training."""

from __future__ import annotations

from typing import Any

from hfpipe.number_format import format_count


def describe_training(found: dict[str, Any]) -> str:
    """Return sizes and validation scores of a training as a line, from the facts of its report."""
    scores = [
        f"{name}{' (not weighted)' if name in found else ''} {value:.4g}"  # facts about a weighted `loss`
        for name, value in found["validation"].items()
        if name in ("loss", "accuracy", "mse")
    ]
    names = ("parameters", "trained_parameters", "tokens")
    all_of_them, trained, tokens = (format_count(found[name]) for name in names)
    some = f" ({trained} trained)" if trained != all_of_them else ""
    size = f"{all_of_them} parameters{some}, {tokens} tokens, {found['steps']:,} steps"
    return size + (f"; validation {', '.join(scores)}" if scores else "")
