"""Selects the files of a model to upload: those on an allow list, without secrets in them.

Data, optimizer states, checkpoints, logs and reports are never uploaded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from hfpipe.errors import StageError
from hfpipe.references.places import Place
from hfpipe.store.artifacts import CARD, EXPORT
from hfpipe.store.digests import Digests
from hfpipe.store.store import check_whole, read_report

MODEL_FILES = (
    CARD,
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "model/config.json",
    EXPORT,
    "model.onnx",
    "model.onnx.data",
    "model.pt2",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.spm",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)
"""Names of the files of a model, an adapter, an export and a tokenizer, relative to the folder."""
TEXTS = (".json", ".md", ".txt", ".jinja", ".yaml")
"""File name suffixes of files that are searched for secrets."""
SECRET_NAMES = re.compile("TOKEN|PASSWORD|PASSWD|SECRET|API_?KEY|CREDENTIAL", re.IGNORECASE)
"""Environment variables whose values are secrets."""
SHORTEST = 8
"""Minimum length of a secret; shorter values, such as `false`, occur anywhere."""
TOKENS = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b|\bgh[pousr]_[A-Za-z0-9]{30,}\b|\bsk-[A-Za-z0-9_-]{30,}\b")
"""Tokens of the Hub, GitHub and OpenAI."""


def select_files(folder: Path) -> list[str]:
    """Return the files of a finished stage that are uploaded, relative to its folder.

    Raises StageError when a file is damaged, links elsewhere or holds a secret, and when an adapter needs a
    base that is only on this machine.
    """
    check_whole(folder, Digests())
    recorded = {*read_report(folder).files, CARD}
    names = sorted(name for name in recorded if _is_allowed(name) and (folder / name).is_file())
    if not any(name.endswith((".safetensors", ".onnx", ".pt2")) for name in names):
        raise StageError(f"{folder}: holds no weights of a model; name a training or export stage")
    for name in names:
        _check_inside(folder, name)
        for secret in _find_secrets(folder / name, os.environ):
            raise StageError(f"{folder / name}: contains {secret}; remove it; nothing was uploaded")
    _check_base(folder)
    return names


def list_kept_files(folder: Path, selected: list[str]) -> list[str]:
    """Return the files and folders that are not uploaded."""
    there = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    going = {name.partition("/")[0] for name in selected}
    return [name for name in there if name.rstrip("/") not in going]


def _is_allowed(name: str) -> bool:
    """Return whether a name is on the list; `*` matches no slash."""
    return any(
        name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) for pattern in MODEL_FILES
    )


def _check_inside(folder: Path, name: str) -> None:
    path = folder / name
    if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
        raise StageError(f"{path}: is a link to {path.resolve()}; copy the file into the folder")


def _find_secrets(path: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield descriptions of the secrets in a text file, without their values."""
    if not path.name.endswith(TEXTS):
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    for name, value in environment.items():
        if SECRET_NAMES.search(name) and len(value) >= SHORTEST and value in text:
            yield f"the value of the environment variable {name}"
    if TOKENS.search(text):
        yield "a string that looks like an access token"


def _check_base(folder: Path) -> None:
    path = folder / "adapter_config.json"
    if not path.is_file():
        return
    base = str(json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path") or "")
    if not re.fullmatch(Place.pattern, base) or Place(base).hub is None or Path(base).exists():
        raise StageError(
            f"{path}: its base is {base}, which is only on this machine; train with adapter.merge: true, "
            "which saves a whole model"
        )
