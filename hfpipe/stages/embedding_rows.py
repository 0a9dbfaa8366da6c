"""Checks before a run that the embeddings of a model have a row for each token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfpipe.contract import Stage
from hfpipe.errors import Problem
from hfpipe.recipe.messages import Keys
from hfpipe.references.places import BaselinePlace, Place
from hfpipe.stages import artifacts

if TYPE_CHECKING:
    from hfpipe.stages.train import TrainStage

ADDED_NEXT_TO_ADAPTER = (
    "an adapter does not train the embeddings, so added tokens would not be learned; "
    "delete adapter, or use the model's own tokenizer"
)


def check_trained_rows(
    stage: TrainStage, rows: Any, size: int | None, above: Mapping[str, Stage], base: Path
) -> Iterator[Problem]:
    """Check that the embeddings have a row for each token, or grow with tokens added to the model's own."""
    if not isinstance(rows, int) or size is None or size <= rows:
        return
    if isinstance(stage.model, dict):
        message = f"the tokenizer has {size} tokens and the embeddings of the model {rows} rows"
        yield Problem(f"{message}; leave vocab_size out", ("model", "vocab_size"))
        return
    where = ("tokenizer",) if stage.tokenizer is not None else ("model",)
    own = artifacts.find_tokenizer_facts(stage.model, above, base).size
    add = f"{{kind: tokenizer, tokenizer: {stage.model}, special_tokens: [...]}}"
    if own is not None and own > rows:
        message = f"the tokenizer of {stage.model} has {own} tokens, and its own embeddings have {rows} rows"
        yield Problem(f"{message}; restore the tokenizer it was trained with, and add tokens by {add}", where)
    elif stage.tokenizer is None or artifacts.find_origin(
        stage.tokenizer, above, base
    ) == artifacts.find_origin(stage.model, above, base):
        if stage.adapter is not None:
            yield Problem(ADDED_NEXT_TO_ADAPTER, ("adapter",))
    else:
        message = f"the tokenizer has {size} tokens and the embeddings of {stage.model} {rows} rows"
        yield Problem(f"{message}; delete tokenizer to use the model's own, or extend that by {add}", where)


def check_evaluated_rows(
    place: Place, path: Keys, above: Mapping[str, Stage], base: Path
) -> Iterator[Problem]:
    """Yield a problem if a model in a folder or in the Hub's cache has too few rows for its own tokenizer."""
    if place.stage is not None or (isinstance(place, BaselinePlace) and place.is_trivial):
        return
    model, size = (
        artifacts.find_model(place, above, base),
        artifacts.find_tokenizer_facts(place, above, base).size,
    )
    rows = model.given.get("vocab_size") if model is not None else None
    if isinstance(rows, int) and size is not None and size > rows:
        message = f"the tokenizer of {place} has {size} tokens, and its own embeddings have {rows} rows"
        yield Problem(f"{message}; restore the tokenizer it was trained with", path)
