"""Formats numbers for people, equally in a terminal and on a page."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hfpipe.report import Comparison, Report, Score, Spread


def is_number(value: Any) -> bool:
    """Return whether a value is a number; a boolean is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def format_number(value: float) -> str:
    """Return a score with its significant digits: three decimals, fewer for large values."""
    size = abs(value)
    if size < 10:
        return f"{value:.3f}"
    if size < 1000:
        return f"{value:.{2 if size < 100 else 1}f}"
    return f"{value:,.0f}" if size < 1e6 else f"{value:.3g}"


def format_count(value: float) -> str:
    """Return a count in full below 100,000, otherwise with three digits and a suffix, such as 1.23M."""
    if value < 1e5:
        return f"{value:,.0f}"
    return _scale(value, ("", "k", "M", "B", "T"))


def format_share(part: float, whole: float) -> str:
    """Return a part in percent, such as 3.2%; a small nonzero part is `< 0.1%`."""
    of = part / whole if whole else 0.0
    return f"{of:.1%}" if of >= 0.0005 or not part else "< 0.1%"


def format_bytes(size: float) -> str:
    """Return a number of bytes with three digits in decimal units, such as 12.3 MB."""
    return _scale(size, (" B", " kB", " MB", " GB", " TB"))


def _scale(value: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:,.3g}{units[-1]}" if value < 999.5 else f"{value:,.0f}{units[-1]}"


def format_duration(seconds: float) -> str:
    """Return a time as 0.9 s, 42 s, 3 min 5 s or 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_interval(value: float, low: float, high: float) -> str:
    """Return a number with its interval, such as 0.884 [0.866, 0.901]."""
    return f"{format_number(value)} [{format_number(low)}, {format_number(high)}]"


def format_score(found: Score | Comparison) -> str:
    """Return a score with its interval; the mean of several trainings with their standard deviation."""
    shown = format_interval(found.value, found.low, found.high)
    if found.spread is None:
        return shown
    value, _, ends = shown.partition(" ")
    return f"{value} ± {format_number(found.spread.sd)} {ends}"


def describe_spread(spread: Spread) -> str:
    """Return what a score is averaged over, such as `mean of 3 seeds, sd 0.012`."""
    return f"mean of {len(spread.values)} {spread.over}, sd {format_number(spread.sd)}"


SPREAD = ("score", "system", "each training", "sd", "by rows", "by seeds", "last checkpoints")
"""Columns of the table of standard deviations."""


def format_spreads(scores: Sequence[Score], first: str) -> list[list[str]]:
    """Return a row for each score and system that was trained several times, with the columns `SPREAD`.

    The contributions of rows and seeds refer to the score of one training. An unknown value is empty.
    """
    rows = []
    for score in scores:
        systems = [(first, score.spread), *((each.baseline, each.spread) for each in score.comparisons)]
        for system, spread in systems:
            if spread is not None:
                each = ", ".join(
                    f"{name.removeprefix('stage:')} {format_number(value)}"
                    for name, value in spread.values.items()
                )
                parts = (spread.sd, spread.rows, spread.seeds, spread.checkpoints)
                known = ["" if part is None else format_number(part) for part in parts]
                rows.append([score.metric, system, each, *known])
    return rows


def format_trials(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return the trials of a search as a table, head and rows, the best first; none for another stage."""
    found = report.facts.get("search")
    if found is None:
        return [], []
    best, order = found["best"], ("complete", "pruned", "fail")
    names, tried = list(best["parameters"]), found["trials"]
    higher = all(each["value"] <= best["value"] for each in tried if each["state"] == "complete")
    tried = sorted(
        tried,
        key=lambda each: (order.index(each["state"]), (each["value"] or 0.0) * (-1 if higher else 1)),
    )
    words = {"complete": "", "pruned": "stopped early", "fail": "failed"}
    rows = [
        [
            str(each["trial"]),
            "" if each["value"] is None else format_number(each["value"]),
            *(format_setting(each["parameters"].get(name)) for name in names),
            words[each["state"]],
        ]
        for each in tried
    ]
    return ["trial", best["metric"], *names, ""], rows


def format_matrix(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return the copies of a stage that a matrix made as a table, head and rows; none for another stage."""
    rows = report.facts.get("matrix", [])
    axes = list(dict.fromkeys(axis for row in rows for axis in row["combination"]))
    counts = list(dict.fromkeys(name for row in rows for name in row["counts"]))
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    scores = [name for name in names if split_class(name)[1] is None][:MAIN]
    cells = [
        [
            *(format_setting(row["combination"].get(axis, "")) for axis in axes),
            *(format_count(row["counts"][name]) if name in row["counts"] else "" for name in counts),
            *(_format_entry(row["scores"].get(name)) for name in scores),
        ]
        for row in rows
    ]
    return [*axes, *counts, *scores] if rows else [], cells


def _format_entry(score: Mapping[str, Any] | None) -> str:
    """Return a score of a matrix with its interval, or its standard deviation over seeds, if it has one."""
    if score is None or not isinstance(score["value"], int | float):
        return ""
    interval = "low" in score
    value, _, ends = (
        format_interval(score["value"], score["low"], score["high"])
        if interval
        else format_number(score["value"])
    ).partition(" ")
    return " ".join(filter(None, (value, f"± {format_number(score['sd'])}" if "sd" in score else "", ends)))


def format_setting(value: Any) -> str:
    """Return the value of a setting, a float with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_difference(comparison: Comparison) -> str:
    """Return the signed difference between the model and a baseline."""
    sign = "-" if comparison.difference < 0 else "+"
    return sign + format_number(abs(comparison.difference))


def format_p_value(p_value: float) -> str:
    """Return a p-value as `p 0.012`, or `p < 0.001`."""
    return "p < 0.001" if p_value < 0.001 else f"p {p_value:.3f}"


SPEED_HEAD = ("system", "score", "size", "rows/s", "p50 of a row", "p95 of a row")
"""Columns of `make_speed_rows`."""


def make_speed_rows(report: Report) -> list[tuple[str, ...]]:
    """Return main score, size and speed of each system of an evaluation that timed them, the model first."""
    systems: Mapping[str, Any] = report.facts.get("speed", {}).get("systems", {})
    values: dict[str, str] = {}
    for main in report.scores[:1]:
        found = dict.fromkeys(list(systems)[:1], main.value)
        found |= {each.baseline: each.value for each in main.comparisons}
        values = {name: f"{main.metric} {format_number(value)}" for name, value in found.items()}
    return [
        (
            name,
            values.get(name, ""),
            format_bytes(timed["bytes"]) if "bytes" in timed else "",
            format_number(timed["rows_per_second"]),
            f"{timed['p50_ms']:.1f} ms",
            f"{timed['p95_ms']:.1f} ms",
        )
        for name, timed in systems.items()
    ]


MAIN = 3
"""Number of scores of the whole split that are shown first; every task lists its main scores first."""


def select_main_scores(scores: Sequence[Score], required: Collection[str] = ()) -> list[Score]:
    """Return the first scores of the whole split, and those that a recipe requires."""
    whole = [score for score in scores if split_class(score.metric)[1] is None]
    return [score for score in whole if score in whole[:MAIN] or score.metric in required]


def describe_verdict(score: Score) -> list[str]:
    """Return a line with the score, its interval and n, then a line for each group of baselines."""
    against: dict[str, list[str]] = {}
    for comparison in score.comparisons:
        found = f"{comparison.baseline} ({format_difference(comparison)})"
        against.setdefault(describe_side(comparison, score), []).append(found)
    return [
        f"{score.metric} {format_score(score)} on {score.n:,} examples",
        *(f"{side} {', '.join(names)}" for side, names in sorted(against.items())),
    ]


def describe_tests(report: Report) -> list[str]:
    """Return notes on how intervals and p-values were computed, as phrases."""
    most = max((len(score.comparisons) for score in report.scores), default=0)
    corrected = [f"p corrected for {most} comparisons (Holm)"] if most > 1 else []
    folds = report.facts.get("folds")
    folded = [f"each row predicted by the one of {folds} trainings that did not see it"] if folds else []
    cluster = report.facts.get("cluster")
    groups = (
        [f"rows resampled in {cluster['groups']:,} groups of equal {cluster['column']}"] if cluster else []
    )
    return corrected + folded + groups


def describe_side(comparison: Comparison, score: Score) -> str:
    """Return whether the model is better or worse than a baseline, if the difference is significant."""
    if not comparison.clear:
        return "no clear difference from"
    return "better than" if (comparison.difference > 0) == score.higher_is_better else "worse than"


_STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Control characters, bidirectional and invisible characters, and lone surrogates."""


def make_visible(text: str) -> str:
    """Return a text on one line, with control and invisible characters as escape sequences."""
    return _STEERING.sub(_escape, text)


def make_lines_visible(text: str) -> str:
    """Apply `make_visible` to each line of a text."""
    return "\n".join(map(make_visible, text.split("\n")))


def _escape(found: re.Match[str]) -> str:
    return " " if found[0] == "\t" else found[0].encode("unicode_escape").decode()


def split_class(metric: str) -> tuple[str, str | None]:
    """Return `f1` and `Science` of `f1[Science]`; None for a metric of the whole split."""
    name, bracket, label = metric.partition("[")
    return (name, label.removesuffix("]")) if bracket else (metric, None)


def format_answer(predicted: Mapping[str, Any]) -> list[str]:
    """Return the prediction for a row, one line per part: `Geography  0.981`, or a text."""
    lists = [value for value in predicted.values() if isinstance(value, list)]
    if lists:
        return [_format_line(part) for parts in lists for part in parts] or ["nothing"]
    return _format_line(predicted).splitlines() or [""]


def _format_line(part: Any) -> str:
    values = part.values() if isinstance(part, Mapping) else [part]
    return "  ".join(format_number(value) if isinstance(value, float) else str(value) for value in values)
