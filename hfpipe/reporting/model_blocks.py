"""Blocks of the page about the loss by token and explanations of predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hfpipe.reporting.blocks import Block, Example, Span
from hfpipe.reporting.charts import Bar, draw_intervals

SHADES = 5
"""Number of shades of a token, by its attribution relative to the strongest token of its text."""
STRONGEST = 3
"""Number of tokens that are listed with their values."""


def make_token_loss_blocks(facts: Mapping[str, Any]) -> Iterator[Block]:
    """Yield the loss by position and by frequency of the token, if an evaluation measured them."""
    found = facts.get("token_losses") or {}
    note = f"Means over {found.get('tokens', 0):,} tokens of examples of all lengths."
    for key, title, unit in (
        ("positions", "Loss by position in the example", "token {}"),
        ("frequencies", "Loss by how often the train split has the token", "{} times"),
    ):
        if len(groups := found.get(key, ())) > 1:
            bars = [_make_bar(unit, *group[:3]) for group in groups]
            yield Block(title, note, picture=draw_intervals(bars, "loss (nats per token)"))


def _make_bar(unit: str, low: float, high: float, loss: float) -> Bar:
    name = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
    return Bar(unit.format(name), loss, loss, loss, own=True)


def make_explanation_blocks(entries: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    """Yield predictions whose tokens are shaded by their integrated gradients."""
    if entries:
        note = (
            "Integrated gradients of the predicted class: a solid line marks tokens that speak for it, a "
            "dotted one tokens against it; the shade is relative to the strongest token of the text."
        )
        yield Block(
            "What predictions depend on", note, examples=[_make_explained_example(entry) for entry in entries]
        )


def _make_explained_example(entry: Mapping[str, Any]) -> Example:
    tokens, values = entry["tokens"], entry["attributions"]
    finite = [number for number, value in enumerate(values) if math.isfinite(value)]
    most = max((abs(values[number]) for number in finite), default=0.0) or 1.0
    spans = []
    for token, value in zip(tokens, values, strict=True):
        shade = round(SHADES * abs(value) / most) if math.isfinite(value) else 0
        spans += [Span(token, f"{'for' if value > 0 else 'against'}{shade}" if shade else ""), Span(" ")]
    order = sorted(finite, key=lambda number: -abs(values[number]))
    strongest = ", ".join(f"{tokens[number]} {values[number]:+.2f}" for number in order[:STRONGEST])
    lost = len(values) - len(finite)
    strongest += " (logits)" + (f"; {lost} of {len(values)} values are not finite" if lost else "")
    right = entry["prediction"] == entry["reference"]
    answers = [
        ("predicted", [Span(f"{entry['prediction']} ({entry['score']:.3f})", "right" if right else "wrong")]),
        ("reference", [Span(str(entry["reference"]))]),
        ("tokens", spans),
        ("strongest", [Span(strongest)]),
    ]
    return Example([], answers)
