"""Models from a place or from nothing, with the errors of Transformers turned into one line each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedModel, set_seed

from hfpipe.errors import StageError
from hfpipe.hf.quiet import quiet
from hfpipe.hf.wiring import sizes, special_tokens
from hfpipe.places import Place

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def new_config(
    settings: dict[str, Any], tokenizer: PreTrainedTokenizerBase, head: dict[str, Any]
) -> transformers.PretrainedConfig:
    """Return the config of a model from nothing: what the recipe says, sized and wired for the tokenizer.

    Raises StageError when Transformers refuses a value.
    """
    kind = settings["type"]
    entries = {key: value for key, value in settings.items() if key != "type"}
    try:
        made: Any = CONFIG_MAPPING[kind]
        filled = special_tokens(made, tokenizer) | head | sizes(made, entries)
        return made(**({"vocab_size": len(tokenizer)} | filled))
    except Exception as error:
        raise StageError(
            f"model: Transformers refuses {kind} with these entries: {one_line(error)}"
        ) from error


def new_model(auto_class: str, config: transformers.PretrainedConfig, seed: int) -> PreTrainedModel:
    """Return a model from nothing, float32, its weights a function of the seed.

    Raises StageError when Transformers has no such model for the task, or refuses the config.
    """
    set_seed(seed)
    try:
        model: PreTrainedModel = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
    except (ValueError, KeyError, RuntimeError, ImportError, AssertionError) as error:
        raise StageError(f"model: {config.model_type} cannot be built: {one_line(error)}") from error
    return model


def load_model(
    auto_class: str,
    place: Path | Place,
    seed: int,
    *,
    head: dict[str, Any] | None = None,
    whole: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Return a trained model, float32; what a new head lacks, or has in another shape, is made from the seed.

    A path never touches the network; weights are read from safetensors only.
    Raises StageError when it cannot be loaded, or lacks weights that a `whole` one has.
    """
    set_seed(seed)
    name, revision = (str(place), None) if isinstance(place, Path) else place.hub or (str(place), None)
    try:
        with quiet():
            model, found = getattr(transformers, auto_class).from_pretrained(
                name,
                output_loading_info=True,
                ignore_mismatched_sizes=head is not None,
                revision=revision or "main",
                dtype=torch.float32,
                local_files_only=isinstance(place, Path),
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                **(head or {}),
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise StageError(f"model {place}: {one_line(error)}") from error
    anew = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if anew:
        log.info("%s: weights made anew: %s", place, ", ".join(anew))
    if whole and found["missing_keys"]:
        lacking = ", ".join(sorted(found["missing_keys"])[:3])
        raise StageError(
            f"model {place}: was not trained for this task, it lacks {lacking}; finetune it first"
        )
    loaded: PreTrainedModel = model
    return loaded


def one_line(error: BaseException) -> str:
    """Return an error's text on one line, without the hundreds of classes that an auto class knows."""
    text = " ".join(str(error).split()).partition(" Model type should be one of")[0]
    return text or type(error).__name__
