"""Settings by which a training stage stands for several trainings."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import Self

from hfpipe.contract import Settings, Stage

Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _check_different(seeds: list[int]) -> list[int]:
    if len(seeds) < 2:
        raise ValueError("write at least two seeds; a single one is `seed: 1`")
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed stands there twice, which would train the same model again; name each once")
    return seeds


class Folds(Settings):
    """How the train split is split into folds."""

    k: int = Field(ge=2, le=100)
    """Number of folds."""
    group: str | Literal[False] | None = None
    """Column whose equal values are in one fold.

    By default `document_id`, `doc_id` or the context of questions, where there is one; `false` groups only
    rows with equal inputs.
    """
    stratify: bool = True
    """Whether each fold has about the same share of each class, where the task has one class per row."""


class Repeatable(Stage, ABC):
    """A training stage that may stand for several trainings."""

    seed: Seed | None = Field(default=None, exclude=True)
    """Seed of this stage; by default that of the recipe."""
    seeds: Annotated[list[Seed], AfterValidator(_check_different)] | None = None
    """Train once for each of these seeds; `stage:NAME@SEED` refers to one of these models.

    Scores are then reported as mean ± standard deviation, with intervals that cover rows and seeds.
    """

    folds: Annotated[int, Field(ge=2, le=100)] | Folds | None = None
    """Train once without each of so many folds of the train split, as `5` or `{k: 5, group: patient}`.

    With `split: out-of-fold` an evaluate stage then measures every row of the train split by the model that
    was trained without it. `stage:NAME@fold1` refers to the model without the first fold.
    """
    fold: int | None = Field(default=None, ge=1)
    """With `folds`: train without this fold alone."""

    @model_validator(mode="after")
    def _one_repetition(self) -> Self:
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
        """How the rows are split into folds, if they are."""
        return Folds(k=self.folds) if isinstance(self.folds, int) else self.folds

    def own_seed(self, seed: int) -> int:
        return seed if self.seed is None else self.seed

    def neutral(self) -> dict[str, Any]:
        names = ("seeds", "folds", "fold")
        return super().neutral() | {name: None for name in names if getattr(self, name) is None}

    def expanded(self, name: str, above: Mapping[str, Stage]) -> dict[str, Stage]:
        from hfpipe.stages.repeats.expansion import expand  # which reads the stages' classes

        return expand(self, name, above)
