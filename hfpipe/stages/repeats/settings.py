"""Settings by which a training stage stands for several trainings."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import Self

from hfpipe.contract import Stage

Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _check_different(seeds: list[int]) -> list[int]:
    if len(seeds) < 2:
        raise ValueError("write at least two seeds; a single one is `seed: 1`")
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed stands there twice, which would train the same model again; name each once")
    return seeds


class Repeatable(Stage, ABC):
    """A training stage that may stand for several trainings."""

    seed: Seed | None = Field(default=None, exclude=True)
    """Seed of this stage; by default that of the recipe."""
    seeds: Annotated[list[Seed], AfterValidator(_check_different)] | None = None
    """Train once for each of these seeds; `stage:NAME@SEED` refers to one of these models.

    Scores are then reported as mean ± standard deviation, with intervals that cover rows and seeds.
    """

    @model_validator(mode="after")
    def _one_repetition(self) -> Self:
        if self.seed is not None and self.seeds is not None:
            raise ValueError("write `seed` or `seeds`, not both")
        return self

    def own_seed(self, seed: int) -> int:
        return seed if self.seed is None else self.seed

    def neutral(self) -> dict[str, Any]:
        unused = [name for name in ("seeds",) if getattr(self, name) is None]
        return super().neutral() | dict.fromkeys(unused)

    def expanded(self, name: str, above: Mapping[str, Stage]) -> dict[str, Stage]:
        from hfpipe.stages.repeats.expansion import expand  # which reads the stages' classes

        return expand(self, name, above)
