"""`hfpipe watch`: the progress of a run, updated live, or printed as lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from hfpipe import number_format
from hfpipe.cli.console import PERCENT, say
from hfpipe.cli.tables import add_row, make_table
from hfpipe.runner import PlannedStage
from hfpipe.runs.status import StageStatus, read_status

PAUSE = 1.0
"""Seconds between checks of the folders."""
LEVELS = "▁▂▃▄▅▆▇█"
WIDTH = 40
"""Maximum number of characters of a sparkline."""


def show_once(steps: Sequence[PlannedStage]) -> None:
    """Print the progress of each stage."""
    console = Console()
    console.print(_make_screen([read_status(step) for step in steps]), soft_wrap=True)


def watch_stages(steps: Sequence[PlannedStage], recipe: Path, wait: float) -> int:
    """Show the progress of each stage; return 0 when all are done, 1 if none runs for `wait` seconds."""
    console = Console()
    if not console.is_terminal:
        return _follow_in_lines(steps, recipe, wait)
    with Live(console=console, auto_refresh=False) as live:
        seen = time.monotonic()
        while True:
            found = [read_status(step) for step in steps]
            live.update(_make_screen(found), refresh=True)
            seen = time.monotonic() if _is_any_running(found) else seen
            if _is_over(found, seen, wait):
                break
            time.sleep(PAUSE)
    return _print_ending(found, recipe)


def _follow_in_lines(steps: Sequence[PlannedStage], recipe: Path, wait: float) -> int:
    """Print a line for each stage that begins, progresses by `PERCENT`, or ends."""
    shown_at: dict[str, tuple[str, int]] = {}
    seen = time.monotonic()
    while True:
        found = [read_status(step) for step in steps]
        for status in found:
            at = status.state, int(100 * (status.share or 0)) // PERCENT
            if status.state != "waiting" and shown_at.get(status.name) != at:
                shown_at[status.name] = at
                say(_format_line(status))
        seen = time.monotonic() if _is_any_running(found) else seen
        if _is_over(found, seen, wait):
            return _print_ending(found, recipe)
        time.sleep(PAUSE)


def _is_any_running(found: Sequence[StageStatus]) -> bool:
    return any(status.state == "running" for status in found)


def _is_over(found: Sequence[StageStatus], seen: float, wait: float) -> bool:
    return all(status.state == "done" for status in found) or time.monotonic() - seen >= wait


def _print_ending(found: Sequence[StageStatus], recipe: Path) -> int:
    if all(status.state == "done" for status in found):
        return 0
    say(f"nothing is running; `hfpipe run {quote(str(recipe))}` resumes")
    return 1


def _format_line(status: StageStatus) -> str:
    spent = f" {number_format.format_duration(status.seconds)}" if status.seconds is not None else ""
    return f"{status.name}: {status.state}{spent}" + (f", {status.text}" if status.text else "")


def _make_screen(found: Sequence[StageStatus]) -> RenderableType:
    """Return a table of the stages, and below it the losses of the stage in training as a sparkline."""
    table = make_table("stage", "state", "time")
    table.add_column("")  # its texts may wrap
    for status in found:
        share = f" {status.share:.0%}" if status.share is not None else ""
        spent = number_format.format_duration(status.seconds) if status.seconds is not None else ""
        add_row(table, status.name, status.state + share, spent, status.text)
    lines = [
        Text(
            f"{status.name}: loss {draw_sparkline(status.losses)} "
            f"{number_format.format_number(status.losses[-1])}"
        )
        for status in found
        if status.state in ("running", "interrupted") and status.losses
    ]
    return Group(table, *lines)


def draw_sparkline(values: Sequence[float]) -> str:
    """Return values as bars of one character each; many values are averaged to fit `WIDTH`."""
    size = -(-len(values) // WIDTH) or 1
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    means = [sum(part) / len(part) for part in parts]
    low, high = (min(means), max(means)) if means else (0.0, 0.0)
    scale = (len(LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(LEVELS[round((mean - low) * scale)] for mean in means)
