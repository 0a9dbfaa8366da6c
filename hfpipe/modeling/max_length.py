"""Why a trained model cannot do a task, as where texts are longer than it has positions for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfpipe.task import Task

OFFSET = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "mpnet"})
"""Model types that count positions from behind the padding id, as fairseq did."""


def positions(kind: str, most: Any, padding: Any) -> int | None:
    """Return the longest input of a type of model, or None where the architecture sets no limit.

    `most` and `padding` are what its config has as `max_position_embeddings` and `pad_token_id`.
    """
    if not isinstance(most, int) or most <= 0:
        return None
    reserved = padding if isinstance(padding, int) else 0
    return most - reserved - 1 if kind in OFFSET else most


def refusals(task: Task, model: PreTrainedModel) -> Iterator[str]:
    """Yield why a trained model cannot be evaluated, or run on new inputs."""
    config = model.config
    for problem in task.check_model(model):
        yield problem.message
    room = positions(
        config.model_type,
        getattr(config, "max_position_embeddings", None),
        getattr(config, "pad_token_id", 0),
    )
    if room is not None and task.length > room:
        yield f"length {task.length} is more than the {room} positions of the model; shorten it"
