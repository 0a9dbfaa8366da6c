"""Size and speed of the models of an evaluate stage, if one of them is an export or had a teacher."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfpipe.contract import RunContext
from hfpipe.modeling.exports.formats import compute_model_bytes, is_export
from hfpipe.references.places import Place, locate_place, make_slug
from hfpipe.stages.repeats.members import find_members
from hfpipe.store.store import is_done, read_report

if TYPE_CHECKING:
    from hfpipe.encoding.encoded import Examples
    from hfpipe.evaluation.loop import ModelReader
    from hfpipe.stages.evaluate import Evaluate
    from hfpipe.stages.scoring.systems import EvaluatedSystem


def are_timed(stage: Evaluate, ctx: RunContext) -> bool:
    """Return whether a model of a stage is an export or had a teacher, so that all are timed."""
    places = (locate_place(place, ctx.base, ctx.inputs) for place in (stage.model, *stage.baselines))
    return any(is_export(place) or _had_teacher(place) for place in places)


def _had_teacher(place: Path | None) -> bool:
    if place is None or not (place / "stage.json").is_file() or not is_done(place):
        return False
    folders = find_members(place).values() or [place]
    return any(read_report(folder).facts.get("teachers") for folder in folders)


def record_speed(
    model: Any,
    reader: ModelReader,
    examples: Examples,
    name: str,
    place: Path | Place,
    batch_size: int,
    ctx: RunContext,
) -> None:
    """Measure the model of a place on this CPU, and store the result in the scratch folder."""
    from hfpipe.evaluation.speed import measure_speed

    with ctx.progress(f"{ctx.name}: timing {name}", None):
        found: dict[str, float] = measure_speed(model, reader, examples, batch_size)
    if isinstance(place, Path):
        found["bytes"] = compute_model_bytes(place)
    _get_file(name, ctx).write_text(json.dumps(found), encoding="utf-8")


def get_speed_facts(systems: Sequence[EvaluatedSystem], ctx: RunContext) -> dict[str, Any]:
    """Return the measured sizes and speeds for the report; empty if nothing was timed."""
    files = {system.name: _get_file(system.name, ctx) for system in systems}
    found = {
        name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()
    }
    if not found:
        return {}
    import torch

    machine = platform.processor() or platform.machine()
    return {"speed": {"threads": torch.get_num_threads(), "processor": machine, "systems": found}}


def _get_file(name: str, ctx: RunContext) -> Path:
    return ctx.work / f"speed-{make_slug(name)}.json"
