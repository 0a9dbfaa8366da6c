"""Searches evaluated rows in the training data of a model, through all its training stages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hfpipe.contract import RunContext
from hfpipe.errors import StageError
from hfpipe.number_format import format_interval
from hfpipe.references.places import Place, locate_place
from hfpipe.report import Score
from hfpipe.stages.data_folder import get_data_folder
from hfpipe.stages.repeats.members import get_data_split
from hfpipe.stages.scoring.systems import EvaluatedSystem
from hfpipe.store.store import read_stage
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from datasets import Dataset

    from hfpipe.evaluation.evaluate import EvaluationSetup
    from hfpipe.metrics.tally import Tally
    from hfpipe.stages.evaluate import Evaluate

LeakageSetting = Literal["warn", "fail", False]
KINDS = ("exact", "excerpt", "near", "short")
"""Parts of an overlap, as `hfpipe.data.leakage.Overlap` has them."""
TOGETHER = ("any", "exact", "excerpt", "near", "conflict")
"""Parts of an overlap that are put together over all data that is searched."""
FOUND = "leakage.json"
SHOWN = 20
"""Maximum number of ids of overlapping rows in the report, and of positions per kind of overlap."""


def audit_leakage(stage: Evaluate, task: TaskConfig, setup: EvaluationSetup, ctx: RunContext) -> None:
    """Search the rows in the training and validation data of the model, and store the result.

    Raises StageError when there are some and the stage's `leakage` is `fail`.
    """
    if not stage.leakage:
        return
    found = _search_leakage(stage, task, setup, ctx)
    if stage.leakage == "fail" and found["rows"]:
        ids = ", ".join(map(repr, found["ids"][:3]))
        raise StageError(
            f"stage {ctx.name}: {describe_leakage(found, len(setup.rows))}; for example rows {ids}"
        )
    (ctx.work / FOUND).write_text(json.dumps(found), encoding="utf-8")


def _search_leakage(
    stage: Evaluate, task: TaskConfig, setup: EvaluationSetup, ctx: RunContext
) -> dict[str, Any]:
    import numpy as np

    from hfpipe.data.leakage import HeldOut

    data = get_data_folder(stage.data, ctx)
    label = next((name for name in task.columns if setup.facts.columns.get(name) == "label"), None)
    held_out = HeldOut(_iterate_rows(setup.rows, data, label))
    together: dict[str, np.ndarray] = {kind: np.zeros(len(setup.rows), dtype=bool) for kind in TOGETHER}
    sources: dict[str, dict[str, int]] = {}
    seen = _find_training_data(stage.model, ctx)
    for name, folder, split in _list_splits(seen, data, stage.split):
        # The classes of the evaluated rows have the ids of the model, which may be others than in the data.
        rows = setup.classes.align_rows(split) if folder == data else split
        with ctx.progress(f"{ctx.name}: searching its rows in the {name}", len(rows)) as advance:
            found = held_out.find_overlap(
                _iterate_rows(rows, folder, label if folder == data else None, advance)
            )
        sources[name] = {kind: int(getattr(found, kind).sum()) for kind in KINDS}
        together = {kind: each | getattr(found, kind) for kind, each in together.items()}
    positions = np.flatnonzero(together["any"]).tolist()
    return {
        "rows": positions,
        "ids": setup.read_ids(positions[:SHOWN]) if positions else [],
        "sources": sources,
        "conflicts": int(together["conflict"].sum()),
        "examples": {
            kind: np.flatnonzero(each)[:SHOWN].tolist() for kind, each in together.items() if kind != "any"
        },
        "unknown": seen.get(None, []),
    }


def _list_splits(
    seen: Mapping[Path | None, Sequence[str]], data: Path, evaluated: str
) -> Iterator[tuple[str, Path, Dataset]]:
    """Yield the splits of training data with a name for each, without the one that is evaluated."""
    from hfpipe.encoding.io import open_data

    for folder, stages in seen.items():
        for split, rows in open_data(folder).items() if folder is not None else ():
            own = folder == data and split == evaluated
            if folder == data and split == get_data_split(evaluated) != evaluated:
                continue  # the split itself; each training held out the rows that it predicts
            if folder is not None and (split == "train" or (split == "validation" and not own)):
                name = folder.name.rpartition("-")[0] or folder.name
                yield f"{split} split of {name} ({', '.join(stages)})", folder, rows


def _find_training_data(model: Place, ctx: RunContext) -> dict[Path | None, list[str]]:
    """Return the training data folders of a model and of its earlier trainings, with the stages' names.

    Trainings elsewhere have the key None.
    """
    found: dict[Path | None, list[str]] = {}
    waiting = [(str(model), locate_place(model, ctx.base, ctx.inputs))]
    while waiting:
        name, folder = waiting.pop()
        if folder is None or not (folder / "stage.json").is_file():
            found.setdefault(None, []).append(name)
            continue
        file = read_stage(folder)
        above = {other: folder.parent / place for other, place in file.folders.items()}
        for key in ("data", "model", "tokenizer"):
            value = file.identity.settings.get(key)
            if not isinstance(value, str):
                continue
            path = locate_place(Place(value), Path(file.base), above)
            if key != "data":
                waiting.append((value, path))
            elif path is None or not path.is_dir():
                found.setdefault(None, []).append(value)
            elif file.name not in found.setdefault(path, []):
                found[path].append(file.name)
    return found


def _iterate_rows(
    rows: Dataset, folder: Path, label: str | None, advance: Any = lambda _: None
) -> Iterator[tuple[str, Any]]:
    """Yield the text of each row, all its text columns together, and its label."""
    from hfpipe.data.leakage import flatten_text
    from hfpipe.encoding.encoded import ROWS_AT_ONCE

    columns = [name for name in _find_text_columns(folder) if name in rows.column_names]
    alone = rows.select_columns([*columns, *([label] if label in rows.column_names else [])])
    for start in range(0, len(alone), ROWS_AT_ONCE):
        batch = alone[start : start + ROWS_AT_ONCE]
        size = min(ROWS_AT_ONCE, len(alone) - start)
        labels = batch.get(label, [None] * size)
        for number in range(size):
            yield "\n".join(flatten_text(batch[name][number]) for name in columns), labels[number]
        advance(size)


def _find_text_columns(folder: Path) -> Sequence[str]:
    """Return the text columns of a data set, from its stage or else by their types."""
    from hfpipe.encoding.io import read_facts
    from hfpipe.store.store import is_done, read_report

    if is_done(folder) and "text" in (known := read_report(folder).facts):
        return list(known["text"])
    return [
        name for name, kind in read_facts(folder).columns.items() if kind in ("string", "strings", "nested")
    ]


def get_leakage_facts(model: EvaluatedSystem, setup: EvaluationSetup, ctx: RunContext) -> dict[str, Any]:
    """Return the result of the audit and the scores on rows without overlap, as facts for the report."""
    path = ctx.work / FOUND
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    scores = _compute_clean_scores(found["rows"], model, setup, ctx) if found["rows"] else []
    return {"leakage": {**found, "clean_scores": [score.model_dump(mode="json") for score in scores]}}


def _compute_clean_scores(
    overlapping: Sequence[int], model: EvaluatedSystem, setup: EvaluationSetup, ctx: RunContext
) -> list[Score]:
    """Return the scores of a model on rows without overlap, recomputed from its predictions."""
    from hfpipe.metrics.repeated import RepeatedCounts
    from hfpipe.metrics.tally import compute_scores

    files = model.list_predictions(ctx.folder)
    found = {
        name: _compute_clean_counts(overlapping, path, model.task, setup) for name, path in files.items()
    }
    counted = {name: counts for name, counts in found.items() if counts is not None}
    if not counted:
        return []
    return compute_scores(RepeatedCounts(counted) if model.members else next(iter(counted.values())))


def _compute_clean_counts(
    overlapping: Sequence[int], path: Path, task: TaskConfig, setup: EvaluationSetup
) -> Tally | None:
    """Return the counts of a training on rows without overlap, None if there are none."""
    import numpy as np

    from hfpipe.evaluation.predictions_file import read_predictions
    from hfpipe.metrics.resampling import Sample
    from hfpipe.metrics.tally import Tally

    positions, columns = read_predictions(path)
    clean = ~np.isin(positions, overlapping)
    if not clean.any():
        return None
    sample = Sample(setup.sample.units[positions[clean]], setup.sample.cluster)
    evaluator = task.runtime().evaluator
    tally = Tally(evaluator.metrics(setup.facts), setup.resamples, setup.seed, sample)
    kept = {name: column[clean] for name, column in columns.items()}
    tally.add(np.arange(int(clean.sum())), evaluator.decode_predictions(kept, setup.facts))
    return tally


def describe_leakage(found: Mapping[str, Any], rows: int) -> str:
    """Return a line with the numbers of overlapping rows per training data."""
    parts = [
        f"{name}: {', '.join(f'{count:,} {kind}' for kind, count in counts.items() if count)}"
        for name, counts in found["sources"].items()
        if any(counts.values())
    ]
    share = f"{len(found['rows']):,} of {rows:,} rows are in the data of the model's training"
    return f"leakage: {share} ({'; '.join(parts)})"


def format_leakage_notes(facts: Mapping[str, Any], rows: int) -> Iterator[str]:
    """Yield the results of the audit, one line each; none without overlaps and label conflicts."""
    found = facts.get("leakage")
    if found is None:
        return
    if found["rows"]:
        clean = [Score.model_validate(score) for score in found["clean_scores"][:1]]
        shown = [(score, format_interval(score.value, score.low, score.high)) for score in clean]
        without = [f"on the other {score.n:,} {score.metric} is {interval}" for score, interval in shown]
        yield "; ".join([describe_leakage(found, rows), *without])
    if found["conflicts"]:
        count = found["conflicts"]
        yield f"label conflicts: {count:,} rows have the text of a training row with another label"
