"""Encodes texts with their labels, and scores the classes or numbers that a model predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.encoding.encoded import encode_truncated
from hfpipe.encoding.padding import pad, pad_inputs
from hfpipe.metrics.baselines.text import Majority, TextBaseline, Tfidf
from hfpipe.metrics.scores.classification import create_multi_label_metrics, create_single_label_metrics
from hfpipe.metrics.scores.ranking import Spearman, create_ranking_metrics
from hfpipe.metrics.scores.regression import create_regression_metrics
from hfpipe.modeling.losses.losses import compute_label_columns
from hfpipe.runtime import Baseline, Encoder, Evaluator, TaskRuntime
from hfpipe.tasks.shared.objectives import LabelLoss
from hfpipe.tasks.shared.row_values import require_valid_labels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.metrics.whole import WholeMetric
    from hfpipe.report import DataFacts
    from hfpipe.tasks.text_classification.task import TextClassification
    from hfpipe.types import Batch, Columns, Rows


def compose_text_classification(config: TextClassification) -> TaskRuntime:
    """Return the task's encoder, objective, evaluator and baselines."""
    return TaskRuntime(
        config,
        TextClassificationEncoder(config),
        LabelLoss(),
        TextClassificationEvaluator(config),
        {
            "majority": Baseline(partial(_fit_baseline, config, Majority)),
            "tfidf": Baseline(partial(_fit_baseline, config, Tfidf)),
        },
    )


@dataclass(frozen=True)
class TextClassificationEncoder(Encoder):
    """Encodes a text or a pair of texts with its label."""

    config: TextClassification

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        config = self.config
        pairs = list(rows[config.text_pair]) if config.text_pair is not None else None
        encoded = encode_truncated(tokenizer, list(rows[config.text]), pairs, config.length)
        labels = rows[config.label]
        return encoded | {"label": convert_labels(config.label, labels, facts), "row": range(len(labels))}

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        batch = pad_inputs([example["input_ids"] for example in examples], tokenizer)
        if "token_type_ids" in examples[0]:
            types = [example["token_type_ids"] for example in examples]
            batch["token_type_ids"] = pad(types, 0)
        labels = torch.from_numpy(np.asarray([example["label"] for example in examples]))
        return batch | {"labels": labels.float() if labels.is_floating_point() else labels.long()}


def convert_labels(column: str, labels: Any, facts: DataFacts) -> list[Any]:
    """Return labels in the form the loss expects. Raises DataError at the first invalid label."""
    kind = facts.columns[column]
    if kind == "float":
        invalid = (each for each in labels if each is None or not isfinite(each))
        require_valid_labels(column, invalid, "a number")
        return list(labels)
    classes = range(len(facts.labels[column]))
    wanted = f"a class from 0 to {len(classes) - 1}"
    if kind == "label":
        require_valid_labels(column, (each for each in labels if each not in classes), wanted)
        return list(labels)
    require_valid_labels(
        column,
        (each for row in labels for each in ([None] if row is None else row) if each not in classes),
        wanted,
    )
    return [[float(number in row) for number in classes] for row in labels]


@dataclass(frozen=True)
class TextClassificationEvaluator(Evaluator):
    """Scores one class, several classes or a number per row."""

    config: TextClassification

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Batch:
        return compute_label_columns(outputs.logits, batch["labels"])

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        """Return the columns, with each class predicted whose probability is above its threshold."""
        found, label = super().columns_by_row(columns, row_index, rows, facts), self.config.label
        if not self.config.thresholds or facts.columns[label] != "labels":
            return found
        limits = np.array([self.config.threshold(name) for name in facts.labels[label]])
        return {**found, "prediction": (found["scores"] > limits).astype(found["prediction"].dtype)}

    def metrics(self, facts: DataFacts) -> list[Metric]:
        kind = facts.columns[self.config.label]
        if kind == "float":
            return create_regression_metrics()
        names = facts.labels[self.config.label]
        return create_single_label_metrics(names) if kind == "label" else create_multi_label_metrics(names)

    def whole_metrics(self, facts: DataFacts) -> list[WholeMetric]:
        if facts.columns[self.config.label] == "float":
            return [Spearman()]
        return create_ranking_metrics(facts.labels[self.config.label])

    def class_names(self, facts: DataFacts) -> Mapping[str, Sequence[str]]:
        label = self.config.label
        names = facts.labels.get(label, [])
        return {"reference": names, "prediction": names} if facts.columns[label] == "label" else {}

    def class_order(self, facts: DataFacts) -> Mapping[str, Sequence[str]]:
        label = self.config.label
        each = {"label": ("scores",), "labels": ("reference", "prediction", "scores")}
        return dict.fromkeys(each.get(facts.columns[label], ()), facts.labels.get(label, []))

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        label = self.config.label
        kind = facts.columns[label]
        if kind == "float":
            return [{"score": float(prediction)} for prediction in columns["prediction"]]
        each = [
            [{"label": facts.labels[label][number], "score": float(scores[number])} for number in best]
            for scores, best in zip(columns["scores"], (-columns["scores"]).argsort(axis=1), strict=True)
        ]
        if kind == "label":
            return [found[0] for found in each]
        return [
            {"labels": [one for one in found if one["score"] > self.config.threshold(one["label"])]}
            for found in each
        ]


def _fit_baseline(
    config: TextClassification,
    made: Callable[[str, int], TextBaseline],
    train: Rows,
    facts: DataFacts,
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Rows], Columns]:
    kind = facts.columns[config.label]
    baseline = made(kind, len(facts.labels.get(config.label, [])))
    baseline.fit(*_get_texts_and_labels(config, train, facts))
    return lambda rows: baseline.predict(*_get_texts_and_labels(config, rows, facts))


def _get_texts_and_labels(config: TextClassification, rows: Rows, facts: DataFacts) -> tuple[list[str], Any]:
    texts = list(rows[config.text])
    if config.text_pair is not None:
        texts = [
            f"{first} [SEP] {second}" for first, second in zip(texts, rows[config.text_pair], strict=True)
        ]
    return texts, np.asarray(convert_labels(config.label, rows[config.label], facts))
