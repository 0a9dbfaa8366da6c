"""Checks whether a trained model can run a task, for example whether it has enough positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hfpipe.modeling.exports.formats import writes_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfpipe.runtime import TaskRuntime

OFFSET = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "mpnet"})
"""Model types whose positions start after the padding id, as in fairseq."""


def get_max_positions(kind: str, most: Any, padding: Any) -> int | None:
    """Return the maximum input length of a model type, or None if the architecture has no limit.

    `most` and `padding` are `max_position_embeddings` and `pad_token_id` in its config.
    """
    if not isinstance(most, int) or most <= 0:
        return None
    reserved = padding if isinstance(padding, int) else 0
    return most - reserved - 1 if kind in OFFSET else most


def find_refusals(task: TaskRuntime, model: PreTrainedModel) -> Iterator[str]:
    """Yield reasons why a trained model cannot be evaluated or used for prediction."""
    config = model.config
    if not getattr(model, "is_export", False):
        yield from (problem.message for problem in task.model_setup.check(model))
    elif writes_text(task):  # everything else was checked when it was exported
        yield f"an export cannot generate text, which {task.config.kind} needs; use its original"
    room = get_max_positions(
        config.model_type,
        getattr(config, "max_position_embeddings", None),
        getattr(config, "pad_token_id", 0),
    )
    if room is not None and task.config.length > room:
        yield f"length {task.config.length} exceeds the {room} positions of the model; lower it"
