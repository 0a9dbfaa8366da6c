"""The parser of the command line: each command with its arguments and options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from hfpipe.number_format import make_visible

DESCRIPTION = "From raw text to an evaluated model in one recipe file."
EXITS = (
    "hfpipe COMMAND --help lists the arguments of a command; "
    "exit codes: 0 done, 1 a stage failed or a requirement was not met, "
    "2 the recipe or the arguments are wrong"
)


def parse_command_line(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; an unknown argument ends the process with code 2."""
    known = make_parser()
    options, rest = known.parse_known_args(arguments)
    if rest and ("text" not in options or any(word.startswith("-") for word in rest)):
        known.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.text += rest  # argparse accepts no further TEXT after an option
    return options


def make_parser() -> argparse.ArgumentParser:
    """Return the parser, which stores the name of the command in `command`."""
    whole = _Parser(prog="hfpipe", description=DESCRIPTION, epilog=EXITS)
    whole.add_argument("--version", action="version", version=f"hfpipe {version('hfpipe')}")
    commands = _Commands(whole)
    _add_recipe_commands(commands)
    _add_adopt(commands)
    _add_watch(commands)
    _add_result_commands(commands)
    _add_diagnosis_commands(commands)
    _add_predict(commands)
    _add_demo(commands)
    _add_push(commands)
    _add_recipes(commands)
    commands.add("schema", "print the JSON Schema of a recipe")
    commands.add("stage", "one prepared stage, for accelerate launch").add_argument("folder", type=Path)
    return whole


class _Parser(argparse.ArgumentParser):
    """A parser whose errors quote arguments without terminal control characters."""

    def error(self, message: str) -> NoReturn:
        super().error(make_visible(message))


class _Commands:
    """Adds commands to a parser, with their common options."""

    def __init__(self, whole: argparse.ArgumentParser) -> None:
        self._whole = whole.add_subparsers(metavar="COMMAND", required=True, dest="command")

    def add(self, name: str, about: str, *common: str) -> argparse.ArgumentParser:
        """Add a command with the given `common` options."""
        command = self._whole.add_parser(name, help=about)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if "runs" in common:
            command.add_argument(
                "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of the stages (runs)"
            )
        if "set" in common:
            command.add_argument(
                "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="override a setting"
            )
        if "until" in common:
            command.add_argument(
                "--until", metavar="STAGE|KIND", help="stop after this stage, or the last of this kind"
            )
        if "format" in common:
            command.add_argument(
                "--format", choices=("table", "json", "html"), default="table", help="how to print (table)"
            )
        if "all" in common:
            command.add_argument(
                "--all", action="store_true", help="show every score, not only the main ones"
            )
        return command


def _add_recipe_commands(commands: _Commands) -> None:
    run = commands.add("run", "run what is not done yet, print the scores", "runs", "set", "until", "all")
    run.add_argument("recipe", type=Path, help="a recipe.yaml")
    _add_device_options(run)
    run.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="run up to N independent stages concurrently",
    )
    run.add_argument(
        "--oversubscribe", action="store_true", help="allow more processes than devices, or cores of a CPU"
    )

    show = commands.add("show", "rows of a stage as the model reads them", "runs", "set", "format")
    show.add_argument("recipe", type=Path, help="a recipe.yaml")
    show.add_argument("stage", metavar="STAGE", help="a dataset, training or evaluate stage")
    show.add_argument("--rows", type=_parse_positive, default=4, metavar="N", help="how many (4)")
    show.add_argument("--split", metavar="SPLIT", help="by default train, or what the stage evaluates")

    check = commands.add("check", "find every error of a recipe in one pass", "set")
    check.add_argument("recipes", type=Path, nargs="+", metavar="recipe", help="one or more")
    check.add_argument(
        "--accelerate", type=Path, metavar="CONFIG", help="an Accelerate config file to check too"
    )

    plan = commands.add("plan", "show what is done, what would run and why", "runs", "set", "until")
    plan.add_argument("recipe", type=Path, help="a recipe.yaml")
    plan.add_argument(
        "--sizes", action="store_true", help="add parameters, tokens, steps, FLOPs, memory and disk"
    )
    _add_device_options(plan)


def _add_watch(commands: _Commands) -> None:
    watch = commands.add("watch", "show the progress of a run in another terminal", "runs", "set")
    watch.add_argument("recipe", type=Path, help="the recipe of the run")
    watch.add_argument("--once", action="store_true", help="print the progress once and exit")
    watch.add_argument(
        "--wait",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="exit after this time without a running stage (60)",
    )


def _add_adopt(commands: _Commands) -> None:
    adopt = commands.add(
        "adopt", "take over a finished stage after a change that does not matter", "runs", "set"
    )
    adopt.add_argument("recipe", type=Path, help="a recipe.yaml")
    adopt.add_argument("stage", metavar="STAGE", help="the stage that would run again")
    adopt.add_argument("--yes", action="store_true", help="do not ask")


def _add_device_options(command: argparse.ArgumentParser) -> None:
    """Add the options for starting distributed stages; `plan --sizes` shows the memory of one process."""
    devices = command.add_mutually_exclusive_group()
    devices.add_argument(
        "--processes", type=int, metavar="N", help="processes on this machine, one per device"
    )
    devices.add_argument("--accelerate", type=Path, metavar="CONFIG", help="an Accelerate config file")


def _add_result_commands(commands: _Commands) -> None:
    report = commands.add("report", "print the scores of a recipe or a run again", "runs", "format", "all")
    report.add_argument(
        "target", type=Path, metavar="RECIPE|RUN-DIR", help="a recipe, or the folder of a run"
    )
    report.add_argument(
        "--explain",
        type=_parse_count,
        default=0,
        metavar="N",
        help="explain N predictions of each text classifier on the page (0, or those explained before)",
    )

    verify = commands.add("verify", "read every file of a run and compare it with its digest", "runs")
    verify.add_argument(
        "target", type=Path, metavar="RECIPE|RUN-DIR", help="a recipe, or the folder of a run"
    )
    verify.add_argument(
        "--again",
        metavar="STAGE",
        help="run a finished stage of the recipe a second time; name the first step and files that differ",
    )

    compare = commands.add("compare", "compare evaluated models, with a paired test", "runs", "format", "all")
    compare.add_argument(
        "targets", nargs="+", metavar="RUN[:STAGE]", help="a run, a recipe or an evaluate stage's folder"
    )
    _add_user_tasks(compare, "user code of the task of a run, which may then be executed")


def _add_diagnosis_commands(commands: _Commands) -> None:
    doctor = commands.add(
        "doctor", "compare trainings at toy size that should give equal results", "runs", "set"
    )
    doctor.add_argument("recipe", type=Path, help="a recipe.yaml")
    doctor.add_argument("stage", nargs="?", metavar="STAGE", help="a training stage (all of them)")
    doctor.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="COMPARISON",
        help="accumulation, processes, packing, compile, bf16 or resume; repeat it for several",
    )

    replay = commands.add("replay", "compute a crashed step again, and name the value that is not finite")
    replay.add_argument(
        "crash", type=Path, metavar="CRASH", help="the folder that the error of a training names"
    )
    _add_user_tasks(replay, "user code of its task, which may then be executed")


def _add_user_tasks(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--task", action="append", default=[], metavar="FILE.py:CLASS", help=text)


def _add_predict(commands: _Commands) -> None:
    predict = commands.add("predict", "run a model on new inputs: classify, fill a mask, translate …", "runs")
    predict.add_argument("model", metavar="MODEL", help="RUN[:STAGE], a stage's folder, a path or a Hub id")
    predict.add_argument("text", nargs="*", metavar="TEXT", help="by default the lines of standard input")
    predict.add_argument(
        "--input", type=Path, metavar="FILE", help="rows to read: jsonl, csv, parquet … (instead of TEXT)"
    )
    predict.add_argument(
        "--read",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how to read FILE, as encoding=latin-1 or header=false: the options of a data set's files",
    )
    predict.add_argument("--output", type=Path, metavar="FILE", help="write jsonl there")
    _add_task_options(predict)
    predict.add_argument(
        "--batch-size", type=_parse_positive, default=32, metavar="N", help="rows at once (32)"
    )


def _add_demo(commands: _Commands) -> None:
    demo = commands.add("demo", "try a model on a page in a browser, on this machine only", "runs")
    demo.add_argument("model", metavar="MODEL", help="RUN[:STAGE], a stage's folder, a path or a Hub id")
    _add_task_options(demo)
    demo.add_argument(
        "--port", type=_parse_positive, metavar="N", help="TCP port (the first free one from 7860)"
    )


def _add_task_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the task that a model is used for."""
    command.add_argument(
        "--task",
        metavar="KIND|FILE.py:CLASS",
        help="the task, if the model does not name one or it is user code",
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the task, as length=64"
    )


def _add_push(commands: _Commands) -> None:
    push = commands.add("push", "upload a model with its card to the Hub, and nothing else", "runs")
    push.add_argument("stage", metavar="RUN:STAGE", help="RUN[:STAGE], a recipe, or a stage's folder")
    push.add_argument("repository", metavar="REPO", help="owner/name on the Hub")
    push.add_argument("--dry-run", action="store_true", help="only show what would be uploaded")
    push.add_argument("--private", action="store_true", help="if the repository is created, make it private")


def _add_recipes(commands: _Commands) -> None:
    recipes = commands.add("recipes", "list the recipes shipped with hfpipe, or copy one")
    actions = recipes.add_subparsers(metavar="copy NAME [FOLDER]", dest="action")
    copy = actions.add_parser("copy", help="copy a recipe and the files that it names; overwrites nothing")
    copy.add_argument("--debug", action="store_true", help="show the traceback of an error")
    copy.add_argument("name", metavar="NAME", help="as `hfpipe recipes` lists it")
    copy.add_argument(
        "folder", nargs="?", type=Path, default=Path("recipes"), metavar="FOLDER", help="(recipes)"
    )


def _parse_count(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, not {text!r}")
    return int(text)


def _parse_positive(text: str) -> int:
    return _parse_count(text, 1)
