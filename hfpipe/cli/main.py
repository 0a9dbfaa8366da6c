"""The commands of the command line: each calls one function of the API and prints the result."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hfpipe.cli.parser import parse_command_line
from hfpipe.errors import (
    IMPORT_NEEDS_MEMORY,
    DataError,
    HfpipeError,
    Problem,
    RecipeError,
    StageError,
    is_import_memory_error,
)
from hfpipe.interruption import Interrupted
from hfpipe.number_format import make_lines_visible
from hfpipe.report import replace_not_finite

STOPPED = "stopped by SIGINT"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    gc.set_threshold(10_000, 10, 10)  # with Python's 700, importing Transformers takes a fifth more
    options = parse_command_line(arguments)
    try:
        code = COMMANDS[options.command](options)
        sys.stdout.flush()  # so that a closed pipe is detected here, not during shutdown
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except HfpipeError as error:
        if options.debug:
            traceback.print_exc()
        _fail(f"hfpipe: {error}" if not isinstance(error, RecipeError) else str(error))
        return error.exit_code
    except KeyboardInterrupt as error:
        _fail(f"hfpipe: {str(error) or STOPPED}")  # only a run stops by Interrupted, and can be resumed
        return error.exit_code if isinstance(error, Interrupted) else Interrupted(signal.SIGINT).exit_code
    except Exception as error:  # a user sees one line, whatever fails
        if options.debug:
            raise
        _fail(f"hfpipe: {_describe(error)}")
        return 1


def _describe(error: Exception) -> str:
    if is_import_memory_error(error) or isinstance(error, MemoryError):
        return IMPORT_NEEDS_MEMORY
    if isinstance(error, OSError) and error.strerror:
        where = f"{str(error.filename)[:200]}: " if error.filename is not None else ""
        return f"{where}{error.strerror}; fix the cause and run again"
    cause = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {cause} (--debug shows the traceback)"


def _fail(text: str) -> None:
    print(make_lines_visible(text), file=sys.stderr)


def _run(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import console
    from hfpipe.runner import Launch, is_first_of_machine, is_first_process

    try:
        recipe = api.load(options.recipe, options.set)
    except RecipeError as error:
        if is_first_of_machine():  # the first process of the machine prints the problems
            raise
        return error.exit_code
    launch = Launch(options.processes, options.accelerate, options.oversubscribe, options.jobs)
    with console.show_progress(in_lines=options.jobs > 1) as progress:
        result = api.run(
            recipe, options.runs, until=options.until, launch=launch, say=console.say, progress=progress
        )
    if not is_first_process():
        return 0
    console.show_scores(result, every=options.all)
    return 1 if any(report.unmet for report in result.reports.values()) else 0


def _watch(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import watch

    recipe = api.load(options.recipe, options.set)
    steps = api.plan(recipe, options.runs)
    if options.once:
        watch.show_once(steps)
        return 0
    return watch.watch_stages(steps, options.recipe, options.wait)


def _adopt(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import console

    def confirm(folder: Path, changes: Sequence[str]) -> bool:
        console.say(f"{folder} was written before these changes:")
        for change in changes:
            console.say(f"  {change}")
        if options.yes or not sys.stdin.isatty():
            return bool(options.yes)
        return input("Take it over for the recipe as it is now? [y/N] ").strip().lower() in ("y", "yes")

    recipe = api.load(options.recipe, options.set)
    folder = api.adopt(recipe, options.stage, options.runs, confirm=confirm, say=console.say)
    console.say("nothing was adopted; --yes adopts it" if folder is None else f"taken over: {folder}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import console
    from hfpipe.runner import check_accelerate_file

    problems = []
    if options.accelerate is not None:
        try:
            check_accelerate_file(options.accelerate)
        except RecipeError as error:
            problems += error.problems
        else:
            console.say(f"{options.accelerate}: fine")
    for recipe in options.recipes:
        try:
            api.load(recipe, options.set)
        except RecipeError as error:
            problems += error.problems
        else:
            console.say(f"{recipe}: fine")
    if problems:
        raise RecipeError(problems)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import console
    from hfpipe.runner import Launch

    recipe = api.load(options.recipe, options.set)
    steps = api.plan(recipe, options.runs, until=options.until)
    console.show_plan(steps)
    if options.sizes:
        launch = Launch(options.processes, options.accelerate)
        found = api.sizes(recipe, steps, launch=launch)
        console.show_sizes(found)
        if not all(step.done for step in steps):
            console.say(f"disk: {api.disk_space(steps, found, options.runs)}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import console
    from hfpipe.inference.explained_rows import explain_run

    result = api.open(options.target, options.runs)
    if options.explain > 0:
        explain_run(result, options.explain)
    if options.format == "json":
        print(json.dumps(result.as_json(), indent=1))
    elif options.format == "html":
        from hfpipe.reporting.html import render_page

        print(render_page(result))
    else:
        console.show_report(result, every=options.all)
    return 0


def _show(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import console

    recipe = api.load(options.recipe, options.set)
    with console.show_progress() as progress:
        found = api.show(
            recipe, options.stage, options.runs, rows=options.rows, split=options.split, progress=progress
        )
    if options.format == "json":
        print(json.dumps(asdict(found), indent=1, ensure_ascii=False))
    elif options.format == "html":
        from hfpipe.reporting.html import render_rows

        print(render_rows(found))
    else:
        from hfpipe.cli.rows import show_rows

        show_rows(found)
    return 0


def _push(options: argparse.Namespace) -> int:
    from hfpipe.cli.publish import push_model

    return push_model(options)


def _verify(options: argparse.Namespace) -> int:
    from hfpipe.cli.verification import verify_run

    return verify_run(options)


def _replay(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import console

    found = api.replay(options.crash, tasks=options.task)
    for line in found.list_lines():
        console.say(line)
    return 0 if found.what is not None else 1


def _run_doctor(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import console

    recipe = api.load(options.recipe, options.set)
    found = api.doctor(recipe, options.stage, options.runs, only=options.only)
    console.show_deviations(found)
    return 1 if any(each.passed is False for each in found) else 0


def _compare(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import console

    found = api.compare(*options.targets, runs=options.runs, tasks=options.task)
    if options.format == "json":
        print(found.model_dump_json(indent=1))
    elif options.format == "html":
        from hfpipe.reporting.html import render_comparison

        print(render_comparison(found))
    else:
        console.show_comparison(found, every=options.all)
    return 0


def _predict(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import console
    from hfpipe.store.files import write_parts

    if options.text and options.input:
        raise RecipeError([Problem("predict: give TEXT or --input, not both")])
    found = api.answers(
        options.model,
        options.text or options.input or sys.stdin,
        task=options.task,
        options=options.set,
        read=options.read,
        batch_size=options.batch_size,
        runs=options.runs,
    )
    if options.output is None and sys.stdout.isatty():
        for row, answer in found:
            console.show_answer(row, answer or {})
        return 0
    lines = (_format_json_line({**row, "prediction": answer}) for row, answer in found)
    if options.output is None:
        sys.stdout.writelines(lines)
        return 0
    kept = options.output.with_name(f"{options.output.name}.partial")
    try:
        write_parts(options.output, lines, kept)
    except (DataError, StageError, KeyboardInterrupt) as error:
        tail = f"; the answers before it are in {kept}" if kept.exists() else ""
        raise type(error)(f"{str(error) or STOPPED}{tail}") from error
    return 0


def _serve_demo(options: argparse.Namespace) -> int:
    from hfpipe.cli.demo import serve_model

    return serve_model(options)


def _format_json_line(row: Mapping[str, Any]) -> str:
    """Return a row as a line of JSON, with null for NaN and infinity, and dates as texts."""
    return json.dumps(replace_not_finite(row), ensure_ascii=False, allow_nan=False, default=str) + "\n"


def _list_recipes(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import console

    if options.action is None:
        console.show_recipes(api.list_recipes())
        return 0
    for path in api.copy_recipe(options.name, options.folder):
        console.say(str(path))
    return 0


def _print_schema(options: argparse.Namespace) -> int:
    from hfpipe import api

    print(json.dumps(api.schema(), indent=1))
    return 0


def _run_stage(options: argparse.Namespace) -> int:
    from hfpipe import api
    from hfpipe.cli import console
    from hfpipe.contract import show_no_progress
    from hfpipe.runner import is_first_process

    with console.show_progress() as progress:
        api.run_stage(options.folder, progress if is_first_process() else show_no_progress)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "adopt": _adopt,
    "watch": _watch,
    "check": _check,
    "plan": _plan,
    "report": _report,
    "show": _show,
    "push": _push,
    "verify": _verify,
    "doctor": _run_doctor,
    "replay": _replay,
    "compare": _compare,
    "predict": _predict,
    "demo": _serve_demo,
    "recipes": _list_recipes,
    "schema": _print_schema,
    "stage": _run_stage,
}
