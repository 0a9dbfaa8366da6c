"""A run that was made, opened to be read: its stages, scores and folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfpipe.errors import Problem, RecipeError
from hfpipe.places import Place
from hfpipe.report import Report, Score
from hfpipe.store import StageFile, done, read_report, read_stage

TRAINED = ("pretrain", "finetune")
"""Kinds of stage that make a model."""


@dataclass(frozen=True)
class Run:
    """The finished stages of one run, in order."""

    folders: dict[str, Path]
    """Stage → its folder."""
    reports: dict[str, Report]
    """Stage → what it said."""

    def scores(self, stage: str) -> list[Score]:
        """Return the scores of an evaluate stage."""
        return self.reports[stage].scores

    def made(self, stage: str) -> StageFile:
        """Return what a stage was begun with: its settings, seed and inputs."""
        return read_stage(self.folders[stage])

    def model(self, stage: str) -> str:
        """Return where the model lies that an evaluate stage measured, or a training stage made."""
        if self.reports[stage].kind != "evaluate":
            return str(self.folders[stage])
        made = self.made(stage)
        place = Place(made.identity.settings["model"])
        if place.stage is None:
            return str(place)
        return str(self.folders[stage].parent / made.folders[place.stage])

    @property
    def trained(self) -> list[str]:
        """The stages that made a model."""
        return [name for name, report in self.reports.items() if report.kind in TRAINED]

    def as_json(self) -> dict[str, Any]:
        """Return everything the stages said, as plain JSON; a number that is none is the text "NaN"."""
        return {
            name: {"folder": str(self.folders[name])} | json.loads(report.model_dump_json())
            for name, report in self.reports.items()
        }


def read_run(folders: dict[str, Path]) -> Run:
    """Open the stages that are done among these."""
    there = {name: folder for name, folder in folders.items() if done(folder)}
    return Run(there, {name: read_report(folder) for name, folder in there.items()})


def newest(root: Path) -> Run:
    """Open the newest finished folder of each stage of a run's folder, in the order they were finished.

    Raises RecipeError when there is none.
    """
    found = sorted(root.glob("*/report.json"), key=lambda path: path.stat().st_mtime)
    folders: dict[str, Path] = {}
    for path in found:
        name = read_stage(path.parent).name
        folders.pop(name, None)  # a later one takes its place in the order too
        folders[name] = path.parent
    if not folders:
        raise RecipeError(
            [Problem(f"{root}: holds no finished stage; give a recipe or a folder such as runs/demo")]
        )
    return read_run(folders)
