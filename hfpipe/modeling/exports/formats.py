"""The formats of exported models: their names in Transformers, and the packages that they need."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hfpipe.store.artifacts import EXPORT

if TYPE_CHECKING:
    from hfpipe.runtime import TaskRuntime
    from hfpipe.task import TaskConfig

ExportFormat = Literal["onnx", "torch-export"]
BACKENDS: dict[str, str] = {"onnx": "onnx", "torch-export": "dynamo"}
"""Format → its name in `transformers.exporters`."""
PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch-export": (),
}
"""Format → the packages that write and run it."""
WRITES_TEXT = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
"""Auto classes whose tasks may generate text."""
PROGRAMS = (".onnx", ".onnx.data", ".pt2")
"""File name suffixes of exported models."""


def is_generative(task: TaskConfig) -> bool:
    """Return whether a task can be set to generate text, which an exported forward pass cannot do."""
    return task.auto_class in WRITES_TEXT and getattr(task, "generation", None) is not None


def writes_text(task: TaskRuntime) -> bool:
    """Return whether a task generates text in an evaluation."""
    generator = task.generator
    return task.config.auto_class in WRITES_TEXT and generator is not None and generator.runs(training=False)


def find_missing_packages(kind: str) -> Iterator[str]:
    """Yield the packages that a format needs and that are not installed; imports none of them."""
    yield from (name for name in PACKAGES[kind] if find_spec(name) is None)


def is_export(place: object) -> bool:
    """Return whether a place is a folder with an exported model."""
    return isinstance(place, Path) and (place / EXPORT).is_file()


def compute_model_bytes(folder: Path) -> int:
    """Return the size of a model on disk, exported or not, without its tokenizer."""
    ends = (*PROGRAMS, ".safetensors")
    return sum(path.stat().st_size for path in folder.iterdir() if path.name.endswith(ends))
