"""Expands a `matrix`: a copy of each stage for each combination of the settings that it depends on.

A stage is not copied if no axis changes its settings or those of a stage that it reads. Combinations with the
same values of the settings that a stage depends on share one copy. In the document, the copies replace the
stage as if they were written there, so that all other code handles only ordinary stages.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

from hfpipe.errors import Problem
from hfpipe.recipe.document import Copy, Document, KeyProblem
from hfpipe.recipe.matrix.axes import AxisReader, Value
from hfpipe.recipe.messages import Keys
from hfpipe.recipe.overrides import OverrideError, set_value
from hfpipe.references.places import collect
from hfpipe.store.stage_names import MARK, make_combination_name

MOST = 500
"""Maximum number of stages after expansion."""
LONGEST = 100
"""Maximum number of characters in the name of a copy."""
_REFERENCE = re.compile(r"(?:stage:)?([^@/:\s]+)(?:@(\S+))?")


class _Reference(NamedTuple):
    """A stage that another one reads."""

    path: Keys
    """Path of the reference in the settings of the other stage."""
    name: str
    rest: str | None
    """The part after `@`: a seed, a fold or a combination."""


@dataclass(frozen=True)
class _Combination:
    """One value of each axis, and the stages processed so far in this combination."""

    values: Mapping[str, Value]
    names: dict[str, str] = field(default_factory=dict)
    """Stage → its copy."""
    effects: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Stage → the varied settings that it depends on."""

    def find_varied(self, stage: str) -> dict[str, tuple[Any, Keys]]:
        """Return the varied settings of a stage, each with its value and the path of that value."""
        found = [entry for value in self.values.values() for entry in value.settings.items()]
        return {name: entry for name, entry in found if name.partition(".")[0] == stage}

    def find_axes(self, effect: Mapping[str, Any]) -> dict[str, Value]:
        """Return the axes that set some of these settings, with their values."""
        return {axis: value for axis, value in self.values.items() if effect.keys() & value.settings}


def expand_matrix(document: Document) -> None:
    """Replace the stages that the matrix of a recipe changes by their copies, or add its problems."""
    if "matrix" not in document.data:
        return
    reader = AxisReader(document)
    axes, problems = reader.axes, reader.problems
    if not problems:
        chosen = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
        problems = _expand(document, [_Combination(values) for values in chosen])
    document.problems += map(document.locate_problem, problems)


def _expand(document: Document, combinations: list[_Combination]) -> list[Problem]:
    """Replace the stages of a document by their copies, or return the problems and change nothing."""
    problems: list[Problem] = []
    copies: dict[str, Copy] = {}
    made: dict[str, Any] = {}
    for stage, raw in document.data["stages"].items():
        if not isinstance(raw, dict) or not isinstance(stage, str):  # reported when the stages are read
            made[stage] = raw
            continue
        for combination in combinations:
            name, settings, found = _copy(stage, raw, combination, copies, problems)
            if name not in made:
                made[name] = settings
                copies |= {name: found} if found is not None else {}
        if len(made) > MOST:
            return [Problem(f"matrix: it expands to more stages than the limit of {MOST}", ("matrix",))]
    long = [name for name in copies if len(name) > LONGEST]
    if long:
        fix = "give the values of an axis short names, as size: {small: {…}, large: {…}}"
        message = f"matrix: the name {long[0]!r} has more than {LONGEST} characters; {fix}"
        problems.append(Problem(message, ("matrix",)))
    if not problems:
        document.data["stages"], document.copies = made, copies
    return list(dict.fromkeys(problems))


def _copy(
    stage: str,
    raw: Mapping[str, Any],
    combination: _Combination,
    copies: Mapping[str, Copy],
    problems: list[Problem],
) -> tuple[str, Any, Copy | None]:
    """Return the name and settings of a stage in one combination; the Copy is None if nothing changes it."""
    changed = {stage: copy.deepcopy(raw)}
    varied = combination.find_varied(stage)
    written: dict[Keys, Keys] = {}
    for name, (value, place) in varied.items():
        try:
            path = set_value(changed, tuple(name.split(".")), copy.deepcopy(value))
            written[path[1:]] = place
        except OverrideError as wrong:
            problems.append(KeyProblem(f"{name}: {wrong}", place))
    settings = changed[stage]
    reads = [each for each in _find_references(settings) if each.name in combination.names]
    reads = [each for each in reads if not _names_copy(each, copies)]
    effect = {name: value for name, (value, _) in varied.items()}
    for each in reads:
        effect |= combination.effects[each.name]
    if not effect:
        return stage, settings, None
    name = _name_copy(stage, combination, effect, copies)
    combination.names[stage], combination.effects[stage] = name, effect
    for path, read, rest in reads:
        tail = f"{MARK}{rest}" if rest is not None else ""
        set_value(settings, path, f"stage:{combination.names[read]}{tail}")
    values = {axis: value.value for axis, value in combination.find_axes(effect).items()}
    names = {combination.names[each]: each for each in (stage, *(read.name for read in reads))}
    return name, settings, Copy(stage, values, effect, written, names)


def _name_copy(
    stage: str, combination: _Combination, effect: Mapping[str, Any], copies: Mapping[str, Copy]
) -> str:
    """Return the name of a copy, which is that of an earlier copy with the same settings if there is one."""
    same = json.dumps(effect, sort_keys=True)
    for name, made in copies.items():
        if made.owner == stage and json.dumps(made.settings, sort_keys=True) == same:
            return name
    labels = {axis: value.label for axis, value in combination.find_axes(effect).items()}
    return make_combination_name(stage, labels)


def _find_references(settings: Mapping[str, Any]) -> Iterator[_Reference]:
    """Yield the references to stages: `stage:NAME`, or the source of a data set."""
    source = settings.get("source")
    if isinstance(source, dict) and isinstance(name := source.get("stage"), str):
        if (found := _REFERENCE.fullmatch(name)) is not None:
            yield _Reference(("source", "stage"), *found.groups())
        settings = {**settings, "source": {**source, "stage": None}}
    for path, text in collect(settings, str):
        if text.startswith("stage:") and (found := _REFERENCE.fullmatch(text)) is not None:
            yield _Reference(path, *found.groups())


def _names_copy(reference: _Reference, copies: Mapping[str, Copy]) -> bool:
    """Return whether a reference names one copy, as `stage:lm@size=large` or `stage:lm@size=large@1`."""
    full = f"{reference.name}{MARK}{reference.rest}"
    return full in copies or full.rpartition(MARK)[0] in copies
