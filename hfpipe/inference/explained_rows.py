"""Explains a few predictions of an evaluation, and stores them in its folder for the page of the run."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from hfpipe.errors import Problem, RecipeError
from hfpipe.runs.run import Run
from hfpipe.store.artifacts import EXPLANATIONS, MODEL, get_predictions_path
from hfpipe.store.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from hfpipe.inference.explanation import Explanation


def explain_run(run: Run, rows: int = 4) -> list[str]:
    """Explain predictions of each evaluated text classifier, and return the names of these stages.

    Computes integrated gradients by token for the most confident wrong and the most confident correct
    predictions, half of `rows` each. They are stored next to the predictions, shown on the page of the run,
    and recomputed only for more rows.

    Raises RecipeError when the run has no such stage, StageError when captum is missing or the model has no
    attention weights.
    """
    found = {stage: frame for stage in run.reports if (frame := _read_classified(run, stage)) is not None}
    if not found:
        wrong = "explanations need an evaluated text classifier, and this run has none; delete --explain"
        raise RecipeError([Problem(wrong)])
    for stage, frame in found.items():
        if len(run.explanations(stage)) < min(rows, len(frame)):
            made = _explain(run, stage, frame, rows)
            write_atomically(run.folder(stage) / EXPLANATIONS, json.dumps(made, ensure_ascii=False))
    return list(found)


def _read_classified(run: Run, stage: str) -> pd.DataFrame | None:
    """Return the predictions of a stage if each is the class of a text."""
    task = run.reports[stage].facts.get("task") or {}
    if (
        task.get("kind") != "text-classification"
        or not get_predictions_path(run.folder(stage), MODEL).is_file()
    ):
        return None
    frame = run.predictions(stage)
    named = "scores" in frame.attrs.get("classes", {})
    return frame if named and len(frame) and isinstance(frame["prediction"].iloc[0], str) else None


def _explain(run: Run, stage: str, frame: pd.DataFrame, rows: int) -> list[dict[str, Any]]:
    from pathlib import Path

    from hfpipe.inference.explanation import explain_prediction
    from hfpipe.inference.predictor import Predictor
    from hfpipe.inference.resolve import resolve_model
    from hfpipe.tasks import restore_task

    made_of = Path(run.made(stage).base), run.trusted, run.folder(stage)
    task = restore_task(run.reports[stage].facts["task"], *made_of)
    predictor = Predictor(
        resolve_model(run.model(stage), Path(), None, ()).place, task.runtime(), batch_size=1
    )
    made = []
    for number in _choose_rows(frame, rows).tolist():
        row = frame.iloc[number]
        columns = zip(task.inputs, frame.attrs["inputs"], strict=True)
        explained = explain_prediction(predictor, {name: row[column] for name, column in columns})
        made.append(_create_entry(row, explained))
    return made


def _choose_rows(frame: pd.DataFrame, rows: int) -> np.ndarray:
    """Return positions of the most confident wrong, then of the most confident correct predictions."""
    import numpy as np

    confidence = np.array([max(scores) for scores in frame["scores"]])
    wrong = (frame["prediction"] != frame["reference"]).to_numpy()
    order = np.argsort(-confidence, kind="stable")
    mistakes, right = order[wrong[order]], order[~wrong[order]]
    mistakes = mistakes[: max(math.ceil(rows / 2), rows - len(right))]
    return np.concatenate([mistakes, right[: rows - len(mistakes)]])


def _create_entry(row: Any, explained: Explanation) -> dict[str, Any]:
    return {
        "id": str(row["id"]) if "id" in row else "",
        "tokens": list(explained.tokens),
        "attributions": [round(float(each), 6) for each in explained.attributions],
        "prediction": row["prediction"],
        "reference": row["reference"],
        "score": float(max(row["scores"])),
    }
