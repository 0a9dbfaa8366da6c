"""Results of a run as pandas DataFrames in tidy format, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfpipe.store.artifacts import FILLS, find_renamed_columns, read_lines
from hfpipe.store.store import check_file, report_unreadable

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


def make_stage_frame(run: Run) -> pd.DataFrame:
    """Return a row for each stage, in order; `folder` is a path and `seconds` its wall time."""
    return _make_frame((_make_stage_row(run, name, report) for name, report in run.reports.items()), STAGES)


def _make_stage_row(run: Run, name: str, report: Report) -> dict[str, Any]:
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


def make_score_frame(reports: Reports) -> pd.DataFrame:
    """Return a row for each stage, metric and system; the differences of `model` from itself are missing."""
    rows = (
        {"stage": stage} | row
        for stage, report in reports.items()
        for row in _make_score_rows(report.scores, "model")
    )
    return _make_frame(rows, ("stage", *SCORES))


def make_matrix_frame(report: Report) -> pd.DataFrame:
    """Return a row for each combination of a matrix: its settings, counts and scores."""
    return _make_frame((_make_combination_row(row) for row in report.facts["matrix"]), ("stage",))


def _make_combination_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by path, named values by axis, and scores with the bounds of their intervals."""
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
    """Return whether an axis is a single setting, named by the end of its path, and not a named value."""
    found = [setting for name, setting in settings.items() if f".{name}".endswith(f".{axis}")]
    return value in found


def make_comparison_frame(scores: Iterable[Score], first: str) -> pd.DataFrame:
    """Return a row for each metric and system; the others are compared with `first`."""
    return _make_frame(_make_score_rows(scores, first), SCORES)


def _make_score_rows(scores: Iterable[Score], first: str) -> Iterator[dict[str, Any]]:
    for score in scores:
        metric = {name: getattr(score, name) for name in ("metric", "n", "higher_is_better", "signature")}
        own = {name: getattr(score, name) for name in SYSTEM}
        yield metric | {"system": first} | own | _list_standard_deviations(score.spread)
        yield from (metric | row for row in _make_training_rows(score.spread))
        for other in score.comparisons:
            values = {name: getattr(other, name) for name in (*SYSTEM, *DIFFERENCE)}
            yield metric | {"system": other.baseline} | values | _list_standard_deviations(other.spread)
            yield from (metric | row for row in _make_training_rows(other.spread))


def _list_standard_deviations(spread: Spread | None) -> dict[str, Any]:
    if spread is None:
        return {}
    values = (spread.sd, spread.rows, spread.seeds, spread.checkpoints)
    return dict(zip(SPREAD, values, strict=True))


def _make_training_rows(spread: Spread | None) -> Iterator[dict[str, Any]]:
    """Yield the score of each training, which has a value only."""
    for name, value in (spread.values if spread is not None else {}).items():
        yield {"system": name, "value": value}


def make_curve_frame(logs: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for each stage and step with all values logged at that step; others are missing."""
    import pandas as pd

    frame = _make_frame((row for stage, log in logs.items() for row in _merge_history(stage, log)), CURVES)
    for name in frame.columns.drop("stage"):  # NaN and infinity are logged as texts
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return frame


def _merge_history(stage: str, history: Any) -> Iterator[dict[str, Any]]:
    """Merge the entries logged at the same step, without the totals that Trainer logs at the end."""
    steps: dict[Any, dict[str, Any]] = {}
    for entry in history if isinstance(history, list) else []:
        if isinstance(entry, Mapping) and "step" in entry and "train_runtime" not in entry:
            steps.setdefault(entry["step"], {"stage": stage}).update(entry)
    yield from steps.values()


def make_ledger_frame(reports: Reports) -> pd.DataFrame:
    """Return a row for each stage, part (a split, or the counted unit) and entry, with its count."""
    rows = (
        {"stage": stage, "part": part, "entry": entry, "count": count}
        for stage, report in reports.items()
        for part, counts in report.parts.items()
        for entry, count in counts.items()
    )
    return _make_frame(rows, LEDGER)


def read_prediction_frame(path: Path) -> pd.DataFrame:
    """Return the predictions of a system with the inputs of each row, in the order of the split.

    `attrs["classes"]` has the class names of columns with one value per class, such as `scores`.
    Raises StageError when the file is damaged.
    """
    import pandas as pd

    check_file(path)
    with report_unreadable(path):
        rows = pd.read_parquet(path).sort_values("row", ignore_index=True)
    return rows.rename(columns=find_renamed_columns(rows.columns, rows.attrs.get("inputs", [])))


def make_fills_frame(folder: Path) -> pd.DataFrame:
    """Return a row for each hidden word of the evaluated texts, with what the model filled in."""
    return _make_frame(iter(read_lines(folder / FILLS)), FILLED)


def _make_frame(rows: Iterator[dict[str, Any]], first: tuple[str, ...]) -> pd.DataFrame:
    """Return the rows as a DataFrame with these columns first, even if there are no rows."""
    import pandas as pd

    frame = pd.DataFrame(list(rows))
    return frame.reindex(columns=[*first, *(name for name in frame.columns if name not in first)])
