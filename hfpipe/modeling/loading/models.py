"""Loads models from a checkpoint or creates them from scratch; errors of Transformers become one line."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel, set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from hfpipe.errors import HfpipeError, StageError, format_one_line, is_out_of_memory
from hfpipe.library_output import silence_libraries
from hfpipe.modeling.exports.formats import is_export
from hfpipe.modeling.exports.reading import open_export
from hfpipe.modeling.loading.checkpoint_files import check_model_files, get_name_and_revision
from hfpipe.modeling.loading.class_head import HeadChange, compare_heads
from hfpipe.modeling.loading.config import create_special_token_entries, derive_sizes, disable_dropout
from hfpipe.modeling.loading.lora import find_base, merge_adapter, read_adapter_config, read_merged_config
from hfpipe.modeling.loading.parameter_fit import LoadedNames, check_fit, check_signs
from hfpipe.references.places import Place
from hfpipe.store.store import suggest_restoring

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def create_config(
    settings: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    head: dict[str, Any],
    *,
    dropout: bool = True,
) -> transformers.PretrainedConfig:
    """Return the config of a model from scratch: the recipe's entries, completed for the tokenizer.

    Without `dropout`, dropout is 0 unless the recipe sets it.
    Raises StageError when Transformers rejects a value.
    """
    kind = settings["type"]
    entries = {key: value for key, value in settings.items() if key != "type"}
    try:
        made: Any = CONFIG_MAPPING[kind]
        filled = create_special_token_entries(made, tokenizer) | head | derive_sizes(made, entries)
        if not dropout:
            filled = disable_dropout(made, entries) | filled
        return made(**({"vocab_size": len(tokenizer)} | filled))
    except Exception as error:  # an invalid entry may raise any exception
        raise StageError(
            f"model: Transformers rejects {kind} with these entries: {format_one_line(error)}"
        ) from error


def create_model(auto_class: str, config: transformers.PretrainedConfig, seed: int) -> PreTrainedModel:
    """Return a model from scratch, float32; its weights depend only on the config and the seed.

    Raises StageError when Transformers has no such model for the task, or rejects the config.
    """
    set_seed(seed)
    try:
        model: PreTrainedModel = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
    except Exception as error:  # an invalid entry may raise any exception
        if is_out_of_memory(error):
            raise
        raise StageError(f"model: {config.model_type} cannot be built: {format_one_line(error)}") from error
    return model


def measure_embeddings(auto_class: str, config: transformers.PretrainedConfig) -> tuple[int, int]:
    """Return the number of rows and of columns of a model's input embeddings, without allocating them."""
    with torch.device("meta"):
        weight: Any = create_model(auto_class, config, 0).get_input_embeddings().weight
    return weight.shape[0], weight.shape[1]


class LoadedParts(NamedTuple):
    """A model, and which of its parameters differ from the checkpoint."""

    model: PreTrainedModel
    changed: list[str]
    """Parameters that were newly initialized, or reordered for other classes."""
    initialized: list[str]
    """The newly initialized ones among them."""
    note: str
    """Description of the changes to the head, as a clause; empty if no weights changed."""


def load_model(
    auto_class: str,
    place: Path | Place,
    seed: int,
    *,
    head: dict[str, Any] | None = None,
    whole: bool = False,
    trust_remote_code: bool = False,
    trusts_export: bool = False,
) -> PreTrainedModel:
    """Return a trained model, float32; a new head is initialized from the seed.

    An adapter is merged into its base. A path needs no network access, unless it contains an adapter whose
    base is on the Hub. Weights are read only from safetensors. An exported model is `whole`, and one that can
    execute code when it is opened needs `trusts_export`. Raises StageError when the model cannot be loaded,
    or when it must be `whole` and lacks a head.
    """
    if whole and is_export(place):
        exported = open_export(Path(str(place)), auto_class, trusted=trusts_export or trust_remote_code)
        return cast("PreTrainedModel", exported)
    loaded = load_parts(auto_class, place, seed, head=head, trust_remote_code=trust_remote_code)
    if whole and loaded.initialized:
        lacks = ", ".join(loaded.initialized[:3])
        raise StageError(f"model {place}: was not trained for this task: it lacks {lacks}; finetune it first")
    return loaded.model


def load_parts(
    auto_class: str,
    place: Path | Place,
    seed: int,
    *,
    head: dict[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> LoadedParts:
    """Return the model of `load_model`, with the names of the parameters that changed.

    `head` holds the config entries that a task needs. A head with the same classes is kept, with its rows in
    the new order; a head with other classes is newly initialized. No other parameters may be newly
    initialized.
    """
    with translate_loading_errors(place), silence_libraries():
        check_model_files(place)
        if is_export(place):
            raise StageError(f"model {place}: is an export, which cannot be trained; start from its original")
        base = _merge_adapter(auto_class, place, seed, trust_remote_code=trust_remote_code)
        if base is None:
            config = read_config(place, trust_remote_code=trust_remote_code)
            opener, source = getattr(transformers, auto_class), _get_place_arguments(place)
        else:
            config = base.model.config
            opener, source = _get_model_class(auto_class, config), _get_memory_arguments(base.model)
        check_signs(config, place)
        change = compare_heads(config, head or {})
        declared = list(config.architectures or [])
        config.update(head or {})
        wanted = {"config": config, "trust_remote_code": trust_remote_code}
        model, found = _open_model(opener, seed, **source, **wanted)
        if found.missing and (renaming := _map_names(model, declared)):
            model, found = _open_model(opener, seed, **source, **wanted, key_mapping=renaming)
        check_fit(model, found, place, new_head=change.new or type(model).__name__ not in declared)
        random = [name for name in base.initialized if name in model.state_dict()] if base else []
        changed = change.apply(model, found.initialized, seed)
    if auto_class == "AutoModelForCausalLM" and _is_encoder(model.config):
        raise StageError(
            f"model {place}: {model.config.model_type} reads what comes after a token as well, so that "
            "there is nothing to predict; use a decoder such as gpt2"
        )
    if base is not None and model.can_generate() and base.model.can_generate():
        model.generation_config = base.model.generation_config  # it is stored only with the base's weights
    return _log_changes(model, place, change, {*found.initialized, *random}, changed)


def _open_model(opener: Any, seed: int, **source: Any) -> tuple[PreTrainedModel, LoadedNames]:
    """Return a model in float32, with missing parameters initialized from the seed, and their names."""
    set_seed(seed)
    model, info = opener.from_pretrained(
        **source,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # `check_fit` reports them
        dtype=torch.float32,
    )
    return model, LoadedNames.from_info(info)


def _map_names(model: PreTrainedModel, declared: Sequence[str]) -> dict[str, str]:
    """Return the mapping from names in a file to the model's, if the saved class has another prefix.

    In Transformers 5, Llama's question answering model has one, and would get a random backbone.
    """
    saved = getattr(transformers, declared[0], None) if declared else None
    old, new = getattr(saved, "base_model_prefix", ""), model.base_model_prefix
    return {rf"^{re.escape(old)}\.": f"{new}."} if old and new and old != new else {}


def _log_changes(
    model: PreTrainedModel, place: Path | Place, change: HeadChange, initialized: set[str], changed: list[str]
) -> LoadedParts:
    """Return the model with its changed parameters, and log all of them."""
    new = initialized if change.order is not None else {*initialized, *changed}
    everything = sorted({*initialized, *changed})
    note = change.describe(sorted(new))
    if new:
        log.info("%s: newly initialized weights: %s", place, ", ".join(sorted(new)))
    if note:
        log.info("%s: %s", place, note)
    return LoadedParts(model, everything, sorted(new), note)


def read_config(place: Path | Place, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Return the config stored with a model."""
    name, revision = get_name_and_revision(place)
    config: PretrainedConfig = AutoConfig.from_pretrained(
        name,
        revision=revision or "main",
        local_files_only=isinstance(place, Path),
        trust_remote_code=trust_remote_code,
    )
    return config


def read_head_config(
    place: Path | Place, auto_class: str | None, *, trust_remote_code: bool = False
) -> PretrainedConfig:
    """Return the config of a model, which must have the head of `auto_class` unless that is None.

    Raises StageError when there is no model, or it lacks that head.
    """
    config = load_config(place, trust_remote_code=trust_remote_code)
    with translate_loading_errors(place):
        declared = config.architectures or []
        if auto_class is not None and _get_model_class(auto_class, config).__name__ not in declared:
            load_model(auto_class, place, 0, whole=True, trust_remote_code=trust_remote_code)
    return config


def load_config(place: Path | Place, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Return the config of a model, or of an adapter with its base; raises the errors of `load_model`."""
    with translate_loading_errors(place), silence_libraries():
        check_model_files(place)
        name, revision = get_name_and_revision(place)
        adapter = read_adapter_config(name, revision, local=isinstance(place, Path))
        if adapter is None:
            return read_config(place, trust_remote_code=trust_remote_code)
        base = find_base(adapter, Path(name))
        return read_merged_config(Path(name)) or read_config(base, trust_remote_code=trust_remote_code)


@contextmanager
def translate_loading_errors(place: Path | Place) -> Iterator[None]:
    """Convert any library error about a model, config or adapter to a one-line StageError."""
    advice = "correct its config, or save the model again" if isinstance(place, Path) else ""
    try:
        yield
    except HfpipeError:
        raise
    except Exception as error:  # an invalid config entry may raise any exception
        if is_out_of_memory(error):
            raise
        known = isinstance(error, (OSError, ValueError, RuntimeError, ImportError))
        cause = format_one_line(error).rstrip(".") + ("" if known else f" ({type(error).__name__})")
        raise StageError(f"model {place}: cannot be loaded: {cause}{'; ' * bool(advice)}{advice}") from error


def _is_encoder(config: transformers.PretrainedConfig) -> bool:
    """Return whether this is an encoder, which Transformers builds as a causal model with only a warning."""
    one_way = any(getattr(config, name, False) for name in ("is_decoder", "causal"))
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not one_way


def _get_place_arguments(place: Path | Place) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for a place: no network for a path, and no pickles."""
    name, revision = get_name_and_revision(place)
    return {
        "pretrained_model_name_or_path": name,
        "revision": revision or "main",
        "local_files_only": isinstance(place, Path),
        "use_safetensors": True,
    }


class Base(NamedTuple):
    """A base model with its adapter merged."""

    model: PreTrainedModel
    initialized: list[str]
    """Parameters that are in neither the base nor the adapter."""


def _merge_adapter(
    auto_class: str, place: Path | Place, seed: int, *, trust_remote_code: bool
) -> Base | None:
    """Return the adapter at a place merged into its base; None if there is no adapter."""
    name, revision = get_name_and_revision(place)
    local = isinstance(place, Path)
    adapter = read_adapter_config(name, revision, local=local)
    if adapter is None:
        return None
    base = _load_base(adapter, auto_class, Path(name), seed, trust_remote_code=trust_remote_code)
    model, held = merge_adapter(base.model, name, revision, local=local)
    return Base(model, [name for name in base.initialized if name not in held])


def _load_base(
    adapter: dict[str, Any], auto_class: str, folder: Path, seed: int, *, trust_remote_code: bool
) -> Base:
    """Return the base model of an adapter, with the class and the head that it was trained with.

    Its head may differ: the adapter replaces it, or was trained with the base's head.
    """
    trained = (adapter.get("auto_mapping") or {}).get("base_model_class", auto_class)
    place = find_base(adapter, folder)
    if isinstance(place, Path) and not place.exists():
        raise StageError(f"adapter {folder}: its base {place} is missing; {suggest_restoring(place)}")
    check_model_files(place)
    kept = read_merged_config(folder)
    config = kept or read_config(place, trust_remote_code=trust_remote_code)
    model, found = _open_model(
        getattr(transformers, trained),
        seed,
        **_get_place_arguments(place),
        config=config,
        trust_remote_code=trust_remote_code,
    )
    check_fit(model, found, place, new_head=True)
    return Base(model, found.initialized)


def _get_model_class(auto_class: str, config: PretrainedConfig) -> Any:
    """Return the model class that a task needs, for a model in memory."""
    with torch.device("meta"):
        return type(getattr(transformers, auto_class).from_config(config))


def _get_memory_arguments(model: PreTrainedModel) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for weights that are already in memory."""
    return {"pretrained_model_name_or_path": None, "state_dict": model.state_dict()}
