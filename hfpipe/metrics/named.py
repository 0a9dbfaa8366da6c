"""Metrics of `evaluate` that a recipe names: loaded without a word to anybody, scored as our own are."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
from datasets import Value
from evaluate.module import temp_seed

from hfpipe.errors import StageError, format_typed_line
from hfpipe.metrics.resampling import Sample, one_block, poisson
from hfpipe.metrics.series import Series
from hfpipe.metrics.whole import affordable_resamples

COMPUTED_AT_MOST = 2**20
"""Maximum of examples times resamples of a metric; with more examples there are fewer resamples."""
USUAL = {"predictions": "prediction", "references": "reference"}
"""Inputs of a metric → the columns of the predictions that they are, unless the recipe says otherwise."""
Column = Callable[[str], "Sequence[Any] | np.ndarray | None"]
"""Returns a column by name, in the order of the rows, or None when there is none."""
Classes = Mapping[str, Sequence[str]]
"""Columns of classes → their names, in the order of their numbers."""


@dataclass(frozen=True)
class NamedMetric:
    """A loaded module of `evaluate` and what it is given."""

    name: str
    """Prefix of each number's own name, as in `rouge/rouge1`."""
    module: Any
    inputs: Mapping[str, str]
    """Inputs of the metric → columns, where they are not the usual ones."""
    arguments: Mapping[str, Any]
    """What `compute` is given in addition to the inputs."""
    higher_is_better: bool

    @property
    def signature(self) -> str:
        """What defines the numbers: the text of the metric and what it was given."""
        text = Path(inspect.getfile(type(self.module))).read_bytes()
        given = {**self.inputs, **self.arguments}
        options = [f"{key}:{given[key]}" for key in sorted(given)]
        parts = [f"sha256:{sha256(text).hexdigest()[:12]}", *options, f"evaluate:{version('evaluate')}"]
        return "|".join(parts)

    def measured(
        self, column: Column, classes: Classes, sample: Sample, resamples: int, seed: int
    ) -> Iterator[Series]:
        """Yield each number of the metric, over all examples and over each resample.

        `classes` are the columns that hold classes by name, of which a metric may want the numbers; `sample`
        tells the unit of each example, on which its weights depend.
        Raises StageError when a column is missing, or when the metric cannot use what it is given.
        """
        inputs = {name: self._input(name, column, classes) for name in self._input_types()}
        try:
            plain, given = self._computed(inputs)
        except Exception as error:  # whatever somebody's metric raises, the person gets one line
            raise StageError(f"metrics: {self.name} failed: {format_typed_line(error)}") from error
        if not plain:
            raise StageError(f"metrics: {self.name} gives no number, which alone can be a score")
        rows = len(sample.units)
        weights = poisson(sample.units, affordable_resamples(resamples, rows, COMPUTED_AT_MOST), seed)
        found = [plain, *(self._compute_repeated(given, weight) for weight in weights.T)]
        blocks = one_block(sample.units)
        left = [self._compute_repeated(given, 1 - block) for block in blocks.T if block.any()]
        for name in plain:
            yield Series(
                name=f"{self.name}/{name}",
                values=np.array([each.get(name, np.nan) for each in found]),
                blocks=np.array([each.get(name, np.nan) for each in left]),
                n=rows,
                sample=sample,
                seed=seed,
                higher_is_better=self.higher_is_better,
                signature=f"{self.name}/{name}|{self.signature}",
            )

    def _input_types(self) -> dict[str, list[Any]]:
        """Return the metric's inputs, each with the types it may have."""
        features = self.module.features
        options = features if isinstance(features, list) else [features]
        return {name: [option[name] for option in options] for name in options[0]}

    def _input(self, name: str, column: Column, classes: Classes) -> list[Any]:
        ours = self.inputs.get(name, USUAL.get(name, name))
        values = column(ours)
        if values is None:
            raise StageError(
                f"metrics: {self.name} takes {name!r}, and there is no column {ours!r}; "
                f"say which it is, as inputs: {{{name}: COLUMN}}"
            )
        texts = any(isinstance(kind, Value) and kind.dtype == "string" for kind in self._input_types()[name])
        if texts or ours not in classes:
            return [_to_python(value) for value in values]
        numbers = {name: number for number, name in enumerate(classes[ours])}
        return [numbers[value] for value in values]

    def _computed(self, inputs: Mapping[str, list[Any]]) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the numbers over all examples, and the inputs as the metric's own code was given them."""
        given: dict[str, Any] = {}
        compute = self.module._compute

        def keep(**everything: Any) -> Any:
            given.update({name: everything[name] for name in inputs})
            return compute(**everything)

        self.module._compute = keep
        try:
            with _without_warnings():
                return _numbers(self.module.compute(**inputs, **self.arguments)), given
        finally:
            self.module._compute = compute

    def _compute_repeated(self, given: Mapping[str, Any], weight: np.ndarray) -> dict[str, float]:
        """Return the numbers with each example repeated by its weight; none where they are not defined.

        Calls the metric's own code: the checks of `compute` take ten milliseconds, and are done once.
        """
        if not weight.any():
            return {}
        rows = np.repeat(np.arange(len(weight)), weight)
        repeated = {
            name: values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows.tolist()]
            for name, values in given.items()
        }
        try:
            with _without_warnings(), temp_seed(self.module.seed):
                return _numbers(self.module._compute(**repeated, **self.arguments))
        except Exception:  # as of a resample that lacks a class
            return {}


def load_metric(place: str, found: Path | None, revision: str | None, seed: int) -> Any:
    """Return a metric's module from a file or folder, or from the Hub's copy or the Hub itself.

    Raises StageError when there is no such metric, or when its code cannot be loaded.
    """
    try:
        with _without_telemetry(), _without_warnings():
            return evaluate.load(
                str(found or place), revision=revision, keep_in_memory=True, seed=seed % 2**32
            )
    except FileNotFoundError as error:
        if found is not None:
            raise StageError(f"metrics: {place} cannot be loaded: {format_typed_line(error)}") from error
        offline = "no network may be used" if _offline() else "it is not on the Hub, or the Hub not reached"
        raise StageError(
            f"metrics: {place} was not loaded: there is no copy of it here, and {offline}; "
            "name a local file, or load it once with a network"
        ) from error
    except Exception as error:  # whatever somebody's code raises
        raise StageError(f"metrics: {place} cannot be loaded: {format_typed_line(error)}") from error


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Keep `evaluate` from counting the load on a server, and from asking one where that was forbidden."""
    config, logger = evaluate.config, logging.getLogger("evaluate")
    before = config.HF_UPDATE_DOWNLOAD_COUNTS, config.HF_EVALUATE_OFFLINE, logger.level
    config.HF_UPDATE_DOWNLOAD_COUNTS, config.HF_EVALUATE_OFFLINE = False, _offline()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS, config.HF_EVALUATE_OFFLINE = before[:2]
        logger.setLevel(before[2])


def _offline() -> bool:
    names = ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def _to_python(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: each for name, each in found.items() if isinstance(each, Real | np.number)}
    return {name: float(each) for name, each in numbers.items() if isfinite(float(each))}


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a thousand times the same
        yield
