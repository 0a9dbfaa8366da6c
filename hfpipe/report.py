"""What a stage says when it is done: facts, counts that balance, and scores with their uncertainty."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from typing import Any

from pydantic import BaseModel, ConfigDict


def finite_or_null(value: Any) -> Any:
    """Return plain data with None for every number that is NaN or infinite, which JSON cannot write."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite_or_null(each) for name, each in value.items()}
    return [finite_or_null(each) for each in value] if isinstance(value, list | tuple) else value


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
"""Libraries whose versions a report names."""


def read_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that are installed."""
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
"""A difference is called clear where its p-value is below."""


class FileDigest(Record):
    """What a file holds, as recorded when it was finished."""

    size: int
    """Bytes."""
    sha256: str
    """Digest of the content, in hex."""


class Spread(Record):
    """How a score varies over the trainings that it is the mean of: one for each seed, or for each fold."""

    over: str
    """What differs between the trainings: `seeds` or `folds`."""
    values: dict[str, float]
    """Stage of each training → its score."""
    sd: float
    """Standard deviation of these scores."""
    rows: float | None = None
    """Standard deviation of the score of one training by the sampling of rows."""
    seeds: float | None = None
    """Standard deviation by the seed alone: that of the scores without what the sampling of rows explains."""
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
    """Two-sided p under no difference, corrected for the number of systems in `Score.comparisons`."""
    test: str = "bootstrap"
    """Test that gave `p_value`: `mcnemar-midp`, `randomization-midp`, `bootstrap` or `rows-seeds-t`."""
    p_bootstrap: float | None = None
    """Two-sided p of the paired bootstrap, not corrected, for comparison with other tools."""
    spread: Spread | None = None
    """How the baseline's own score varies, where it was trained several times."""

    @property
    def clear(self) -> bool:
        """Whether there is a difference beyond chance: the one rule of all verdicts."""
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
    """How many examples were counted."""
    higher_is_better: bool
    """Which way an improvement goes."""
    signature: str
    """How the number was made, in sacrebleu's `key:value|key:value` form."""
    comparisons: list[Comparison] = []
    """One entry a baseline."""
    spread: Spread | None = None
    """How the score varies, where the model was trained several times; `value` is then the mean."""


class DataFacts(Record):
    """What a data set holds, known once its stage is done; later stages are checked against it."""

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
    """Bytes of main memory; None where that is not known."""
    gpus: list[str] = []
    """Name and memory of each GPU, as its driver reports them."""


class Provenance(Record):
    """How a stage was made; nothing of it decides the result, so it is not part of a key."""

    command: list[str]
    """Words of the command, without passwords and tokens."""
    started: str
    """When the run started, in ISO 8601, UTC."""
    git: GitState | None = None
    """The recipe's repository; None where the recipe is in none, or git did not answer."""
    machine: Machine
    read: dict[str, str] = {}
    """What was read → sha256: local files, packages and user code; of stages above, their report."""


class Report(Record):
    """`report.json`: written last, so that its presence means the stage is done."""

    kind: str
    """Kind of the stage."""
    summary: str
    """One line for the console."""
    data: DataFacts | None = None
    """Set by a data set stage."""
    ledger: dict[str, Any] = {}
    """Counts of what came in and where it went; they balance."""
    facts: dict[str, Any] = {}
    """Anything else worth keeping, as plain JSON."""
    scores: list[Score] = []
    """Set by an evaluate stage."""
    unmet: list[str] = []
    """Bounds of `require` that a score missed, in words; the run then ends with exit code 1."""
    seconds: float = 0.0
    """Wall time of the stage; filled in by the runner."""
    versions: dict[str, str] = {}
    """Installed versions of the libraries that shaped the result; filled in by the runner."""
    provenance: Provenance | None = None
    """How the stage was made; filled in by the runner. None in reports of earlier versions."""
    files: dict[str, FileDigest] = {}
    """Each file of the stage by its path in the folder, except the log; filled in by the store.

    Empty for a stage of an earlier version, whose files cannot be checked."""

    @property
    def parts(self) -> dict[str, Mapping[str, Any]]:
        """The ledger by its parts, those that count anything; what belongs to none has the name ``."""
        parts = {name: counts for name, counts in self.ledger.items() if isinstance(counts, Mapping)}
        rest = {name: count for name, count in self.ledger.items() if name not in parts}
        return {name: counts for name, counts in {**parts, "": rest}.items() if counts}
