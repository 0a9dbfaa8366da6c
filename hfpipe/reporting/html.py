"""A run as one page that needs nothing else: scores, curves, ledgers, settings, versions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from math import isfinite
from typing import TYPE_CHECKING, Any

import yaml

from hfpipe import number_format
from hfpipe.report import Report, Score
from hfpipe.reporting.charts import Bar, Curve, curve_chart, intervals
from hfpipe.runs.run import Run
from hfpipe.store.artifacts import MODEL

if TYPE_CHECKING:
    from hfpipe.runs.comparison import Compared

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #5b6570; --line: #d8dde3; --paper: #fff;
  --own: #0b62c4; --other: #7d8894; --second: #d9691e }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7ec; --soft: #9aa5b1; --line: #363d46; --paper: #15191e; --own: #62a8f5 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin: 0 0 .3rem } h2 { margin: 2.4rem 0 .6rem; border-bottom: 1px solid var(--line) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem 1.1rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 600; font-size: .85rem } .n { white-space: nowrap }
.counts :is(td, th):not(:first-child) { text-align: right }
pre { overflow-x: auto; font-size: .85rem } code { overflow-wrap: anywhere }
summary { cursor: pointer; margin: .4rem 0 } .unmet { color: #d03b3b; font-weight: 600 }
svg { width: 100%; max-width: 40rem; height: auto; display: block; margin: .6rem 0; font-size: 12px;
  fill: var(--ink) }
.grid { stroke: var(--line) } .tick, .axis { text-anchor: middle; fill: var(--soft) }
.name { text-anchor: end } .own, .other { opacity: .35 } .own, .own-dot, .dot0 { fill: var(--own) }
.other, .other-dot { fill: var(--other) } .dot1 { fill: var(--second) }
.line0, .line1 { fill: none; stroke: var(--own); stroke-width: 2 } .line1 { stroke: var(--second) }
"""
SCORED = ("score", "system", "value", "95 % interval", "difference", "95 % interval", "p")


def page(run: Run) -> str:
    """Return a whole HTML page; every text in it is escaped, and it loads nothing."""
    sections = [
        *(_scores(run, stage, report) for stage, report in run.reports.items() if report.scores),
        _stages(run),
        *(_training(run, stage) for stage in run.trained),
        *(_ledger(stage, report) for stage, report in run.reports.items()),
        _settings(run),
        _versions(run),
    ]
    return _document(_title(run), sections)


def comparison_page(found: Compared) -> str:
    """Return a page of several systems side by side, made as `page` is."""
    first, *others = found.systems
    corrected = f"; p corrected for {len(others)} comparisons (Holm)" if len(others) > 1 else ""
    lines = [
        f"{'; '.join(number_format.verdict(found.scores[0]))}.",
        f"{found.n:,} rows that all were measured on; difference = {first} - the other{corrected}.",
        *(f"Left out: {rows:,} rows of {name}." for name, rows in found.left_out.items()),
    ]
    told = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return _document(", ".join(found.systems), [told + _measured(found.scores, first)])


def _document(title: str, sections: Iterable[str]) -> str:
    title = escape(title)
    return number_format.visible_lines(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
        + "\n".join(filter(None, sections))
        + "\n</body></html>"
    )


def _title(run: Run) -> str:
    folder = next(iter(run.folders.values()), None)
    return folder.resolve().parent.name if folder is not None else "hfpipe"


def _scores(run: Run, stage: str, report: Report) -> str:
    verdict = "; ".join(number_format.verdict(report.scores[0]))
    parts = [
        f"<h2>Scores: {escape(stage)}</h2><p>{escape(verdict)}</p>",
        *(f'<p class="unmet">Not met: {escape(miss)}</p>' for miss in report.unmet),
        *(f"<p>Left out: {escape(missing)}</p>" for missing in report.facts.get("left_out", [])),
        f"<p>Model: <code>{escape(run.model(stage))}</code></p>",
    ]
    return "".join(parts) + _measured(report.scores, MODEL)


def _measured(scores: Sequence[Score], first: str) -> str:
    """Return chart and table of the scores, the rest of the charts and the signatures folded up."""
    whole = [score for score in scores if number_format.split_class(score.metric)[1] is None]
    classes = [score for score in scores if score not in whole]
    parts = [_chart(whole[0], first) if whole else "", _table(SCORED, _rows(whole, first))]
    if len(whole) > 1:
        charts = "".join(_chart(score, first) for score in whole[1:])
        parts.append(f"<details><summary>Charts of the other scores</summary>{charts}</details>")
    if classes:
        parts.append(f"<details><summary>Scores by class</summary>{''.join(_by_class(classes))}</details>")
    signatures = _table(("score", "n", "signature"), ((s.metric, f"{s.n:,}", s.signature) for s in whole))
    return "".join(parts) + f"<details><summary>Signatures</summary>{signatures}</details>"


def _chart(score: Score, first: str) -> str:
    own = Bar(first, score.value, score.low, score.high, own=True)
    others = [Bar(each.baseline, each.value, each.low, each.high) for each in score.comparisons]
    better = "higher" if score.higher_is_better else "lower"
    return intervals([own, *others], f"{score.metric} ({better} is better, 95 % intervals)")


def _by_class(scores: Sequence[Score]) -> Iterator[str]:
    groups: dict[str, list[Bar]] = {}
    for score in scores:
        metric, label = number_format.split_class(score.metric)
        groups.setdefault(metric, []).append(Bar(str(label), score.value, score.low, score.high, own=True))
    for metric, bars in groups.items():
        yield intervals(bars, f"{metric} by class")


def _rows(scores: Iterable[Score], first: str) -> Iterator[tuple[str, ...]]:
    number = number_format.number
    for score in scores:
        yield (score.metric, first, number(score.value), _span(score.low, score.high), "", "", "")
        for other in score.comparisons:
            gap = _span(other.difference_low, other.difference_high)
            p_value = number_format.chance(other.p_value).removeprefix("p ")
            value = number(other.value)
            own = _span(other.low, other.high)
            yield ("", other.baseline, value, own, number_format.format_difference(other), gap, p_value)


def _span(low: float, high: float) -> str:
    return f"{number_format.number(low)} to {number_format.number(high)}"


def _stages(run: Run) -> str:
    rows = (
        (name, report.kind, number_format.duration(report.seconds), report.summary, str(run.folders[name]))
        for name, report in run.reports.items()
    )
    return "<h2>Stages</h2>" + _table(("stage", "kind", "time", "summary", "folder"), rows)


def _training(run: Run, stage: str) -> str:
    history = run.reports[stage].facts.get("history", [])
    lines = [
        Curve(name, points)
        for name, key in (("train", "loss"), ("validation", "eval_loss"))
        if (points := _points(history, key))
    ]
    head = f"<h2>Training: {escape(stage)}</h2><p>Model: <code>{escape(run.model(stage))}</code></p>"
    return head + (curve_chart(lines, "optimizer step", "loss (nats)") if lines else "")


def _points(history: Any, key: str) -> list[tuple[float, float]]:
    """Return (step, value) of every entry that has both; a number that was none has no point."""
    entries = history if isinstance(history, list) else []
    pairs = [(entry.get("step"), entry.get(key)) for entry in entries if isinstance(entry, Mapping)]
    points = [(float(step), float(value)) for step, value in pairs if step is not None and value is not None]
    return [point for point in points if all(map(isfinite, point))]


def _ledger(stage: str, report: Report) -> str:
    groups = report.parts
    if not groups:
        return ""
    entries = list(dict.fromkeys(entry for counts in groups.values() for entry in counts))
    rows = ((entry, *(_count(counts.get(entry)) for counts in groups.values())) for entry in entries)
    return f"<h2>Ledger: {escape(stage)}</h2>" + _table(("", *groups), rows, "counts")


def _count(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _settings(run: Run) -> str:
    parts = []
    for stage in run.reports:
        made = run.made(stage).identity
        text = yaml.safe_dump(made.settings, sort_keys=False, allow_unicode=True)
        head = f"<summary>{escape(stage)} (seed {made.seed}, key {made.key})</summary>"
        parts.append(f"<details>{head}<pre>{escape(text)}</pre></details>")
    return "<h2>Settings</h2>" + "".join(parts)


def _versions(run: Run) -> str:
    found: dict[str, list[str]] = {}
    for report in run.reports.values():
        for library, version in report.versions.items():
            if version not in found.setdefault(library, []):
                found[library].append(version)
    rows = ((library, ", ".join(versions)) for library, versions in found.items())
    return "<h2>Versions</h2>" + _table(("library", "version"), rows) if found else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<div class="wide {kind}"><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(text: str) -> str:
    kind = ' class="n"' if text[:1] in "<+-0123456789" and len(text) < 24 else ""
    return f"<td{kind}>{escape(text)}</td>"
