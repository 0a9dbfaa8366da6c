"""Checks the files of a model, adapter or tokenizer before they are loaded; needs no model code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils.hub import cached_file

from hfpipe.errors import StageError, get_first_line
from hfpipe.references.places import Place
from hfpipe.store.artifacts import EXPORT
from hfpipe.store.store import suggest_restoring

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
CONFIG = "config.json"
JSON_FILES = (CONFIG, ADAPTER_CONFIG, "generation_config.json", "tokenizer_config.json", INDEX)
"""Files that must contain a mapping if they exist."""
EXPLICIT = "transformers_weights"
"""Entry of a config that names the weights file; Transformers uses it."""


def get_name_and_revision(place: Path | Place) -> tuple[str, str | None]:
    """Return name and revision in the form that Transformers expects."""
    return (str(place), None) if isinstance(place, Path) else place.hub or (str(place), None)


def check_tokenizer_files(place: Path | Place) -> None:
    """Raise StageError unless a local folder exists and its files are inside it."""
    if isinstance(place, Path):
        _check_folder(place)


def check_model_files(place: Path | Place) -> None:
    """Raise StageError unless all weights come from readable safetensors files of the model itself.

    A local folder is checked without network access; for a Hub id, the index of the shards is downloaded.
    """
    if isinstance(place, Path):
        _check_folder(place)
        _check_local_weights(place)
    elif place.hub is not None:
        _check_hub(place, *place.hub)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        found = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise StageError(f"{folder}: {found}; {suggest_restoring(folder)}")
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and not _is_inside(file, folder):
            raise StageError(
                f"{file}: links to {file.resolve()}, which is outside the folder; copy that file into it"
            )
    for name in JSON_FILES:
        if (folder / name).is_file():
            _read_mapping(folder / name)


def _is_inside(file: Path, folder: Path) -> bool:
    """Return whether a file is inside a folder; in the Hub's cache, snapshots link to blobs next to them."""
    target, roots = file.resolve(), [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        roots.append(folder.resolve().parent.parent / "blobs")
    return any(target.is_relative_to(root) for root in roots)


def _read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file. Raises StageError when the file contains something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StageError(
            f"{path}: is not JSON ({get_first_line(error)}); {suggest_restoring(path.parent)}"
        ) from None
    if not isinstance(found, dict):
        raise StageError(
            f"{path}: holds a {type(found).__name__}, not a mapping; {suggest_restoring(path.parent)}"
        )
    return found


def _check_local_weights(folder: Path) -> None:
    if (folder / ADAPTER_CONFIG).is_file():
        _check_weights(folder, ADAPTER)
        return
    if (folder / EXPORT).is_file():
        return  # its files are checked when it is opened
    config = folder / CONFIG
    if not config.is_file():
        raise StageError(f"{folder}: holds no {CONFIG}, so it is not a model; {suggest_restoring(folder)}")
    explicit = _read_mapping(config).get(EXPLICIT)
    if explicit is not None:
        _check_weights(folder, str(explicit), f"{EXPLICIT} in {config}")
    elif (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        _check_weights(folder, WEIGHTS)
    else:
        _check_index(folder, INDEX)


def _check_weights(folder: Path, name: str, named_by: str = "") -> None:
    """Check one weights file, or an index of several."""
    if name.endswith(".index.json"):
        _check_index(folder, name)
        return
    if not _is_safe(name) or not _is_inside(folder / name, folder):
        raise StageError(f"{_describe_unsafe(named_by or str(folder), name)}")
    if not (folder / name).is_file():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        if pickles:
            raise StageError(
                f"{folder}: holds {pickles[0]}, a pickle that can execute code, and no {name}; "
                "save it again with save_pretrained, which writes safetensors"
            )
        origin = f", named by {named_by}" if named_by else ""
        raise StageError(f"{folder}: holds no {name}{origin}; {suggest_restoring(folder)}")
    _check_opens(folder / name)


def _check_index(folder: Path, name: str) -> None:
    path = folder / name
    if not _is_inside(path, folder):
        raise StageError(_describe_unsafe(str(folder), name))
    if not path.is_file():
        raise StageError(f"{folder}: holds no {name}; {suggest_restoring(folder)}")
    for entry in _list_shards(path, _read_mapping(path)):
        _check_weights(folder, entry, str(path))


def _list_shards(path: Path, index: dict[str, Any]) -> Iterator[str]:
    """Yield each file in an index. Raises StageError at an entry that is not a safetensors file."""
    entries = index.get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise StageError(f"{path}: names no weights; save the model again with save_pretrained")
    for entry in dict.fromkeys(str(entry) for entry in entries.values()):
        if not _is_safe(entry):
            raise StageError(_describe_unsafe(str(path), entry))
        yield entry


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.suffix == ".safetensors" and not path.is_absolute() and ".." not in path.parts


def _describe_unsafe(place: str, name: str) -> str:
    return (
        f"{place}: names {name!r}, which is not a .safetensors file inside the folder; "
        "save the model again with save_pretrained, which writes safetensors"
    )


def _check_opens(path: Path) -> None:
    try:
        with safe_open(str(path), framework="pt"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise StageError(
            f"{path}: is damaged ({get_first_line(error)}); {suggest_restoring(path.parent)}"
        ) from None


def _check_hub(place: Place, name: str, revision: str | None) -> None:
    """Check the files in an index on the Hub, and that an adapter there has safetensors."""

    def find(file: str) -> str | None:
        return cached_file(
            name,
            file,
            revision=revision or "main",
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )

    if find(ADAPTER_CONFIG) is not None and find(ADAPTER) is None:
        raise StageError(f"{place}: has no {ADAPTER}; pickles are not loaded, because they can execute code")
    config = find(CONFIG)
    explicit = _read_mapping(Path(config)).get(EXPLICIT) if config is not None else None
    if explicit is not None and not str(explicit).endswith(".index.json") and not _is_safe(str(explicit)):
        raise StageError(_describe_unsafe(f"{place}: {EXPLICIT} in {CONFIG}", str(explicit)))
    index = find(str(explicit) if str(explicit).endswith(".index.json") else INDEX)
    if index is not None:
        for _ in _list_shards(Path(index), _read_mapping(Path(index))):
            pass
