"""Text generation for encoder-decoders and decoders, with results that do not depend on the batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from hfpipe.errors import StageError, format_one_line
from hfpipe.metrics.metric import to_object_array
from hfpipe.tasks.shared.generation_config import Generation, Sampling

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

    from hfpipe.types import Batch


SAMPLING_ENTRIES = (
    "temperature",
    "top_k",
    "top_p",
    "top_h",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
"""Entries of a GenerationConfig that only have an effect when sampling."""


class GeneratedTexts(NamedTuple):
    """The texts that a model generated for the rows of a batch."""

    texts: np.ndarray
    """Without special tokens and prompt, object (rows,)."""
    tokens: np.ndarray
    """Number of generated tokens, including the end token, int64 (rows,)."""
    cut: np.ndarray
    """Whether the length limit was reached before the end token, bool (rows,)."""


def generate_texts(
    model: Any,
    batch: Batch,
    tokenizer: PreTrainedTokenizerBase,
    settings: Generation,
    *,
    forced_bos_token_id: int | None = None,
    random: Sequence[np.random.Generator] = (),
) -> GeneratedTexts:
    """Generate a text for each row of a batch; the model may be wrapped.

    In float32 the result does not depend on how rows are batched. `batch` holds `input_ids` and
    `attention_mask`, int64 (rows, length), padded on either side; for a decoder they are the prompts.
    `forced_bos_token_id` is the first generated token, as multilingual translation models need; `random`
    holds one generator per row if the settings sample. Raises StageError when there is no end token.
    """
    bare = extract_model_from_parallel(model, keep_torch_compile=False)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if bare.config.is_encoder_decoder:
        start = 1
    else:
        ids, mask = pad_left(ids, mask)
        start = ids.shape[1]
    config = _build_config(bare.generation_config, tokenizer, settings, forced_bos_token_id)
    drawn = settings if isinstance(settings, Sampling) and settings.do_sample else None
    if drawn:
        config.num_beams = 1  # sampling uses one beam, whatever the model's own config sets
    with _replace_config(bare, config), torch.no_grad():
        out = bare.generate(
            input_ids=ids,
            attention_mask=mask,
            logits_processor=_create_sampling_processors(drawn, random) if drawn else LogitsProcessorList(),
        )
    return _read_output(out[:, start:].cpu().numpy(), tokenizer, config)


def configure_generation(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    settings: Generation,
    forced_bos_token_id: int | None = None,
) -> None:
    """Store the generation settings in a model, so that its `generate` works like `generate_texts`.

    Sampled tokens differ, since `generate` uses another random stream. Raises StageError for settings that
    Transformers does not save.
    """
    config = _build_config(model.generation_config, tokenizer, settings, forced_bos_token_id)
    if isinstance(settings, Sampling) and settings.do_sample:
        draws = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        config.update(do_sample=True, num_beams=1, **draws)
    if (config.num_beams or 1) == 1:
        if settings.length_penalty is not None:
            raise StageError(
                "generation: length_penalty has no effect without beam search; set num_beams or delete it"
            )
        config.length_penalty = config.early_stopping = None
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise StageError(f"generation: {format_one_line(error)}") from error
    model.generation_config = config


def pad_left(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return ids and mask, (rows, length) each, with the padding of each row moved to the left."""
    order = torch.argsort(mask, dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


def _build_config(
    own: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    settings: Generation,
    forced_bos_token_id: int | None,
) -> GenerationConfig:
    """Return the model's generation config, updated by the settings and with all end tokens."""
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    stops = sorted({end for end in (*ends, tokenizer.eos_token_id) if end is not None})
    if not stops:
        raise StageError("neither the model nor the tokenizer has an end token; set eos_token")
    config = copy.deepcopy(own)
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    entries = settings.model_dump(exclude_none=True, exclude={"do_sample", "temperature", "top_p"})
    if "min_new_tokens" in entries:
        config.min_length = None
    elif (config.min_new_tokens or 0) > (settings.max_new_tokens or math.inf):
        config.min_new_tokens = None  # a minimum of the model's config that exceeds the maximum
    for name in ("max_length", *SAMPLING_ENTRIES):
        setattr(config, name, None)  # they would have no effect or contradict the settings
    # An end token forced at the limit would hide that the text was truncated.
    config.forced_eos_token_id = None
    config.update(eos_token_id=stops, do_sample=False, num_return_sequences=1, **entries)
    if forced_bos_token_id is not None:
        config.forced_bos_token_id = forced_bos_token_id
    return config


@contextmanager
def _replace_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Replace the model's config temporarily: arguments of `generate` cannot unset entries of the config."""
    own, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = own


def _create_sampling_processors(
    settings: Sampling, random: Sequence[np.random.Generator]
) -> LogitsProcessorList:
    return LogitsProcessorList(
        [TemperatureLogitsWarper(settings.temperature), TopPLogitsWarper(settings.top_p), Gumbel(random)]
    )


class Gumbel(LogitsProcessor):
    """Adds Gumbel noise, so that the argmax is a sample (the Gumbel-max trick; Gumbel, 1954).

    `generate` samples from one random stream for all rows, so an output would depend on its batch.
    """

    def __init__(self, random: Sequence[np.random.Generator]) -> None:
        self._random = random

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = np.stack([random.gumbel(size=scores.shape[1]) for random in self._random])
        return scores + torch.from_numpy(noise).to(scores)


def _read_output(
    ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, config: GenerationConfig
) -> GeneratedTexts:
    ended = np.isin(ids, config.eos_token_id)
    cut = np.logical_not(ended.any(axis=1))
    tokens = np.where(cut, ids.shape[1], ended.argmax(axis=1) + 1)
    rows = [row[:number].tolist() for row, number in zip(ids, tokens, strict=True)]
    return GeneratedTexts(
        to_object_array(tokenizer.batch_decode(rows, skip_special_tokens=True)), tokens, cut
    )
