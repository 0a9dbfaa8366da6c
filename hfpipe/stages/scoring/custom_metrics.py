"""Metrics of `evaluate` in an evaluate stage: a reference, with optional arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from hfpipe.advice import advise
from hfpipe.contract import RunContext, Settings
from hfpipe.errors import DataError, Problem
from hfpipe.recipe.messages import find_similar_name
from hfpipe.references.places import MetricPlace, locate_place

if TYPE_CHECKING:
    from hfpipe.metrics.named import NamedMetric


class NamedMetricSettings(Settings):
    """A metric of `evaluate`: a reference, or a mapping with options."""

    place: MetricPlace
    """`./file.py`, a folder that holds a file of its name, `package:…`, or a Hub id."""
    name: str | None = None
    """Prefix of its scores, as in `rouge/rouge1`; by default the last part of `place`."""
    inputs: dict[str, str] = {}
    """Input of the metric → column of predictions or data; by default `prediction` and `reference`."""
    arguments: dict[str, Any] = {}
    """Further arguments of the metric, as `{average: macro}`."""
    higher_is_better: bool = True
    """Whether higher scores are better."""

    @model_validator(mode="before")
    @classmethod
    def _expand_place(cls, value: Any) -> Any:
        return {"place": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core)]}

    @property
    def prefix(self) -> str:
        """Prefix of the names of its scores."""
        whole, _ = self.place.hub or (self.place, None)
        return self.name or re.split(r"[/:]", whole.rstrip("/"))[-1].removesuffix(".py")

    def load(self, ctx: RunContext) -> NamedMetric:
        """Return the metric, ready to compute. Raises StageError when it cannot be loaded."""
        from hfpipe.metrics.named import NamedMetric, load_metric

        place, revision = self.place.hub or (self.place, None)
        module = load_metric(place, locate_place(self.place, ctx.base, ctx.inputs), revision, ctx.seed)
        return NamedMetric(self.prefix, module, self.inputs, self.arguments, self.higher_is_better)


def check(metrics: Sequence[NamedMetricSettings], base: Path, *, trusted: bool) -> Iterator[Problem]:
    """Yield problems with the metrics of a stage, with paths relative to the stage."""
    prefixes: list[str] = []
    for number, metric in enumerate(metrics):
        path: tuple[str | int, ...] = ("metrics", number)
        if metric.place.hub is not None and not trusted:
            yield Problem(_describe_untrusted(metric.place), path)
        if metric.prefix in prefixes:
            yield Problem(f"two metrics are called {metric.prefix!r}; set name: of one", path)
        prefixes.append(metric.prefix)
        try:
            found = locate_place(metric.place, base, {})
        except DataError:
            continue  # reported for all places
        if found is not None and not (found.suffix == ".py" or (found / f"{found.name}.py").is_file()):
            yield Problem(
                f"{metric.place} is not a metric: name a .py file, or a folder that holds {found.name}.py",
                path,
            )


def _describe_untrusted(place: MetricPlace) -> str:
    """Return a message that suggests a local metric, or the setting that allows code from the Hub."""
    from hfpipe.metrics import module_names

    name, _ = place.hub or (str(place), None)
    ours = module_names()
    near = name if name in ours else find_similar_name(name, ours) if "/" not in name else None
    trust = f"{place} is code from the Hub; add {advise(trust_remote_code=True)} to run it"
    if near is None:
        return trust
    file = f"package:hfpipe/hfpipe/metrics/modules/{near}.py"
    if near == name:
        return f"{trust}, or write {file} for hfpipe's own"
    hub = f"Or add {advise(trust_remote_code=True)} to run the Hub's"
    return f"there is no metric {name!r} here; did you mean {file}? {hub}"
