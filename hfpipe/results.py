"""A run that was made, opened to be read: its stages, scores and folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfpipe.errors import Problem, RecipeError
from hfpipe.places import Place
from hfpipe.report import Report, Score
from hfpipe.store import done, read_report, read_stage


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

    def model(self, stage: str) -> str:
        """Return where the model lies that an evaluate stage measured."""
        place = Place(read_stage(self.folders[stage]).identity.settings["model"])
        return str(self.folders[place.stage]) if place.stage is not None else str(place)

    def as_json(self) -> dict[str, Any]:
        """Return everything the stages said, as plain JSON."""
        return {
            name: {"folder": str(self.folders[name])} | report.model_dump(mode="json")
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
    folders = {read_stage(path.parent).name: path.parent for path in found}
    if not folders:
        raise RecipeError(
            [Problem(f"{root}: holds no finished stage; give a recipe or a folder such as runs/demo")]
        )
    return read_run(dict(sorted(folders.items(), key=lambda item: (item[1] / "report.json").stat().st_mtime)))
