"""Exports a model by `transformers.exporters`, and compares what it computes with the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hfpipe.errors import StageError, format_one_line, is_out_of_memory
from hfpipe.modeling.exports.formats import BACKENDS, compute_model_bytes
from hfpipe.modeling.exports.reading import open_export, silence_exporter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRACED = 16
"""Number of tokens per row when a model is traced; afterwards the shape of a batch may vary."""
TOLERANCE = 1e-3
"""Maximum difference of an output from the original, relative to the largest output, without quantization."""
COMPARED = ((3, 11), (1, 24))
"""Rows and tokens of the batches that are compared; none has the size of the traced one."""


@dataclass(frozen=True)
class ExportResult:
    """Size and accuracy of an export."""

    bytes: int
    """Size of the exported model on disk."""
    difference: float
    """Largest difference of an output from the original, relative to the largest output."""


def export_model(
    model: PreTrainedModel, auto_class: str, folder: Path, kind: str, *, int8: bool, length: int
) -> ExportResult:
    """Write a model to a folder in a format, with dynamic numbers of rows and tokens, and check its outputs.

    `int8` quantizes the weights to 8 bits, and activations when it runs. `length` is the largest number of
    tokens that the task reads. Raises StageError when the exporter cannot trace the model, or the outputs
    differ from the original by more than rounding although nothing is quantized.
    """
    model.eval()
    sample = sample_inputs(model, auto_class, 2, min(TRACED, length), seed=0)
    try:
        with silence_exporter():
            exporter, config = _create_exporter(kind, int8=int8)
            exporter.export(model, sample, config).save_pretrained(folder)
    except Exception as error:  # a tracer may raise anything
        if is_out_of_memory(error):
            raise
        name = type(model).__name__
        raise StageError(f"{kind}: {name} cannot be exported: {format_one_line(error)[:300]}") from error
    difference = compute_largest_difference(model, auto_class, folder, length)
    if not int8 and not difference <= TOLERANCE:
        raise StageError(
            f"{kind}: the outputs of the exported model differ from the original by {difference:.2g} of the "
            "largest; use another format"
        )
    return ExportResult(compute_model_bytes(folder), difference)


def _create_exporter(kind: str, *, int8: bool) -> tuple[Any, Any]:
    """Return Transformers' exporter of a format and its settings."""
    from transformers.exporters.auto import AutoExportConfig, AutoHfExporter
    from transformers.exporters.quantizers.quantizer_onnxruntime import (
        OnnxRuntimeDynamicConfig,
        OnnxRuntimeQuantizer,
    )

    settings: dict[str, Any] = {"export_format": BACKENDS[kind], "dynamic": True}
    if int8:
        # One scale per output channel: on MiniLM, half the error of a single scale at 90 % of its speed.
        settings["quantizer"] = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True))
    config = AutoExportConfig.from_dict(settings)
    return AutoHfExporter.from_config(config), config


def sample_inputs(
    model: PreTrainedModel, auto_class: str, rows: int, length: int, seed: int
) -> dict[str, Any]:
    """Return arguments of a model's forward with random tokens, int64 (rows, length); the first is padded.

    Evaluations pass these arguments to a model with this head: ids, mask, token types if the model uses them,
    and decoder ids for an encoder-decoder. Multiple choice has (rows, 3, length).
    """
    random = torch.Generator().manual_seed(seed)
    size = model.config.get_text_config().vocab_size
    ids = torch.randint(0, size, (rows, length), generator=random)
    mask = torch.ones_like(ids)
    if rows > 1:
        mask[0, length // 2 :] = 0
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    types = getattr(model.config, "type_vocab_size", 0) or 0
    if types > 1 and "token_type_ids" in signature(model.forward).parameters:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    if auto_class == "AutoModelForMultipleChoice":
        inputs = {name: each[:, None].repeat(1, 3, 1) for name, each in inputs.items()}
    if auto_class == "AutoModelForSeq2SeqLM":
        inputs["decoder_input_ids"] = torch.randint(0, size, (rows, length), generator=random)
    if model.can_generate():
        inputs["use_cache"] = False
    return inputs


def compute_largest_difference(model: PreTrainedModel, auto_class: str, folder: Path, length: int) -> float:
    """Return the largest difference of an export's outputs from the original, relative to the largest."""
    exported = open_export(folder, auto_class, trusted=True)
    differences = []
    for seed, (rows, tokens) in enumerate(COMPARED, start=1):
        inputs = sample_inputs(model, auto_class, rows, min(tokens, length), seed)
        with torch.inference_mode():
            expected, found = model(**inputs), exported(**inputs)
        differences += [*_compute_differences(expected, found, inputs["attention_mask"])]
    return max(differences)


def _compute_differences(
    expected: Mapping[str, Any], found: Mapping[str, Any], mask: torch.Tensor
) -> Iterator[float]:
    """Yield the relative difference of each output that has logits; those of padding are not compared."""
    for name, value in expected.items():
        if "logits" not in name:
            continue
        there = mask.bool() if value.shape[:2] == mask.shape else slice(None)
        gap = (value - found[name])[there].abs().max()
        yield float(gap / value[there].abs().max().clamp(min=1e-9))
