"""Which column of a split an evaluation resamples by: the one that makes rows depend on one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from hfpipe.errors import Problem
from hfpipe.recipe.messages import suggest
from hfpipe.report import DataFacts
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from hfpipe.metrics.resampling import Sample

DOCUMENTS = ("document_id", "doc_id")
"""Columns that name the document that a row was cut from."""
ClusterSetting = str | Literal[False] | None
"""A column, `false` for none, or nothing for the default."""


def cluster_column(setting: ClusterSetting, task: TaskConfig, facts: DataFacts) -> str | None:
    """Return the column whose equal values make a group, or None where every row is by itself."""
    if setting is not None:
        return setting or None
    return next((name for name in (*DOCUMENTS, task.group_column) if name in facts.columns), None)


def check_cluster(setting: ClusterSetting, columns: set[str] | None) -> Iterator[Problem]:
    """Yield that the column to resample by is not there; `columns` are None while they are not known."""
    if setting and columns is not None and setting not in columns:
        message = f"there is no column {setting!r} to resample by{suggest(setting, sorted(columns))}"
        yield Problem(message, ("cluster",))


def resampled_by(sample: Sample) -> dict[str, Any]:
    """Return the groups of a sample as a fact for the report; nothing where every row is by itself."""
    return {} if sample.cluster is None else {"cluster": {"column": sample.cluster, "groups": sample.count}}
