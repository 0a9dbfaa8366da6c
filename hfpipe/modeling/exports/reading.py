"""Opens an exported model as a module that evaluation and prediction run like the original."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from hfpipe.errors import HfpipeError, StageError, format_one_line
from hfpipe.library_output import silence_libraries
from hfpipe.modeling.exports.formats import BACKENDS, find_missing_packages
from hfpipe.store.artifacts import EXPORT
from hfpipe.store.store import suggest_restoring

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.exporters.base import ExportedModel

NAMES = {backend: name for name, backend in BACKENDS.items()}
"""Name in `transformers.exporters` → format."""


class ExportedForward(nn.Module):
    """The forward pass of an exported model, on the CPU; it cannot generate text or be trained."""

    is_export = True

    def __init__(self, exported: ExportedModel, config: PretrainedConfig) -> None:
        super().__init__()
        self._exported = exported
        self.config = config
        self._traced = frozenset(exported.components["model"].metadata.kwargs)

    def get_output_embeddings(self) -> None:
        """Return None: the logits of all positions are computed."""
        return

    def can_generate(self) -> bool:
        """Return False: an export holds one forward pass."""
        return False

    @property
    def reads_decoder_ids(self) -> bool:
        """Whether the forward pass takes the ids of a decoder."""
        return "decoder_input_ids" in self._traced

    def forward(self, **inputs: Any) -> Any:
        """Return the outputs of the original's forward, on the device of the inputs.

        Raises StageError for an input that the export was not traced with and would ignore.
        """
        ids = inputs["input_ids"]
        given = {name: each.cpu() for name, each in inputs.items() if isinstance(each, torch.Tensor)}
        if unknown := sorted(given.keys() - self._traced):
            raise StageError(f"the exported model has no input {', '.join(unknown)}, which the task uses")
        if "token_type_ids" in self._traced:
            given.setdefault("token_type_ids", torch.zeros_like(given["input_ids"]))
        run: Any = self._exported
        outputs = run(**given)
        for name, value in outputs.items():
            if isinstance(value, torch.Tensor) and value.device != ids.device:
                outputs[name] = value.to(ids.device)
        return outputs


def open_export(folder: Path, auto_class: str, *, trusted: bool) -> ExportedForward:
    """Return the exported model in a folder.

    A file of torch-export can execute code when it is opened, so it must be `trusted`. Raises StageError when
    it is not, when a package is missing, when the export has another head, or when it cannot be read.
    """
    kind = read_format(folder)
    if missing := [*find_missing_packages(kind)]:
        raise StageError(f"{folder}: needs {', '.join(missing)}; pip install 'hfpipe[export]'")
    if kind == "torch-export" and not trusted:
        raise StageError(
            f"{folder}: holds a torch-export program, which can execute code when it is opened; name its "
            "recipe (RECIPE.yaml:STAGE) to run it, or use a model in another format"
        )
    try:
        with silence_exporter():
            exported = _open_export(folder, kind)
        config = read_export_config(exported, folder)
        head = get_class_name(auto_class, config)
        declared = exported.components["model"].metadata.architecture
    except HfpipeError:
        raise
    except Exception as error:  # each runtime has its own errors
        raise StageError(
            f"{folder}: cannot be opened: {format_one_line(error)[:300]}; {suggest_restoring(folder)}"
        ) from error
    if head != declared:
        raise StageError(f"model {folder}: is an export of {declared}, and this task needs {head}")
    return ExportedForward(exported, config)


def read_format(folder: Path) -> str:
    """Return the format of an export. Raises StageError when its manifest names files outside the folder."""
    file = folder / EXPORT
    try:
        manifest: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        names = [str(entry["file"]) for entry in manifest["components"].values()]
        kind = NAMES[manifest["export_format"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise StageError(f"{file}: is not the manifest of an export; {suggest_restoring(folder)}") from None
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise StageError(
                f"{file}: names {name!r}, which is not a file there; {suggest_restoring(folder)}"
            )
    return kind


def read_export_config(exported: ExportedModel, folder: Path) -> PretrainedConfig:
    """Return the config next to an export. Raises StageError when there is none."""
    if exported.config is None:
        raise StageError(f"{folder}: holds no config.json; {suggest_restoring(folder)}")
    return exported.config


def get_class_name(auto_class: str, config: PretrainedConfig) -> str:
    """Return the name of the class that an auto class builds from a config."""
    with torch.device("meta"):
        return type(getattr(transformers, auto_class).from_config(config)).__name__


def _open_export(folder: Path, kind: str) -> ExportedModel:
    from transformers.exporters.base import ExportedModel

    threads = torch.get_num_threads()
    options: dict[str, Any] = {}
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = threads  # by default it uses every core of the machine
        options = {"session_options": session}
    return ExportedModel.from_pretrained(folder, device="cpu", local_files_only=True, **options)


@contextmanager
def silence_exporter() -> Iterator[None]:
    """Suppress messages and warnings of torch's exporter and the libraries of the formats."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with silence_libraries(), warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
