"""Intervals hold the true score, and tests find a difference that is not there, as often as they promise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "bench"))

import interval_coverage as simulation

from hfpipe.metrics.metric import Metric

EQUAL = [name for name, *_ in simulation.AA]
SIMULATED = {population.name: population for population in simulation.SKEWED}


@pytest.mark.parametrize("rows", [6, 20, 50])
@pytest.mark.parametrize("right", [0.5, 0.8, 0.95, 0.99])
def test_the_interval_of_a_share_holds_the_true_one_at_least_as_often_as_it_says(
    rows: int, right: float
) -> None:
    assert simulation.share_coverage(rows, right) > 0.93


@pytest.mark.slow
@pytest.mark.parametrize("name", ["macro F1, 5 uneven classes", "BLEU", "perplexity"])
def test_the_interval_of_a_skewed_score_holds_the_true_one(name: str) -> None:
    ours, percentile = simulation.coverage(SIMULATED[name], 50, 300)
    assert 0.915 <= ours <= 0.985
    assert ours >= percentile


@pytest.mark.slow
def test_rows_of_one_group_are_not_counted_as_independent() -> None:
    ours, independent = simulation.group_coverage(50, 0.7, 200)
    assert ours >= 0.91
    assert independent < 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "in_groups"), simulation.AA, ids=[name for name, *_ in simulation.AA]
)
def test_equal_systems_differ_in_one_of_twenty_trials(name: str, metric: Metric, in_groups: bool) -> None:
    ours, _ = simulation.false_alarms(metric, 50, 300, in_groups=in_groups)
    assert 0.015 <= ours <= 0.085


@pytest.mark.slow
@pytest.mark.parametrize("rows", [50, 200, 2000])
def test_the_smallest_difference_of_a_plan_is_found_four_times_in_five(rows: int) -> None:
    assert 0.75 <= simulation.power(rows, 5000) <= 0.87
