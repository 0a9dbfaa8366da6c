"""Diagrams as inline SVG: the chain of stages, the flow of counts, and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from textwrap import wrap
from typing import NamedTuple

from hfpipe.reporting.charts import (
    BOTTOM,
    CHARACTER,
    PLOT_LEFT,
    RIGHT,
    WIDTH,
    Scale,
    draw_x_axis,
    draw_y_axis,
    shorten_name,
    wrap_svg,
)

LINE = 16
"""Distance between lines of text in units."""
MARGIN = 16
BULGE = 11
"""Curvature of an edge to the left per passed stage, in units."""
SHARE = 0.004
"""Minimum width of a part relative to its bar, so that it is visible."""


class Node(NamedTuple):
    """A stage in the picture of the chain."""

    name: str
    kind: str
    time: str
    text: str
    inputs: Sequence[str]
    """Names of the stages that it reads."""


def draw_chain(nodes: Sequence[Node]) -> str:
    """Return the stages from top to bottom, with lines to the stages that read them."""
    place = {node.name: number for number, node in enumerate(nodes)}
    spans = [place[node.name] - place[other] for node in nodes for other in node.inputs if other in place]
    left = MARGIN + BULGE * min(max([*spans, 1]), 7)
    texts = [wrap(node.text, int((WIDTH - left - 14) / CHARACTER)) for node in nodes]
    heights = [LINE * (2 + len(text)) + 6 for text in texts]
    tops = [0, *accumulate(heights)]
    edges = "".join(
        _draw_edge(
            left, tops[place[other]] + LINE, tops[place[node.name]] + LINE, place[node.name] - place[other]
        )
        for node in nodes
        for other in node.inputs
        if other in place
    )
    drawn = [_draw_node(node, text, left, top) for node, text, top in zip(nodes, texts, tops, strict=False)]
    reads = "; ".join(f"{node.name} reads {', '.join(node.inputs)}" for node in nodes if node.inputs)
    return wrap_svg(edges + "".join(drawn), tops[-1] + 4, f"Chain of stages: {reads}")


def _draw_edge(x: float, start: float, end: float, span: int) -> str:
    if span == 1:
        line = f'<path class="edge" d="M{x} {start + 6} L{x} {end - 9}"/>'
        return f'{line}<path class="head" d="{_draw_arrowhead(x, end)}"/>'
    out = x - BULGE * min(span, 7)
    return (
        f'<path class="edge" d="M{x - 6} {start} C{out} {start + 12} {out} {end - 14} {x - 7} {end - 3}"/>'
        f'<circle class="end" cx="{x - 6}" cy="{end - 3}" r="2.5"/>'
    )


def _draw_arrowhead(x: float, end: float) -> str:
    return f"M{x - 4} {end - 12} L{x + 4} {end - 12} L{x} {end - 6} Z"


def _draw_node(node: Node, lines: Sequence[str], left: float, top: float) -> str:
    middle, x = top + LINE, left + 14
    parts = [
        f'<circle class="node {escape(node.kind)}" cx="{left}" cy="{middle}" r="6"/>',
        f'<text x="{x}" y="{middle + 4}"><tspan class="strong">{escape(shorten_name(node.name, 30))}</tspan>'
        f'<tspan class="soft" dx="8">{escape(node.kind)}</tspan></text>',
        f'<text class="name soft" x="{WIDTH - 4}" y="{middle + 4}">{escape(node.time)}</text>',
    ]
    for number, line in enumerate(lines, start=1):
        parts.append(f'<text class="soft" x="{x}" y="{middle + 4 + number * LINE}">{escape(line)}</text>')
    return "".join(parts)


def draw_stacked(counts: Mapping[str, float], label: str) -> str:
    """Return a bar with parts proportional to counts; the first part is what was kept."""
    total = sum(counts.values()) or 1
    shares = [max(count / total, SHARE) if count > 0 else 0.0 for count in counts.values()]
    scale = WIDTH / (sum(shares) or 1)
    parts, x = [], 0.0
    for number, (name, share) in enumerate(zip(counts, shares, strict=True)):
        width = share * scale
        if width:
            parts.append(
                f'<rect class="part{choose_shade(number)}" x="{x:.1f}" y="0" height="18" '
                f'width="{max(width - 1, 1):.1f}">'
                f"<title>{escape(name)}: {counts[name]:,}</title></rect>"
            )
        x += width
    summary = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count > 0)
    return wrap_svg("".join(parts), 18, f"{label}: {summary}")


def choose_shade(number: int) -> int:
    """Return the colour number of a part of a bar; all parts except the first cycle through the others."""
    return 0 if number == 0 else 1 + (number - 1) % 4


class Bin(NamedTuple):
    """Predictions in one bin of confidence."""

    low: float
    high: float
    confidence: float
    """Mean confidence of its predictions."""
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    """Ends of the 95 % interval of the accuracy."""
    n: int


def draw_reliability(bins: Sequence[Bin]) -> str:
    """Return accuracy by confidence with intervals, the line of perfect calibration, and counts below it."""
    top, bottom, floor = 16, 226, 272
    x = Scale(0, 1, PLOT_LEFT, WIDTH - RIGHT)
    y = Scale(0, 1, bottom, top)
    most = max((each.n for each in bins), default=1)
    parts = [draw_x_axis(x, floor, "confidence of the prediction", top=top), draw_y_axis(y, "accuracy")]
    parts.append(f'<line class="even" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    for each in bins:
        note = f"{each.n:,} rows: confidence {each.confidence:.3f}, accuracy {each.accuracy:.3f}"
        height = max(1.0, (floor - bottom - 8) * each.n / most)
        parts.append(
            f"<g><title>{note}</title>"
            f'<rect class="bar" x="{x(each.low) + 0.5:.1f}" y="{floor - height:.1f}" '
            f'width="{x(each.high) - x(each.low) - 1:.1f}" height="{height:.1f}"/>'
            f'<line class="whisker" x1="{x(each.confidence):.1f}" x2="{x(each.confidence):.1f}" '
            f'y1="{y(each.accuracy_low):.1f}" y2="{y(each.accuracy_high):.1f}"/>'
            f'<circle class="own-dot" cx="{x(each.confidence):.1f}" cy="{y(each.accuracy):.1f}" r="4"/></g>'
        )
    summary = "; ".join(f"confidence {each.confidence:.2f} accuracy {each.accuracy:.2f}" for each in bins)
    return wrap_svg("".join(parts), floor + BOTTOM, f"Accuracy by confidence: {summary}")
