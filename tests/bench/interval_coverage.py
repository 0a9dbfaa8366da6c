"""Measures what the intervals and tests of scores promise: coverage, type-I error and power by simulation.

`python tests/bench/interval_coverage.py [TRIALS]` prints the tables of the manual, and
`tests/test_coverage.py` holds a part of them within bounds. Rows are drawn from populations whose scores are
known and counted by hfpipe's own tallies; no model is run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy.stats import binom

from hfpipe.evaluation.power import DISAGREEMENT, find_smallest_difference
from hfpipe.metrics.intervals import compute_interval, compute_proportion_interval
from hfpipe.metrics.metric import Loss, Metric, Share
from hfpipe.metrics.paired import compare_series
from hfpipe.metrics.paired_tests import run_mcnemar_test
from hfpipe.metrics.resampling import Sample, sample_independent_rows
from hfpipe.metrics.scores.confusion import F1
from hfpipe.metrics.scores.language import Perplexity
from hfpipe.metrics.scores.overlap import Bleu
from hfpipe.metrics.series import Proportion, Series
from hfpipe.metrics.tally import Tally

Columns = Mapping[str, np.ndarray]
RESAMPLES = 1000
GROUP = 10
"""Rows a group where rows are dependent."""
CORRELATION = 0.3
"""Intraclass correlation of the rows of a group."""


class Right(Share):
    """Share of rows that are right, from the column `right`."""

    name = "right"

    def each(self, columns: Columns) -> np.ndarray:
        return columns["right"]


class CountedBleu(Bleu):
    """BLEU of rows whose n-grams are counted already."""

    def stats(self, columns: Columns) -> np.ndarray:
        return columns["counts"]


@dataclass(frozen=True)
class Population:
    """Where rows come from and what is measured of them."""

    name: str
    metric: Metric
    draw: Callable[[np.random.Generator, int], Columns]

    @property
    def truth(self) -> float:
        """The score of very many rows."""
        return _truth(self)


@cache
def _truth(population: Population) -> float:
    columns = population.draw(np.random.default_rng(10**6), 400_000)
    return float(population.metric.value(population.metric.stats(columns).sum(axis=0)))


def classes(shares: tuple[float, ...], right: float) -> Callable[[np.random.Generator, int], Columns]:
    """Return a drawer of rows of classes with these shares; a prediction is right this often."""

    def draw(random: np.random.Generator, rows: int) -> Columns:
        reference = random.choice(len(shares), rows, p=shares)
        other = (reference + random.integers(1, len(shares), rows)) % len(shares)
        return {"reference": reference, "prediction": np.where(random.random(rows) < right, reference, other)}

    return draw


def draw_translations(random: np.random.Generator, rows: int) -> Columns:
    """Draw sentences of some 20 words whose n-grams match more or less often, by sentence."""
    length = np.maximum(4, random.poisson(random.gamma(4, 5, rows)))
    said = np.maximum(4, np.round(length * random.normal(0.97, 0.1, rows))).astype(int)
    total = np.stack([np.maximum(said - order, 0) for order in range(4)], axis=1)
    quality = random.beta(4, 4, rows)[:, None] ** (1 + 0.8 * np.arange(4))
    counts = [said[:, None], length[:, None], random.binomial(total, quality), total]
    return {"counts": np.concatenate(counts, axis=1).astype(np.float64)}


def draw_documents(random: np.random.Generator, rows: int) -> Columns:
    """Draw documents of 1 to some hundred tokens whose loss differs by document."""
    tokens = np.maximum(1, np.round(random.lognormal(3, 0.8, rows)))
    loss = 3 + 0.5 * random.gamma(1, 1, rows) + random.normal(0, 1, rows) / np.sqrt(tokens)
    return {"nll": loss * tokens, "tokens": tokens}


def draw_losses(random: np.random.Generator, rows: int) -> Columns:
    """Draw losses of a classifier: mostly small, some large."""
    return {"nll": random.gamma(0.5, 1, rows)}


SKEWED = [
    Population("macro F1, 3 even classes", F1("macro", 3), classes((1 / 3, 1 / 3, 1 / 3), 0.8)),
    Population("macro F1, 5 uneven classes", F1("macro", 5), classes((0.4, 0.25, 0.15, 0.1, 0.1), 0.8)),
    Population("BLEU", CountedBleu(), draw_translations),
    Population("perplexity", Perplexity(), draw_documents),
    Population("loss", Loss(), draw_losses),
]


def measured(metric: Metric, columns: Columns, sample: Sample, seed: int) -> Series:
    """Return a score as an evaluation has it."""
    tally = Tally([metric], RESAMPLES, seed, sample)
    tally.add(np.arange(len(sample.units)), columns)
    return tally.series(metric)


def coverage(population: Population, rows: int, trials: int) -> tuple[float, float]:
    """Return how often the interval holds the true score, and how often a percentile interval would."""
    inside = np.zeros(2)
    for trial in range(trials):
        random = np.random.default_rng([trial, rows])
        series = measured(
            population.metric, population.draw(random, rows), sample_independent_rows(rows), trial
        )
        plain = np.quantile(series.values[1:][np.isfinite(series.values[1:])], [0.025, 0.975])
        found = compute_interval(series)
        inside += found.low <= population.truth <= found.high, plain[0] <= population.truth <= plain[1]
    return inside[0] / trials, inside[1] / trials


def share_coverage(rows: int, right: float) -> float:
    """Return the exact coverage of the interval of a share of independent rows, without simulation."""
    total = 0.0
    for successes in range(rows + 1):
        found = compute_proportion_interval(Proportion(successes, rows, True, np.empty((0, 2))), rows, 0.95)
        total += binom.pmf(successes, rows, right) * (found.low <= right <= found.high)
    return float(total)


def draw_groups(random: np.random.Generator, groups: int, right: float) -> np.ndarray:
    """Draw whether the rows of groups are right: beta-binomial, shape (groups, GROUP)."""
    size = (1 - CORRELATION) / CORRELATION
    chance = random.beta(right * size, (1 - right) * size, groups)
    return (random.random((groups, GROUP)) < chance[:, None]).astype(np.float64)


def grouped(groups: int) -> Sample:
    """Return a sample of groups of rows."""
    return Sample(np.repeat(np.arange(groups), GROUP), "group")


def group_coverage(groups: int, right: float, trials: int) -> tuple[float, float]:
    """Return how often the interval of grouped rows holds the true share, and with rows by themselves."""
    inside = np.zeros(2)
    for trial in range(trials):
        columns = {"right": draw_groups(np.random.default_rng([trial, groups]), groups, right).ravel()}
        for number, sample in enumerate((grouped(groups), sample_independent_rows(groups * GROUP))):
            found = compute_interval(measured(Right(), columns, sample, trial))
            inside[number] += found.low <= right <= found.high
    return inside[0] / trials, inside[1] / trials


def false_alarms(metric: Metric, rows: int, trials: int, *, in_groups: bool = False) -> tuple[float, float]:
    """Return how often two systems that are equally good differ at p < 0.05, by hfpipe and the bootstrap.

    They share half of what makes a row hard. In groups `rows` is the number of groups.
    """
    found = np.zeros(2)
    sample = grouped(rows) if in_groups else sample_independent_rows(rows)
    for trial in range(trials):
        random = np.random.default_rng([trial, rows, 3])
        series = [measured(metric, each, sample, trial) for each in equal_systems(random, sample)]
        result = compare_series(*series, "twin")
        found += result.p_value < 0.05, (result.p_bootstrap or 0) < 0.05
    return found[0] / trials, found[1] / trials


def equal_systems(random: np.random.Generator, sample: Sample) -> list[Columns]:
    """Draw what two systems of one quality put out: right or wrong, its loss, and a class of three."""
    rows, groups = len(sample.units), sample.count
    hard = random.normal(size=rows)
    found = []
    for _ in range(2):
        own = random.normal(size=groups)[sample.units] if sample.grouped else random.normal(size=rows)
        effort = hard + own + random.normal(size=rows) * sample.grouped
        right = effort < 0.8
        reference = np.arange(rows) % 3
        found.append(
            {
                "right": right.astype(np.float64),
                "nll": np.exp(0.5 * effort),
                "reference": reference,
                "prediction": np.where(right, reference, (reference + 1) % 3),
            }
        )
    return found


def power(rows: int, trials: int) -> float:
    """Return how often McNemar's test finds the smallest difference that `plan` names."""
    smallest = find_smallest_difference(rows) or 1.0
    apart = max(DISAGREEMENT, smallest)
    random = np.random.default_rng(rows)
    first, second, _ = random.multinomial(
        rows, [(apart + smallest) / 2, (apart - smallest) / 2, 1 - apart], trials
    ).T
    return float(
        np.mean([run_mcnemar_test(*pair).p_value < 0.05 for pair in zip(first, second, strict=True)])
    )


def table(*head: str) -> None:
    """Print the head of a table in Markdown."""
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}", flush=True)


def show_intervals(trials: int) -> None:
    """Print the coverage of intervals."""
    table("share of right rows", "true share", "coverage")
    for rows in ROWS:
        shares = ", ".join(f"{share_coverage(rows, right):.3f}" for right in SHARES)
        print(f"| n = {rows:,} | {', '.join(map(str, SHARES))} | {shares} |")
    table("groups of 10 rows, correlation 0.3", "true share", "coverage", "with rows as independent")
    for groups, right in product((20, 50, 200), (0.7, 0.95)):
        ours, plain = group_coverage(groups, right, trials)
        print(f"| {groups} | {right} | {ours:.3f} | {plain:.3f} |", flush=True)
    table("score", "n", "coverage", "of the percentile interval")
    for population, rows in product(SKEWED, ROWS):
        ours, plain = coverage(population, rows, trials)
        print(f"| {population.name} | {rows:,} | {ours:.3f} | {plain:.3f} |", flush=True)


def show_tests(trials: int) -> None:
    """Print type-I errors and power."""
    table("equal systems", "n", "p < 0.05", "by the bootstrap")
    for (name, metric, in_groups), rows in product(AA, ROWS):
        if not (in_groups and rows > 200):
            ours, plain = false_alarms(metric, rows, trials, in_groups=in_groups)
            print(f"| {name} | {rows:,} | {ours:.3f} | {plain:.3f} |", flush=True)
    table("smallest difference", "n", "power")
    for rows in ROWS:
        print(f"| {find_smallest_difference(rows):.3f} | {rows:,} | {power(rows, 20_000):.3f} |")


ROWS = (20, 50, 200, 2000)
SHARES = (0.5, 0.8, 0.95, 0.99)
AA = [
    ("accuracy (McNemar)", Right(), False),
    ("macro F1 (randomization)", F1("macro", 3), False),
    ("loss (randomization)", Loss(), False),
    ("accuracy, n groups of 10 rows (randomization)", Right(), True),
    ("loss, n groups of 10 rows (randomization)", Loss(), True),
]

if __name__ == "__main__":
    TRIALS = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    show_intervals(TRIALS)
    show_tests(TRIALS)
