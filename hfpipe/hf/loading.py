"""Models from a place or from nothing, with the errors of Transformers turned into one line each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedModel, set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from hfpipe.errors import StageError
from hfpipe.hf.adapters import adapter_at, base_of, merged, whole_config
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

    An adapter comes merged into its base. A path never touches the network, unless it holds an adapter whose
    base is on the Hub; weights are read from safetensors only.
    Raises StageError when it cannot be loaded, or lacks weights that a `whole` one has.
    """
    model, anew = load_parts(auto_class, place, seed, head=head, trust_remote_code=trust_remote_code)
    if whole and anew:
        raise StageError(
            f"model {place}: was not trained for this task, it lacks {', '.join(anew[:3])}; finetune it first"
        )
    return model


def load_parts(
    auto_class: str,
    place: Path | Place,
    seed: int,
    *,
    head: dict[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, list[str]]:
    """Return what `load_model` does, and the names of the weights that were made anew."""
    try:
        with quiet():
            whole = _merged(auto_class, place, seed, trust_remote_code=trust_remote_code)
            if whole is None:
                opener, source = getattr(transformers, auto_class), _stored(place) | (head or {})
            else:
                opener, source = _again(auto_class, whole, head or {})
            set_seed(seed)
            model, found = opener.from_pretrained(
                **source,
                output_loading_info=True,
                ignore_mismatched_sizes=head is not None,
                dtype=torch.float32,
                trust_remote_code=trust_remote_code,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise StageError(f"model {place}: {one_line(error)}") from error
    if auto_class == "AutoModelForCausalLM" and _reads_ahead(model.config):
        raise StageError(
            f"model {place}: {model.config.model_type} reads what comes after a token as well, and so has "
            "nothing to foresee; take a decoder, as gpt2"
        )
    if whole is not None and model.can_generate() and whole.can_generate():
        model.generation_config = whole.generation_config  # which lies beside the base's weights only
    anew = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if anew:
        log.info("%s: weights made anew: %s", place, ", ".join(anew))
    return model, anew


def _reads_ahead(config: transformers.PretrainedConfig) -> bool:
    """Tell an encoder, which Transformers builds as a causal model all the same, and only warns of."""
    one_way = any(getattr(config, name, False) for name in ("is_decoder", "causal"))
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not one_way


def _stored(place: Path | Place) -> dict[str, Any]:
    """Return what `from_pretrained` takes for a place: no network for a path, and no pickles."""
    name, revision = name_of(place)
    return {
        "pretrained_model_name_or_path": name,
        "revision": revision or "main",
        "local_files_only": isinstance(place, Path),
        "use_safetensors": True,
    }


def _merged(
    auto_class: str, place: Path | Place, seed: int, *, trust_remote_code: bool
) -> PreTrainedModel | None:
    """Return the adapter at a place merged into its base; None where there is none."""
    name, revision = name_of(place)
    local = isinstance(place, Path)
    adapter = adapter_at(name, revision, local=local)
    if adapter is None:
        return None
    base = _base(adapter, auto_class, Path(name), seed, trust_remote_code=trust_remote_code)
    return merged(base, name, revision, local=local)


def name_of(place: Path | Place) -> tuple[str, str | None]:
    """Return name and revision as Transformers takes them."""
    return (str(place), None) if isinstance(place, Path) else place.hub or (str(place), None)


def _base(
    adapter: dict[str, Any], auto_class: str, folder: Path, seed: int, *, trust_remote_code: bool
) -> PreTrainedModel:
    """Return the model that an adapter lies on, of the class and with the head that it was trained with."""
    trained = (adapter.get("auto_mapping") or {}).get("base_model_class", auto_class)
    config = whole_config(folder)
    return load_parts(
        trained,
        base_of(adapter, folder),
        seed,
        head={"config": config} if config is not None else None,
        trust_remote_code=trust_remote_code,
    )[0]


def _again(auto_class: str, model: PreTrainedModel, head: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the class that a task wants of a model in memory, and what its `from_pretrained` takes."""
    with torch.device("meta"):
        wanted = type(getattr(transformers, auto_class).from_config(model.config))
    model.config.update(head)
    return wanted, {
        "pretrained_model_name_or_path": None,
        "config": model.config,
        "state_dict": model.state_dict(),
    }


def one_line(error: BaseException) -> str:
    """Return an error's text on one line, without the hundreds of classes that an auto class knows."""
    text = " ".join(str(error).split()).partition(" Model type should be one of")[0]
    return text or type(error).__name__
