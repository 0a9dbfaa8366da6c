"""Output in a terminal: progress while something runs, and tables of results."""

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
from hfpipe.cli.tables import add_row, make_table, print_rows, print_table
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
"""Minimum width in columns for showing the intervals of differences."""
PERCENT = 5
SECONDS = 10
"""Minimum interval between two lines of progress without a terminal."""
NAMES = 60
"""Maximum number of characters in the list of scores that are not shown."""
SHORT = 100
"""Maximum number of characters of an input that is shown above its prediction."""


def say(text: str) -> None:
    """Print text without wrapping."""
    Console().print(number_format.make_lines_visible(text), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def show_progress(*, in_lines: bool = False) -> Iterator[ShowProgress]:
    """Yield a callback that shows the progress of stages: bars in a terminal, otherwise lines.

    With `in_lines`, lines are used in a terminal too, for example if other processes print there.
    """
    err = Console(stderr=True)
    if in_lines or not err.is_terminal or "CI" in os.environ:
        yield _print_progress
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
            bar = bars.add_task(number_format.make_visible(title), total=total, note="")

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
def _print_progress(title: str, total: int | None) -> Iterator[Advance]:
    """Print progress every `PERCENT` percent, but not more often than every `SECONDS` seconds."""
    started = printed_at = first_at = time.monotonic()
    far, first, next_percent, last = 0, 0, PERCENT, ""

    def advance(done: int, note: str = "") -> None:
        nonlocal far, first, printed_at, first_at, next_percent, last
        now = time.monotonic()
        if not far:  # the first number may be the steps before a checkpoint, which took no time
            first, first_at = done, now
        far, last = far + done, note or last
        percent = 100 * far // total if total else 0
        if now - printed_at < SECONDS or (total and percent < next_percent):
            return
        printed_at, next_percent = now, percent + PERCENT
        spent = now - started
        parts = [f"{far:,}", number_format.format_duration(spent)]
        if total:
            left = (now - first_at) * (total - far) / (far - first) if far > first else None
            parts = [f"{far:,} of {total:,} ({percent} %)", parts[1]]
            parts += [f"about {number_format.format_duration(left)} left"] if left is not None else []
        line = ", ".join([*parts, *([last] if last else [])])
        print(f"{number_format.make_visible(title)}: {line}", file=sys.stderr, flush=True)

    yield advance


def show_checked(found: Sequence[StageIntegrity]) -> None:
    """Print the result of `verify` for each stage's folder."""
    for each in found:
        say(f"{each.folder.name}: {each.summary}")


def show_deviations(found: Sequence[Deviation]) -> None:
    """Print the comparisons of `doctor`, a table per stage, and why others were not made."""
    for stage in dict.fromkeys(each.stage for each in found):
        mine = [each for each in found if each.stage == stage]
        table = make_table(stage, "loss", "tolerance", "gradient", "tolerance", "")
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
    """Print the state of each stage: done, or would run, with the reasons."""
    for step in steps:
        say(f"{step.name}: done, {step.folder}" if step.done else f"{step.name}: would run")
        for line in (*step.why, *step.notes):
            say(f"    {line}")


def show_sizes(found: Sequence[Size]) -> None:
    """Print the estimates of each stage, with a column per training stage, and notes on unknown ones."""
    say("\nsizes (≈ is an estimate)")
    trained = [size for size in found if size.kind in TRAINED and size.amounts]
    for size in found:
        if size.kind not in TRAINED and size.amounts:
            say(f"{size.stage}: {', '.join(f'{amount} {name}' for name, amount in size.amounts.items())}")
    if trained:
        table = make_table("", *(size.stage for size in trained))
        for name in dict.fromkeys(name for size in trained for name in size.amounts):
            add_row(table, name, *(str(size.amounts.get(name, "")) for size in trained))
        say("")
        print_table(table)
    for size in found:
        for note in size.notes:
            say(f"{size.stage}: {note}")


def show_recipes(found: Sequence[RecipeFile]) -> None:
    """Print the recipes that are shipped with hfpipe, one per line."""
    table = make_table("recipe", "what it is")
    for recipe in found:
        add_row(table, recipe.name, recipe.about)
    print_table(table)


def show_report(run: Run, *, every: bool = False) -> None:
    """Print each stage with its time and summary, then the main scores, or `every` score."""
    table = make_table("stage", "kind", "time", "summary")
    for name, written in run.reports.items():
        add_row(table, name, written.kind, number_format.format_duration(written.seconds), written.summary)
    print_table(table)
    for name, found in run.reports.items():
        head, rows = number_format.format_trials(found)
        if rows:
            say(f"\n{name}: trials of the search")
            print_rows(head, rows)
    show_scores(run, every=every)


def show_scores(run: Run, *, every: bool = False) -> None:
    """Print a table of scores for each evaluate stage, a verdict, and the path of the model.

    The table has the main scores, or `every` score, including those of single classes.
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
        say("result: " + f"\n{' ' * 8}".join(number_format.describe_verdict(written.scores[0])))
        _show_model(run, stage)
    if not scored and run.trained:
        say("")
        _show_model(run, run.trained[-1])


def _show_matrix(run: Run) -> None:
    """Print a table of a matrix's combinations for each stage with scores, and requirements not met."""
    for name, found in run.reports.items():
        for miss in found.unmet if is_copy(name) else ():
            say(f"not met: {name}: {miss}")
        head, rows = number_format.format_matrix(found)
        if rows:
            say(f"\n{name}: {len(rows)} combinations")
            print_rows(head, rows)


def _show_speeds(report: Report) -> None:
    """Print main score, size and speed of the systems, if they were timed."""
    if not (rows := number_format.make_speed_rows(report)):
        return
    threads = report.facts["speed"]["threads"]
    say(f"on {threads} {'thread' if threads == 1 else 'threads'} of this machine's CPU:")
    print_rows(number_format.SPEED_HEAD, rows)
    say("")


def show_comparison(found: ComparisonRecord, *, every: bool = False) -> None:
    """Print the main scores of several systems, or `every` score, and the number of omitted rows."""
    others = len(found.systems) - 1
    corrected = f", p corrected for {others} comparisons (Holm)" if others > 1 else ""
    say(f"n = {found.n:,}, 95 % intervals, difference = {found.systems[0]} - the other{corrected}")
    main = found.scores if every else number_format.select_main_scores(found.scores)
    _print_scores(found.scores, found.systems[0], main)
    for name, rows in found.left_out.items():
        say(f"left out: {rows:,} rows of {name} on which not all were evaluated")
    say("result: " + f"\n{' ' * 8}".join(number_format.describe_verdict(found.scores[0])))


def _print_scores(scores: Sequence[Score], first: str, shown: Sequence[Score]) -> None:
    """Print a table of the scores to show, and below it the names of the others."""
    print_table(_make_score_table(shown, first, roomy=Console().is_terminal and Console().width >= ROOMY))
    if rows := number_format.format_spreads(shown, first):
        say("")
        print_rows(number_format.SPREAD, rows)
    others = [score for score in scores if score not in shown]
    for line in (*_summarize_classes(others), *_list_other_scores(others)):
        say(line)
    say("")


def _has_comparisons(scores: Sequence[Score]) -> bool:
    return any(score.comparisons for score in scores)


def _make_score_table(scores: Sequence[Score], first: str, *, roomy: bool) -> Table:
    table = make_table("score", "system", "value", *(("difference", "p") if _has_comparisons(scores) else ()))
    for score in scores:
        add_row(table, score.metric, first, number_format.format_score(score))
        for other in score.comparisons:
            gap = number_format.format_difference(other)
            if roomy:
                low, high = map(number_format.format_number, (other.difference_low, other.difference_high))
                gap += f" [{low}, {high}]"
            p_value = number_format.format_p_value(other.p_value).removeprefix("p ")
            add_row(table, "", other.baseline, number_format.format_score(other), gap, p_value)
    return table


def _summarize_classes(measured: Sequence[Score]) -> Iterator[str]:
    """Yield a line per metric with scores of single classes: the worst and the best."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for score in measured:
        metric, label = number_format.split_class(score.metric)
        if label is not None:
            groups.setdefault(metric, []).append((score.value, label))
    for metric, found in groups.items():
        (low, worst), (high, best) = min(found), max(found)
        yield (
            f"{metric} by class ({len(found)}): {number_format.format_number(low)} {worst} "
            f"to {number_format.format_number(high)} {best}; each with --all"
        )


def _list_other_scores(scores: Sequence[Score]) -> Iterator[str]:
    """Yield a line with the names of the scores of the whole split that are not shown, shortened to fit."""
    names = [score.metric for score in scores if number_format.split_class(score.metric)[1] is None]
    if names:
        listed = shorten(", ".join(names), NAMES, placeholder=" …")
        yield f"{len(names)} more with --all: {listed}"


def _show_model(run: Run, stage: str) -> None:
    place, *others = run.models(stage)
    say(f"model:  {place}" + (f" (the first of {1 + len(others)} trainings)" if others else ""))
    settings = run.made(stage).identity.settings
    if settings.get("task") is None and str(settings["model"]).startswith("stage:"):
        settings = read_stage(Path(place)).identity.settings
    pipeline = _find_pipeline(run.reports[stage].facts, settings.get("task") or {})
    say(
        f'use:    transformers.pipeline("{pipeline}", "{place}")'
        if pipeline
        else f"use:    hfpipe predict {place}"
    )


def _find_pipeline(facts: Mapping[str, Any], task: Mapping[str, Any]) -> str | None:
    """Return the Transformers pipeline that opens a model; it is missing in reports of earlier versions."""
    from hfpipe.tasks import TASKS

    if "pipeline" in facts or task.get("kind") not in TASKS:
        return facts.get("pipeline")
    try:
        return TASKS[task["kind"]].model_validate(dict(task)).opened_by
    except ValidationError:  # settings of another version of hfpipe
        return None


def show_answer(row: Mapping[str, Any], prediction: Mapping[str, Any]) -> None:
    """Print the beginning of an input, and below it the prediction."""
    asked = "  ".join(map(str, row.values()))
    say(asked if len(asked) <= SHORT else asked[: SHORT - 1] + "…")
    for line in number_format.format_answer(prediction):
        say(f"    {line}")
