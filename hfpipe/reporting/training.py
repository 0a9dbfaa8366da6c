"""The trainings of a run on the page: learning curves, with a line for each seed or fold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from hfpipe.reporting.blocks import Block, Example, Span, clip_text
from hfpipe.reporting.charts import Curve, draw_curves
from hfpipe.reporting.verdict import describe_model
from hfpipe.runs.run import Run
from hfpipe.stages.repeats.members import is_member
from hfpipe.store.artifacts import SAMPLES, read_lines
from hfpipe.store.stage_names import MARK

if TYPE_CHECKING:
    import pandas as pd

CURVES = (
    ("loss (nats)", (("train", "loss"), ("validation", "eval_loss"))),
    ("learning rate", (("learning rate", "learning_rate"),)),
    ("gradient norm", (("gradient norm", "grad_norm"),)),
    ("tokens per second", (("tokens per second", "tokens_per_second"),)),
)
"""Label of a chart → its curves with their names in the log."""
SHOWN = 6
"""Maximum number of validations whose generated texts are shown."""


class TrainedStage(NamedTuple):
    """A training stage on the page, with all its trainings."""

    stage: str
    about: str
    members: list[tuple[str, str, str]]
    """Name, summary and place of each model."""
    charts: list[str]
    blocks: list[Block]
    """Texts that the first model generated during training."""


def read_trainings(run: Run) -> list[TrainedStage]:
    """Return the training stages of a run for the page, in order."""
    groups: dict[str, list[str]] = {}
    for stage in run.trained:
        owner = stage.rpartition(MARK)[0] if is_member(stage) else stage
        groups.setdefault(owner, []).append(stage)
    curves = run.curves
    return [
        TrainedStage(
            owner,
            describe_model(run, f"stage:{stages[0]}"),
            [(stage, run.reports[stage].summary, run.model(stage)) for stage in stages],
            draw_trainings({_get_short_name(stage): curves[curves["stage"] == stage] for stage in stages}),
            list(_make_sample_blocks(read_lines(run.folders[stages[0]] / SAMPLES))),
        )
        for owner, stages in groups.items()
    ]


def _make_sample_blocks(entries: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    """Yield the generated text of each sample at several validations, including the last."""
    if not entries:
        return
    every = -(-len(entries) // SHOWN)
    shown = entries[::-1][::every][::-1]
    examples = [
        Example(
            [],
            [("text", [Span(clip_text(first["input"]))])]
            + [
                (f"step {entry['step']:,}", [Span(clip_text(entry["samples"][number]["output"]))])
                for entry in shown
            ],
        )
        for number, first in enumerate(shown[-1]["samples"])
    ]
    yield Block("Generated while it was trained", examples=examples)


def _get_short_name(stage: str) -> str:
    """Return the part of a training's name that differs within its stage, as `seed 2` or `fold3`."""
    member = stage.rpartition(MARK)[2] if is_member(stage) else ""
    return f"seed {member}" if member.isdecimal() else member


def draw_trainings(logs: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return a chart for each logged quantity; `logs` has the part of `Run.curves` of each training.

    Several trainings share a chart, with a line each.
    """
    return [chart for label, entries in CURVES for chart in _draw_quantities(logs, label, dict(entries))]


def _draw_quantities(
    logs: Mapping[str, pd.DataFrame], label: str, entries: Mapping[str, str]
) -> Iterator[str]:
    if len(logs) == 1:
        [log] = logs.values()
        lines = [Curve(name, points) for name, key in entries.items() if (points := extract_points(log, key))]
        if lines:
            yield draw_curves(lines, "optimizer step", label)
        return
    for name, key in entries.items():
        lines = [Curve(short, points) for short, log in logs.items() if (points := extract_points(log, key))]
        if lines:
            yield draw_curves(lines, "optimizer step", f"{name} {label}" if len(entries) > 1 else label)


def extract_points(log: pd.DataFrame, key: str) -> list[tuple[float, float]]:
    """Return (step, value) of every entry that has both; missing numbers have no point."""
    if key not in log:
        return []
    pairs = zip(log["step"].astype(float), log[key].astype(float), strict=True)
    return sorted(pair for pair in pairs if all(map(isfinite, pair)))
