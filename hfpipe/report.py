"""The report of a finished stage: facts, counts that balance, and scores with their uncertainty."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from typing import Any

from pydantic import BaseModel, ConfigDict


def replace_not_finite(value: Any) -> Any:
    """Return data with None for NaN and infinity, which JSON cannot represent."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: replace_not_finite(each) for name, each in value.items()}
    return [replace_not_finite(each) for each in value] if isinstance(value, list | tuple) else value


LIBRARIES = (
    "hfpipe",
    "torch",
    "transformers",
    "datasets",
    "tokenizers",
    "accelerate",
    "numpy",
    "scikit-learn",
    "sacrebleu",
)
"""Libraries whose versions are in a report."""


def read_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions


class Record(BaseModel):
    """Base of everything written as JSON into a stage folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


SIGNIFICANT = 0.05
"""A difference is significant if its p-value is below this value."""


class FileDigest(Record):
    """Size and digest of a file, recorded when it was finished."""

    size: int
    """Bytes."""
    sha256: str
    """Digest of the content, in hex."""


class Spread(Record):
    """Variation of a score over the trainings that it is the mean of: one per seed or fold."""

    over: str
    """What differs between the trainings: `seeds` or `folds`."""
    values: dict[str, float]
    """Stage of each training → its score."""
    sd: float
    """Standard deviation of these scores."""
    rows: float | None = None
    """Standard deviation of the score of one training due to the sampling of rows."""
    seeds: float | None = None
    """Standard deviation due to the seed alone: that of the scores without the part due to sampling rows."""
    checkpoints: float | None = None
    """Standard deviation over the last checkpoints of a training, on the validation split."""


class Comparison(Record):
    """The difference between a model and one baseline on the same examples."""

    baseline: str
    """Name of the baseline as the recipe writes it."""
    value: float
    """The baseline's own score."""
    low: float
    """Lower end of the baseline's own interval."""
    high: float
    """Upper end of the baseline's own interval."""
    difference: float
    """Model minus baseline."""
    difference_low: float
    """Lower end of the interval of the difference, from the same resamples for both."""
    difference_high: float
    """Upper end of the interval of the difference."""
    p_value: float
    """Two-sided p-value of no difference, corrected for the number of systems in `Score.comparisons`."""
    test: str = "bootstrap"
    """Test that gave `p_value`: `mcnemar-midp`, `randomization-midp`, `bootstrap` or `rows-seeds-t`."""
    p_bootstrap: float | None = None
    """Two-sided p-value of the paired bootstrap, not corrected, for comparison with other tools."""
    spread: Spread | None = None
    """Variation of the baseline's own score, if it was trained several times."""

    @property
    def clear(self) -> bool:
        """Whether the difference is significant; all verdicts use this rule."""
        return self.p_value < SIGNIFICANT


class Score(Record):
    """One measured number, with the interval and the signature that make it comparable."""

    metric: str
    """Name of the metric, as in `require`."""
    value: float
    """The score over the whole split."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    n: int
    """Number of examples."""
    higher_is_better: bool
    """Whether a higher score is an improvement."""
    signature: str
    """How the score was computed, in sacrebleu's format `key:value|key:value`."""
    comparisons: list[Comparison] = []
    """One entry per baseline."""
    spread: Spread | None = None
    """Variation of the score, if the model was trained several times; `value` is then the mean."""


class DataFacts(Record):
    """Facts about a data set, known once its stage is done; downstream stages are checked against them."""

    columns: dict[str, str]
    """Column → `string`, `strings` (a list of them), `int`, `float`, `label` (one class), `labels` (a list of
    classes), or `nested` (objects, other lists)."""
    splits: dict[str, int]
    """Split → number of rows."""
    labels: dict[str, list[str]] = {}
    """Column of classes → their names, in the order of their ids."""
    dropped: dict[str, int] = {}
    """Reason → rows that were dropped while the data set was built."""


class GitState(Record):
    """The git repository that contains a recipe, when the run started."""

    commit: str
    """Commit in hex."""
    dirty: bool
    """Whether a tracked file differed from the commit, or the recipe was not tracked."""


class Machine(Record):
    """The machine that the first process of a run used."""

    system: str
    """Operating system and its release."""
    cpu: str
    """Model of the processor."""
    cores: int
    """Cores that the process could use."""
    memory: int | None
    """Bytes of main memory; None if unknown."""
    gpus: list[str] = []
    """Name and memory of each GPU, as its driver reports them."""


class Provenance(Record):
    """How a stage was run; it does not affect the result and is not part of a key."""

    command: list[str]
    """Words of the command, without passwords and tokens."""
    started: str
    """When the run started, in ISO 8601, UTC."""
    git: GitState | None = None
    """The recipe's repository; None if there is none, or git failed."""
    machine: Machine
    read: dict[str, str] = {}
    """Input → sha256: local files, packages and user code; for upstream stages, their reports."""


class Report(Record):
    """`report.json`: written last, so that its presence means the stage is done."""

    kind: str
    """Kind of the stage."""
    summary: str
    """One line for the console."""
    data: DataFacts | None = None
    """Set by a data set stage."""
    ledger: dict[str, Any] = {}
    """Counts of inputs and outputs; they balance."""
    facts: dict[str, Any] = {}
    """Other facts, as JSON."""
    scores: list[Score] = []
    """Set by an evaluate stage."""
    unmet: list[str] = []
    """Descriptions of the bounds of `require` that were not met; the run then ends with exit code 1."""
    seconds: float = 0.0
    """Wall time of the stage; filled in by the runner."""
    versions: dict[str, str] = {}
    """Installed versions of the libraries; filled in by the runner."""
    provenance: Provenance | None = None
    """How the stage was run; filled in by the runner. None in reports of earlier versions."""
    files: dict[str, FileDigest] = {}
    """Each file of the stage by its path in the folder, except the log; filled in by the store.

    Empty for a stage of an earlier version, whose files cannot be checked."""

    @property
    def parts(self) -> dict[str, Mapping[str, Any]]:
        """The nonempty parts of the ledger; entries outside of a part have the empty name."""
        parts = {name: counts for name, counts in self.ledger.items() if isinstance(counts, Mapping)}
        rest = {name: count for name, count in self.ledger.items() if name not in parts}
        return {name: counts for name, counts in {**parts, "": rest}.items() if counts}
