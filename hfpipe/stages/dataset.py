"""The `dataset` stage: rows from a source, cleaned with every loss counted, split by content."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from hfpipe.contract import RunContext, Settings, Stage
from hfpipe.places import Code, Glob, PackageSource, Place, StageSource
from hfpipe.report import Report


class Source(Settings):
    """Where the rows come from: exactly one of `hub`, `files`, `package`, `python`, `stage`."""

    hub: str | None = None
    """Hub id of a data set, as `owner/name`."""
    config: str | None = None
    """With `hub`: the data set's configuration (subset)."""
    revision: str | None = None
    """With `hub`: a branch, tag or commit."""
    files: Glob | list[Glob] | dict[str, Glob | list[Glob]] | None = None
    """Local files or patterns; a mapping of split → files keeps those splits."""
    package: PackageSource | None = None
    """`DISTRIBUTION/path`: a data file inside an installed Python package."""
    python: Code | None = None
    """`file.py:function`: a function that yields rows as mappings."""
    reads: list[Place] = []
    """With `python`: places handed to the function as paths, one argument each; a change in them reruns."""
    stage: StageSource | None = None
    """Name of a data set stage above, to clean or split it further."""
    format: Literal["txt", "jsonl", "json", "csv", "tsv", "parquet", "arrow"] | None = None
    """Format of the files; by default told from the ending."""
    encoding: str = "utf-8"
    """Text encoding of the files."""


class Dataset(Stage):
    """Loads rows, maps columns, cleans, removes duplicates and splits; the ledger must balance."""

    version: ClassVar[int] = 1
    kind: Literal["dataset"] = "dataset"
    source: Source
    """Where the rows come from."""
    columns: dict[str, str] = {}
    """Column wanted → column of the source; when empty, all columns are kept under their own names."""
    clean: list[Any] = []
    """Cleaning steps, in order."""
    split: dict[str, float] = {}
    """Split → share of the rows, by a hash of the content; what is left is `train`."""
    limit: int | None = Field(default=None, ge=1)
    """Keep at most this many rows of the source, for a quick look."""

    def run(self, ctx: RunContext) -> Report:
        raise NotImplementedError
