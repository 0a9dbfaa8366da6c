"""What is known of models, tokenizers and data sets before any of them is loaded."""

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
    """A model's config: what is given, over the installed defaults of its type."""

    kind: str
    given: Mapping[str, Any]
    config: Config

    @property
    def positions(self) -> int | None:
        """Longest input, or None where the architecture sets no limit."""
        most, padding = (
            self.config.get_value(self.given, name) for name in ("max_position_embeddings", "pad_token_id")
        )
        return get_max_positions(self.kind, most, padding)

    @property
    def token_types(self) -> int:
        """How many kinds of segment the model distinguishes."""
        found = self.config.get_value(self.given, "type_vocab_size")
        return found if isinstance(found, int) else 0

    @property
    def reads_ahead(self) -> bool:
        """Whether tokens are read with those after them, as by an encoder not set to be a decoder."""
        one_way = any(self.config.get_value(self.given, name) for name in ("is_decoder", "causal"))
        return self.kind in list_types_with("AutoModelForMaskedLM") and not one_way

    def has(self, auto_class: str) -> bool:
        """Tell whether Transformers, or code that comes with the model, builds it for a task."""
        kinds = list_types_with(auto_class)
        # Which of those for pretraining have heads for both of BERT's objectives, the table does not say.
        open_to_all = auto_class == "AutoModelForPreTraining" or not kinds
        return open_to_all or self.kind in kinds or "auto_map" in self.given


@dataclass(frozen=True)
class TokenizerFacts:
    """What is known of a tokenizer; None where it is not."""

    mask: bool | None = None
    """Whether it has a mask token."""
    size: int | None = None
    """How many tokens it has at most."""
    blanks: bool | None = None
    """Whether it has the token that replaces hidden spans, <extra_id_0>."""
    chat: bool | None = None
    """Whether it has a chat template."""
    names: frozenset[str] = frozenset()
    """Its entries, where they are known."""


def model(value: Place | Mapping[str, Any], above: Mapping[str, Stage], base: Path) -> Model | None:
    """Return what is known of a model that is a mapping, a stage above, a folder or in the Hub's cache."""
    if isinstance(value, Mapping):
        return _model(value.get("type"), value)
    if value.stage is not None:
        stage, before = above.get(value.stage), _before(above, value.stage)
        return model(getattr(stage, "model", {}), before, base)
    given = _json(value, "config.json", base)
    return _model(given.get("model_type"), given)


def _model(kind: Any, given: Mapping[str, Any]) -> Model | None:
    known = read_model_config(kind) if isinstance(kind, str) else None
    return Model(kind, given, known) if known is not None and known.fields else None


def is_adapter(place: Place, above: Mapping[str, Stage], base: Path) -> bool:
    """Return whether a place holds an adapter without the weights of its base."""
    if place.stage is None:
        return bool(_json(place, "adapter_config.json", base))
    adapter = getattr(above.get(place.stage), "adapter", None)
    return adapter is not None and not adapter.merge


def tokenizer_facts(place: Any, above: Mapping[str, Stage], base: Path) -> TokenizerFacts:
    """Return what is known of the tokenizer at a place."""
    if not isinstance(place, Place):
        return TokenizerFacts()
    if place.stage is None:
        return _read_tokenizer(place, base)
    stage, before = above.get(place.stage), _before(above, place.stage)
    if isinstance(stage, Tokenizer):
        if stage.algorithm is None:
            return _extended(tokenizer_facts(stage.tokenizer, before, base), stage.special_tokens)
        style = STYLES[stage.style or BY_ALGORITHM[stage.algorithm]]
        extra = {*style.extra, *stage.special_tokens}
        return TokenizerFacts("mask_token" in style.roles, stage.vocab_size, BLANK in extra, chat=False)
    return tokenizer_facts(getattr(stage, "tokenizer", None) or getattr(stage, "model", None), before, base)


def _extended(found: TokenizerFacts, tokens: Sequence[str]) -> TokenizerFacts:
    """Return what is known of a tokenizer once tokens are added to it."""
    if found.size is None or not found.names:
        return found
    names = found.names.union(tokens)
    return replace(found, size=found.size + len(names) - len(found.names), names=names)


def origin(place: Any, above: Mapping[str, Stage], base: Path) -> str | None:
    """Return where the tokenizer at a place came from before tokens were added to it; None if not known."""
    if not isinstance(place, Place):
        return None
    if place.stage is None:
        folder = locate_place(place, base, {})
        return str(place) if folder is None else str(folder.resolve())
    stage, before = above.get(place.stage), _before(above, place.stage)
    if isinstance(stage, Tokenizer):
        return str(place) if stage.algorithm is not None else origin(stage.tokenizer, before, base)
    return origin(getattr(stage, "tokenizer", None) or getattr(stage, "model", None), before, base)


def classes(
    place: Place, task: TaskConfig, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]
) -> DataFacts | None:
    """Return the classes that a task's model will have once its stage above has trained it.

    None where its data are not known yet, or it was trained for another task.
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
    except AttributeError:  # user code may read more of a config, which is there once the model is
        return None


def _before(above: Mapping[str, Stage], name: str) -> dict[str, Stage]:
    """Return the stages above one of them, so that a recipe that goes in circles comes to an end."""
    return dict(takewhile(lambda entry: entry[0] != name, above.items()))


def _read_tokenizer(place: Place, base: Path) -> TokenizerFacts:
    """Read a saved tokenizer; older ones name their mask token only in the library's code."""
    masks = (_json(place, file, base).get("mask_token") for file in _SETTINGS)
    mask = True if any(masks) else None
    saved = _json(place, "tokenizer.json", base)
    try:
        added = {token["content"]: token["id"] for token in saved["added_tokens"]}
        vocab = saved["model"]["vocab"]
        names = {*added, *(vocab if isinstance(vocab, dict) else (entry[0] for entry in vocab))}
        size = max(len(vocab), *(number + 1 for number in added.values()))
    except (AttributeError, IndexError, KeyError, TypeError):
        return TokenizerFacts(mask)  # not there, or of another make
    mask = mask or any("mask" in token.lower() for token in added)
    return TokenizerFacts(mask, size, BLANK in names, _chats(place, base), frozenset(names))


def _chats(place: Place, base: Path) -> bool | None:
    """Tell whether a folder holds a chat template; None for the Hub, of which not all files may be here."""
    folder = locate_place(place, base, {})
    if folder is None:
        return None
    kept = (folder / name for name in ("chat_template.jinja", "additional_chat_templates"))
    return any(file.exists() for file in kept) or "chat_template" in _json(place, _SETTINGS[0], base)


def _json(place: Place, name: str, base: Path) -> Mapping[str, Any]:
    """Return a JSON file in the folder of a model; empty when it is not on this machine."""
    try:
        folder = locate_place(place, base, {})
        file = folder / name if folder is not None else _cached(place, name)
        found = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
    except (DataError, OSError, ValueError, RecursionError):
        return {}  # a missing place is reported where places are checked, a broken file when it is loaded
    return found if isinstance(found, dict) else {}


def _cached(place: Place, name: str) -> Path | None:
    if place.hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    hub, revision = place.hub
    found = try_to_load_from_cache(hub, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def columns(place: Place, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]) -> set[str] | None:
    """Return the columns of a data set, or None while they are not known."""
    name = place.stage or ""
    stage = above.get(name)
    if name in facts:
        return set(facts[name].columns)
    return set(stage.columns) or None if isinstance(stage, Dataset) else None


def splits(place: Place, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]) -> set[str] | None:
    """Return the splits of a data set, or None while they are not known."""
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
    return None  # the Hub, another stage, or the names of files may bring splits of their own
