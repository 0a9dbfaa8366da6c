"""Facts about models, tokenizers and data sets that are known before loading them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hfpipe.contract import Stage
from hfpipe.errors import DataError
from hfpipe.modeling.max_length import get_max_positions
from hfpipe.recipe.installed import Config, list_types_with, read_model_config
from hfpipe.references.places import Place, locate_place
from hfpipe.report import DataFacts
from hfpipe.stages.dataset import Dataset
from hfpipe.stages.tokenizer import BY_ALGORITHM, Tokenizer
from hfpipe.task import TaskConfig
from hfpipe.tokenization.special_tokens import STYLES

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
BLANK = "<extra_id_0>"
"""Token that replaces the first hidden span of a T5."""


@dataclass(frozen=True)
class Model:
    """A model's config: the given entries, with the installed defaults of its type."""

    kind: str
    given: Mapping[str, Any]
    config: Config

    @property
    def positions(self) -> int | None:
        """Maximum input length, None if the architecture has no limit."""
        most, padding = (
            self.config.get_value(self.given, name) for name in ("max_position_embeddings", "pad_token_id")
        )
        return get_max_positions(self.kind, most, padding)

    @property
    def token_types(self) -> int:
        """Number of segment types that the model distinguishes."""
        found = self.config.get_value(self.given, "type_vocab_size")
        return found if isinstance(found, int) else 0

    @property
    def reads_ahead(self) -> bool:
        """Whether tokens attend to later tokens, as in an encoder that is not configured as a decoder."""
        one_way = any(self.config.get_value(self.given, name) for name in ("is_decoder", "causal"))
        return self.kind in list_types_with("AutoModelForMaskedLM") and not one_way

    def has(self, auto_class: str) -> bool:
        """Return whether Transformers, or code of the model, has a class of the model for a task."""
        kinds = list_types_with(auto_class)
        # The table does not show which pretraining classes have heads for both of BERT's objectives.
        open_to_all = auto_class == "AutoModelForPreTraining" or not kinds
        return open_to_all or self.kind in kinds or "auto_map" in self.given


@dataclass(frozen=True)
class TokenizerFacts:
    """Facts about a tokenizer; None if unknown."""

    mask: bool | None = None
    """Whether it has a mask token."""
    size: int | None = None
    """Maximum number of its tokens."""
    blanks: bool | None = None
    """Whether it has the token that replaces hidden spans, <extra_id_0>."""
    chat: bool | None = None
    """Whether it has a chat template."""
    names: frozenset[str] = frozenset()
    """Its vocabulary entries, if known."""


def find_model(value: Place | Mapping[str, Any], above: Mapping[str, Stage], base: Path) -> Model | None:
    """Return the facts about a model that is a mapping, a stage above, a folder or in the Hub's cache."""
    if isinstance(value, Mapping):
        return _complete_config(value.get("type"), value)
    if value.stage is not None:
        stage, before = above.get(value.stage), _select_stages_above(above, value.stage)
        return find_model(getattr(stage, "model", {}), before, base)
    given = _read_json(value, "config.json", base)
    return _complete_config(given.get("model_type"), given)


def _complete_config(kind: Any, given: Mapping[str, Any]) -> Model | None:
    known = read_model_config(kind) if isinstance(kind, str) else None
    return Model(kind, given, known) if known is not None and known.fields else None


def is_adapter(place: Place, above: Mapping[str, Stage], base: Path) -> bool:
    """Return whether a place holds an adapter without the weights of its base."""
    if place.stage is None:
        return bool(_read_json(place, "adapter_config.json", base))
    adapter = getattr(above.get(place.stage), "adapter", None)
    return adapter is not None and not adapter.merge


def find_tokenizer_facts(place: Any, above: Mapping[str, Stage], base: Path) -> TokenizerFacts:
    """Return the facts about the tokenizer at a place."""
    if not isinstance(place, Place):
        return TokenizerFacts()
    if place.stage is None:
        return _read_tokenizer(place, base)
    stage, before = above.get(place.stage), _select_stages_above(above, place.stage)
    if isinstance(stage, Tokenizer):
        if stage.algorithm is None:
            return _add_tokens(find_tokenizer_facts(stage.tokenizer, before, base), stage.special_tokens)
        style = STYLES[stage.style or BY_ALGORITHM[stage.algorithm]]
        extra = {*style.extra, *stage.special_tokens}
        return TokenizerFacts("mask_token" in style.roles, stage.vocab_size, BLANK in extra, chat=False)
    return find_tokenizer_facts(
        getattr(stage, "tokenizer", None) or getattr(stage, "model", None), before, base
    )


def _add_tokens(found: TokenizerFacts, tokens: Sequence[str]) -> TokenizerFacts:
    """Return the facts about a tokenizer after tokens are added to it."""
    if found.size is None or not found.names:
        return found
    names = found.names.union(tokens)
    return replace(found, size=found.size + len(names) - len(found.names), names=names)


def find_origin(place: Any, above: Mapping[str, Stage], base: Path) -> str | None:
    """Return the tokenizer to which the tokens of the tokenizer at a place were added; None if unknown."""
    if not isinstance(place, Place):
        return None
    if place.stage is None:
        folder = locate_place(place, base, {})
        return str(place) if folder is None else str(folder.resolve())
    stage, before = above.get(place.stage), _select_stages_above(above, place.stage)
    if isinstance(stage, Tokenizer):
        return str(place) if stage.algorithm is not None else find_origin(stage.tokenizer, before, base)
    return find_origin(getattr(stage, "tokenizer", None) or getattr(stage, "model", None), before, base)


def get_trained_classes(
    place: Place, task: TaskConfig, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]
) -> DataFacts | None:
    """Return the classes that a task's model will have after its stage above has trained it.

    None if its data are not known yet, or it is trained for another task.
    """
    trained = above.get(place.stage or "")
    learned = facts.get(getattr(getattr(trained, "data", None), "stage", None) or "")
    own = getattr(trained, "task", None)
    if learned is None or not isinstance(own, TaskConfig) or own.kind != task.kind:
        return None
    if any(True for _ in own.check(learned)):
        return None  # reported where it is trained
    head = own.head(learned)
    config = SimpleNamespace(id2label=head.get("id2label"), problem_type=head.get("problem_type"))
    try:
        return task.facts_from_config(cast("PretrainedConfig", config))
    except AttributeError:  # user code may need more of the config, which exists after training
        return None


def _select_stages_above(above: Mapping[str, Stage], name: str) -> dict[str, Stage]:
    """Return the stages above one of them, so that cyclic recipes terminate."""
    return dict(takewhile(lambda entry: entry[0] != name, above.items()))


def _read_tokenizer(place: Place, base: Path) -> TokenizerFacts:
    """Read a saved tokenizer; older ones name their mask token only in the library's code."""
    masks = (_read_json(place, file, base).get("mask_token") for file in _SETTINGS)
    mask = True if any(masks) else None
    saved = _read_json(place, "tokenizer.json", base)
    try:
        added = {token["content"]: token["id"] for token in saved["added_tokens"]}
        vocab = saved["model"]["vocab"]
        names = {*added, *(vocab if isinstance(vocab, dict) else (entry[0] for entry in vocab))}
        size = max(len(vocab), *(number + 1 for number in added.values()))
    except (AttributeError, IndexError, KeyError, TypeError):
        return TokenizerFacts(mask)  # missing, or of another kind
    mask = mask or any("mask" in token.lower() for token in added)
    return TokenizerFacts(mask, size, BLANK in names, _has_chat_template(place, base), frozenset(names))


def _has_chat_template(place: Place, base: Path) -> bool | None:
    """Return whether a folder has a chat template; None for the Hub, whose files may not all be cached."""
    folder = locate_place(place, base, {})
    if folder is None:
        return None
    kept = (folder / name for name in ("chat_template.jinja", "additional_chat_templates"))
    return any(file.exists() for file in kept) or "chat_template" in _read_json(place, _SETTINGS[0], base)


def _read_json(place: Place, name: str, base: Path) -> Mapping[str, Any]:
    """Return a JSON file in the folder of a model; empty when it is not on this machine."""
    try:
        folder = locate_place(place, base, {})
        file = folder / name if folder is not None else _find_cached(place, name)
        found = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
    except (DataError, OSError, ValueError, RecursionError):
        return {}  # a missing place is reported by its own check, a broken file when it is loaded
    return found if isinstance(found, dict) else {}


def _find_cached(place: Place, name: str) -> Path | None:
    if place.hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    hub, revision = place.hub
    found = try_to_load_from_cache(hub, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def get_columns(place: Place, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]) -> set[str] | None:
    """Return the columns of a data set, None if they are not known yet."""
    name = place.stage or ""
    stage = above.get(name)
    if name in facts:
        return set(facts[name].columns)
    return set(stage.columns) or None if isinstance(stage, Dataset) else None


def get_splits(place: Place, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]) -> set[str] | None:
    """Return the splits of a data set, None if they are not known yet."""
    name = place.stage or ""
    stage = above.get(name)
    if name in facts:
        return set(facts[name].splits)
    if not isinstance(stage, Dataset):
        return None
    source = stage.source
    if isinstance(source.files, dict):
        return {*source.files, *stage.split}
    if source.is_pool:
        return {"train", *stage.split}
    return None  # the Hub, another stage, or file names may provide splits
