"""Metrics of `evaluate` named in a recipe: loaded without telemetry, with intervals like hfpipe's own."""

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
from hfpipe.metrics.resampling import Sample, draw_poisson_weights, mark_blocks
from hfpipe.metrics.series import Series
from hfpipe.metrics.whole import limit_resamples

COMPUTED_AT_MOST = 2**20
"""Maximum product of examples and resamples of a metric; more examples get fewer resamples."""
USUAL = {"predictions": "prediction", "references": "reference"}
"""Input of a metric → its default column of the predictions."""
Column = Callable[[str], "Sequence[Any] | np.ndarray | None"]
"""Returns a column by name, in the order of the rows, or None if it does not exist."""
Classes = Mapping[str, Sequence[str]]
"""Column of classes → class names in the order of their ids."""


@dataclass(frozen=True)
class NamedMetric:
    """A loaded module of `evaluate` and its arguments."""

    name: str
    """Prefix of the names of its scores, as in `rouge/rouge1`."""
    module: Any
    inputs: Mapping[str, str]
    """Input of the metric → column, if it is not the default."""
    arguments: Mapping[str, Any]
    """Arguments of `compute` in addition to the inputs."""
    higher_is_better: bool

    @property
    def signature(self) -> str:
        """Definition of the scores: the source of the metric and its arguments."""
        text = Path(inspect.getfile(type(self.module))).read_bytes()
        given = {**self.inputs, **self.arguments}
        options = [f"{key}:{given[key]}" for key in sorted(given)]
        parts = [f"sha256:{sha256(text).hexdigest()[:12]}", *options, f"evaluate:{version('evaluate')}"]
        return "|".join(parts)

    def compute_series(
        self, column: Column, classes: Classes, sample: Sample, resamples: int, seed: int
    ) -> Iterator[Series]:
        """Yield each score of the metric, over all examples and over each resample.

        `classes` are the columns with class names, which a metric may need as ids; `sample` gives the unit of
        each example, which determines its weights. Raises StageError when a column is missing, or when the
        metric does not accept its inputs.
        """
        inputs = {name: self._get_input(name, column, classes) for name in self._get_input_types()}
        try:
            plain, given = self._compute_once(inputs)
        except Exception as error:  # user code may raise any exception, which becomes one line
            raise StageError(f"metrics: {self.name} failed: {format_typed_line(error)}") from error
        if not plain:
            raise StageError(f"metrics: {self.name} returns no number, so it has no score")
        rows = len(sample.units)
        weights = draw_poisson_weights(sample.units, limit_resamples(resamples, rows, COMPUTED_AT_MOST), seed)
        found = [plain, *(self._compute_repeated(given, weight) for weight in weights.T)]
        blocks = mark_blocks(sample.units)
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

    def _get_input_types(self) -> dict[str, list[Any]]:
        """Return the metric's inputs with their possible types."""
        features = self.module.features
        options = features if isinstance(features, list) else [features]
        return {name: [option[name] for option in options] for name in options[0]}

    def _get_input(self, name: str, column: Column, classes: Classes) -> list[Any]:
        ours = self.inputs.get(name, USUAL.get(name, name))
        values = column(ours)
        if values is None:
            raise StageError(
                f"metrics: {self.name} takes {name!r}, and there is no column {ours!r}; "
                f"name the column, as inputs: {{{name}: COLUMN}}"
            )
        texts = any(
            isinstance(kind, Value) and kind.dtype == "string" for kind in self._get_input_types()[name]
        )
        if texts or ours not in classes:
            return [_to_python(value) for value in values]
        numbers = {name: number for number, name in enumerate(classes[ours])}
        return [numbers[value] for value in values]

    def _compute_once(self, inputs: Mapping[str, list[Any]]) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the scores over all examples, and the inputs in the form that the metric's code receives."""
        given: dict[str, Any] = {}
        compute = self.module._compute

        def keep(**everything: Any) -> Any:
            given.update({name: everything[name] for name in inputs})
            return compute(**everything)

        self.module._compute = keep
        try:
            with _ignore_warnings():
                return _select_numbers(self.module.compute(**inputs, **self.arguments)), given
        finally:
            self.module._compute = compute

    def _compute_repeated(self, given: Mapping[str, Any], weight: np.ndarray) -> dict[str, float]:
        """Return the scores with each example repeated by its weight; empty if they are not defined.

        Calls the metric's code directly: the checks of `compute` take ten milliseconds, and are done once.
        """
        if not weight.any():
            return {}
        rows = np.repeat(np.arange(len(weight)), weight)
        repeated = {
            name: values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows.tolist()]
            for name, values in given.items()
        }
        try:
            with _ignore_warnings(), temp_seed(self.module.seed):
                return _select_numbers(self.module._compute(**repeated, **self.arguments))
        except Exception:  # for example, if a resample lacks a class
            return {}


def load_metric(place: str, found: Path | None, revision: str | None, seed: int) -> Any:
    """Return a metric's module from a file or folder, or from the Hub or its cache.

    Raises StageError when there is no such metric, or when its code cannot be loaded.
    """
    try:
        with _disable_telemetry(), _ignore_warnings():
            return evaluate.load(
                str(found or place), revision=revision, keep_in_memory=True, seed=seed % 2**32
            )
    except FileNotFoundError as error:
        if found is not None:
            raise StageError(f"metrics: {place} cannot be loaded: {format_typed_line(error)}") from error
        offline = (
            "no network may be used" if _is_offline() else "it is not on the Hub, or the Hub not reached"
        )
        raise StageError(
            f"metrics: {place} was not loaded: there is no copy of it here, and {offline}; "
            "name a local file, or load it once with a network"
        ) from error
    except Exception as error:  # user code may raise any exception
        raise StageError(f"metrics: {place} cannot be loaded: {format_typed_line(error)}") from error


@contextmanager
def _disable_telemetry() -> Iterator[None]:
    """Disable the telemetry of `evaluate`, and its network access if that is forbidden."""
    config, logger = evaluate.config, logging.getLogger("evaluate")
    before = config.HF_UPDATE_DOWNLOAD_COUNTS, config.HF_EVALUATE_OFFLINE, logger.level
    config.HF_UPDATE_DOWNLOAD_COUNTS, config.HF_EVALUATE_OFFLINE = False, _is_offline()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS, config.HF_EVALUATE_OFFLINE = before[:2]
        logger.setLevel(before[2])


def _is_offline() -> bool:
    names = ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def _to_python(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _select_numbers(found: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: each for name, each in found.items() if isinstance(each, Real | np.number)}
    return {name: float(each) for name, each in numbers.items() if isfinite(float(each))}


@contextmanager
def _ignore_warnings() -> Iterator[None]:
    """Suppress the warnings of a metric's code, which each resample would repeat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
