"""The sections of the page after the verdict: scores, stages, ledgers, settings, versions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from shlex import quote
from typing import Any, NamedTuple

import yaml

from hfpipe import number_format
from hfpipe.report import GitState, Machine, Report, Score
from hfpipe.reporting import diagrams
from hfpipe.reporting.charts import Bar, draw_intervals
from hfpipe.runs.run import Run

COMBINATIONS = 40
"""Maximum number of combinations of a matrix for a chart."""


MEASURED = {
    "vocab_size": "vocabulary (tokens)",
    "measured_on": "measured on the split",
    "fertility": "tokens per word",
    "unknown_rate": "share of unknown tokens",
    "bytes_per_token": "bytes per token",
    "coverage": "share of characters that are known",
    "sample_bytes": "bytes measured",
}
"""Fact of a tokenizer → its description."""


@dataclass(frozen=True)
class Line:
    """A row of a table of scores; `metric` is empty if it is that of the previous row."""

    metric: str
    system: str
    value: str
    difference: str = ""
    p_value: str = ""
    side: str = ""
    """Comparison of the model with this baseline in words."""


@dataclass(frozen=True)
class Scores:
    """The scores of an evaluation, divided into main scores and others."""

    chart: str
    main: list[Line]
    others: list[Line]
    more_charts: list[str]
    class_charts: list[str]
    signatures: list[tuple[str, str, str]]
    spreads: list[list[str]]
    """A row for each main score of a system that was trained several times."""


def make_score_tables(scores: Sequence[Score], main: Sequence[Score], first: str) -> Scores:
    """Return scores as tables and charts; `first` is the system that the others are compared with."""
    whole = [score for score in scores if number_format.split_class(score.metric)[1] is None]
    return Scores(
        chart=_draw_score(whole[0], first) if whole else "",
        main=list(list_score_lines(main, first)),
        others=list(list_score_lines([score for score in whole if score not in main], first)),
        more_charts=[_draw_score(score, first) for score in whole[1:]],
        class_charts=list(_draw_classes([score for score in scores if score not in whole])),
        signatures=[(score.metric, f"{score.n:,}", score.signature) for score in whole],
        spreads=number_format.format_spreads(main, first),
    )


def _draw_score(score: Score, first: str) -> str:
    own = Bar(first, score.value, score.low, score.high, own=True)
    others = [
        Bar(each.baseline.removeprefix("stage:"), each.value, each.low, each.high)
        for each in score.comparisons
    ]
    return draw_intervals([own, *others], _name_axis(score))


def _name_axis(score: Score) -> str:
    better = "higher" if score.higher_is_better else "lower"
    return f"{score.metric} ({better} is better, 95 % intervals)"


def draw_combinations(scores: Mapping[str, Score]) -> str:
    """Return the main score of each combination of a matrix as a chart; none of too many of them."""
    if not 1 < len(scores) <= COMBINATIONS:
        return ""
    bars = [Bar(name, each.value, each.low, each.high, own=True) for name, each in scores.items()]
    return draw_intervals(bars, _name_axis(next(iter(scores.values()))))


def _draw_classes(scores: Sequence[Score]) -> Iterator[str]:
    groups: dict[str, list[Bar]] = {}
    for score in scores:
        metric, label = number_format.split_class(score.metric)
        groups.setdefault(metric, []).append(Bar(str(label), score.value, score.low, score.high, own=True))
    for metric, bars in groups.items():
        yield draw_intervals(bars, f"{metric} by class")


def list_score_lines(scores: Sequence[Score], first: str) -> Iterator[Line]:
    """Yield a row a score and system; `first` is the one that the others are compared with."""
    for score in scores:
        yield Line(score.metric, first, number_format.format_score(score))
        for other in score.comparisons:
            low, high = map(number_format.format_number, (other.difference_low, other.difference_high))
            yield Line(
                "",
                other.baseline,
                number_format.format_score(other),
                f"{number_format.format_difference(other)} [{low}, {high}]",
                number_format.format_p_value(other.p_value).removeprefix("p "),
                number_format.describe_side(other, score).removesuffix(" than").removesuffix(" from"),
            )


def draw_stages(run: Run) -> str:
    """Return a picture of the stages, with the result and the duration of each."""
    inputs = {stage: run.made(stage).identity.inputs for stage in run.reports}
    cached = _find_cached(run)
    nodes = []
    for name in _sort_by_inputs(inputs):
        report = run.reports[name]
        time = number_format.format_duration(report.seconds) + (", cached" if name in cached else "")
        text = ": ".join(filter(None, (_describe_input(report), number_format.make_visible(report.summary))))
        nodes.append(diagrams.Node(name, report.kind, time, text, list(inputs[name])))
    return diagrams.draw_chain(nodes)


def _find_cached(run: Run) -> set[str]:
    """Return the stages that an earlier run had made; a report tells when the run that made it started."""
    started = {
        name: report.provenance.started
        for name, report in run.reports.items()
        if report.provenance is not None
    }
    last = max(started.values(), default="")
    return {name for name, time in started.items() if time != last}


def _describe_input(report: Report) -> str:
    """Return the numbers of rows and tokens that a stage read, as far as it counted them."""
    rows = report.parts.get("rows", {}).get("in")
    if rows is None:
        rows = report.parts.get("train", {}).get("rows", report.parts.get("", {}).get("rows_in"))
    if rows is None and report.scores:
        rows = report.scores[0].n
    if not isinstance(rows, int):
        return ""
    tokens = report.parts.get("train", {}).get("tokens")
    more = f" with {number_format.format_count(tokens)} tokens" if isinstance(tokens, int) else ""
    return f"reads {rows:,} rows{more}"


def _sort_by_inputs(inputs: Mapping[str, Collection[str]]) -> list[str]:
    """Return the stages in order, but each after the stages that it reads, which may be newer."""
    placed: list[str] = []
    while rest := [name for name in inputs if name not in placed]:
        ready = (name for name in rest if not set(inputs[name]) & set(rest))
        placed.append(next(ready, rest[0]))
    return placed


class StageLine(NamedTuple):
    """A row of the table of stages."""

    name: str
    kind: str
    time: str
    made: str
    """Whether it was executed by the last run."""
    finished: str
    summary: str
    folder: str


def list_stage_lines(run: Run) -> list[StageLine]:
    """Return a row for each stage, with whether the last run made it or an earlier one."""
    cached = _find_cached(run)
    return [
        StageLine(
            name,
            report.kind,
            number_format.format_duration(report.seconds),
            "cached" if name in cached else "run",
            _format_end(run, name),
            report.summary,
            str(run.folders[name]),
        )
        for name, report in run.reports.items()
    ]


def _format_end(run: Run, stage: str) -> str:
    seconds = (run.folders[stage] / "report.json").stat().st_mtime
    return f"{datetime.fromtimestamp(seconds, tz=timezone.utc):%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True)
class Flow:
    """The flow of the rows, characters or tokens of a stage."""

    title: str
    picture: str
    counts: list[tuple[str, str]]


@dataclass(frozen=True)
class StageLedger:
    """The counts of a stage: flows, and other counts."""

    stage: str
    flows: list[Flow]
    head: list[str]
    rows: list[list[str]]
    facts: list[tuple[str, str]]


def read_ledger(stage: str, report: Report) -> StageLedger | None:
    """Return the ledger of a stage, if it counted anything."""
    groups, facts = report.parts, _list_plain_facts(report)
    if not groups and not facts:
        return None
    entries = list(dict.fromkeys(entry for counts in groups.values() for entry in counts))
    rows = [[entry, *(_format_value(counts.get(entry)) for counts in groups.values())] for entry in entries]
    return StageLedger(stage, list(_make_flows(report)), ["", *groups], rows, facts)


def _make_flows(report: Report) -> Iterator[Flow]:
    for name, counts in report.parts.items():
        amounts = {entry: count for entry, count in counts.items() if isinstance(count, int | float)}
        if "in" in amounts and "kept" in amounts:
            parts = {"kept": amounts["kept"]} | {
                entry: count for entry, count in amounts.items() if entry not in ("in", "kept") and count > 0
            }
            yield _make_flow(f"{name}: {_format_value(amounts['in'])} came in", parts)
        elif {"tokens", "truncated"} <= amounts.keys():
            yield _make_flow(
                f"tokens of {name}", {"kept": amounts["tokens"], "truncated": amounts["truncated"]}
            )
    if report.data is not None and any(report.data.splits.values()):
        yield _make_flow("splits", report.data.splits)


def _make_flow(title: str, counts: Mapping[str, float]) -> Flow:
    shown = [(name, _format_value(count)) for name, count in counts.items()]
    return Flow(title, diagrams.draw_stacked(counts, title), shown)


def _list_plain_facts(report: Report) -> list[tuple[str, str]]:
    """Return the facts of a tokenizer that are numbers or words."""
    if report.kind != "tokenizer":
        return []
    return [
        (
            MEASURED.get(name, name.replace("_", " ")),
            f"{value:.4g}" if isinstance(value, float) else _format_value(value),
        )
        for name, value in report.facts.items()
        if isinstance(value, str | int | float)
    ]


def _format_value(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int | float) else str(value)


def format_settings(run: Run) -> list[tuple[str, str]]:
    """Return for each stage its name with seed and key, and its settings as YAML."""
    texts = []
    for stage in run.reports:
        made = run.made(stage).identity
        text = yaml.safe_dump(made.settings, sort_keys=False, allow_unicode=True)
        texts.append((f"{stage} (seed {made.seed}, key {made.key})", text))
    return texts


def list_versions(run: Run) -> list[tuple[str, str]]:
    """Return the versions of each library when the stages ran."""
    found: dict[str, list[str]] = {}
    for report in run.reports.values():
        for library, version in report.versions.items():
            if version not in found.setdefault(library, []):
                found[library].append(version)
    return [(library, ", ".join(each)) for library, each in found.items()]


def list_provenance(run: Run) -> tuple[list[str], list[list[str]]]:
    """Return a table of the provenance of the stages: its header, and a row for each stage."""
    head = ["stage", "started", "took", "commit of the recipe", "command", "machine", "FLOPs", "energy"]
    rows = []
    for stage, report in run.reports.items():
        known = report.provenance
        if known is None:
            continue
        flops, energy = report.facts.get("flops"), report.facts.get("energy_kwh")
        rows.append(
            [
                stage,
                known.started.replace("T", " ").replace("+00:00", " UTC"),
                number_format.format_duration(report.seconds),
                format_commit(known.git),
                " ".join(map(quote, known.command)),
                format_machine(known.machine),
                f"{flops:.3g}" if flops else "",
                f"{energy:.3g} kWh" if energy else "",
            ]
        )
    kept = [number for number, name in enumerate(head) if any(row[number] for row in rows)]
    return [head[number] for number in kept], [[row[number] for number in kept] for row in rows]


def format_commit(git: GitState | None) -> str:
    """Return the commit, and whether there were uncommitted changes."""
    return "" if git is None else git.commit[:12] + (" with changes" if git.dirty else "")


def format_machine(machine: Machine) -> str:
    """Return processor, cores, memory and GPUs in one line."""
    memory = f", {number_format.format_bytes(machine.memory)}" if machine.memory else ""
    gpus = "".join(f"; {gpu}" for gpu in machine.gpus)
    return f"{machine.cpu}, {machine.cores} cores{memory}{gpus}"


def list_files_read(run: Run) -> list[tuple[str, str]]:
    """Return the local files and packages that the stages read, with the digest of their content."""
    found = [item for stage in run.reports for item in run.made(stage).identity.files.items()]
    return [(name, digest[:16]) for name, digest in dict.fromkeys(found)]


def format_rerun(run: Run) -> str:
    """Return the command that recreates missing parts of the run."""
    folder = next(iter(run.folders.values()), None)
    if run.recipe is None:
        return ""
    root = folder.parent.parent if folder is not None else None
    where = "" if root is None or str(root) == "runs" else f" --runs {quote(str(root))}"
    return f"hfpipe run {quote(str(run.recipe))}{where}"
