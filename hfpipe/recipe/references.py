"""Checks every reference in a recipe: upstream stages, local paths, packages, code and Hub ids."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from hfpipe.contract import Stage
from hfpipe.errors import DataError, Problem
from hfpipe.recipe.document import Document
from hfpipe.recipe.messages import Keys, format_keys, join_names, suggest
from hfpipe.references import hub
from hfpipe.references.places import Code, Glob, MetricPlace, Place, collect, find_matches, locate_place
from hfpipe.references.user_code import find_code
from hfpipe.store.stage_names import MARK, is_copy

_USERINFO = re.compile(r"(?i)[a-z][a-z0-9+.-]*://[^\s/?#@]*@")
"""Start of a setting that is a URL with userinfo; `runner.redaction` has a pattern for longer texts."""


def find_reference_problems(
    document: Document, stages: Mapping[str, Stage], known: Container[str], base: Path
) -> Iterator[Problem]:
    """Yield the references that cannot be resolved; in an invalid stage only `stage:` references are checked.

    `known` are the existing kinds of stage; an unknown kind is reported elsewhere.
    """
    raw = document.data.get("stages")
    if not isinstance(raw, dict):
        return
    yield from _find_passwords(raw, ("stages",))
    given = {name: entry.get("kind") if isinstance(entry, dict) else None for name, entry in raw.items()}
    kinds = {name: kind if isinstance(kind, str) and kind in known else None for name, kind in given.items()}
    trainings: dict[str, list[str]] = {}  # stage with several trainings → their names
    for name in stages:
        if name not in raw:
            trainings.setdefault(owner := name.rpartition(MARK)[0] or name, []).append(name)
            kinds[name] = kinds.get(owner)
    kinds |= {copy.owner: kinds[name] for name, copy in document.copies.items() if name in kinds}
    above: list[str] = []
    for name in raw:
        path = ("stages", name)
        stage = stages.get(name)
        above += trainings.get(name, []) if stage is not None else []
        once = stages.get(next(iter(trainings.get(name, [])), ""))
        found = _collect_places(stage, once, raw[name]) if stage else _find_stage_names(raw[name])
        for keys, place in found:
            yield from _check_place(place, (*path, *keys), above, kinds, base)
            yield from _check_bare_name(place, (*path, *keys), above, kinds)
        for keys, code in collect(stage, Code):
            yield from _check_code(code, (*path, *keys), base)
        for keys, pattern in collect(stage, Glob):
            yield from _check_files(pattern, (*path, *keys), base)
        above += [name, document.copies[name].owner] if name in document.copies else [name]


def _find_passwords(value: Any, path: Keys) -> Iterator[Problem]:
    """Yield each URL that contains a user name or password, because settings are stored in a run's folder."""
    for keys, text in collect(value, str, path):
        if _USERINFO.match(text):
            message = (
                "a URL with a user name or password would be stored in the folder of the run; download the "
                "file first and name its path, or log in with the environment variable HF_TOKEN"
            )
            yield Problem(message, keys)


def _collect_places(
    stage: Stage, training: Stage | None, written: Mapping[str, Any]
) -> Iterator[tuple[Keys, Place]]:
    """Yield the references of a stage; if it summarizes several trainings, also those in their settings."""
    yield from collect(stage, Place)
    for keys, place in collect(training, Place) if training is not None else ():
        if keys[0] in written and keys[0] not in type(stage).model_fields:
            yield keys, place


def _find_stage_names(value: Any) -> Iterator[tuple[Keys, Place]]:
    """Yield the `stage:` references in the settings of an invalid stage."""
    for keys, text in collect(value, str):
        if text.startswith("stage:"):
            yield keys, Place(text)


def _check_place(
    place: Place, path: Keys, above: list[str], kinds: Mapping[str, str | None], base: Path
) -> Iterator[Problem]:
    if place.stage is not None:
        yield from _check_stage(place, place.stage, path, above, kinds)
        return
    try:
        found = locate_place(place, base, {})
        if found is None and place.hub is not None:
            yield from _check_hub(place, *place.hub, path, base)
    except DataError as error:
        yield Problem(str(error), path)
    except OSError as error:
        yield Problem(f"{format_keys(path)}: cannot be looked up: {error.strerror}", path)


def _check_stage(
    place: Place, name: str, path: Keys, above: list[str], kinds: Mapping[str, str | None]
) -> Iterator[Problem]:
    if name == path[1]:
        yield Problem(f"stage {name!r} refers to itself; name a stage above", path)
    elif name not in kinds:
        known = [other for other in dict.fromkeys(above) if not is_copy(other)]
        tail = suggest(name, known) if known else "; there is no stage above this one"
        yield Problem(f"there is no stage {name!r} above{tail}", path)
    elif name not in above:
        yield Problem(f"stage {name!r} is below; move it above {path[1]!r}", path)
    elif place.kinds and kinds[name] not in (None, *place.kinds):
        wanted = join_names(sorted(place.kinds), "or")
        yield Problem(f"stage {name!r} is of kind {kinds[name]!r}; {path[2]!r} takes {wanted}", path)


def _check_bare_name(
    place: Place, path: Keys, above: list[str], kinds: Mapping[str, str | None]
) -> Iterator[Problem]:
    """Report an upstream stage named without `stage:`, which would be read as a Hub id."""
    name = str(place)
    if place.hub is not None and name in above and (not place.kinds or kinds[name] in place.kinds):
        message = f"{name!r} is a Hub id here, and also a stage above"
        yield Problem(f"{message}; write 'stage:{name}', or '{name}@main' for the Hub's", path)


def _check_files(pattern: Glob, path: Keys, base: Path) -> Iterator[Problem]:
    try:
        if not find_matches(pattern, base):
            message = f"{pattern}: no file matches; fix the pattern, which is relative to {base}"
            yield Problem(message, path)
    except DataError as error:
        yield Problem(str(error), path)


def _check_code(code: Code, path: Keys, base: Path) -> Iterator[Problem]:
    try:
        find_code(code, base)
    except DataError as error:
        yield Problem(str(error), path)


def _check_hub(place: Place, name: str, revision: str | None, path: Keys, base: Path) -> Iterator[Problem]:
    """Check a Hub id as far as possible without a network: for a likely mistake or a missing cached copy."""
    if (base / name).exists():
        yield Problem(
            f"{place!r} is a Hub id, but {name} is next to the recipe; did you mean './{name}'?", path
        )
    elif hub.is_offline():
        from huggingface_hub import constants

        metric = isinstance(place, MetricPlace)
        if not (hub.is_metric_cached(name) if metric else hub.is_cached(name, revision)):
            cache = hub.find_metrics_folder() if metric else constants.HF_HUB_CACHE
            action = "load" if metric else "download"
            yield Problem(
                f"{place}: HF_HUB_OFFLINE is set and {cache} contains no copy; "
                f"{action} it once, or unset the variable",
                path,
            )
