"""The command line: reads arguments, calls one function, prints. The only place that prints."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hfpipe.errors import HfpipeError, Problem, RecipeError

DESCRIPTION = "From raw text to an evaluated model in one recipe file."
EXITS = (
    "exit codes: 0 done, 1 a stage failed or a requirement was not met, "
    "2 the recipe or the arguments are wrong"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _options(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        code = command(options)
        sys.stdout.flush()  # so that a reader that went away is noticed here, not while shutting down
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except HfpipeError as error:
        if options.debug:
            traceback.print_exc()
        print(f"hfpipe: {error}" if not isinstance(error, RecipeError) else error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("hfpipe: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except Exception as error:
        if options.debug:
            raise
        print(f"hfpipe: {type(error).__name__}: {error} (--debug shows where)", file=sys.stderr)
        return 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and ("text" not in options or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.text += rest  # argparse takes no further TEXT once an option stands between
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hfpipe", description=DESCRIPTION, epilog=EXITS)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the full trace of an error")
    recipe = argparse.ArgumentParser(add_help=False)
    recipe.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where stages lie (runs)"
    )
    recipe.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="override a setting"
    )
    recipe.add_argument(
        "--until", metavar="STAGE|KIND", help="stop after this stage, or the last of this kind"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run", parents=[common, recipe], help="run what is not done yet, print the scores"
    )
    run.add_argument("recipe", type=Path)
    devices = run.add_mutually_exclusive_group()
    devices.add_argument("--processes", type=int, metavar="N", help="processes on this machine, one a device")
    devices.add_argument("--accelerate", type=Path, metavar="CONFIG", help="an Accelerate config file")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", parents=[common], help="find every error of a recipe in one pass")
    check.add_argument("recipes", type=Path, nargs="+", metavar="recipe")
    check.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="override a setting"
    )
    check.set_defaults(command=_check)

    plan = commands.add_parser(
        "plan", parents=[common, recipe], help="say what is done, what would run and why"
    )
    plan.add_argument("recipe", type=Path)
    plan.add_argument(
        "--sizes", action="store_true", help="add parameters, tokens, steps, FLOPs, memory and disk"
    )
    plan.set_defaults(command=_plan)

    report = commands.add_parser(
        "report", parents=[common], help="print the scores of a recipe or a run again"
    )
    report.add_argument("target", type=Path, metavar="RECIPE|RUN-DIR")
    report.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where stages lie (runs)"
    )
    report.add_argument("--format", choices=("table", "json", "html"), default="table")
    report.set_defaults(command=_report)

    compare = commands.add_parser(
        "compare", parents=[common], help="set evaluated models side by side, with a paired test"
    )
    compare.add_argument(
        "targets", nargs="+", metavar="RUN[:STAGE]", help="a run, a recipe or an evaluate stage's folder"
    )
    compare.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where stages lie (runs)"
    )
    compare.add_argument("--format", choices=("table", "json", "html"), default="table")
    compare.set_defaults(command=_compare)

    _add_predict(commands, common)
    schema = commands.add_parser("schema", parents=[common], help="print the JSON Schema of a recipe")
    schema.set_defaults(command=_schema)

    stage = commands.add_parser("stage", parents=[common], help="one prepared stage, for accelerate launch")
    stage.add_argument("folder", type=Path)
    stage.set_defaults(command=_stage)
    return parser


def _add_predict(commands: Any, common: argparse.ArgumentParser) -> None:
    predict = commands.add_parser(
        "predict", parents=[common], help="classify, fill a blank, translate, generate: whatever a model can"
    )
    predict.add_argument("model", metavar="MODEL", help="RUN[:STAGE], a stage's folder, a path or a Hub id")
    predict.add_argument("text", nargs="*", metavar="TEXT", help="by default the lines of standard input")
    predict.add_argument(
        "--input", type=Path, metavar="FILE", help="rows to read: jsonl, csv, parquet … (instead of TEXT)"
    )
    predict.add_argument("--output", type=Path, metavar="FILE", help="write jsonl there")
    predict.add_argument("--task", metavar="KIND", help="what to ask it, where it does not say")
    predict.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the task, as length=64"
    )
    predict.add_argument("--batch-size", type=_positive, default=32, metavar="N", help="rows at once (32)")
    predict.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where stages lie (runs)"
    )
    predict.set_defaults(command=_predict)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, not {text!r}")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    from hfpipe import api, console
    from hfpipe.runner import Launch, first_process

    recipe = api.load(options.recipe, options.set)
    launch = Launch(options.processes, options.accelerate)
    with console.progress() as progress:
        result = api.run(
            recipe, options.runs, until=options.until, launch=launch, say=console.say, progress=progress
        )
    if not first_process():
        return 0
    console.scores(result)
    return 1 if any(report.unmet for report in result.reports.values()) else 0


def _check(options: argparse.Namespace) -> int:
    from hfpipe import api, console

    problems = []
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
    from hfpipe import api, console

    recipe = api.load(options.recipe, options.set)
    steps = api.plan(recipe, options.runs, until=options.until)
    console.plan(steps)
    if options.sizes:
        console.sizes(api.sizes(recipe, steps))
    return 0


def _report(options: argparse.Namespace) -> int:
    from hfpipe import api, console

    result = api.open(options.target, options.runs)
    if options.format == "json":
        print(json.dumps(result.as_json(), indent=1))
    elif options.format == "html":
        from hfpipe.html import page

        print(page(result))
    else:
        console.report(result)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from hfpipe import api, console

    found = api.compare(*options.targets, runs=options.runs)
    if options.format == "json":
        print(found.model_dump_json(indent=1))
    elif options.format == "html":
        from hfpipe.html import compared

        print(compared(found))
    else:
        console.compared(found)
    return 0


def _predict(options: argparse.Namespace) -> int:
    from hfpipe import api, console
    from hfpipe.store import write_parts

    if options.text and options.input:
        raise RecipeError([Problem("predict: give TEXT or --input, not both")])
    found = api.answers(
        options.model,
        options.text or options.input or sys.stdin,
        task=options.task,
        options=options.set,
        batch_size=options.batch_size,
        runs=options.runs,
    )
    if options.output is None and sys.stdout.isatty():
        for row, answer in found:
            console.answer(row, answer)
        return 0
    lines = (json.dumps({**row, "prediction": answer}, ensure_ascii=False) + "\n" for row, answer in found)
    if options.output is None:
        sys.stdout.writelines(lines)
    else:
        write_parts(options.output, lines)
    return 0


def _schema(options: argparse.Namespace) -> int:
    from hfpipe import api

    print(json.dumps(api.schema(), indent=1))
    return 0


def _stage(options: argparse.Namespace) -> int:
    from hfpipe import api, console

    with console.progress() as progress:
        api.run_stage(options.folder, progress)
    return 0
