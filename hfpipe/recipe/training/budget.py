"""Reads `budget:`, how long a training may take, in the unit a person thinks in."""

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
    """How long to train: exactly one of the four is set."""

    seconds: float | None = None
    """Wall time of the steps; evaluation and saving come on top."""
    tokens: int | None = None
    """Tokens seen, repeats included."""
    epochs: float | None = None
    """Passes over the train split."""
    steps: int | None = None
    """Optimizer steps."""


def parse_budget(text: str) -> Budget:
    """Read `4min`, `90s`, `2h`, `20M tokens`, `3 epochs` or `500 steps`; raises ValueError otherwise."""
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
        raise ValueError(f"no training has so many {unit}s")
    if number != int(number):
        raise ValueError(f"write a whole number of {unit}s")
    return Budget(tokens=int(number)) if unit == "token" else Budget(steps=int(number))
