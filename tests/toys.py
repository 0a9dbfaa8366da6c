"""Stages that take milliseconds, and a recipe of them, to see how the runner treats whatever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from conftest import no_progress

from hfpipe.contract import RunContext, Stage
from hfpipe.errors import StageError
from hfpipe.recipe import Recipe, load_recipe
from hfpipe.references.places import Code, DataPlace, Glob, ModelPlace, TokenizerPlace, find_matches
from hfpipe.references.user_code import load_code
from hfpipe.report import DataFacts, Report
from hfpipe.runner import PlannedStage, plan_recipe, run_recipe

TOPICS = """\
The Nile	river
The Amazon	river
Everest	mountain
K2	mountain
"""
CODE = "def upper(text):\n    return text.upper()\n"
RECIPE = """\
# Sorts names of rivers and mountains.
name: toy
seed: 17
stages:
  names:
    kind: dataset
    files: ["data/*.tsv"]
    change: "code.py:upper"
    shares: {validation: 0.25, test: 0.25}
  words:
    kind: tokenizer
    data: stage:names
    size: 8
  topics:
    kind: finetune
    data: stage:names
    tokenizer: stage:words
    training: {learning_rate: 0.1}
  score:
    kind: evaluate
    model: stage:topics
    data: stage:names
"""
ALL = ["names", "words", "topics", "score"]


class Names(Stage):
    """Gathers the lines of files."""

    version: ClassVar[int] = 1
    kind: Literal["dataset"] = "dataset"
    files: list[Glob]
    change: Code | None = None
    shares: dict[str, float] = {}
    limit: int | None = None

    def run(self, ctx: RunContext) -> Report:
        lines = [
            line
            for pattern in self.files
            for path in find_matches(pattern, ctx.base)
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
        if self.change is not None:
            lines = [load_code(self.change, ctx.base)(line) for line in lines]
        (ctx.folder / "rows.tsv").write_text("\n".join(lines[: self.limit]), encoding="utf-8")
        facts = DataFacts(columns={"text": "string", "label": "label"}, splits={"train": len(lines)})
        return Report(kind=self.kind, summary=f"{len(lines)} rows", data=facts)


class Words(Stage):
    """Keeps the first words."""

    version: ClassVar[int] = 1
    kind: Literal["tokenizer"] = "tokenizer"
    data: DataPlace
    size: int = 8
    lowercase: bool = False

    def run(self, ctx: RunContext) -> Report:
        rows = (ctx.inputs[str(self.data.stage)] / "rows.tsv").read_text(encoding="utf-8")
        found = sorted(set(rows.split()))[: self.size]
        (ctx.folder / "words.txt").write_text("\n".join(found), encoding="utf-8")
        return Report(kind=self.kind, summary=f"{len(found)} words")


class Topics(Stage):
    """Fails when told to, after it has written half of what it makes."""

    version: ClassVar[int] = 1
    distributed: ClassVar[bool] = True
    kind: Literal["finetune"] = "finetune"
    data: DataPlace
    tokenizer: TokenizerPlace
    training: dict[str, Any] = {}
    fails: bool = False

    def prepare(self, ctx: RunContext) -> None:
        (ctx.work / "encoded").write_text("kept until the stage is done", encoding="utf-8")

    def run(self, ctx: RunContext) -> Report:
        (ctx.folder / "config.json").write_text("{}", encoding="utf-8")
        if self.fails:
            raise StageError("the loss is nan at step 3; lower learning_rate")
        (ctx.folder / "model.txt").write_text(f"{self.training}", encoding="utf-8")
        return Report(kind=self.kind, summary="trained")


class Score(Stage):
    """Reads a model."""

    version: ClassVar[int] = 1
    kind: Literal["evaluate"] = "evaluate"
    model: ModelPlace
    data: DataPlace
    require: dict[str, float] = {}

    def run(self, ctx: RunContext) -> Report:
        (ctx.inputs[str(self.model.stage)] / "model.txt").read_text(encoding="utf-8")
        return Report(kind=self.kind, summary="measured")


KINDS: dict[str, type[Stage]] = {
    "dataset": Names,
    "tokenizer": Words,
    "finetune": Topics,
    "evaluate": Score,
}


def write(folder: Path, text: str = RECIPE) -> Path:
    """Write the recipe, its data and its code into a folder."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, content in {"data/topics.tsv": TOPICS, "code.py": CODE, "toy.yaml": text}.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder / "toy.yaml"


def read(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe of toys."""
    return load_recipe(path, kinds=KINDS, tasks={}, overrides=overrides)


def make(path: Path, runs: Path, overrides: Sequence[str] = (), **options: Any) -> list[str]:
    """Run a recipe of toys and return what was said."""
    said: list[str] = []
    run_recipe(read(path, overrides), runs, say=said.append, progress=no_progress, **options)
    return said


def steps(path: Path, runs: Path, overrides: Sequence[str] = ()) -> list[PlannedStage]:
    """Plan a recipe of toys."""
    return plan_recipe(read(path, overrides), runs)


def reasons(path: Path, runs: Path, overrides: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Return the stages that would run, and why."""
    return {step.name: step.why for step in steps(path, runs, overrides) if not step.done}
