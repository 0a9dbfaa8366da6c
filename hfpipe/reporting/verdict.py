"""The verdict of the page in words: the model, its score, and whether the score is reliable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from hfpipe import number_format
from hfpipe.errors import join_words
from hfpipe.references.places import Place
from hfpipe.report import Comparison, Report, Score
from hfpipe.reporting.leakage import is_trained_on
from hfpipe.runs.run import Run
from hfpipe.tasks import TASKS

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
"""Trivial baseline → what it predicts."""

FEW = 100
"""Number of rows below which intervals are too wide to detect most differences."""
CUT = 0.01
"""Fraction of truncated tokens above which this is a limit of the model."""
LEAKED = 0.01
"""Fraction of evaluated rows in the training data above which there is a warning, independent of the
score."""
FROM_AUDIT = ("leakage: ", "label conflicts: ")
"""Prefixes of notes that repeat the result of the leakage audit."""
MISCALIBRATED = 0.1
"""Expected calibration error above which probabilities are unreliable."""


@dataclass(frozen=True)
class Finding:
    """A sentence with its severity."""

    state: State
    text: str
    is_limit: bool = False
    """Whether it limits the use of the model, even if it does not affect the score."""


@dataclass(frozen=True)
class Verdict:
    """Summary of an evaluation for the top of the page."""

    title: str
    state: State
    trained: str
    """The model, its starting point and its data."""
    score: Score
    """The main score."""
    measured: str
    """The evaluated data."""
    against: list[Finding]
    """A sentence for each baseline."""
    gates: list[Finding]
    """Requirements of the recipe, and whether they are met."""
    checks: list[Finding]
    """Reasons for and against trusting the score."""

    @property
    def limits(self) -> list[str]:
        """Limits of the model for its users, as sentences."""
        found = (*self.gates, *self.checks)
        return [each.text for each in found if each.is_limit or each.state in ("warn", "bad")]

    @property
    def belief(self) -> Finding:
        """Whether the score is reliable, in a sentence that summarizes the checks."""
        starts: dict[State, str] = {"bad": "No.", "warn": "With caution."}
        for state, start in starts.items():
            found = [check.text for check in self.checks if check.state == state]
            if found:
                more = f" {len(found) - 1} more under What was checked." if len(found) > 1 else ""
                return Finding(state, f"{start} {found[0]}{more}")
        passed = all(check.state == "good" for check in self.checks)
        how = "every check below passed" if passed else "no check below speaks against it; some have notes"
        text = f"Yes, as the score of this model on these rows: {how}."
        if any(finding.state != "good" for finding in self.against):
            text += " It does not show that the model is better than every baseline."
        return Finding("good", text)


def read_verdict(run: Run, stage: str) -> Verdict:
    """Return the verdict on an evaluate stage that has scores."""
    report = run.reports[stage]
    settings = run.made(stage).identity.settings
    score = report.scores[0]
    model = name_place(settings.get("model", ""))
    title, state = _describe_result(model, score, failed=bool(report.unmet))
    return Verdict(
        title=title,
        state=state,
        trained=describe_model(run, str(settings.get("model", ""))),
        score=score,
        measured=_describe_score(score, settings),
        against=[_compare_with(run, score, comparison) for comparison in score.comparisons],
        gates=list(_check_requirements(report, settings)),
        checks=list(_find_cautions(run, report, settings)),
    )


def _describe_result(model: str, score: Score, *, failed: bool) -> tuple[str, State]:
    sides: dict[str, list[str]] = {}
    for comparison in score.comparisons:
        side = number_format.describe_side(comparison, score)
        sides.setdefault(side, []).append(Place(comparison.baseline).stage or comparison.baseline)
    state: State = (
        "bad" if failed or "worse than" in sides else "good" if list(sides) == ["better than"] else "warn"
    )
    if not sides:
        value = number_format.format_number(score.value)
        return f"{model}: {score.metric} {value}, without a baseline", state
    order = ("worse than", "no clear difference from", "better than")
    words = "; ".join(f"{side} {join_words(sides[side])}" for side in order if side in sides)
    return f"{model}: {'a requirement is not met; ' if failed else ''}{words}", state


def describe_model(run: Run, place: str) -> str:
    """Return a description of a model and its training, as far as known from the run."""
    stage = Place(place).stage
    if stage is None or stage not in run.reports:
        return f"Model {place}, which was not trained in this run."
    report, settings = run.reports[stage], run.made(stage).identity.settings
    task, base = settings.get("task") or {}, settings.get("model")
    parts = [f"{stage}: a model for {task['kind']}" if task.get("kind") else stage]
    if "parameters" in report.facts:
        parts[0] += f" with {number_format.format_count(report.facts['parameters'])} parameters"
    data = run.reports.get(Place(str(settings.get("data", ""))).stage or "")
    if data is not None and data.data is not None and "train" in data.data.splits:
        rows = f"{data.data.splits['train']:,} rows of the data set '{name_place(settings['data'])}'"
        parts.append(f"trained on {rows}")
    if start := _describe_start(run, base):
        parts.append(start)
    return ", ".join(parts) + "."


def _describe_start(run: Run, base: Any) -> str:
    """Return a description of the starting point of a training, from its setting `model`."""
    if isinstance(base, Mapping):
        return f"from scratch ({base.get('type', 'own config')})"
    if base is None:
        return ""
    stage = Place(str(base)).stage
    task = run.made(stage).identity.settings.get("task") if stage in run.reports else None
    kind = f" (a model for {task['kind']})" if task and task.get("kind") else ""
    return f"starting from '{name_place(base)}'{kind}"


def _describe_score(score: Score, settings: Mapping[str, Any]) -> str:
    split, data = settings.get("split"), settings.get("data")
    where = f" of the {split} split of '{name_place(data)}'" if split and data else ""
    several = "" if score.spread is None else f"; {number_format.describe_spread(score.spread)}"
    return f"on {score.n:,} rows{where}{several}"


def name_place(place: Any) -> str:
    """Return the name of a stage, or any other place as written."""
    return Place(str(place)).stage or str(place)


def _describe_baseline(run: Run, baseline: str) -> str:
    """Return a baseline's name, with a short description if there is one."""
    stage = Place(baseline).stage
    if stage is None or stage not in run.reports:
        known = BASELINES.get(baseline)
        return f"{baseline} ({known})" if known else baseline
    start, _, _ = _describe_start(run, run.made(stage).identity.settings.get("model")).partition(" (")
    return f"{stage} (trained {start})" if start else stage


def _compare_with(run: Run, score: Score, comparison: Comparison) -> Finding:
    side = number_format.describe_side(comparison, score)
    low, high = (
        number_format.format_number(end) for end in (comparison.difference_low, comparison.difference_high)
    )
    p_value = number_format.format_p_value(comparison.p_value)
    signed = number_format.format_difference(comparison)
    name = _describe_baseline(run, comparison.baseline)
    states: dict[str, State] = {"better than": "good", "worse than": "bad"}
    text = f"{side[0].upper()}{side[1:]} {name}: {signed} [{low}, {high}], {p_value}."
    return Finding(states.get(side, "warn"), text)


def _check_requirements(report: Report, settings: Mapping[str, Any]) -> Iterator[Finding]:
    for miss in report.unmet:
        yield Finding("bad", f"Not met: {miss}")
    required = settings.get("require") or {}
    met = [name for name in required if not any(f" {name} " in f" {miss} " for miss in report.unmet)]
    if met:
        bounds = ", ".join(_describe_bounds(name, required[name]) for name in met)
        yield Finding("good", f"Required and met: {bounds}.")
    elif not required and not report.unmet:
        yield Finding("note", "Nothing is required of the scores (require: in the evaluate stage).")


def _describe_bounds(name: str, bound: Mapping[str, Any]) -> str:
    parts = [f"at least {bound['min']}"] if bound.get("min") is not None else []
    parts += [f"at most {bound['max']}"] if bound.get("max") is not None else []
    parts += [f"better than {bound['beats']}"] if bound.get("beats") is not None else []
    return f"{name} {' and '.join(parts)}"


def _find_cautions(run: Run, report: Report, settings: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _check_leakage(report, settings)  # first, as it matters most
    yield from _check_sample(run, report, settings)
    yield from _check_duplicates(run, report, settings)
    yield from _check_truncation(run, settings)
    yield from _check_calibration(report)
    for how in number_format.describe_tests(report):
        words = how.replace("p corrected", "p-values are corrected")
        yield Finding("good", f"{words[0].upper()}{words[1:]}.")
    for note in report.facts.get("notes", []):
        if not note.startswith(FROM_AUDIT):  # said above
            yield Finding("warn", f"{note[0].upper()}{note[1:]}.")
    for missing in report.facts.get("left_out", []):
        yield Finding("note", f"Left out: {missing}")


def _check_sample(run: Run, report: Report, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield problems with the evaluated rows, and a missing baseline."""
    score = report.scores[0]
    if score.n < FEW:
        yield Finding("warn", f"Only {score.n:,} rows were measured: only large differences can be found.")
    if not score.comparisons:
        fix = f"baselines: [{', '.join(_list_trivial_baselines(report)) or 'stage:NAME'}]"
        yield Finding("warn", f"No baseline: the number has nothing to be compared with ({fix}).")
    split = settings.get("split")
    if split == "train" and is_trained_on(run, settings):
        yield Finding("bad", "Measured on the rows that it was trained on.")
    elif split == "validation":
        yield Finding("warn", "Measured on the validation split, by which training may have been tuned.")


def _list_trivial_baselines(report: Report) -> Sequence[str]:
    """Return the names of the trivial baselines of the evaluated task; none for a user's task."""
    settings = report.facts.get("task") or {}
    task = TASKS.get(settings.get("kind", ""))
    if task is not None:
        with suppress(ValidationError):  # settings of an earlier version
            return task.model_validate(settings).baselines
    return ()


def _has_leakage_audit(report: Report) -> bool:
    """Return whether the evaluated rows were searched in a train split."""
    sources = report.facts.get("leakage", {}).get("sources", {})
    return any(name.startswith("train ") for name in sources)


def _check_duplicates(run: Run, report: Report, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield whether duplicate rows were searched in the data."""
    data = run.reports.get(Place(str(settings.get("data", ""))).stage or "")
    if data is None:
        return
    rows = data.parts.get("rows", {})
    found = {name: count for name, count in rows.items() if name.startswith("dedup")}
    if found:
        removed = ", ".join(f"{name} removed {count:,}" for name, count in found.items())
        yield Finding("good", f"Duplicates were looked for before the split ({removed}).")
    elif not _has_leakage_audit(report):
        text = "Duplicates were not looked for: rows measured may be in train too (clean: dedup)."
        yield Finding("warn", text)


def _check_leakage(report: Report, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield whether evaluated rows are in the training data, and whether the score depends on them."""
    found = report.facts.get("leakage")
    if found is None:
        if settings.get("leakage") is False:
            yield Finding("warn", "Evaluated rows were not looked for in the training data (leakage: false).")
        return
    looked = ", ".join(source.partition(" (")[0] for source in found["sources"])  # without its stages
    if found["rows"]:
        yield _describe_overlap(report.scores[0], found)
    elif looked:
        yield Finding("good", f"No evaluated row is in the data that the model was trained on ({looked}).")
    if found["conflicts"]:
        share = found["conflicts"] / report.scores[0].n
        text = (
            f"Label conflicts: {found['conflicts']:,} rows have the text of a training row and another label."
        )
        yield Finding("warn" if share >= LEAKED else "note", text)
    for unknown in found["unknown"]:
        yield Finding("note", f"What {unknown} was trained on is not known, and may hold evaluated rows.")


def _describe_overlap(score: Score, found: Mapping[str, Any]) -> Finding:
    """Return the number of rows in the training data, and the score on the others."""
    count = len(found["rows"])
    of = number_format.format_share(count, score.n)
    text = f"Leakage: {count:,} of {score.n:,} rows ({of}) are in the data of the model's training"
    clean = [Score.model_validate(each) for each in found.get("clean_scores", [])]
    other = next((each for each in clean if each.metric == score.metric), None)
    if other is None:
        return Finding("warn", f"{text}.")
    interval = number_format.format_interval(other.value, other.low, other.high)
    text = f"{text}; on the other {other.n:,} {score.metric} is {interval}"
    if score.low <= other.value <= score.high:
        state: State = "warn" if count / score.n >= LEAKED else "note"
        return Finding(state, f"{text}, within the interval above.")
    worse = (other.value < score.value) == score.higher_is_better
    return Finding("bad" if worse else "warn", f"{text}, outside the interval above.")


def _check_truncation(run: Run, settings: Mapping[str, Any]) -> Iterator[Finding]:
    stage = Place(str(settings.get("model", ""))).stage
    if stage is None or stage not in run.reports:
        return
    counts = run.reports[stage].parts.get("train", {})
    cut, kept = counts.get("truncated"), counts.get("tokens")
    if not cut or not kept:
        return
    share = number_format.format_share(cut, cut + kept)
    length = (run.made(stage).identity.settings.get("task") or {}).get("length")
    beyond = f"the maximum length of {length} tokens" if length else "the maximum length"
    text = f"{share} of the training tokens were beyond {beyond} and were cut off."
    yield Finding("note", text, is_limit=cut / (cut + kept) >= CUT)


def _check_calibration(report: Report) -> Iterator[Finding]:
    ece = next((score for score in report.scores if score.metric == "ece"), None)
    if ece is not None:
        state: State = "warn" if ece.value >= MISCALIBRATED else "good"
        off = number_format.format_number(ece.value)
        limit = f"expected calibration error; {MISCALIBRATED} or more is a warning"
        yield Finding(state, f"Probabilities are off by {off} on average ({limit}).")
