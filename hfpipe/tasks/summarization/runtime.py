"""Generates summaries, and scores them by ROUGE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hfpipe.metrics.scores.segmentation import find_sentence_ends
from hfpipe.metrics.scores.written import create_summary_metrics, create_text_metrics, select_rouge_tokenizer
from hfpipe.runtime import Baseline, TaskRuntime
from hfpipe.tasks.shared.objectives import TokenCrossEntropy
from hfpipe.tasks.shared.source_and_target import TextToTextEncoder, get_references
from hfpipe.tasks.shared.written_text import (
    GeneratedTextEvaluator,
    GenerationSetup,
    TextGenerator,
    TextScoring,
)

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.tasks.summarization.task import Summarization
    from hfpipe.types import Columns, Rows


def compose_summarization(config: Summarization) -> TaskRuntime:
    """Return the task's encoder, objective, evaluator, generator and baselines."""
    scoring = SummaryScoring(config)
    return TaskRuntime(
        config,
        TextToTextEncoder(config),
        TokenCrossEntropy(),
        GeneratedTextEvaluator(config, config, scoring),
        {"lead": Baseline(partial(_fit_lead, config, scoring))},
        TextGenerator(config),
        GenerationSetup(config.length, config),
    )


@dataclass(frozen=True)
class SummaryScoring(TextScoring):
    """Compares summaries with one or several references."""

    config: Summarization

    def references(self, rows: Rows) -> np.ndarray:
        return get_references(self.config, rows)

    def metrics(self) -> list[Metric]:
        # While it is still `auto`, only the metrics' names are used; `configure` resolves it before anything
        # is scored.
        tokenize = "unicode" if self.config.rouge_tokenize == "auto" else self.config.rouge_tokenize
        return [*create_summary_metrics(stem=self.config.stem, tokenize=tokenize), *create_text_metrics()]

    def configure(self, rows: Rows) -> Summarization:
        if self.config.rouge_tokenize != "auto":
            return self.config
        return self.config.model_copy(
            update={"rouge_tokenize": select_rouge_tokenizer(self.references(rows))}
        )


def _fit_lead(
    config: Summarization,
    scoring: TextScoring,
    train: Rows,
    facts: DataFacts,
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Rows], Columns]:
    def predict(rows: Rows) -> Columns:
        return scoring.baseline_columns(
            [take_first_sentences(text, config.lead) for text in rows[config.source]], rows
        )

    return predict


def take_first_sentences(text: str, sentences: int) -> str:
    """Return the first sentences of a text, split at punctuation."""
    text = text.strip()
    ends = find_sentence_ends(text)
    return text[: ends[sentences - 1]].rstrip() if len(ends) >= sentences else text
