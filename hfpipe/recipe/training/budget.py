"""Parses `budget:`, the length of a training in time, tokens, epochs or steps."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600}
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_PATTERN = re.compile(
    r"(?P<number>\d+(\.\d+)?)\s*((?P<time>s|sec|min|h)|(?P<scale>[kmb]?)\s*(?P<count>token|step|epoch)s?)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Budget:
    """Length of a training: exactly one of the four fields is set."""

    seconds: float | None = None
    """Wall time of the training steps, without evaluation and saving."""
    tokens: int | None = None
    """Number of tokens processed, including repetitions."""
    epochs: float | None = None
    """Number of passes over the train split."""
    steps: int | None = None
    """Number of optimizer steps."""


def parse_budget(text: str) -> Budget:
    """Parse `4min`, `90s`, `2h`, `20M tokens`, `3 epochs` or `500 steps`. Raises ValueError otherwise."""
    match = _PATTERN.fullmatch(text.strip())
    if match is None or not 0 < float(match["number"]) < 2**63:
        raise ValueError("write a time or an amount, as 4min, 90s, 2h, 20M tokens, 3 epochs or 500 steps")
    number = float(match["number"])
    if match["time"]:
        return Budget(seconds=number * _SECONDS[match["time"].lower()])
    number *= _SCALE[match["scale"].lower()]
    unit = match["count"].lower()
    if unit == "epoch":
        return Budget(epochs=number)
    if number >= 2**63:
        raise ValueError(f"too many {unit}s; write fewer than 2**63")
    if number != int(number):
        raise ValueError(f"write a whole number of {unit}s")
    return Budget(tokens=int(number)) if unit == "token" else Budget(steps=int(number))
