"""What the stages of a run said, as pandas DataFrames for notebooks: tidy, a row a thing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfpipe.store.artifacts import FILLS, read_lines, renamed_columns
from hfpipe.store.store import check_file, reading

if TYPE_CHECKING:
    import pandas as pd

    from hfpipe.report import Report, Score, Spread
    from hfpipe.runs.run import Run

    Reports = Mapping[str, Report]

STAGES = ("stage", "kind", "seed", "key", "seconds", "summary", "folder")
SYSTEM = ("value", "low", "high")
SPREAD = ("sd", "sd_rows", "sd_seeds", "sd_checkpoints")
DIFFERENCE = ("difference", "difference_low", "difference_high", "p_value", "test", "p_bootstrap")
SCORES = ("metric", "system", *SYSTEM, *DIFFERENCE, "n", "higher_is_better", "signature", *SPREAD)
CURVES = ("stage", "step", "epoch", "loss", "learning_rate", "grad_norm")
FILLED = ("row", "before", "reference", "after", "rank", "nll", "fills", "fill_scores")
LEDGER = ("stage", "part", "entry", "count")


def stages(run: Run) -> pd.DataFrame:
    """Return a row for each stage, in order; `folder` is a path and `seconds` its wall time."""
    return _frame((_stage(run, name, report) for name, report in run.reports.items()), STAGES)


def _stage(run: Run, name: str, report: Report) -> dict[str, Any]:
    made = run.made(name).identity
    return {
        "stage": name,
        "kind": report.kind,
        "seed": made.seed,
        "key": made.key,
        "seconds": report.seconds,
        "summary": report.summary,
        "folder": run.folders[name],
    }


def score_frame(reports: Reports) -> pd.DataFrame:
    """Return a row for each stage, metric and system; the differences of `model` from itself are missing."""
    rows = (
        {"stage": stage} | row for stage, report in reports.items() for row in _scores(report.scores, "model")
    )
    return _frame(rows, ("stage", *SCORES))


def matrix_frame(report: Report) -> pd.DataFrame:
    """Return a row a combination of a matrix: its settings, what was counted, and its scores."""
    return _frame((_combination(row) for row in report.facts["matrix"]), ("stage",))


def _combination(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their path, named values by their axis, and scores with the ends of intervals."""
    settings = row["settings"]
    varied = row["combination"].items()
    named = {axis: value for axis, value in varied if not _is_setting(axis, value, settings)}
    scores = {
        metric if end == "value" else f"{metric}_{end}": value
        for metric, found in row["scores"].items()
        for end, value in found.items()
    }
    return {"stage": row["stage"], **named, **settings, **row["counts"], **scores}


def _is_setting(axis: str, value: Any, settings: Mapping[str, Any]) -> bool:
    """Tell whether an axis is a setting, called by the end of its path, and not a name for several."""
    found = [setting for name, setting in settings.items() if f".{name}".endswith(f".{axis}")]
    return value in found


def comparison_frame(scores: Iterable[Score], first: str) -> pd.DataFrame:
    """Return a row for each metric and system; `first` is the one that the others are compared with."""
    return _frame(_scores(scores, first), SCORES)


def _scores(scores: Iterable[Score], first: str) -> Iterator[dict[str, Any]]:
    for score in scores:
        metric = {name: getattr(score, name) for name in ("metric", "n", "higher_is_better", "signature")}
        own = {name: getattr(score, name) for name in SYSTEM}
        yield metric | {"system": first} | own | _standard_deviations(score.spread)
        yield from (metric | row for row in _trainings(score.spread))
        for other in score.comparisons:
            values = {name: getattr(other, name) for name in (*SYSTEM, *DIFFERENCE)}
            yield metric | {"system": other.baseline} | values | _standard_deviations(other.spread)
            yield from (metric | row for row in _trainings(other.spread))


def _standard_deviations(spread: Spread | None) -> dict[str, Any]:
    if spread is None:
        return {}
    values = (spread.sd, spread.rows, spread.seeds, spread.checkpoints)
    return dict(zip(SPREAD, values, strict=True))


def _trainings(spread: Spread | None) -> Iterator[dict[str, Any]]:
    """Yield the score of each training, of which only the value is known."""
    for name, value in (spread.values if spread is not None else {}).items():
        yield {"system": name, "value": value}


def curve_frame(logs: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for each stage and step, with all that was logged at that step; the rest is missing."""
    import pandas as pd

    frame = _frame((row for stage, log in logs.items() for row in _history(stage, log)), CURVES)
    for name in frame.columns.drop("stage"):  # a number that was none is kept as text
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return frame


def _history(stage: str, history: Any) -> Iterator[dict[str, Any]]:
    """Merge what was logged at the same step, leaving out the totals that Trainer logs at the end."""
    steps: dict[Any, dict[str, Any]] = {}
    for entry in history if isinstance(history, list) else []:
        if isinstance(entry, Mapping) and "step" in entry and "train_runtime" not in entry:
            steps.setdefault(entry["step"], {"stage": stage}).update(entry)
    yield from steps.values()


def ledger(reports: Reports) -> pd.DataFrame:
    """Return a row for each stage, part (a split, or what is counted) and entry, with its count."""
    rows = (
        {"stage": stage, "part": part, "entry": entry, "count": count}
        for stage, report in reports.items()
        for part, counts in report.parts.items()
        for entry, count in counts.items()
    )
    return _frame(rows, LEDGER)


def predictions(path: Path) -> pd.DataFrame:
    """Return the predictions of a system with the inputs of each row, in the order of the split.

    `attrs["classes"]` has the class names of the columns that hold a value for each class, as `scores`.
    Raises StageError when the file is damaged.
    """
    import pandas as pd

    check_file(path)
    with reading(path):
        rows = pd.read_parquet(path).sort_values("row", ignore_index=True)
    return rows.rename(columns=renamed_columns(rows.columns, rows.attrs.get("inputs", [])))


def fills_frame(folder: Path) -> pd.DataFrame:
    """Return a row for each hidden word of the evaluated texts, with what the model filled in."""
    return _frame(iter(read_lines(folder / FILLS)), FILLED)


def _frame(rows: Iterator[dict[str, Any]], first: tuple[str, ...]) -> pd.DataFrame:
    """Return the rows with these columns first, which are there even without a row."""
    import pandas as pd

    frame = pd.DataFrame(list(rows))
    return frame.reindex(columns=[*first, *(name for name in frame.columns if name not in first)])
