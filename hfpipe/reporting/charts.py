"""Charts as inline SVG: intervals, curves by step, histograms, scatter plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from hfpipe import number_format

WIDTH = 440
"""Units of width of every chart: text of 12 units is readable from 370 to 600 pixels."""
ROW = 26
LEFT, RIGHT, BOTTOM = 150, 22, 44
"""Space for the names, after the last tick, and for the axis with its label."""
NUMBER = 72
"""Space for the last tick and the numbers next to a chart of intervals."""
CHARACTER = 6.8
"""Mean width of a character in units."""
LABEL = 20
"""Maximum number of characters of a name next to a chart; the full name is in the tooltip."""
PLOT_LEFT, PLOT_TOP, PLOT_BOTTOM = 70, 34, 190
"""Bounds of the plot area of a chart with two axes."""
LEGEND = 120
"""Width of a legend entry in units."""
LEGEND_COLUMNS, LEGEND_ROW = 3, 16
"""Number of legend entries per row, and height of a row in units."""
COLOURS = 5
"""Number of colours of curves; further curves reuse colours, without a legend entry."""
POINTS = 400
"""Maximum number of points of a curve; more cannot be distinguished."""
FEWEST = 5
"""Minimum upper limit of the counts axis of a histogram, so that its ticks are integers."""
DOTS = 30
"""Maximum number of points of a curve that are drawn as dots."""


class Bar(NamedTuple):
    """A value with its interval; it is highlighted if `own`."""

    name: str
    value: float
    low: float
    high: float
    own: bool = False


class Curve(NamedTuple):
    """A line through (step, value) points."""

    name: str
    points: Sequence[tuple[float, float]]


def draw_intervals(bars: Sequence[Bar], axis: str) -> str:
    """Return a chart with a row per value: a dot on its interval, and a number, over one labelled axis."""
    low, high = find_finite_range([end for bar in bars for end in (bar.value, bar.low, bar.high)])
    scale = Scale(low, high, LEFT, WIDTH - NUMBER)
    height = len(bars) * ROW
    parts = [draw_x_axis(scale, height, axis)]
    for number, bar in enumerate(bars):
        parts.append(_draw_interval(bar, scale, number * ROW + ROW / 2))
    summary = "; ".join(
        f"{bar.name} {bar.value:.4g} from {bar.low:.4g} to {bar.high:.4g}" for bar in bars[:12]
    )
    return wrap_svg("".join(parts), height + BOTTOM, f"{axis}: {summary}")


def draw_curves(lines: Sequence[Curve], x_label: str, y_label: str) -> str:
    """Return curves over labelled axes, named in a legend above them."""
    points = [point for line in lines for point in line.points]
    down = LEGEND_ROW * ((min(len(lines), COLOURS) - 1) // LEGEND_COLUMNS)
    top, bottom = PLOT_TOP + down, PLOT_BOTTOM + down
    x = Scale(*find_finite_range([point[0] for point in points]), PLOT_LEFT, WIDTH - RIGHT, tight=True)
    y = Scale(*find_finite_range([point[1] for point in points]), bottom, top)
    parts = [draw_x_axis(x, bottom, x_label, top=top), draw_y_axis(y, y_label)]
    for number, line in enumerate(lines):
        shown, colour = _select_points(line.points), number % COLOURS
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in shown)
        parts.append(f'<polyline class="line{colour}" points="{path}"/>')
        if len(line.points) <= DOTS:
            parts += [
                f'<circle class="dot{colour}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="2.5"/>'
                for step, value in shown
            ]
    parts += [_draw_legend(line.name, number) for number, line in enumerate(lines[:COLOURS])]
    ends = "; ".join(f"{line.name} ends at {line.points[-1][1]:.4g}" for line in lines if line.points)
    return wrap_svg("".join(parts), bottom + BOTTOM, f"{y_label} by {x_label}: {ends}")


def _draw_legend(name: str, number: int) -> str:
    row, column = divmod(number, LEGEND_COLUMNS)
    left, down = PLOT_LEFT + column * LEGEND, row * LEGEND_ROW
    return (
        f'<rect class="dot{number}" x="{left}" y="{10 + down}" width="14" height="4"/>'
        f'<text x="{left + 20}" y="{16 + down}">{escape(name)}</text>'
    )


def draw_histogram(counts: Sequence[int], edges: Sequence[float], x_label: str, y_label: str) -> str:
    """Return counts as bars between edges (one more than the counts) over labelled axes."""
    x = Scale(edges[0], edges[-1], PLOT_LEFT, WIDTH - RIGHT, tight=True)
    y = Scale(0, max([*counts, FEWEST]), PLOT_BOTTOM, PLOT_TOP)
    parts = [draw_x_axis(x, PLOT_BOTTOM, x_label, top=PLOT_TOP), draw_y_axis(y, y_label)]
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        top, width = y(count), max(x(high) - x(low) - 1, 0.5)
        parts.append(
            f'<rect class="bar" x="{x(low) + 0.5:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{PLOT_BOTTOM - top:.1f}"><title>{low:.4g} to {high:.4g}: {count:,}</title></rect>'
        )
    most = max(range(len(counts)), key=counts.__getitem__)
    peak = f"most between {edges[most]:.4g} and {edges[most + 1]:.4g}"
    return wrap_svg("".join(parts), PLOT_BOTTOM + BOTTOM, f"{y_label} by {x_label}: {peak}")


def draw_scatter(points: Sequence[tuple[float, float]], x_label: str, y_label: str) -> str:
    """Return points over two axes of one range, with the line on which both are equal."""
    low, high = find_finite_range([value for point in points for value in point])
    x = Scale(low, high, PLOT_LEFT, WIDTH - RIGHT)
    y = Scale(low, high, PLOT_BOTTOM, PLOT_TOP)
    diagonal = (
        f'<line class="even" x1="{x(low):.1f}" y1="{y(low):.1f}" x2="{x(high):.1f}" y2="{y(high):.1f}"/>'
    )
    parts = [draw_x_axis(x, PLOT_BOTTOM, x_label, top=PLOT_TOP), draw_y_axis(y, y_label), diagonal]
    parts += [f'<circle class="point" cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.5"/>' for a, b in points]
    return wrap_svg("".join(parts), PLOT_BOTTOM + BOTTOM, f"{y_label} by {x_label}, {len(points):,} rows")


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
        """Return the label of a tick, with as many decimals as the distance between ticks needs."""
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        return f"{tick:,.{decimals}f}" if decimals <= 6 else f"{tick:.3g}"


def _round_step(wanted: float) -> float:
    """Return the smallest 1, 2 or 5 times a power of ten that is not less than a number."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= wanted * 0.999)


def find_finite_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and the highest of the finite values; 0 and 1 if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def shorten_name(name: str, length: int = LABEL) -> str:
    """Return a name, shortened to at most `length` characters."""
    return name if len(name) <= length else name[: length - 1] + "…"


def _select_points(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return at most `POINTS` evenly spaced points, including the last one."""
    every = -(-len(points) // POINTS)
    return points if every <= 1 else [*points[:-1:every], points[-1]]


def _draw_interval(bar: Bar, scale: Scale, y: float) -> str:
    kind = "own" if bar.own else "other"
    text = f'<text class="name" x="{LEFT - 12}" y="{y + 4}">{escape(shorten_name(bar.name))}</text>'
    if not math.isfinite(bar.value):
        return text
    ends = [end if math.isfinite(end) else bar.value for end in (bar.low, bar.high)]
    low, value, high = (scale(end) for end in (ends[0], bar.value, ends[1]))
    width = max(high - low, 1)
    shown = f'<text class="name" x="{WIDTH - 2}" y="{y + 4}">{number_format.format_number(bar.value)}</text>'
    return (
        f"<g><title>{escape(bar.name)}: {bar.value:.4g} [{bar.low:.4g}, {bar.high:.4g}]</title>{text}{shown}"
        f'<rect class="{kind}" x="{low:.1f}" y="{y - 7}" width="{width:.1f}" height="14" rx="2"/>'
        f'<circle class="{kind}-dot" cx="{value:.1f}" cy="{y}" r="2.5"/></g>'
    )


def draw_x_axis(scale: Scale, height: float, label: str, top: float = 0) -> str:
    """Return vertical grid lines from `top` to `height`, with ticks and a label below."""
    lines = "".join(
        f'<line class="grid" x1="{scale(tick):.1f}" x2="{scale(tick):.1f}" y1="{top}" y2="{height}"/>'
        f'<text class="tick" x="{scale(tick):.1f}" y="{height + 16}">{scale.label(tick)}</text>'
        for tick in scale.ticks
    )
    middle = min((scale.start + scale.end) / 2, WIDTH - len(label) * CHARACTER / 2)
    return f'{lines}<text class="axis" x="{middle:.0f}" y="{height + 36}">{escape(label)}</text>'


def draw_y_axis(scale: Scale, label: str) -> str:
    """Return horizontal grid lines across a chart, with ticks and a label to the left."""
    right = WIDTH - RIGHT
    lines = "".join(
        f'<line class="grid" x1="{PLOT_LEFT}" x2="{right}" y1="{scale(tick):.1f}" y2="{scale(tick):.1f}"/>'
        f'<text class="name" x="{PLOT_LEFT - 6}" y="{scale(tick) + 4:.1f}">{scale.label(tick)}</text>'
        for tick in scale.ticks
    )
    middle = (scale.start + scale.end) / 2
    return f'{lines}<text class="axis" transform="translate(12,{middle}) rotate(-90)">{escape(label)}</text>'


def wrap_svg(inside: str, height: float, label: str) -> str:
    """Return an image of `WIDTH` units with an alternative text."""
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{inside}</svg>'
