"""Checks that a model's embeddings have a row for each token, and adds rows for new tokens."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from hfpipe.errors import StageError, format_one_line


def count_needed_rows(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of embedding rows that a tokenizer needs: its highest id plus one."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def get_embedding_rows(config: PretrainedConfig) -> int | None:
    """Return the number of embedding rows of a model with this config, None if the config lacks it."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def count_embedding_rows(model: PreTrainedModel) -> int:
    """Return the number of embedding rows of a model."""
    weight: Any = model.get_input_embeddings().weight
    return int(weight.shape[0])


def check_rows(
    place: Any,
    rows: int | None,
    tokenizer: PreTrainedTokenizerBase,
    own: PreTrainedTokenizerBase | None = None,
) -> bool:
    """Return whether embeddings of `rows` rows must grow for a tokenizer; `own` is the model's tokenizer.

    Raises StageError if there are too few rows, unless the tokenizer is the model's with added tokens.
    """
    needed = count_needed_rows(tokenizer)
    if rows is None or needed <= rows:
        return False
    if (
        own is not None
        and count_needed_rows(own) <= rows
        and own.get_vocab().items() <= tokenizer.get_vocab().items()
    ):
        return True
    message = f"model {place}: its embeddings have {rows:,} rows, and the tokenizer has {needed:,} tokens"
    raise StageError(
        f"{message}; use the tokenizer that the model was trained with, and add tokens to it by a stage of "
        "kind tokenizer with special_tokens"
    )


def add_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
    """Add a row for each added token to a model's embeddings and language modelling head.

    New rows are sampled around the mean of the others, as in `resize_token_embeddings` (Hewitt, 2021), and
    depend only on the seed. Raises StageError when the model cannot be resized.
    """
    set_seed(seed)
    try:
        model.resize_token_embeddings(count_needed_rows(tokenizer))
    except (NotImplementedError, ValueError, AttributeError) as error:
        kind = model.config.model_type
        raise StageError(
            f"model: the embeddings of {kind} cannot be resized: {format_one_line(error)}"
        ) from error
