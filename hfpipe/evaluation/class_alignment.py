"""Aligns the classes of data and models by name, so that all are scored on the classes of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfpipe.advice import advise
from hfpipe.errors import Problem
from hfpipe.recipe.messages import join_names
from hfpipe.report import DataFacts

if TYPE_CHECKING:
    import datasets

KINDS = ("label", "labels", "float")
"""Types of a column that a head predicts: one class, any number of classes, a number."""
WANTED = {"label": "one class per row", "labels": "lists of classes", "float": "numbers"}
SHOWN = 10
"""Maximum number of class names in a message."""


@dataclass(frozen=True)
class AlignedSystem:
    """The classes that a model predicts."""

    name: str
    """Name in the recipe."""
    known: DataFacts
    """Types of the predicted columns, and the names of their classes, in the order of its head."""
    headed: bool = True
    """Whether it has an output for each class, instead of generating class names."""


@dataclass(frozen=True)
class Alignment:
    """The classes on which all systems are scored: those of the model, with their names in the data."""

    facts: DataFacts
    """The facts of the data set, with the classes of the model."""
    ids: Mapping[str, Sequence[int]]
    """Column → new id of each class id of the data; only changed columns."""
    outputs: Mapping[str, Sequence[int]]
    """System → index of each class in the outputs of the system, or -1; only systems that differ."""

    def align_rows(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Return a split with the class ids of its label columns replaced; other columns stay on disk."""
        for column, ids in self.ids.items():
            names = self.facts.labels[column]
            values = [_replace_ids(value, ids) for value in rows[column]]
            feature = _create_feature(names, many=self.facts.columns[column] == "labels")
            rows = rows.remove_columns(column).add_column(column, values, feature=feature)
        return rows


def _replace_ids(value: Any, ids: Sequence[int]) -> Any:
    """Return the new class ids; other values, such as -1 or null, are kept, and rejected by the task."""
    if isinstance(value, list):
        return [_replace_ids(each, ids) for each in value]
    return ids[value] if value in range(len(ids)) else value


def _create_feature(names: Sequence[str], *, many: bool) -> Any:
    import datasets

    one = datasets.ClassLabel(names=list(names))
    return datasets.List(one) if many else one


def align(data: DataFacts, systems: Sequence[AlignedSystem], labels: Mapping[str, str]) -> Alignment:
    """Align the classes of a data set and of other systems with those of the first system.

    `labels` maps class names of models to those of the data. Requires that `problems` yields nothing.
    """
    model, *others = systems
    names, ids, outputs = dict(data.labels), {}, {}
    for column, classes in _list_classes(model.known, data):
        wanted = _rename_classes(classes, labels)
        mine = data.labels[column]
        if mine != wanted:
            names[column] = wanted
            ids[column] = [wanted.index(name) for name in mine]
        for other in others:
            theirs = _rename_classes(other.known.labels.get(column, wanted), labels)
            if other.headed and theirs != wanted:
                outputs[other.name] = [theirs.index(name) if name in theirs else -1 for name in wanted]
    return Alignment(data.model_copy(update={"labels": names}), ids, outputs)


def find_alignment_problems(
    data: DataFacts, place: str, systems: Sequence[AlignedSystem], labels: Mapping[str, str]
) -> Iterator[Problem]:
    """Yield reasons why systems cannot be scored on a data set: another kind of label, missing classes."""
    found = list(_find_mapping_problems(systems, labels))
    yield from found
    if found:
        return
    model = systems[0]
    for system in systems:
        for column, kind in system.known.columns.items():
            there = data.columns.get(column)
            if kind in KINDS and there in KINDS and there != kind:
                yield Problem(_describe_other_kind(system, column, kind, there, place, data))
        for column, classes in _list_classes(system.known, data):
            yield from _find_missing_classes(
                system, _rename_classes(classes, labels), column, data.labels[column], place
            )
            wanted = _rename_classes(model.known.labels.get(column, classes), labels)
            extra = [name for name in _rename_classes(classes, labels) if name not in wanted]
            if extra:
                yield Problem(
                    f"the baseline {system.name} has the classes {_list_names(extra)}, and {model.name} only "
                    f"{_list_names(wanted)}; use {system.name} as the model and {model.name} as the baseline"
                )


def _find_mapping_problems(systems: Sequence[AlignedSystem], labels: Mapping[str, str]) -> Iterator[Problem]:
    """Yield keys of `labels` that are not classes of a model, and names given to two classes."""
    there = {name for system in systems for names in system.known.labels.values() for name in names}
    for key in labels:
        if key not in there:
            has = f"the model has {_list_names(sorted(there))}" if there else "the model has no classes"
            yield Problem(f"labels: no class is called {key!r}; {has}", ("labels", key))
    for system in systems:
        for names in system.known.labels.values():
            new = _rename_classes(names, labels)
            twice = sorted({name for name in new if new.count(name) > 1})
            if twice:
                yield Problem(
                    f"labels: two classes of {system.name} get the name {twice[0]!r}; give each its own",
                    ("labels",),
                )


def _describe_other_kind(
    system: AlignedSystem, column: str, kind: str, there: str, place: str, data: DataFacts
) -> str:
    gives = _describe(kind, system.known.labels.get(column, ()))
    holds = _describe(there, data.labels.get(column, ()))
    return (
        f"{system.name} predicts {gives}, and column {column!r} of {place} holds {holds}; "
        f"use data with {WANTED[kind]}, or a model that was trained on {WANTED[there]}"
    )


def _describe(kind: str, names: Sequence[str]) -> str:
    return WANTED[kind] + (f" ({_list_names(names)})" if names else "")


def _find_missing_classes(
    system: AlignedSystem, names: Sequence[str], column: str, wanted: Sequence[str], place: str
) -> Iterator[Problem]:
    missing = [name for name in wanted if name not in names]
    if not missing:
        return
    alike = {
        name: other
        for name in names
        for other in missing
        if name.casefold() == other.casefold() and name not in wanted
    }
    if len(alike) == len(missing):
        advice = f"write {advise(labels=alike)}"
    else:
        free = next((name for name in names if name not in wanted), names[0])
        example = advise(labels={free: missing[0]})
        advice = f"if they are the same under other names, write each, as {example}, or drop such rows"
    yield Problem(
        f"{system.name} lacks the classes {_list_names(missing)} of column {column!r} of {place}; it has "
        f"{_list_names(names)}; {advice}"
    )


def _list_classes(known: DataFacts, data: DataFacts) -> Iterator[tuple[str, list[str]]]:
    """Yield the class columns that a model predicts, if the data set has them with the same type."""
    for column, names in known.labels.items():
        if column in data.labels and known.columns.get(column) == data.columns.get(column):
            yield column, names


def _rename_classes(names: Sequence[str], labels: Mapping[str, str]) -> list[str]:
    return [labels.get(name, name) for name in names]


def _list_names(names: Sequence[str]) -> str:
    return join_names(list(names[:SHOWN])) + (
        f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    )
