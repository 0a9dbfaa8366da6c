"""The verdict of the page in words: what was trained, how good it is, and whether to believe it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hfpipe import number_format
from hfpipe.references.places import Place
from hfpipe.report import Comparison, Report, Score
from hfpipe.runs.run import Run

State = Literal["good", "warn", "bad", "note"]

BASELINES = {
    "majority": "always the most frequent answer",
    "tfidf": "TF-IDF with logistic regression",
    "copy": "the input, unchanged",
    "lead": "the first sentences of the text",
    "unigram": "how frequent each token is",
    "trigram": "the two tokens before",
    "chance": "any choice",
    "longest": "the longest choice",
    "sentence": "the sentence most like the question",
    "gazetteer": "the tag that a word mostly has",
    "frequent": "the most frequent word",
}
"""What a trivial baseline predicts, for readers who do not know its name."""

FEW = 100
"""Rows below which intervals are so wide that few differences can be found."""
CUT = 0.01
"""Share of tokens beyond the length from which it is worth a warning."""
MISCALIBRATED = 0.1
"""Expected calibration error from which probabilities should not be read as such."""


@dataclass(frozen=True)
class Finding:
    """A sentence with a sign that tells how to take it."""

    state: State
    text: str


@dataclass(frozen=True)
class Verdict:
    """What a reader should know of an evaluation before anything else."""

    title: str
    state: State
    trained: str
    """What was trained, from what, on what."""
    score: Score
    """The main score."""
    measured: str
    """On what it was measured."""
    against: list[Finding]
    """A sentence for each baseline."""
    checks: list[Finding]
    """Reasons for and against trusting the number; requirements first."""

    @property
    def belief(self) -> Finding:
        """Whether to believe the number, in a sentence that sums up the checks."""
        states = [check.state for check in self.checks]
        against, cautions = states.count("bad"), states.count("warn")
        if against:
            return Finding("bad", f"No: {_counted(against, 'thing speaks', 'things speak')} against it.")
        if cautions:
            return Finding("warn", f"With {_counted(cautions, 'caution', 'cautions')}.")
        return Finding("good", "Yes: nothing that was checked speaks against it.")


def read_verdict(run: Run, stage: str) -> Verdict:
    """Return the verdict on an evaluate stage that has scores."""
    report = run.reports[stage]
    settings = run.made(stage).identity.settings
    score = report.scores[0]
    title, state = _title(score, failed=bool(report.unmet))
    return Verdict(
        title=title,
        state=state,
        trained=describe_model(run, str(settings.get("model", ""))),
        score=score,
        measured=_describe_score(score, settings),
        against=[_compare_with(score, comparison) for comparison in score.comparisons],
        checks=[*_check_requirements(report, settings), *_cautions(run, report, settings)],
    )


def _title(score: Score, *, failed: bool) -> tuple[str, State]:
    sides: dict[str, list[str]] = {}
    for comparison in score.comparisons:
        sides.setdefault(number_format.describe_side(comparison, score), []).append(comparison.baseline)
    state: State = (
        "bad" if failed or "worse than" in sides else "good" if list(sides) == ["better than"] else "warn"
    )
    if not sides:
        return f"{score.metric} {number_format.number(score.value)}, without a baseline", state
    order = ("worse than", "no clear difference from", "better than")
    words = "; ".join(f"{side} {_join_names(sides[side])}" for side in order if side in sides)
    head = "A requirement is not met; " if failed else ""
    return head + words if head else words[0].upper() + words[1:], state


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _join_names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def describe_model(run: Run, place: str) -> str:
    """Return what a model is and how it was trained, as far as the run knows it."""
    stage = Place(place).stage
    if stage is None or stage not in run.reports:
        return f"Model {place}, which was not trained in this run."
    report, settings = run.reports[stage], run.made(stage).identity.settings
    task, base = settings.get("task") or {}, settings.get("model")
    parts = [f"{stage}: a model for {task['kind']}" if task.get("kind") else stage]
    if "parameters" in report.facts:
        parts.append(f"{number_format.count(report.facts['parameters'])} parameters")
    if isinstance(base, Mapping):
        parts.append(f"trained from scratch ({base.get('type', 'own config')})")
    elif base is not None:
        parts.append(f"which continues from {place_name(base)}")
    data = run.reports.get(Place(str(settings.get("data", ""))).stage or "")
    if data is not None and data.data is not None and "train" in data.data.splits:
        parts.append(f"on {data.data.splits['train']:,} rows of the data set {place_name(settings['data'])}")
    return ", ".join(parts) + "."


def _describe_score(score: Score, settings: Mapping[str, Any]) -> str:
    split, data = settings.get("split"), settings.get("data")
    where = f" of the {split} split of {place_name(data)}" if split and data else ""
    several = "" if score.spread is None else f"; {number_format.describe_spread(score.spread)}"
    return f"on {score.n:,} rows{where}{several}"


def place_name(place: Any) -> str:
    """Return the name of a stage, or any other place as it is written."""
    return Place(str(place)).stage or str(place)


def _compare_with(score: Score, comparison: Comparison) -> Finding:
    side = number_format.describe_side(comparison, score)
    gap = number_format.number(abs(comparison.difference))
    low, high = (number_format.number(end) for end in (comparison.difference_low, comparison.difference_high))
    p_value = number_format.chance(comparison.p_value)
    signed = number_format.format_difference(comparison)
    known = BASELINES.get(comparison.baseline)
    name = f"{comparison.baseline} ({known})" if known else comparison.baseline
    how = f"difference {signed}, 95 % interval {low} to {high}, {p_value}"
    if side == "no clear difference from":
        return Finding("warn", f"No clear difference from {name}: it may be chance ({how}).")
    word = "Better" if side == "better than" else "Worse"
    return Finding("good" if word == "Better" else "bad", f"{word} than {name} by {gap} ({how}).")


def _check_requirements(report: Report, settings: Mapping[str, Any]) -> Iterator[Finding]:
    for miss in report.unmet:
        yield Finding("bad", f"Not met: {miss}")
    required = settings.get("require") or {}
    met = [name for name in required if not any(f" {name} " in f" {miss} " for miss in report.unmet)]
    if met:
        bounds = ", ".join(_bounds(name, required[name]) for name in met)
        yield Finding("good", f"Required and met: {bounds}.")
    elif not required:
        yield Finding("note", "Nothing is required of the scores (require: in the evaluate stage).")


def _bounds(name: str, bound: Mapping[str, Any]) -> str:
    parts = [f"at least {bound['min']}"] if bound.get("min") is not None else []
    parts += [f"at most {bound['max']}"] if bound.get("max") is not None else []
    parts += [f"better than {bound['beats']}"] if bound.get("beats") is not None else []
    return f"{name} {' and '.join(parts)}"


def _cautions(run: Run, report: Report, settings: Mapping[str, Any]) -> Iterator[Finding]:
    score = report.scores[0]
    if score.n < FEW:
        yield Finding("warn", f"Only {score.n:,} rows were measured: only large differences can be found.")
    if not score.comparisons:
        yield Finding(
            "warn", "No baseline: the number has nothing to be compared with (baselines: majority, …)."
        )
    split = settings.get("split")
    if split == "train":
        yield Finding("bad", "Measured on the rows that it was trained on.")
    elif split == "validation":
        yield Finding("warn", "Measured on the validation split, by which training may have been tuned.")
    yield from _duplicates(run, report, settings)
    yield from _leakage(report)
    yield from _truncated(run, settings)
    yield from _calibration(report)
    for how in number_format.describe_tests(report):
        yield Finding("good", f"{how[0].upper()}{how[1:]}.")
    for note in report.facts.get("notes", []):
        yield Finding("warn", f"{note[0].upper()}{note[1:]}.")
    for missing in report.facts.get("left_out", []):
        yield Finding("note", f"Left out: {missing}")


def _looked_for_leaks(report: Report) -> bool:
    """Tell whether the evaluated rows were looked for in a train split, which is more than their data set."""
    sources = report.facts.get("leakage", {}).get("sources", {})
    return any(name.startswith("train ") for name in sources)


def _duplicates(run: Run, report: Report, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield whether rows that stand in the data twice were looked for."""
    data = run.reports.get(Place(str(settings.get("data", ""))).stage or "")
    if data is None:
        return
    rows = data.parts.get("rows", {})
    found = {name: count for name, count in rows.items() if name.startswith("dedup")}
    if found:
        removed = ", ".join(f"{name} took {count:,}" for name, count in found.items())
        yield Finding("good", f"Duplicates were looked for before the split ({removed}).")
    elif not _looked_for_leaks(report):
        text = "Duplicates were not looked for: rows measured may be in train too (clean: dedup)."
        yield Finding("warn", text)


def _leakage(report: Report) -> Iterator[Finding]:
    """Yield that rows were looked for in the training data without any found; a note says what was found."""
    found = report.facts.get("leakage")
    if found is None or found["rows"]:
        return
    looked = ", ".join(source.partition(" (")[0] for source in found["sources"])  # without its stages
    if looked:
        yield Finding("good", f"No evaluated row is in what the model was trained on ({looked}).")
    for unknown in found["unknown"]:
        yield Finding("note", f"What {unknown} was trained on is not known, and may hold evaluated rows.")


def _truncated(run: Run, settings: Mapping[str, Any]) -> Iterator[Finding]:
    stage = Place(str(settings.get("model", ""))).stage
    counts = run.reports[stage].parts.get("train", {}) if stage in run.reports else {}
    cut, kept = counts.get("truncated"), counts.get("tokens")
    if not cut or not kept:
        return
    share = cut / (cut + kept)
    state: State = "warn" if share >= CUT else "note"
    yield Finding(state, f"{share:.1%} of the training tokens were beyond the length and were cut off.")


def _calibration(report: Report) -> Iterator[Finding]:
    ece = next((score for score in report.scores if score.metric == "ece"), None)
    if ece is not None:
        state: State = "warn" if ece.value >= MISCALIBRATED else "good"
        off = number_format.number(ece.value)
        yield Finding(state, f"Probabilities are off by {off} on average (expected calibration error).")
