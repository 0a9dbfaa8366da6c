"""How things look in a terminal: progress while it runs, tables when it is done."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
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

from hfpipe import number_format
from hfpipe.cli.tables import add_row, new_table, print_rows, print_table
from hfpipe.report import Report, Score
from hfpipe.runs.run import Run
from hfpipe.store.artifacts import MODEL, TRAINED
from hfpipe.store.stage_names import is_copy
from hfpipe.store.store import read_stage

if TYPE_CHECKING:
    from hfpipe.contract import Advance
    from hfpipe.contract import Progress as ShowProgress
    from hfpipe.diagnosis.doctor import Deviation
    from hfpipe.estimation.estimate import Size
    from hfpipe.recipe.shipped import RecipeFile
    from hfpipe.runner import PlannedStage
    from hfpipe.runs.comparison import ComparisonRecord
    from hfpipe.runs.integrity import StageIntegrity

ROOMY = 100
"""Columns from which the interval of a difference is shown too."""
PERCENT = 5
SECONDS = 10
"""Between two lines of progress where there is no terminal."""
NAMES = 60
"""Characters of the names of the scores that are not shown."""
SHORT = 100
"""Characters of a text that are shown again above what a model says of it."""


def say(text: str) -> None:
    """Print text as it is, without wrapping."""
    Console().print(number_format.visible_lines(text), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(*, in_lines: bool = False) -> Iterator[ShowProgress]:
    """Yield what stages call to show how far they are: bars in a terminal, else a line every few percent.

    With `in_lines` there are no bars in a terminal either, as where other processes print there too.
    """
    err = Console(stderr=True)
    if in_lines or not err.is_terminal or "CI" in os.environ:
        yield _lines
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=err, transient=True) as bars:

        @contextmanager
        def shown(title: str, total: int | None) -> Iterator[Advance]:
            bar = bars.add_task(number_format.visible(title), total=total, note="")

            def advance(done: int, note: str = "") -> None:
                bars.advance(bar, done)
                if note:
                    bars.update(bar, note=note)

            try:
                yield advance
            finally:
                bars.remove_task(bar)

        yield shown


@contextmanager
def _lines(title: str, total: int | None) -> Iterator[Advance]:
    """Print how far something is, every `PERCENT` of it but not more often than every `SECONDS`."""
    started = printed_at = time.monotonic()
    far, next_percent, last = 0, PERCENT, ""

    def advance(done: int, note: str = "") -> None:
        nonlocal far, printed_at, next_percent, last
        far, last = far + done, note or last
        now = time.monotonic()
        percent = 100 * far // total if total else 0
        if now - printed_at < SECONDS or (total and percent < next_percent):
            return
        printed_at, next_percent = now, percent + PERCENT
        spent = now - started
        parts = [f"{far:,}", number_format.duration(spent)]
        if total:
            left = number_format.duration(spent * (total - far) / max(1, far))
            parts = [f"{far:,} of {total:,} ({percent} %)", parts[1], f"about {left} left"]
        line = ", ".join([*parts, *([last] if last else [])])
        print(f"{number_format.visible(title)}: {line}", file=sys.stderr, flush=True)

    yield advance


def show_checked(found: Sequence[StageIntegrity]) -> None:
    """Print what `verify` found in each stage's folder."""
    for each in found:
        say(f"{each.folder.name}: {each.summary}")


def show_deviations(found: Sequence[Deviation]) -> None:
    """Print what `doctor` compared, a table for each stage, and why the rest was not compared."""
    for stage in dict.fromkeys(each.stage for each in found):
        mine = [each for each in found if each.stage == stage]
        table = new_table(stage, "loss", "tolerance", "gradient", "tolerance", "")
        for each in mine:
            if each.passed is None or each.failure:
                add_row(table, each.check, "", "", "", "", "fail" if each.failure else "not applicable")
                continue
            numbers = (each.loss, each.loss_tolerance, each.gradient, each.gradient_tolerance)
            add_row(
                table, each.check, *(f"{number:.1e}" for number in numbers), "pass" if each.passed else "fail"
            )
        say("")
        Console().print(table)
        for each in mine:
            if each.reason or each.failure:
                say(f"{each.check}: {each.reason or each.failure}")
        if mine[0].note:
            say(mine[0].note)


def show_plan(steps: Sequence[PlannedStage]) -> None:
    """Print each stage: done, or would run and why."""
    for step in steps:
        say(f"{step.name}: done, {step.folder}" if step.done else f"{step.name}: would run")
        for line in (*step.why, *step.notes):
            say(f"    {line}")


def show_sizes(found: Sequence[Size]) -> None:
    """Print what each stage takes, a column a training stage, and what is not known yet."""
    say("\nsizes (≈ is an estimate)")
    trained = [size for size in found if size.kind in TRAINED and size.amounts]
    for size in found:
        if size.kind not in TRAINED and size.amounts:
            say(f"{size.stage}: {', '.join(f'{amount} {name}' for name, amount in size.amounts.items())}")
    if trained:
        table = new_table("", *(size.stage for size in trained))
        for name in dict.fromkeys(name for size in trained for name in size.amounts):
            add_row(table, name, *(str(size.amounts.get(name, "")) for size in trained))
        say("")
        print_table(table)
    for size in found:
        for note in size.notes:
            say(f"{size.stage}: {note}")


def recipes(found: Sequence[RecipeFile]) -> None:
    """Print the recipes that come with hfpipe, a line each."""
    table = new_table("recipe", "what it is")
    for recipe in found:
        add_row(table, recipe.name, recipe.about)
    print_table(table)


def report(run: Run, *, every: bool = False) -> None:
    """Print each stage with its time and its summary, then the main scores, or `every` score."""
    table = new_table("stage", "kind", "time", "summary")
    for name, written in run.reports.items():
        add_row(table, name, written.kind, number_format.duration(written.seconds), written.summary)
    print_table(table)
    for name, found in run.reports.items():
        head, rows = number_format.format_trials(found)
        if rows:
            say(f"\n{name}: trials of the search")
            print_rows(head, rows)
    show_scores(run, every=every)


def show_scores(run: Run, *, every: bool = False) -> None:
    """Print a table of scores for each evaluate stage, how good that is, and where the model is.

    It has the main scores, or `every` score, those of single classes too.
    """
    _show_matrix(run)
    scored = [stage for stage, written in run.reports.items() if written.scores]
    measured = [stage for stage in scored if every or not is_copy(stage)]
    for stage in measured:
        written = run.reports[stage]
        gap = ", difference = model - baseline" if _has_comparisons(written.scores) else ""
        say(f"\n{stage}: n = {written.scores[0].n:,}, 95 % intervals{gap}")
        if how := number_format.describe_tests(written):
            say("; ".join(how))
        _print_scores(written.scores, MODEL, written.scores if every else run.main_scores(stage))
        _show_speeds(written)
        for note in written.facts.get("notes", []):
            say(f"note: {note}")
        for missing in written.facts.get("left_out", []):
            say(f"left out: {missing}")
        for miss in written.unmet:
            say(f"not met: {miss}")
        say("result: " + f"\n{' ' * 8}".join(number_format.verdict(written.scores[0])))
        _model(run, stage)
    if not scored and run.trained:
        say("")
        _model(run, run.trained[-1])


def _show_matrix(run: Run) -> None:
    """Print the combinations of a matrix, a table for each stage with scores, and what they do not meet."""
    for name, found in run.reports.items():
        for miss in found.unmet if is_copy(name) else ():
            say(f"not met: {name}: {miss}")
        head, rows = number_format.format_matrix(found)
        if rows:
            say(f"\n{name}: {len(rows)} combinations")
            print_rows(head, rows)


def _show_speeds(report: Report) -> None:
    """Print main score, size and speed of the systems, where they were timed."""
    if not (rows := number_format.speed_rows(report)):
        return
    threads = report.facts["speed"]["threads"]
    say(f"on {threads} {'thread' if threads == 1 else 'threads'} of this machine's CPU:")
    print_rows(number_format.SPEED_HEAD, rows)
    say("")


def show_comparison(found: ComparisonRecord, *, every: bool = False) -> None:
    """Print the main scores of several systems or `every` score, and what was left out."""
    others = len(found.systems) - 1
    corrected = f", p corrected for {others} comparisons (Holm)" if others > 1 else ""
    say(f"n = {found.n:,}, 95 % intervals, difference = {found.systems[0]} - the other{corrected}")
    main = found.scores if every else number_format.main_scores(found.scores)
    _print_scores(found.scores, found.systems[0], main)
    for name, rows in found.left_out.items():
        say(f"left out: {rows:,} rows of {name} that not all were measured on")
    say("result: " + f"\n{' ' * 8}".join(number_format.verdict(found.scores[0])))


def _print_scores(scores: Sequence[Score], first: str, shown: Sequence[Score]) -> None:
    """Print a table of the scores to show, and below it in a few lines which others there are."""
    print_table(_scores(shown, first, roomy=Console().is_terminal and Console().width >= ROOMY))
    if rows := number_format.format_spreads(shown, first):
        say("")
        print_rows(number_format.SPREAD, rows)
    others = [score for score in scores if score not in shown]
    for line in (*_classes(others), *_list_other_scores(others)):
        say(line)
    say("")


def _has_comparisons(scores: Sequence[Score]) -> bool:
    return any(score.comparisons for score in scores)


def _scores(scores: Sequence[Score], first: str, *, roomy: bool) -> Table:
    table = new_table("score", "system", "value", *(("difference", "p") if _has_comparisons(scores) else ()))
    for score in scores:
        add_row(table, score.metric, first, number_format.format_score(score))
        for other in score.comparisons:
            gap = number_format.format_difference(other)
            if roomy:
                low, high = map(number_format.number, (other.difference_low, other.difference_high))
                gap += f" [{low}, {high}]"
            p_value = number_format.chance(other.p_value).removeprefix("p ")
            add_row(table, "", other.baseline, number_format.format_score(other), gap, p_value)
    return table


def _classes(measured: Sequence[Score]) -> Iterator[str]:
    """Fold the scores of single classes into a line per metric: the worst and the best."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for score in measured:
        metric, label = number_format.split_class(score.metric)
        if label is not None:
            groups.setdefault(metric, []).append((score.value, label))
    for metric, found in groups.items():
        (low, worst), (high, best) = min(found), max(found)
        yield (
            f"{metric} by class ({len(found)}): {number_format.number(low)} {worst} "
            f"to {number_format.number(high)} {best}; each with --all"
        )


def _list_other_scores(scores: Sequence[Score]) -> Iterator[str]:
    """Yield the names of the scores of the whole split that are not shown, as many as fit into a line."""
    names = [score.metric for score in scores if number_format.split_class(score.metric)[1] is None]
    if names:
        listed = shorten(", ".join(names), NAMES, placeholder=" …")
        yield f"{len(names)} more with --all: {listed}"


def _model(run: Run, stage: str) -> None:
    place, *others = run.models(stage)
    say(f"model:  {place}" + (f" (the first of {1 + len(others)} trainings)" if others else ""))
    settings = run.made(stage).identity.settings
    if settings.get("task") is None and str(settings["model"]).startswith("stage:"):
        settings = read_stage(Path(place)).identity.settings
    pipeline = _pipeline(run.reports[stage].facts, settings.get("task") or {})
    say(
        f'use:    transformers.pipeline("{pipeline}", "{place}")'
        if pipeline
        else f"use:    hfpipe predict {place}"
    )


def _pipeline(facts: Mapping[str, Any], task: Mapping[str, Any]) -> str | None:
    """Return the pipeline of Transformers that opens a model; reports of earlier versions do not name it."""
    from hfpipe.tasks import TASKS

    if "pipeline" in facts or task.get("kind") not in TASKS:
        return facts.get("pipeline")
    try:
        return TASKS[task["kind"]].model_validate(dict(task)).opened_by
    except ValidationError:  # settings of another version
        return None


def show_answer(row: Mapping[str, Any], prediction: Mapping[str, Any]) -> None:
    """Print the beginning of the input of a model, and below it the prediction."""
    asked = "  ".join(map(str, row.values()))
    say(asked if len(asked) <= SHORT else asked[: SHORT - 1] + "…")
    for line in number_format.format_answer(prediction):
        say(f"    {line}")
