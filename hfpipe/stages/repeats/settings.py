"""Settings that expand a training stage to several trainings."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator
from typing_extensions import Self

from hfpipe.contract import RunContext, Settings, Stage
from hfpipe.references.places import Place
from hfpipe.stages.repeats.matrix import Tabulated


def _check_ascending(ends: list[int | float]) -> list[int | float]:
    if ends[0] >= ends[1]:
        raise ValueError(f"write the lower number first: {ends[0]:g} is not less than {ends[1]:g}")
    return ends


Ends = Annotated[list[int | float], Field(min_length=2, max_length=2), AfterValidator(_check_ascending)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _check_different(seeds: list[int]) -> list[int]:
    if len(seeds) < 2:
        raise ValueError("write at least two seeds; a single one is `seed: 1`")
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed is given twice, which would train the same model again; write each once")
    return seeds


class Folds(Settings):
    """Settings of folds of the train split."""

    k: int = Field(ge=2, le=100)
    """Number of folds."""
    group: str | Literal[False] | None = None
    """Column of groups: rows with the same value are in the same fold.

    By default `document_id`, `doc_id` or the context of questions, if it exists; `false` groups only rows
    with equal inputs.
    """
    stratify: bool = True
    """Whether each fold has about the same share of each class, if the task has one class per row."""


class Range(Settings):
    """The values of a parameter that a search tries: exactly one of `log`, `uniform` and `choice`."""

    log: Ends | None = None
    """Lowest and highest number; small and large ones are equally likely, as `[1e-5, 1e-3]`."""
    uniform: Ends | None = None
    """Lowest and highest number; whole numbers if both are."""
    choice: list[bool | int | float | str] | None = Field(default=None, min_length=2)
    """List of values."""

    @model_validator(mode="after")
    def _require_one_kind(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"write exactly one of log, uniform and choice, not {found}")
        if self.log is not None and self.log[0] <= 0:
            raise ValueError(f"`log` needs numbers above 0, and {self.log[0]:g} is not")
        return self

    @property
    def ends(self) -> list[Any]:
        """The values to check: both ends, or all."""
        return list(self.choice or self.log or self.uniform or [])


class Search(Settings):
    """A search for the settings with the best score on the validation split, by Optuna."""

    parameters: dict[str, Range] = Field(min_length=1)
    """Setting → its values, as `training.learning_rate`, `task.length`, `model.hidden_size`, `adapter.r`."""
    trials: int = Field(default=20, ge=2, le=10_000)
    """Number of trainings."""
    metric: str = "loss"
    """Score on the validation split by which the best trial is chosen."""
    split: str = "validation"
    """Only `validation`: a test split used to select settings no longer estimates scores on new rows."""
    prune: Literal["median", "hyperband", False] = "median"
    """How unpromising trials are stopped early, by their scores during training; `false` disables it.

    `median` stops a trial that is worse than the median of the others after as many evaluations.
    """

    @field_validator("split")
    @classmethod
    def _check_split(cls, split: str) -> str:
        if split != "validation":
            raise ValueError(
                f"a search uses only the validation split; {split!r} would not predict scores on new rows; "
                "delete split"
            )
        return split


class SearchPlace(Place):
    """Reference to a search whose best settings are used."""

    pattern = r"stage:[^\s:/]+"
    kinds = frozenset({"pretrain", "finetune"})
    meant = "the stage of a search: write stage:NAME@search"


class Repeatable(Tabulated, ABC):
    """A training stage that may expand to several trainings."""

    seed: Seed | None = Field(default=None, exclude=True)
    """Seed of this stage; by default that of the recipe."""
    seeds: Annotated[list[Seed], AfterValidator(_check_different)] | None = None
    """Train once for each of these seeds; `stage:NAME@SEED` refers to one of these models.

    Scores are then reported as mean ± standard deviation, with intervals that cover rows and seeds.
    """

    folds: Annotated[int, Field(ge=2, le=100)] | Folds | None = None
    """Cross-validation: train once without each fold of the train split, as `5` or `{k: 5, group: patient}`.

    With `split: out-of-fold`, an evaluate stage evaluates every row of the train split with the model that
    was trained without it. `stage:NAME@fold1` refers to the model without the first fold.
    """
    fold: int | None = Field(default=None, ge=1)
    """With `folds`: train only the model without this fold."""

    search: Search | SearchPlace | None = None
    """Search for the best settings on the validation split before training with them; needs `hfpipe[search]`.

    The trials are the stage `NAME@search`. Another stage may use its result, as `search: stage:NAME@search`.
    """

    @model_validator(mode="after")
    def _check_repetition(self) -> Self:
        if self.seed is not None and self.seeds is not None:
            raise ValueError("write `seed` or `seeds`, not both")
        if self.seeds is not None and self.folds is not None:
            raise ValueError("write `seeds` or `folds`, not both")
        if self.folds is not None and self.kind != "finetune":
            raise ValueError(f"`folds` are for finetune, not for {self.kind}")
        if self.fold is not None and (self.fold_settings is None or self.fold > self.fold_settings.k):
            raise ValueError("`fold` is one of `folds`, counted from 1")
        return self

    @property
    def fold_settings(self) -> Folds | None:
        """Settings of the folds, None without folds."""
        return Folds(k=self.folds) if isinstance(self.folds, int) else self.folds

    def get_seed(self, seed: int) -> int:
        return seed if self.seed is None else self.seed

    def find_neutral(self) -> dict[str, Any]:
        names = ("seeds", "folds", "fold", "search")
        return super().find_neutral() | {name: None for name in names if getattr(self, name) is None}

    def load_tuned(self, ctx: RunContext) -> Self:
        """Return the stage with the best settings of its search. Raises StageError without a result."""
        from hfpipe.stages.repeats.parameters import read_best, replace_parameters

        if not isinstance(self.search, Place):
            return self
        return replace_parameters(self.model_copy(update={"search": None}), read_best(self.search, ctx))

    def expand(self, name: str, above: Mapping[str, Stage]) -> dict[str, Stage]:
        from hfpipe.stages.repeats.expansion import expand_repeats  # which reads the stages' classes

        return expand_repeats(self, name, above)
