"""Measurements of an evaluate stage in addition to scores: speed of exports, loss per token, fills."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfpipe.contract import RunContext
from hfpipe.modeling.exports.formats import is_export
from hfpipe.references.places import Place
from hfpipe.stages.data_folder import get_data_folder
from hfpipe.stages.scoring.hidden_words import record_fills
from hfpipe.stages.scoring.speeds import are_timed, get_speed_facts, record_speed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from hfpipe.encoding.encoded import Examples
    from hfpipe.evaluation.loop import ModelReader
    from hfpipe.stages.evaluate import Evaluate
    from hfpipe.stages.scoring.systems import EvaluatedSystem

FILE = "token-losses.json"


def record_measurements(
    stage: Evaluate,
    system: EvaluatedSystem,
    place: Path | Place,
    model: Any,
    reader: ModelReader,
    examples: Examples,
    device: torch.device,
    ctx: RunContext,
) -> None:
    """Measure a loaded model in one process, and store the results in the scratch folder."""
    if system.place == stage.model and not is_export(system.get_first_model(ctx)):
        _record_token_losses(stage, model, reader, examples, device, ctx)
        record_fills(model, place, reader, examples, device, ctx)
    if are_timed(stage, ctx):  # last, because it moves the model to the CPU
        record_speed(model, reader, examples, system.name, place, stage.batch_size, ctx)


def get_measured_facts(systems: Sequence[EvaluatedSystem], ctx: RunContext) -> dict[str, Any]:
    """Return the measurements as facts for the report."""
    file = ctx.work / FILE
    tokens = {"token_losses": json.loads(file.read_text(encoding="utf-8"))} if file.is_file() else {}
    return {**tokens, **get_speed_facts(systems, ctx)}


def _record_token_losses(
    stage: Evaluate,
    model: Any,
    reader: ModelReader,
    examples: Examples,
    device: torch.device,
    ctx: RunContext,
) -> None:
    from hfpipe.encoding.io import open_data, read_facts
    from hfpipe.evaluation.token_losses import count_tokens, has_token_losses, measure_token_losses

    if not has_token_losses(reader.task):
        return
    folder = get_data_folder(stage.data, ctx)
    with ctx.progress(f"{ctx.name}: loss by token", None):
        train = open_data(folder).get("train")
        counts = (
            None if train is None else count_tokens(reader.task, train, reader.tokenizer, read_facts(folder))
        )
        found = measure_token_losses(model, reader, examples, counts, stage.batch_size, device)
    (ctx.work / FILE).write_text(json.dumps(found), encoding="utf-8")
