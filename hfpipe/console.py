"""How things look in a terminal: progress while it runs, tables when it is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from hfpipe.report import Comparison, Score
from hfpipe.results import Run
from hfpipe.runner import Step

Shown = Callable[[str, "int | None"], AbstractContextManager[Callable[[int], None]]]


def say(text: str) -> None:
    """Print one line as it is."""
    _out().print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress() -> Iterator[Shown]:
    """Yield what stages call to show how far they are; quiet under `CI` or in a pipe."""
    err = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=err, transient=True, disable=not err.is_terminal or "CI" in os.environ
    ) as bars:

        @contextmanager
        def shown(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
            bar = bars.add_task(title, total=total)
            try:
                yield lambda done: bars.advance(bar, done)
            finally:
                bars.remove_task(bar)

        yield shown


def plan(steps: Sequence[Step]) -> None:
    """Print each stage: done, or would run and why."""
    for step in steps:
        say(f"{step.name}: done, {step.folder}" if step.done else f"{step.name}: would run")
        for reason in step.why:
            say(f"    {reason}")


def scores(run: Run) -> None:
    """Print a table of scores for each evaluate stage, and where the model lies."""
    for stage, report in run.reports.items():
        if not report.scores:
            continue
        _out().print(_table(stage, report.scores))
        for miss in report.unmet:
            say(f"{stage}: {miss}")
        say(f"model: {run.model(stage)}")


def _table(stage: str, measured: Sequence[Score]) -> Table:
    baselines = [comparison.baseline for comparison in measured[0].comparisons]
    table = Table(title=f"{stage} (n = {measured[0].n:,}, 95 % intervals)", title_justify="left", box=None)
    for name in ("score", "model", *baselines):
        table.add_column(name, no_wrap=True)
    for score in measured:
        if "[" in score.metric:  # one class of many: in `report --format json`
            continue
        cells = {comparison.baseline: _versus(comparison) for comparison in score.comparisons}
        own = f"{_number(score.value)} [{_number(score.low)}, {_number(score.high)}]".replace("[", r"\[")
        table.add_row(score.metric, own, *(cells.get(name, "") for name in baselines))
    return table


def _versus(comparison: Comparison) -> str:
    return f"{_number(comparison.value)} ({comparison.difference:+.3f}, p {comparison.p_value:.3f})"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def _out() -> Console:
    return Console()
