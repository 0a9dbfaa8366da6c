"""Selects the column of a split whose groups an evaluation resamples, because their rows are dependent."""

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
"""Columns with the id of a row's document."""
ClusterSetting = str | Literal[False] | None
"""A column, `false` for none, or None for the default."""


def select_cluster_column(setting: ClusterSetting, task: TaskConfig, facts: DataFacts) -> str | None:
    """Return the column whose equal values form a group, None if rows are independent."""
    if setting is not None:
        return setting or None
    return next((name for name in (*DOCUMENTS, task.group_column) if name in facts.columns), None)


def check_cluster(setting: ClusterSetting, columns: set[str] | None) -> Iterator[Problem]:
    """Yield a problem if the column to resample by does not exist; `columns` are None if unknown."""
    if setting and columns is not None and setting not in columns:
        message = f"there is no column {setting!r} to resample by{suggest(setting, sorted(columns))}"
        yield Problem(message, ("cluster",))


def describe_resampling(sample: Sample) -> dict[str, Any]:
    """Return the groups of a sample as a fact for the report; empty if rows are independent."""
    return {} if sample.cluster is None else {"cluster": {"column": sample.cluster, "groups": sample.count}}
