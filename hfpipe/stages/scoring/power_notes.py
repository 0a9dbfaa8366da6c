"""Statistical power of a split, which `plan` shows before the evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hfpipe.evaluation.power import DISAGREEMENT, POWER, find_smallest_difference
from hfpipe.report import SIGNIFICANT, DataFacts
from hfpipe.stages.repeats.members import get_data_split
from hfpipe.stages.scoring.bounds import Bound
from hfpipe.stages.scoring.clusters import select_cluster_column
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from hfpipe.stages.evaluate import Evaluate

PROPORTIONS = ("accuracy", "exact_match", "subset_accuracy", "f1_micro", "top5_accuracy")
"""Scores that are proportions of rows."""


def format_power_notes(stage: Evaluate, task: TaskConfig | None, facts: DataFacts | None) -> Iterator[str]:
    """Yield the smallest detectable difference of a split, and a warning for each bound below it.

    Only for scores that are proportions of rows, not for perplexity or a squared error.
    """
    rows = None if facts is None else facts.splits.get(get_data_split(stage.split))
    if task is None or facts is None or rows is None:
        return
    if "pretrain" in task.stages or task.head(facts).get("problem_type") == "regression":
        return
    smallest = find_smallest_difference(rows)
    if smallest is None:
        yield f"warning: {rows:,} rows are too few to show any difference; evaluate more rows"
        return
    yield (
        f"{rows:,} rows can show a difference of {smallest:.3f} or more in the share of correct rows "
        f"(power {100 * POWER:.0f} %, p < {SIGNIFICANT:g}, two systems that disagree on "
        f"{100 * DISAGREEMENT:.0f} % of the rows)"
    )
    cluster = select_cluster_column(stage.cluster, task, facts)
    if cluster is not None:
        yield f"rows of one {cluster} are resampled together: where they agree, it takes larger differences"
    for name, bound in stage.require.items():
        if name in PROPORTIONS:
            yield from _note_unreachable(name, bound, rows, smallest)


def _note_unreachable(name: str, bound: Bound, rows: int, smallest: float) -> Iterator[str]:
    percent = 100 if name == "exact_match" and max(bound.min or 0, bound.by) > 1 else 1
    if bound.beats is not None and 0 < bound.by / percent < smallest:
        yield (
            f"warning: require: {name}: by {bound.by:g} is less than the {percent * smallest:.2g} "
            f"that {rows:,} rows can show"
        )
    # The lower end of the interval if all rows are correct.
    best = SIGNIFICANT ** (1 / rows)
    if bound.min is not None and bound.min / percent > best:
        yield (
            f"warning: require: {name}: min {bound.min:g} is more than {rows:,} rows can show: "
            f"with all of them right the interval begins at {percent * best:.3g}"
        )
