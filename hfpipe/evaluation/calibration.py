"""Fits temperature and thresholds of a trained classifier on its validation split, and applies them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit
from torch.nn import functional as F

from hfpipe.distributed.sharding import keep_models_whole
from hfpipe.modeling.loading.calibration import (
    Calibration,
    apply_temperature,
    read_calibration,
    write_calibration,
)
from hfpipe.modeling.loading.models import load_model, translate_loading_errors
from hfpipe.modeling.losses.losses import IGNORED, forward
from hfpipe.modeling.performance import runs_on_cpu
from hfpipe.tokenization.loading import set_pad_token_id

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.encoding.encoded import Examples
    from hfpipe.references.places import Place
    from hfpipe.report import DataFacts
    from hfpipe.runtime import Encoder
    from hfpipe.task import TaskConfig

COLDEST, HOTTEST = 0.05, 20.0
"""Limits of the temperature; a split without mistakes would be fitted best by 0."""
BATCH = 32
"""Examples per forward pass."""
EVEN = 0.5
"""Threshold of a class for which the split determines none."""


def apply_calibration(
    model: PreTrainedModel, task: TaskConfig, place: Path | Place, names: Mapping[str, str] | None = None
) -> TaskConfig:
    """Apply the calibration in a model's config to its logits; return the task with its thresholds.

    `names` maps class names of the model to those of the data, if they differ. Raises StageError when the
    entry in the config is damaged.
    """
    with translate_loading_errors(place):
        found = read_calibration(model.config)
    apply_temperature(model, found.temperature)
    names = names or {}
    return task.with_thresholds({names.get(name, name): limit for name, limit in found.thresholds.items()})


def compute_classifier_outputs(
    model: Any, encoder: Encoder, examples: Examples, tokenizer: PreTrainedTokenizerBase
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, float64 (targets, classes), and labels of all targets of a split, on the CPU.

    Labels are int64 (targets,), or float64 (targets, classes) for several labels per row.
    """
    outputs = iterate_example_outputs(model, encoder, examples, tokenizer)
    parts = [_select_targets(logits, labels) for _, logits, labels in outputs]
    return torch.cat([logits for logits, _ in parts]), torch.cat([labels for _, labels in parts])


def iterate_example_outputs(
    model: Any, encoder: Encoder, examples: Examples, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Yield the indices of some examples, int64, with logits, float64, and labels, on the CPU."""
    device = torch.device("cpu" if runs_on_cpu() else "cuda")
    model.to(device).eval()
    order = np.argsort(-examples.lengths, kind="stable")
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            index = order[start : start + BATCH]
            keys = [(0, number) for number in index.tolist()]
            batch = encoder.collate(examples.__getitems__(keys), tokenizer, 0, train=False)
            logits = forward(model, {name: each.to(device) for name, each in batch.items()}, None).logits
            yield index, logits.cpu().double(), batch["labels"]


def _select_targets(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if labels.is_floating_point():
        return logits, labels.double()
    there = labels != IGNORED
    return logits[there], labels[there]


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature with the smallest mean loss (Guo et al., 2017, section 4.2)."""

    def mean_loss(log_temperature: float) -> float:
        return compute_nll(logits / np.exp(log_temperature), labels)

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    return float(np.exp(minimize_scalar(mean_loss, bounds=bounds, method="bounded").x))


def compute_nll(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean loss in nats: of the class, or of each of several labels."""
    if labels.is_floating_point():
        return float(F.binary_cross_entropy_with_logits(logits, labels))
    return float(F.cross_entropy(logits, labels))


def fit_thresholds(logits: torch.Tensor, labels: torch.Tensor) -> list[float | None]:
    """Return the threshold of each class: the probability above which predicting it gives its best F1.

    `logits` and `labels` are float64 (rows, classes). The threshold is halfway between two scores. It is None
    for a class in no row or in every row.
    """
    scores, truth = expit(logits.numpy()), labels.numpy()
    return [_find_threshold(scores[:, number], truth[:, number]) for number in range(scores.shape[1])]


def _find_threshold(scores: np.ndarray, truth: np.ndarray) -> float | None:
    if truth.all() or not truth.any():
        return None
    from sklearn.metrics import precision_recall_curve  # a second, which other calibrations do not need

    precision, recall, limits = precision_recall_curve(truth, scores)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)[:-1]
    best = int(f1.argmax())
    below = limits[best - 1] if best else 0.0  # the next lower score, for which the class is not predicted
    return float((below + limits[best]) / 2)


def fit_calibration(
    wanted: Sequence[str], logits: torch.Tensor, labels: torch.Tensor, names: Sequence[str]
) -> tuple[Calibration, dict[str, Any]]:
    """Return the `wanted` calibration, `temperature` or `thresholds` or both, and facts about it."""
    temperature = fit_temperature(logits, labels) if "temperature" in wanted else 1.0
    facts: dict[str, Any] = {"targets": len(labels), "temperature": temperature}
    if "temperature" in wanted:
        facts |= {
            "loss_before": compute_nll(logits, labels),
            "loss_after": compute_nll(logits / temperature, labels),
        }
    thresholds: dict[str, float] = {}
    if "thresholds" in wanted:
        found = dict(zip(names, fit_thresholds(logits / temperature, labels), strict=True))
        thresholds = {name: EVEN if limit is None else limit for name, limit in found.items()}
        facts |= {"thresholds": thresholds, "undecided": [name for name in names if found[name] is None]}
    return Calibration(temperature=temperature, thresholds=thresholds), facts


def calibrate_saved(
    folder: Path,
    task: TaskConfig,
    wanted: Sequence[str],
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    data: DataFacts,
) -> dict[str, Any]:
    """Calibrate a saved model on encoded examples, write the result to its folder, and return facts."""
    with keep_models_whole():
        model = load_model(task.auto_class, folder, 0, whole=True)
    set_pad_token_id(model, tokenizer)
    logits, labels = compute_classifier_outputs(model, task.runtime().encoder, examples, tokenizer)
    names = data.labels[task.weighted_column or ""]
    calibration, facts = fit_calibration(wanted, logits, labels, names)
    write_calibration(folder, calibration)
    return facts
