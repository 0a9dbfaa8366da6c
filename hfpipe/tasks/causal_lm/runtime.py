"""Encodes texts for next-token prediction, and scores them by perplexity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.encoding.padding import pad, pad_inputs
from hfpipe.metrics.baselines.ngrams import NGrams
from hfpipe.metrics.scores.language import create_language_metrics
from hfpipe.modeling.losses.losses import IGNORED, compute_token_columns
from hfpipe.runtime import Baseline, Encoder, Evaluator, ModelSetup, TaskRuntime
from hfpipe.tasks.shared.documents import (
    compute_targets,
    encode_with_eos,
    find_separation_problems,
    get_boundary_ids,
    number_documents,
    split_document,
)
from hfpipe.tasks.shared.objectives import TokenCrossEntropy
from hfpipe.tasks.shared.row_values import count_utf8_bytes, place_at_first_examples
from hfpipe.tokenization.encoding import encode_ids, encode_plain
from hfpipe.tokenization.round_trip import count_lost_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.errors import Problem
    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.tasks.causal_lm.task import CausalLM
    from hfpipe.types import Batch, Columns, Rows

ORDERS = {"unigram": 1, "trigram": 3}
"""Trivial baseline → order of its n-grams."""


def compose_causal_lm(config: CausalLM) -> TaskRuntime:
    """Return the task's encoder, objective, evaluator and baselines."""
    return TaskRuntime(
        config,
        CausalLMEncoder(config),
        TokenCrossEntropy(),
        CausalLMEvaluator(config),
        {
            name: Baseline(partial(_fit_ngrams, config, order), _create_baseline_metrics)
            for name, order in ORDERS.items()
        },
        model_setup=CausalLMSetup(config),
    )


@dataclass(frozen=True)
class CausalLMEncoder(Encoder):
    """Encodes documents: concatenated in training, in windows after a begin token in evaluation."""

    config: CausalLM

    def opening_ids(self, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
        begin, end = get_boundary_ids(tokenizer)
        return [begin] if begin == end else []  # otherwise every document has its own begin token

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        begin, end = get_boundary_ids(tokenizer)
        opening = [begin] if begin != end else []  # one token between two documents is enough
        documents = encode_ids(tokenizer, rows[self.config.text]).input_ids.add_around(opening, [end])
        return {"input_ids": documents, "row": range(len(documents))}

    def encode_windows(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        begin, _ = get_boundary_ids(tokenizer)
        length, stride = self.config.length, self.config.stride or self.config.length
        texts = rows[self.config.text]
        encoded = encode_plain(tokenizer, texts)
        windows = [
            (row, *window)
            for row, ids in enumerate(encoded)
            for window in split_document(ids, begin, length, stride)
        ]
        numbers, read, learned = zip(*windows, strict=True)
        lost = place_at_first_examples(count_lost_bytes(tokenizer, texts, encoded), numbers)
        return {"input_ids": read, "labels": learned, "lost": lost, "row": numbers}

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        ids = [example["input_ids"] for example in examples]
        batch = pad_inputs(ids, tokenizer)
        if "labels" in examples[0]:
            batch["labels"] = pad([example["labels"] for example in examples], IGNORED)
            if "lost" in examples[0]:
                batch["_lost"] = torch.tensor([int(example["lost"]) for example in examples])
            return batch
        begin, end = get_boundary_ids(tokenizer)
        batch["labels"] = pad([compute_targets(each, begin, end) for each in ids], IGNORED)
        if self.config.separates_documents:
            del batch["attention_mask"]  # without it, positions mark where documents and padding begin
            batch |= number_documents(ids, begin)
        return batch


@dataclass(frozen=True)
class CausalLMEvaluator(Evaluator):
    """Scores every token of a text once."""

    config: CausalLM

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Batch:
        lost = {"lost": batch["_lost"]} if "_lost" in batch else {}
        return {**compute_token_columns(outputs.logits, batch["labels"]), **lost}

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        summed = super().columns_by_row(columns, row_index, rows, facts)
        return {**summed, "bytes": count_utf8_bytes(rows[self.config.text])}

    def metrics(self, facts: DataFacts) -> list[Metric]:
        length = self.config.length
        read = f"length:{length}|stride:{self.config.stride or length}"
        return create_language_metrics(read=read, bytes_known=True)


@dataclass(frozen=True)
class CausalLMSetup(ModelSetup):
    """Checks that a model can keep documents apart, where the task does."""

    config: CausalLM

    def check(self, model: PreTrainedModel) -> Iterator[Problem]:
        if self.config.separates_documents:
            yield from find_separation_problems(model)


def _create_baseline_metrics(facts: DataFacts) -> list[Metric]:
    return create_language_metrics(correct_known=False, bytes_known=True)


def _fit_ngrams(
    config: CausalLM, order: int, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
) -> Callable[[Rows], Columns]:
    model = NGrams(order, len(tokenizer)).fit(encode_with_eos(tokenizer, train[config.text]))

    def predict(rows: Rows) -> Columns:
        texts = rows[config.text]
        encoded = encode_plain(tokenizer, texts)
        nll = model.compute_nll(encoded)
        return {
            "lost": np.array(count_lost_bytes(tokenizer, texts, encoded)),
            "nll": np.array([each.sum() for each in nll]),
            "tokens": np.array([len(each) for each in nll]),
            "bytes": count_utf8_bytes(texts),
        }

    return predict
