"""Whether the rows that a model is evaluated on are in the data of its training, through all its stages."""

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
from hfpipe.stages.data_folder import folder_of
from hfpipe.stages.repeats.members import data_split
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
"""Ids of overlapping rows that the report holds, and positions of each kind of overlap."""


def audit(stage: Evaluate, task: TaskConfig, setup: EvaluationSetup, ctx: RunContext) -> None:
    """Look for the rows in all that the model was trained and validated on, and keep what was found.

    Raises StageError when there are some and the stage's `leakage` is `fail`.
    """
    if not stage.leakage:
        return
    found = _search_leakage(stage, task, setup, ctx)
    if stage.leakage == "fail" and found["rows"]:
        ids = ", ".join(map(repr, found["ids"][:3]))
        raise StageError(f"stage {ctx.name}: {describe_leakage(found, len(setup.rows))}; such as rows {ids}")
    (ctx.work / FOUND).write_text(json.dumps(found), encoding="utf-8")


def _search_leakage(
    stage: Evaluate, task: TaskConfig, setup: EvaluationSetup, ctx: RunContext
) -> dict[str, Any]:
    import numpy as np

    from hfpipe.data.leakage import HeldOut

    data = folder_of(stage.data, ctx)
    label = next((name for name in task.columns if setup.facts.columns.get(name) == "label"), None)
    held_out = HeldOut(_rows(setup.rows, data, label))
    together: dict[str, np.ndarray] = {kind: np.zeros(len(setup.rows), dtype=bool) for kind in TOGETHER}
    sources: dict[str, dict[str, int]] = {}
    seen = _training_data(stage.model, ctx)
    for name, folder, rows in _splits(seen, data, stage.split):
        with ctx.progress(f"{ctx.name}: looking for its rows in the {name}", len(rows)) as advance:
            found = held_out.find_overlap(_rows(rows, folder, label if folder == data else None, advance))
        sources[name] = {kind: int(getattr(found, kind).sum()) for kind in KINDS}
        together = {kind: each | getattr(found, kind) for kind, each in together.items()}
    positions = np.flatnonzero(together["any"]).tolist()
    return {
        "rows": positions,
        "ids": setup.ids(positions[:SHOWN]) if positions else [],
        "sources": sources,
        "conflicts": int(together["conflict"].sum()),
        "examples": {
            kind: np.flatnonzero(each)[:SHOWN].tolist() for kind, each in together.items() if kind != "any"
        },
        "unknown": seen.get(None, []),
    }


def _splits(
    seen: Mapping[Path | None, Sequence[str]], data: Path, evaluated: str
) -> Iterator[tuple[str, Path, Dataset]]:
    """Yield the splits of training data with a name for each, without the one that is evaluated."""
    from hfpipe.encoding.io import open_data

    for folder, stages in seen.items():
        for split, rows in open_data(folder).items() if folder is not None else ():
            own = folder == data and split == evaluated
            if folder == data and split == data_split(evaluated) != evaluated:
                continue  # the split itself, of which each training left the rows out that it predicts
            if folder is not None and (split == "train" or (split == "validation" and not own)):
                name = folder.name.rpartition("-")[0] or folder.name
                yield f"{split} split of {name} ({', '.join(stages)})", folder, rows


def _training_data(model: Place, ctx: RunContext) -> dict[Path | None, list[str]]:
    """Return the folders of the data that a model and all before it were trained on, with the stages' names.

    What was trained elsewhere is under None.
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


def _rows(
    rows: Dataset, folder: Path, label: str | None, advance: Any = lambda _: None
) -> Iterator[tuple[str, Any]]:
    """Yield the text of each row, all its text columns together, and its label."""
    from hfpipe.data.leakage import flatten_text
    from hfpipe.encoding.encoded import ROWS_AT_ONCE

    columns = [name for name in _text_columns(folder) if name in rows.column_names]
    alone = rows.select_columns([*columns, *([label] if label in rows.column_names else [])])
    for start in range(0, len(alone), ROWS_AT_ONCE):
        batch = alone[start : start + ROWS_AT_ONCE]
        size = min(ROWS_AT_ONCE, len(alone) - start)
        labels = batch.get(label, [None] * size)
        for number in range(size):
            yield "\n".join(flatten_text(batch[name][number]) for name in columns), labels[number]
        advance(size)


def _text_columns(folder: Path) -> Sequence[str]:
    """Return the columns of text of a data set, as its stage says or else by their types."""
    from hfpipe.encoding.io import read_facts
    from hfpipe.store.store import is_done, read_report

    if is_done(folder) and "text" in (known := read_report(folder).facts):
        return list(known["text"])
    return [
        name for name, kind in read_facts(folder).columns.items() if kind in ("string", "strings", "nested")
    ]


def leakage_facts(model: EvaluatedSystem, setup: EvaluationSetup, ctx: RunContext) -> dict[str, Any]:
    """Return what the audit found and the scores of the rows that do not overlap, as facts for the report."""
    path = ctx.work / FOUND
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    scores = _clean_scores(found["rows"], model, setup, ctx) if found["rows"] else []
    return {"leakage": {**found, "clean_scores": [score.model_dump(mode="json") for score in scores]}}


def _clean_scores(
    overlapping: Sequence[int], model: EvaluatedSystem, setup: EvaluationSetup, ctx: RunContext
) -> list[Score]:
    """Return the scores of a model on the rows that do not overlap, counted again from its predictions."""
    from hfpipe.metrics.repeated import RepeatedCounts
    from hfpipe.metrics.tally import compute_scores

    files = model.predictions(ctx.folder)
    found = {name: _clean_counts(overlapping, path, model.task, setup) for name, path in files.items()}
    counted = {name: counts for name, counts in found.items() if counts is not None}
    if not counted:
        return []
    return compute_scores(RepeatedCounts(counted) if model.members else next(iter(counted.values())))


def _clean_counts(
    overlapping: Sequence[int], path: Path, task: TaskConfig, setup: EvaluationSetup
) -> Tally | None:
    """Return the counts of a training on the rows that do not overlap, None where there are none."""
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
    """Return in one line how many rows overlap with what."""
    parts = [
        f"{name}: {', '.join(f'{count:,} {kind}' for kind, count in counts.items() if count)}"
        for name, counts in found["sources"].items()
        if any(counts.values())
    ]
    share = f"{len(found['rows']):,} of {rows:,} rows are in the data of the model's training"
    return f"leakage: {share} ({'; '.join(parts)})"


def leakage_notes(facts: Mapping[str, Any], rows: int) -> Iterator[str]:
    """Yield what the audit found, a line each; nothing where no row overlaps and no label contradicts."""
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
