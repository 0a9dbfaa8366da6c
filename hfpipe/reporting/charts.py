"""Two kinds of chart as inline SVG: intervals side by side, and curves by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH = 640
ROW = 26
LEFT, RIGHT, BOTTOM = 170, 16, 44
"""Room for the names, behind the last tick, and for the axis with its label."""
LABEL = 24
"""Characters of a name that fit beside a chart; the whole of it is in the tooltip."""


class Bar(NamedTuple):
    """A value and its interval; `own` stands out."""

    name: str
    value: float
    low: float
    high: float
    own: bool = False


class Curve(NamedTuple):
    """A line through (step, value) points."""

    name: str
    points: Sequence[tuple[float, float]]


def intervals(bars: Sequence[Bar], axis: str) -> str:
    """Return each value as a dot on its interval, a row each, over one labelled axis."""
    low, high = _finite([end for bar in bars for end in (bar.value, bar.low, bar.high)])
    scale = Scale(low, high, LEFT, WIDTH - RIGHT)
    height = len(bars) * ROW
    parts = [_x_axis(scale, height, axis)]
    for number, bar in enumerate(bars):
        parts.append(_interval(bar, scale, number * ROW + ROW / 2))
    return _svg("".join(parts), height + BOTTOM, axis)


def curve_chart(lines: Sequence[Curve], x_axis: str, y_axis: str) -> str:
    """Return curves over labelled axes, named in a legend above them."""
    points = [point for line in lines for point in line.points]
    x = Scale(*_finite([point[0] for point in points]), 64, WIDTH - RIGHT, tight=True)
    y = Scale(*_finite([point[1] for point in points]), 220, 34)
    parts = [_x_axis(x, 220, x_axis, top=34), _y_axis(y, y_axis)]
    for number, line in enumerate(lines):
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in line.points)
        parts.append(f'<polyline class="line{number}" points="{path}"/>')
        if len(line.points) <= 30:
            parts += [
                f'<circle class="dot{number}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="2.5"/>'
                for step, value in line.points
            ]
        parts.append(f'<rect class="dot{number}" x="{64 + number * 130}" y="8" width="14" height="4"/>')
        parts.append(f'<text x="{84 + number * 130}" y="14">{escape(line.name)}</text>')
    return _svg("".join(parts), 220 + BOTTOM, f"{y_axis} by {x_axis}")


class Scale:
    """Values → pixels, over a range that begins and ends at a tick (or, when tight, at the data)."""

    def __init__(self, low: float, high: float, start: float, end: float, *, tight: bool = False) -> None:
        if low == high:
            low, high = low - (abs(low) or 1) * 0.05, high + (abs(high) or 1) * 0.05
        self.step = _round_step((high - low) / 5)
        first, last = math.floor(low / self.step + 1e-9), math.ceil(high / self.step - 1e-9)
        self.ticks = [number * self.step for number in range(first, last + 1)]
        if tight:
            self.ticks = [tick for tick in self.ticks if low <= tick <= high]
        self.low, self.high = (low, high) if tight else (self.ticks[0], self.ticks[-1])
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def label(self, tick: float) -> str:
        """Return a tick with just the decimals that the distance between ticks needs."""
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        return f"{tick:,.{decimals}f}" if decimals <= 6 else f"{tick:.3g}"


def _round_step(wanted: float) -> float:
    """Return the nearest 1, 2 or 5 times a power of ten that is not smaller."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= wanted * 0.999)


def _finite(values: Sequence[float]) -> tuple[float, float]:
    there = [value for value in values if math.isfinite(value)]
    return (min(there), max(there)) if there else (0.0, 1.0)


def _interval(bar: Bar, scale: Scale, y: float) -> str:
    kind = "own" if bar.own else "other"
    name = bar.name if len(bar.name) <= LABEL else bar.name[: LABEL - 1] + "…"
    text = f'<text class="name" x="{LEFT - 12}" y="{y + 4}">{escape(name)}</text>'
    if not all(map(math.isfinite, (bar.value, bar.low, bar.high))):
        return text
    low, value, high = (scale(end) for end in (bar.low, bar.value, bar.high))
    width = max(high - low, 1)
    return (
        f"<g><title>{escape(bar.name)}: {bar.value:.4g} [{bar.low:.4g}, {bar.high:.4g}]</title>{text}"
        f'<rect class="{kind}" x="{low:.1f}" y="{y - 5}" width="{width:.1f}" height="10" rx="2"/>'
        f'<circle class="{kind}-dot" cx="{value:.1f}" cy="{y}" r="4"/></g>'
    )


def _x_axis(scale: Scale, height: float, label: str, top: float = 0) -> str:
    lines = "".join(
        f'<line class="grid" x1="{scale(tick):.1f}" x2="{scale(tick):.1f}" y1="{top}" y2="{height}"/>'
        f'<text class="tick" x="{scale(tick):.1f}" y="{height + 16}">{scale.label(tick)}</text>'
        for tick in scale.ticks
    )
    middle = (scale.start + scale.end) / 2
    return f'{lines}<text class="axis" x="{middle}" y="{height + 36}">{escape(label)}</text>'


def _y_axis(scale: Scale, label: str) -> str:
    lines = "".join(
        f'<line class="grid" x1="64" x2="{WIDTH - RIGHT}" y1="{scale(tick):.1f}" y2="{scale(tick):.1f}"/>'
        f'<text class="name" x="58" y="{scale(tick) + 4:.1f}">{scale.label(tick)}</text>'
        for tick in scale.ticks
    )
    middle = (scale.start + scale.end) / 2
    return f'{lines}<text class="axis" transform="translate(14,{middle}) rotate(-90)">{escape(label)}</text>'


def _svg(inside: str, height: float, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{inside}</svg>'
