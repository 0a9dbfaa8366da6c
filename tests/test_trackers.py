"""Trackers of `report_to`: they have the numbers of `metrics.jsonl` under its names, and need no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_hf_training import STEADY, parts
from trackio.sqlite_storage import SQLiteStorage

from hfpipe.contract import RunContext
from hfpipe.store.artifacts import read_metrics
from hfpipe.training.loop import train_model

pytestmark = pytest.mark.slow
FOUR_STEPS = STEADY | {"max_steps": 4, "eval_steps": 2}
TOTALS = {f"train/{name}" for name in ("train_runtime", "train_loss", "total_flos")}
TOTALS |= {f"train/train_{name}_per_second" for name in ("samples", "steps")}
"""What Transformers does not send to Trackio."""
Numbers = dict[tuple[str, int], float]


def logged(folder: Path) -> Numbers:
    """Return the numbers of `metrics.jsonl` by name and step, named as trackers group them."""
    return {
        (
            f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}",
            entry["step"],
        ): value
        for entry in read_metrics(folder)
        for name, value in entry.items()
        if name not in ("step", "steps", "time")
    }


def test_tensorboard_has_the_numbers_of_the_metrics_file(
    context: Callable[..., RunContext], tmp_path: Path
) -> None:
    ctx = context("tracked")
    train_model(parts(tmp_path), FOUR_STEPS | {"report_to": "tensorboard"}, None, ctx)

    [events] = (ctx.folder / "runs").glob("*/events.*")
    board = EventAccumulator(str(events)).Reload()
    found = {
        (tag, event.step): event.value for tag in board.Tags()["scalars"] for event in board.Scalars(tag)
    }
    expected = logged(ctx.folder)
    assert {"train/loss", "train/tokens_per_second", "train/memory_bytes", "eval/loss"} <= {
        name for name, _ in expected
    }
    assert found == pytest.approx(expected, rel=1e-6)


def test_trackio_has_the_numbers_of_the_metrics_file(
    context: Callable[..., RunContext], tmp_path: Path
) -> None:
    ctx = context("tracked")
    tracked = {"report_to": "trackio", "project": "small", "run_name": "first"}
    train_model(parts(tmp_path), FOUR_STEPS | tracked, None, ctx)

    entries = SQLiteStorage.get_logs("small", "first")
    found = {
        (name, entry["train/global_step"]): value
        for entry in entries
        for name, value in entry.items()
        if name.startswith(("train/", "eval/")) and name != "train/global_step"
    }
    expected = {key: value for key, value in logged(ctx.folder).items() if key[0] not in TOTALS}
    assert found == pytest.approx(expected, rel=1e-6)
