"""The results of a run: its stages, scores and folders."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfpipe import number_format
from hfpipe.errors import Problem, RecipeError
from hfpipe.recipe.messages import join_names, suggest
from hfpipe.references.places import Place
from hfpipe.references.user_code import NOTHING, Trusted
from hfpipe.report import Report, Score
from hfpipe.runs import dataframes
from hfpipe.stages.repeats.members import find_members
from hfpipe.store.artifacts import EXPLANATIONS, METRICS, MODEL, TRAINED, get_predictions_path, read_metrics
from hfpipe.store.stage_names import is_copy
from hfpipe.store.store import StageFile, is_done, read_report, read_stage, report_unreadable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """The finished stages of one run, in order."""

    folders: dict[str, Path]
    """Stage → its folder."""
    reports: dict[str, Report]
    """Stage → its report."""
    trusted: Trusted = NOTHING
    """User code that may be executed: that of the recipe with which the run was opened."""
    unfinished: dict[str, Path] = field(default_factory=dict)
    """Stage that is training or was interrupted → its folder."""
    recipe: Path | None = None
    """The recipe with which the run was opened."""

    def folder(self, stage: str) -> Path:
        """Return a stage's folder: a data set, tokenizer or model that its library can open.

        Raises RecipeError when there is no such stage.
        """
        if stage not in self.folders:
            raise RecipeError([Problem(f"{stage}: there is no such stage{suggest(stage, self.folders)}")])
        return self.folders[stage]

    def made(self, stage: str) -> StageFile:
        """Return the `stage.json` of a stage: its settings, seed and inputs."""
        return read_stage(self.folder(stage))

    def model(self, stage: str) -> str:
        """Return the path of the model that an evaluate stage evaluated, or that a training stage trained.

        Of several trainings, it is the first.
        """
        return self.models(stage)[0]

    def models(self, stage: str) -> list[str]:
        """Return the path of each training of the model of an evaluate stage; one path for most models."""
        folder = self.folder(stage)
        if self.reports[stage].kind == "evaluate":
            made = self.made(stage)
            place = Place(made.identity.settings["model"])
            if place.stage is None:
                return [str(place)]
            folder = folder.parent / made.folders[place.stage]
        return list(map(str, find_members(folder).values())) or [str(folder)]

    def main_scores(self, stage: str) -> list[Score]:
        """Return the main scores of an evaluate stage, and those in the recipe's `require`."""
        required = self.made(stage).identity.settings.get("require") or {}
        return number_format.select_main_scores(self.reports[stage].scores, required)

    @property
    def trained(self) -> list[str]:
        """The stages that trained a model."""
        return [name for name, report in self.reports.items() if report.kind in TRAINED]

    @property
    def stages(self) -> pd.DataFrame:
        """A row for each stage, in order: kind, seed, key, seconds, summary, folder."""
        return dataframes.make_stage_frame(self)

    @property
    def scores(self) -> pd.DataFrame:
        """A row for each stage, metric and system: `model`, and each baseline as the recipe writes it.

        `value` has its interval in `low` and `high`; `difference` is model - baseline, with its own interval
        and `p_value`.
        """
        return dataframes.make_score_frame(self.reports)

    def matrix(self, stage: str) -> pd.DataFrame:
        """Return a row for each combination of the recipe's `matrix` for which a stage was run, with its
        scores.

        Columns are the varied settings (`wiki.limit`), the axes of named values, and each score with `_low`
        and `_high`, or `_sd` over seeds; for a training stage, its scores on the validation split, and its
        `parameters`, `tokens` and `steps`. Raises RecipeError when the matrix does not change the stage.
        """
        self.folder(stage)
        if "matrix" not in self.reports[stage].facts:
            known = [name for name, report in self.reports.items() if "matrix" in report.facts]
            raise RecipeError([Problem(f"{stage}: is not a table of a matrix{suggest(stage, known)}")])
        return dataframes.make_matrix_frame(self.reports[stage])

    @property
    def curves(self) -> pd.DataFrame:
        """A row for each training stage and step: epoch, loss in nats, learning_rate, grad_norm, `eval_`
        scores.

        For a stage that is training, these are the values logged so far; open the run again for more.
        """
        logs = {name: report.facts.get("history") for name, report in self.reports.items()}
        for name, folder in {**self.folders, **self.unfinished}.items():
            logs[name] = read_metrics(folder) or logs.get(name)
        return dataframes.make_curve_frame(logs)

    @property
    def ledger(self) -> pd.DataFrame:
        """A row for each stage, part (a split, or the counted unit) and entry, with its count."""
        return dataframes.make_ledger_frame(self.reports)

    def predictions(self, stage: str, system: str = MODEL) -> pd.DataFrame:
        """Return the predictions of the model of an evaluate stage, or of one of its baselines, for each row.

        Rows are in the order of the split, with the `id` of the data set and the inputs of the task, so that
        the predictions of two systems can be joined. `scores` has one value per class, in the order of
        `attrs["classes"]["scores"]`. Raises RecipeError when there is no such stage or system, StageError
        when the file is damaged.
        """
        path = get_predictions_path(self.folder(stage), system)
        if not path.is_file():
            trained = self.reports[stage].facts.get("trainings", {})
            if system in trained:
                fix = f"name one training: {join_names(trained[system], 'or')}"
                raise RecipeError([Problem(f"{stage}: {system!r} was trained several times; {fix}")])
            baselines = [
                other.baseline for score in self.reports[stage].scores[:1] for other in score.comparisons
            ]
            tail = suggest(system, baselines)
            raise RecipeError([Problem(f"{stage}: there are no predictions of {system!r}{tail}")])
        return dataframes.read_prediction_frame(path)

    def fills(self, stage: str) -> pd.DataFrame:
        """Return what the masked language model of an evaluate stage fills in for hidden words.

        A row for each of at most 200 texts of the split: `row` (its position), `before`, `reference` (the
        word that was hidden) and `after`, the `rank` of that word among the fills (0: not among the first
        100), its loss `nll` in nats, and the first five `fills` with their probabilities, `fill_scores`.
        `hfpipe predict` fills the same text in the same way. Empty for other tasks.
        """
        return dataframes.make_fills_frame(self.folder(stage))

    def explanations(self, stage: str) -> list[dict[str, Any]]:
        """Return the explanations of predictions of an evaluate stage, one entry per row."""
        path = self.folder(stage) / EXPLANATIONS
        if not path.is_file():
            return []
        with report_unreadable(path):
            return list(json.loads(path.read_text(encoding="utf-8")))

    def as_json(self) -> dict[str, Any]:
        """Return the reports of all stages as JSON; NaN is the text "NaN"."""
        return {
            name: {"folder": str(self.folders[name])} | json.loads(report.model_dump_json())
            for name, report in self.reports.items()
        }


def read_run(folders: dict[str, Path], trusted: Trusted = NOTHING, recipe: Path | None = None) -> Run:
    """Open those of the stages that are done."""
    there = {name: folder for name, folder in folders.items() if is_done(folder)}
    begun = {name: at for name, at in folders.items() if name not in there and (at / METRICS).is_file()}
    return Run(there, {name: read_report(folder) for name, folder in there.items()}, trusted, begun, recipe)


def open_newest_run(root: Path) -> Run:
    """Open the newest finished folder of each stage in a run's folder, in the order in which they finished.

    Raises RecipeError when there is none.
    """
    found = sorted(root.glob("*/report.json"), key=lambda path: path.stat().st_mtime)
    folders: dict[str, Path] = {}
    begun: dict[str, Path] = {}
    for path in found:
        made = read_stage(path.parent)
        folders |= {name: root / folder for name, folder in made.folders.items() if is_copy(name)}
        folders.pop(made.name, None)  # a later one also determines the position
        folders[made.name] = path.parent
    for path in sorted(root.glob(f"*/{METRICS}"), key=lambda path: path.stat().st_mtime):
        if not is_done(path.parent):
            begun[read_stage(path.parent).name] = path.parent
    folders |= {name: folder for name, folder in begun.items() if name not in folders}
    if not folders:
        raise RecipeError(
            [Problem(f"{root}: contains no finished stage; name a recipe or a folder, as runs/demo")]
        )
    return read_run(folders)
