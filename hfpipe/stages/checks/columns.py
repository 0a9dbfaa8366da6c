"""Checks of the columns that stages read, against finished data sets or else their settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from hfpipe.contract import Stage
from hfpipe.errors import Problem
from hfpipe.recipe.document import KeyProblem
from hfpipe.recipe.messages import Keys, find_similar_name, join_names, suggest
from hfpipe.references.places import Place
from hfpipe.report import DataFacts
from hfpipe.stages import artifacts
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from hfpipe.stages.dataset import Dataset
    from hfpipe.stages.tokenizer import Tokenizer

Above = Mapping[str, Stage]
"""Name of each stage above → its settings."""
Facts = Mapping[str, DataFacts]
"""Name of each finished data set stage → its facts."""


def check_columns(
    task: TaskConfig, data: Place, above: Above, facts: Facts, where: tuple[str, ...] = ("task",)
) -> Iterator[Problem]:
    """Check the columns that a task reads, against the facts or else the settings of the data set."""
    name = data.stage or ""
    if name in facts:
        yield from (replace(p, path=(*where, *p.path)) for p in task.check(facts[name]))
        return
    there = artifacts.get_columns(data, above, facts)
    for column in task.columns:
        if there is not None and column not in there:
            message = explain_missing("column", column, data, there)
            keys = [key for key, value in task if value == column][:1]
            if not keys or keys[0] in task.model_fields_set:
                yield Problem(message, (*where, *keys))
            else:
                yield Problem(f"{message} (the task's {keys[0]!r} names another)", where)


def explain_missing(what: str, name: str, data: Place, there: set[str]) -> str:
    """Return that a data set has no column or split of this name, and the most similar one."""
    close = find_similar_name(name, there)
    tail = f"; did you mean {close!r}?" if close else f"; it has {join_names(sorted(there))}"
    return f"{data} has no {what} {name!r}{tail}"


def explain_dropped(data: Place, facts: Facts) -> str:
    """Return which rows a data set has dropped, as a possible reason for missing values."""
    known_facts = facts.get(data.stage or "")
    if known_facts is None or not known_facts.dropped:
        return ""
    came = sum(known_facts.splits.values()) + sum(known_facts.dropped.values())
    reasons = ", ".join(f"{why} took {count:,}" for why, count in known_facts.dropped.items())
    return f" ({sum(known_facts.dropped.values()):,} of {came:,} rows were dropped: {reasons})"


def check_dataset(stage: Dataset, above: Above, facts: Facts) -> Iterator[Problem]:
    """Yield columns and splits in the settings that neither the source nor the data set will have."""
    source = stage.source.stage
    yield from _check_limit(stage, above, facts)
    given = artifacts.get_columns(source, above, facts) if source is not None else None
    if source is not None and given is not None:
        for ours, theirs in stage.columns.items():
            if theirs.partition(".")[0] not in given:
                yield Problem(explain_missing("column", theirs, source, given), ("columns", ours))
    there = set(stage.columns) or given
    if there is None:
        return  # all columns of the source are kept, and known only after reading it
    for path, column in _list_named_columns(stage):
        if column not in there:
            yield KeyProblem(f"there is no column {column!r}{suggest(column, sorted(there))}", path)


def _check_limit(stage: Dataset, above: Above, facts: Facts) -> Iterator[Problem]:
    """Yield the splits to sample that the source, a data set, does not have."""
    source = stage.source.stage
    splits = artifacts.get_splits(source, above, facts) if source is not None else None
    if source is None or splits is None:
        return  # known only after reading the source
    for split in stage.limit if isinstance(stage.limit, dict) else ():
        if split not in splits:
            yield KeyProblem(explain_missing("split", split, source, splits), ("limit", split))


def _list_named_columns(stage: Dataset) -> Iterator[tuple[Keys, str]]:
    """Yield the columns named in `text`, `labels` and `clean`, with their paths."""
    yield from ((("text", number), column) for number, column in enumerate(stage.text))
    yield from ((("labels", column), column) for column in stage.labels)
    for number, step in enumerate(stage.clean):
        dropped = step.drop.root if step.drop is not None else {}
        yield from ((("clean", number, "drop", column), column) for column in dropped)


def check_tokenizer(stage: Tokenizer, above: Above, facts: Facts) -> Iterator[Problem]:
    """Yield columns to read that the data set lacks."""
    there = artifacts.get_columns(stage.data, above, facts)
    for number, column in enumerate(stage.text):
        if there is not None and column not in there:
            path = ("text", number) if "text" in stage.model_fields_set else ("data",)
            yield Problem(explain_missing("column", column, stage.data, there), path)
