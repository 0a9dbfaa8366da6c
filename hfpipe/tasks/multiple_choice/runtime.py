"""Encodes contexts with their endings, and scores the endings that a model selects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.errors import DataError
from hfpipe.metrics.metric import Loss
from hfpipe.runtime import Baseline, Encoder, Evaluator, Objective, TaskRuntime
from hfpipe.tasks.multiple_choice.choices import (
    ChoiceAccuracy,
    collate_choices,
    compute_choice_columns,
    compute_choice_loss,
    draw_ending,
    encode_choices,
    find_longest_ending,
)
from hfpipe.tasks.shared.row_values import require_valid_labels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.tasks.multiple_choice.task import MultipleChoice
    from hfpipe.types import Batch, Columns, Counted, Rows


def compose_multiple_choice(config: MultipleChoice) -> TaskRuntime:
    """Return the task's encoder, objective, evaluator and baselines."""
    chosen = {"chance": draw_ending, "longest": find_longest_ending}
    return TaskRuntime(
        config,
        MultipleChoiceEncoder(config),
        ChoiceLoss(),
        MultipleChoiceEvaluator(config),
        {
            name: Baseline(partial(_fit_choice, config, choose), _create_accuracy)
            for name, choose in chosen.items()
        },
    )


@dataclass(frozen=True)
class MultipleChoiceEncoder(Encoder):
    """Encodes a context with each of its endings, as one example."""

    config: MultipleChoice

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        config = self.config
        endings = get_endings(config, rows)
        labels = _get_labels(config, rows, facts)
        _check_labels(config.label, labels, endings)
        starts = rows[config.start] if config.start is not None else None
        encoded = encode_choices(tokenizer, rows[config.context], starts, endings, config.length)
        return encoded | {"label": labels, "row": range(len(endings))}

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        return collate_choices(examples, tokenizer)


def get_endings(config: MultipleChoice, rows: Rows) -> list[Sequence[str]]:
    """Return the endings of each row."""
    if isinstance(config.endings, str):
        return list(rows[config.endings])
    return list(zip(*(rows[column] for column in config.endings), strict=True))


def _get_labels(config: MultipleChoice, rows: Rows, facts: DataFacts) -> list[int]:
    """Return the indices of the correct endings; a column of classes stores them as class names."""
    names = facts.labels.get(config.label)
    return [number if names is None else int(names[number]) for number in rows[config.label]]


def _check_labels(column: str, labels: Sequence[int], endings: Sequence[Sequence[str]]) -> None:
    """Raise DataError at the first row with fewer than two endings or without a correct ending."""
    for label, each in zip(labels, endings, strict=True):
        if len(each) < 2:
            raise DataError(f"a row has {len(each)} endings, but a choice needs at least two; drop such rows")
        invalid = [] if label in range(len(each)) else [label]
        require_valid_labels(column, invalid, f"the index of an ending from 0 to {len(each) - 1}")


class ChoiceLoss(Objective):
    """Cross-entropy of the correct ending among those of its row."""

    def count(self, batch: Batch) -> torch.Tensor:
        return torch.tensor(batch["labels"].numel())

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        return compute_choice_loss(outputs.logits, batch, smoothing)


@dataclass(frozen=True)
class MultipleChoiceEvaluator(Evaluator):
    """Scores the ending that a model selects."""

    config: MultipleChoice

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> dict[str, torch.Tensor | list[Any]]:
        return compute_choice_columns(outputs.logits, batch)

    def metrics(self, facts: DataFacts) -> list[Metric]:
        return [ChoiceAccuracy(), Loss()]

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        endings_by_row = get_endings(self.config, rows)
        chosen = zip(columns["prediction"].tolist(), columns["scores"], endings_by_row, strict=True)
        return [
            {"ending": endings[number], "label": number, "score": float(scores[number])}
            for number, scores, endings in chosen
        ]


def _create_accuracy(facts: DataFacts) -> list[Metric]:
    return [ChoiceAccuracy()]


def _fit_choice(
    config: MultipleChoice,
    choose: Callable[[str, Sequence[str]], int],
    train: Rows,
    facts: DataFacts,
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Rows], Columns]:
    def predict(rows: Rows) -> Columns:
        texts = zip(rows[config.context], get_endings(config, rows), strict=True)
        chosen = [choose(context, endings) for context, endings in texts]
        return {
            "reference": np.asarray(_get_labels(config, rows, facts)),
            "prediction": np.asarray(chosen, dtype=np.int64),
        }

    return predict
