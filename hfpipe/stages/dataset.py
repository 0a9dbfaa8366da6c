"""The `dataset` stage: rows from a source, cleaned with every loss counted, split by content."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import Self

from hfpipe.contract import RunContext, Stage
from hfpipe.data.cleaning.steps import Clean
from hfpipe.data.labels.settings import LabelColumn
from hfpipe.data.readers.file_settings import FileSettings
from hfpipe.errors import DataError, Problem
from hfpipe.references.places import Code, Glob, PackageSource, Place, StageSource, find_matches, locate_place
from hfpipe.references.user_code import find_code, load_code
from hfpipe.report import DataFacts, Report

if TYPE_CHECKING:
    from hfpipe.data.build import Plan
    from hfpipe.data.rows import SourceRows


def _check_word(name: str) -> str:
    if not re.fullmatch(r"\w+(\.\w+)*", name):
        raise ValueError(
            f"{name!r} is not a valid name of a split; write letters, digits and _, as `validation`"
        )
    return name


Split = Annotated[str, AfterValidator(_check_word)]
Count = Annotated[int, Field(ge=1)]
Files = Glob | list[Glob]
READING = tuple(FileSettings.model_fields)
"""Settings of how files are read."""
OPTIONS: dict[str, tuple[str, ...]] = {
    "hub": ("config", "revision"),
    "files": READING,
    "package": READING,
    "python": ("reads",),
    "stage": (),
}
"""Kind of source → the settings that it allows."""


class Source(FileSettings):
    """Where the rows come from: exactly one of `hub`, `files`, `package`, `python`, `stage`."""

    hub: str | None = None
    """Hub id of a data set, as `owner/name`."""
    config: str | None = None
    """With `hub`: the data set's configuration (subset)."""
    revision: str | None = None
    """With `hub`: a branch, tag or commit."""
    files: Files | dict[Split, Files] | None = None
    """Local files, patterns or a folder; a mapping of split → files keeps those splits.

    In a folder or pattern, files whose names (or the folders they are in) state train, validation (valid,
    val, dev) or test become these splits, and a file without a split name among them is an error.
    """
    package: PackageSource | None = None
    """`DISTRIBUTION/path`: a data file inside an installed Python package."""
    python: Code | None = None
    """`file.py:function`: a function that yields rows as mappings."""
    reads: list[Place] = []
    """With `python`: references to files, each given to the function as a path; part of the stage's key."""
    stage: StageSource | None = None
    """Name of a data set stage above, to clean or split it further."""

    licence: str | None = Field(default=None, min_length=1, exclude=True)
    """Licence of the data, as `cc-by-sa-4.0`, for the model cards; it changes nothing that is made."""

    @model_validator(mode="after")
    def _require_one_source(self) -> Self:
        given = [name for name in OPTIONS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"write exactly one of {', '.join(OPTIONS)}, not {' and '.join(given) or 'none'}"
            )
        for name in dict.fromkeys(option for options in OPTIONS.values() for option in options):
            unset = getattr(self, name) == type(self).model_fields[name].default
            if not unset and name not in OPTIONS[given[0]]:
                raise ValueError(f"`{name}` does not go with `{given[0]}`")
        return self

    @property
    def is_pool(self) -> bool:
        """Whether the rows have no splits; file names in a folder or pattern may define some."""
        if self.files is None:
            return self.package is not None or self.python is not None
        listed = self.files if isinstance(self.files, list) else [self.files]
        return all(isinstance(one, str) and re.fullmatch(r"[^*?\[]+\.\w+", one) for one in listed)


class Dataset(Stage):
    """Loads rows, maps columns, cleans, removes duplicates and splits; every lost row is counted."""

    version: ClassVar[int] = 3
    kind: Literal["dataset"] = "dataset"
    source: Source
    """Where the rows come from."""
    columns: dict[str, str] = {}
    """Name of a column in hfpipe → its name in the source; if empty, all columns keep their names."""
    text: list[str] = []
    """Columns of text, which cleaning changes and duplicates are compared by.

    By default `text` (and its pair `text_pair` or `text_b`), otherwise every column that looks like text or
    contains conversations, and known groups such as `question` and `context`; otherwise the only other column
    of strings or of lists of words. The first thousand rows decide: labels, `id`, numbers, dates, addresses,
    identifiers, constants and few repeated values are not text. If this is ambiguous, the stage stops with an
    error. Words and messages are cleaned separately. A row is dropped if all its text columns are null.
    """
    labels: dict[str, LabelColumn] = {}
    """Column of labels → its type: a class, a list of classes, or a number for regression.

    By default `label` and `labels` are labels, and `tags` where there are `words`: strings, whole numbers and
    booleans are classes, lists are lists of classes, other numbers are numbers. Files of csv and tsv contain
    strings, so write `number` there. Class names are normalized to NFC, without surrounding white space; an
    empty cell is a missing label.
    """
    clean: list[Clean] = []
    """Cleaning steps, in order."""
    split: dict[Split, Annotated[float, Field(gt=0, lt=1)]] = {}
    """Split → share of the rows, selected by a hash of the text; the remaining rows are `train`.

    Splits of the source are kept; only missing ones are taken from its `train`.
    """
    limit: Count | dict[Split, Count] | None = None
    """Use a sample of this many rows of the source, or of each of its splits.

    `{train: 1000}` samples the train split of the source; splits that are not named stay complete. The sample
    depends on the seed. The whole source is read, and the sampled rows are held in memory.
    """

    licence: str | None = Field(default=None, min_length=1, exclude=True)
    """Licence of the data, as `cc-by-sa-4.0`, for the model cards; it changes nothing that is made."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if sum(self.split.values()) >= 1 or "train" in self.split:
            raise ValueError(
                "`split` gives the held-out shares, whose sum must be less than 1; the rest is train"
            )
        for name in sorted(self.split.keys() & {"val", "valid"}):
            raise ValueError(f"no training reads a split {name!r}; did you mean 'validation'?")
        return self

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        from hfpipe.stages.checks.columns import check_dataset  # which reads the stages' classes

        return check_dataset(self, above, facts)

    def run(self, ctx: RunContext) -> Report:
        from hfpipe.data.build import build

        given, plan = self.open_source(ctx)
        return build(given, plan, ctx)

    def open_source(self, ctx: RunContext) -> tuple[SourceRows, Plan]:
        """Return the rows of the source, which are read lazily, and the plan of their processing."""
        from hfpipe.data.build import Plan

        plan = Plan(self.columns, self.text, self.labels, self.clean, self.split, self.limit)
        return _open_source(self.source, ctx), plan


def _open_source(source: Source, ctx: RunContext) -> SourceRows:
    from hfpipe.data import sources

    if source.hub is not None:
        return sources.read_from_hub(source.hub, source.config, source.revision)
    if source.stage is not None:
        return sources.read_from_folder(_locate(source.stage, ctx), source.stage)
    if source.python is not None:
        function = load_code(source.python, ctx.base)
        file = find_code(source.python, ctx.base)
        paths = [_locate(place, ctx) for place in source.reads]
        return sources.read_from_function(function, paths, file, source.python.file)
    options = source.to_file_options()
    if source.package is not None:
        path = _locate(source.package, ctx)
        return sources.read_from_files({None: {source.package: [path]}}, ctx.base, options)
    return sources.read_from_files(_find_files(source, ctx.base), ctx.base, options)


def _locate(place: Place, ctx: RunContext) -> Path:
    path = locate_place(place, ctx.base, ctx.inputs)
    if path is None:
        raise DataError(f"{place}: a Hub id cannot be read as a path; write ./{place} for a file")
    return path


def _find_files(source: Source, base: Path) -> dict[str | None, dict[str, list[Path]]]:
    files = source.files if isinstance(source.files, dict) else {None: source.files or []}
    return {
        split: {
            pattern: find_matches(pattern, base)
            for pattern in (globs if isinstance(globs, list) else [globs])
        }
        for split, globs in sorted(files.items(), key=str)  # as written, or swapped: duplicates fall alike
    }
