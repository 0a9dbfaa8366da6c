"""The section of the page about rows that were evaluated and trained on, and about duplicates in the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hfpipe import number_format
from hfpipe.references.places import Place
from hfpipe.report import Report, Score
from hfpipe.reporting.blocks import EXAMPLES, Example, Span, get_inputs
from hfpipe.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

SOURCES = ("training data", "equal text", "shared excerpt", "nearly the same", "short and equal")
"""Columns of the table of overlaps."""
KINDS = ("exact", "excerpt", "near", "short")
"""The counts in these columns, as a report names them."""
SCORES = ("score", "all rows", "rows not in the training data")
DUPLICATES = ("data set", "step", "rows removed", "of", "characters removed")
TITLES = {
    "exact": "equal text in the training data",
    "excerpt": "a training text shares 30 % of its 13-grams",
    "near": "nearly the same as a training text",
    "conflict": "equal text in the training data, with another label",
}
"""Kind of an overlap → title of its examples."""


@dataclass(frozen=True)
class StageLeakage:
    """Result of the leakage audit of an evaluate stage."""

    stage: str
    summary: str
    sources: list[list[str]]
    """A row for each searched split, with the columns `SOURCES`."""
    scores: list[list[str]]
    """Main scores of all rows and of rows without overlap; empty if no row overlaps."""
    notes: list[str]
    examples: list[Example]
    """Overlapping rows with their texts."""


def read_stage_leakage(stage: str, report: Report, frame: pd.DataFrame | None) -> StageLeakage | None:
    """Return the result of a stage's audit, None without one; `frame` has its predictions."""
    found = report.facts.get("leakage")
    if found is None:
        return None
    total = report.scores[0].n if report.scores else 0
    return StageLeakage(
        stage,
        _summarize(found, total),
        [
            [name, *(f"{counts.get(kind, 0):,}" for kind in KINDS)]
            for name, counts in found["sources"].items()
        ],
        list(_compare_scores(report.scores, found["clean_scores"])),
        list(_list_notes(found)),
        [] if frame is None else list(_select_examples(found, frame)),
    )


def join_equal(audits: Iterable[StageLeakage | None]) -> list[StageLeakage]:
    """Return the audits of several stages; equal ones are merged, with the names of all their stages."""
    found: list[StageLeakage] = []
    for audit in filter(None, audits):
        same = [number for number, other in enumerate(found) if replace(audit, stage=other.stage) == other]
        for number in same:
            found[number] = replace(audit, stage=f"{found[number].stage}, {audit.stage}")
        if not same:
            found.append(audit)
    return found


def is_trained_on(run: Run, settings: Mapping[str, Any]) -> bool:
    """Return whether an evaluated data set is one of the stages that the evaluated model depends on.

    Also true if only the tokenizer, or a model from which training started, was made from it.
    """
    data, model = (Place(str(settings.get(key, ""))).stage for key in ("data", "model"))
    waiting, seen = [model], set()
    while waiting:
        stage = waiting.pop()
        if stage in run.reports and stage not in seen:
            seen.add(stage)
            waiting += run.made(stage).identity.inputs
    return data in seen


def _summarize(found: Mapping[str, Any], total: int) -> str:
    if not found["sources"]:
        return "There was no training data to search."
    if not found["rows"]:
        return f"None of the {total:,} evaluated rows is in the data that was searched."
    count = len(found["rows"])
    rows = f"{count:,} of {total:,} evaluated rows ({number_format.format_share(count, total)})"
    return f"{rows} are in the data of the model's training."


def _compare_scores(scores: Sequence[Score], clean: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    others = {each.metric: each for each in map(Score.model_validate, clean)}
    for score in number_format.select_main_scores(scores):
        if (other := others.get(score.metric)) is not None:
            yield [
                score.metric,
                f"{number_format.format_score(score)} (n = {score.n:,})",
                f"{number_format.format_score(other)} (n = {other.n:,})",
            ]


def _list_notes(found: Mapping[str, Any]) -> Iterator[str]:
    if found["conflicts"]:
        conflicts = f"{found['conflicts']:,} rows have the text of a training row with another label"
        yield f"Label conflicts: {conflicts}."
    if any(counts.get("short") for counts in found["sources"].values()):
        yield "Rows of fewer than 13 words may be equal by chance, and do not count as overlapping."
    if found["unknown"]:
        yield f"Trained elsewhere, on data that is not known: {', '.join(found['unknown'])}."


def _select_examples(found: Mapping[str, Any], frame: pd.DataFrame) -> Iterator[Example]:
    """Yield overlapping rows: label conflicts first, then equal texts, excerpts and near duplicates."""
    known = found.get("examples") or {"": found["rows"]}  # earlier versions did not store the kind
    order = ("conflict", "exact", "excerpt", "near", "")
    kinds: dict[int, str] = {}
    for kind in order:
        for row in known.get(kind, []):
            kinds.setdefault(row, kind)
    there = {row: number for number, row in enumerate(frame["row"].tolist())}
    for row, kind in [each for each in kinds.items() if each[0] in there][:EXAMPLES]:
        what = [("overlap", [Span(TITLES[kind])])] if kind else []
        yield Example(get_inputs(frame, frame.iloc[there[row]]), [("row", [Span(f"{row:,}")]), *what])


def list_duplicates(run: Run) -> list[list[str]]:
    """Return a row for each step that removed duplicates from a data set, with the columns `DUPLICATES`."""
    rows = []
    for stage, report in run.reports.items():
        counts, characters = report.parts.get("rows", {}), report.parts.get("characters", {})
        for step in counts if report.kind == "dataset" else ():
            if step.startswith("dedup"):
                lost = characters.get(step)
                rows.append(
                    [
                        stage,
                        step,
                        f"{counts[step]:,} ({number_format.format_share(counts[step], counts['in'])})",
                        f"{counts['in']:,}",
                        "" if lost is None else f"{lost:,}",
                    ]
                )
    return rows


def find_unsearched(run: Run) -> list[str]:
    """Return the data sets without a step that removes duplicates."""
    return [
        stage
        for stage, report in run.reports.items()
        if report.kind == "dataset"
        and not any(step.startswith("dedup") for step in report.parts.get("rows", {}))
    ]
