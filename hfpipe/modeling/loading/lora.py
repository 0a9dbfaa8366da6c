"""LoRA adapters with PEFT: trains low-rank matrices in addition to frozen weights (Hu et al., 2021)."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, set_seed
from transformers.utils.peft_utils import find_adapter_config_file

from hfpipe.errors import StageError, format_one_line
from hfpipe.references.places import Place

if TYPE_CHECKING:
    from peft import PeftModel

FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md")
"""Files that PEFT writes for an adapter."""
MERGED_CONFIG = "model"
"""Folder next to them with the config of the merged model, whose head may differ from the base's."""


def add_adapter(
    model: PreTrainedModel,
    settings: Mapping[str, Any],
    changed: Sequence[str],
    place: Path | Place,
    seed: int,
) -> PeftModel:
    """Freeze a model and add adapters to its layers, in place.

    `settings` are arguments of PEFT's LoraConfig; `changed` are weights that differ from the checkpoint:
    their modules are trained in full and saved with the adapter. Raises StageError when PEFT rejects the
    settings or is not installed.
    """
    name, revision = _name_of_base(place)
    model.name_or_path = name
    modules = sorted({weight.rpartition(".")[0] for weight in changed} | set(settings["modules_to_save"]))
    set_seed(seed)
    return add_lora(model, {**settings, "modules_to_save": modules, "revision": revision})


def add_lora(model: PreTrainedModel, settings: Mapping[str, Any]) -> PeftModel:
    """Add low-rank matrices to a model's layers; raises the errors of `add_adapter`."""
    peft = _import_peft()
    try:
        with _ignore_peft_warnings():
            modules = settings["modules_to_save"] or None
            return peft.get_peft_model(model, peft.LoraConfig(**{**settings, "modules_to_save": modules}))
    except (ValueError, TypeError) as error:
        raise StageError(f"adapter: PEFT rejects these settings: {format_one_line(error)}") from error


def read_adapter_config(name: str, revision: str | None, *, local: bool) -> dict[str, Any] | None:
    """Return the config of the adapter at a folder or Hub id; None if a complete model is there.

    Raises StageError when the config does not name a base.
    """
    found = find_adapter_config_file(name, revision=revision, local_files_only=local)
    if not found:
        return None
    adapter = json.loads(Path(found).read_text(encoding="utf-8"))
    if not isinstance(adapter, dict) or not isinstance(adapter.get("base_model_name_or_path"), str):
        raise StageError(
            f"adapter {name}: {Path(found).name} does not name its base; write base_model_name_or_path there"
        )
    return adapter


def find_base(adapter: Mapping[str, Any], folder: Path) -> Path | Place:
    """Return the place of an adapter's base model.

    Runs may have been moved: a missing base is searched for next to the adapter's folder.
    """
    name = str(adapter["base_model_name_or_path"])
    if not Path(name).is_absolute():
        return Place(f"{name}@{adapter['revision']}" if adapter.get("revision") else name)
    sibling = folder.parent / Path(name).name
    return sibling if not Path(name).exists() and sibling.exists() else Path(name)


def read_merged_config(folder: Path) -> PretrainedConfig | None:
    """Return the config that `keep_config` saved in a folder, None if there is none."""
    path = folder / MERGED_CONFIG
    return (
        AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        if path.is_dir()
        else None
    )


def merge_adapter(
    base: PreTrainedModel, name: str, revision: str | None, *, local: bool
) -> tuple[PreTrainedModel, set[str]]:
    """Merge an adapter into its base model; return the model and the parameters that the adapter replaced.

    The result is a plain model, equal up to rounding. Raises StageError when the adapter's file lacks weights
    that its config requires, or contains others.
    """
    peft = _import_peft()
    with _ignore_peft_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # raised as an error below
        try:
            adapter = peft.PeftModel.from_pretrained(base, name, revision=revision, local_files_only=local)
            found = adapter.load_adapter(name, "default", revision=revision, local_files_only=local)
        except KeyError as error:
            raise StageError(f"adapter {name}: its file lacks {error}; save the adapter again") from error
        wrong = {"lacks": found.missing_keys, "also holds": found.unexpected_keys}
        for what, names in wrong.items():
            if names:
                raise StageError(
                    f"adapter {name}: its file {what} {len(names):,} weights, first {', '.join(names[:3])}; "
                    "it does not belong to this adapter_config.json or base"
                )
        held = _find_replaced(adapter)
        whole: PreTrainedModel = adapter.merge_and_unload()
    return whole, held


def _find_replaced(adapter: PeftModel) -> set[str]:
    """Return the parameters of the base that an adapter replaces completely, such as a new head."""
    modules = (
        (name, module)
        for name, module in adapter.get_base_model().named_modules()
        if hasattr(module, "modules_to_save")
    )
    return {
        f"{name}.{weight}"
        for name, module in modules
        for weight in module.modules_to_save["default"].state_dict()
    }


def keep_config(model: PeftModel, folder: Path) -> None:
    """Save the config of the merged model, with the classes of a new head."""
    whole = cast("PreTrainedModel", model.get_base_model())
    whole.config.architectures = [type(whole).__name__]
    whole.config.save_pretrained(str(folder / MERGED_CONFIG))


def replace_adapter(folder: Path, whole: PreTrainedModel) -> None:
    """Save a merged model in place of the adapter in a folder."""
    whole.save_pretrained(str(folder))
    for file in FILES:
        (folder / file).unlink(missing_ok=True)
    shutil.rmtree(folder / MERGED_CONFIG, ignore_errors=True)


def _name_of_base(place: Path | Place) -> tuple[str, str | None]:
    """Return the name of a base in an adapter: an absolute path, or a Hub id."""
    if isinstance(place, Path):
        return str(place.resolve()), None
    return place.hub or (str(place), None)


def _import_peft() -> Any:
    """Import PEFT, which is an optional dependency."""
    try:
        import peft
    except ImportError:
        raise StageError("adapters need peft, which is not installed; pip install 'hfpipe[lora]'") from None
    return peft


@contextmanager
def _ignore_peft_warnings() -> Iterator[None]:
    """Suppress PEFT's warnings about deprecated names and about GPT-2's transposed weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        yield
