"""The temperature and thresholds of a classifier, kept in its config: `config.hfpipe_calibration`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field

from hfpipe.modeling.loading.lora import MERGED_CONFIG
from hfpipe.report import Record

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ENTRY = "hfpipe_calibration"
"""Entry of `config.json`, which Transformers keeps as an attribute of the config."""


class Calibration(Record):
    """Parameters that turn the logits of a trained classifier into probabilities and decisions."""

    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Number by which logits are divided before softmax or sigmoid (Guo et al., 2017)."""
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Class → probability above which it is predicted, if a row may have several classes."""


def read_calibration(config: PretrainedConfig) -> Calibration:
    """Return the calibration in a config, or one without effect. Raises ValueError if it is invalid."""
    return Calibration.model_validate(getattr(config, ENTRY, None) or {})


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Add a calibration to the config of a saved model, or of the whole model next to an adapter."""
    whole = folder / MERGED_CONFIG / "config.json"
    path = whole if whole.is_file() else folder / "config.json"
    entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    entries[ENTRY] = calibration.model_dump()
    path.write_text(
        json.dumps(entries, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def drop_calibration(model: PreTrainedModel) -> None:
    """Remove the calibration of a model that is trained further, whose scores will change."""
    if hasattr(model.config, ENTRY):
        delattr(model.config, ENTRY)


def apply_temperature(model: PreTrainedModel, temperature: float) -> None:
    """Make a model divide its logits by a temperature."""

    def divide(_: torch.nn.Module, __: Any, outputs: Any) -> Any:
        outputs.logits = outputs.logits / temperature
        return outputs

    if temperature != 1:
        model.register_forward_hook(divide)
