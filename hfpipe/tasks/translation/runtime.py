"""Generates translations, and scores them by BLEU, chrF and TER."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hfpipe.metrics.scores.overlap import create_translation_metrics, select_tokenizer
from hfpipe.metrics.scores.written import create_text_metrics
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
    from hfpipe.tasks.translation.task import Translation
    from hfpipe.types import Columns, Rows


def compose_translation(config: Translation) -> TaskRuntime:
    """Return the task's encoder, objective, evaluator, generator and baselines."""
    scoring = TranslationScoring(config)
    return TaskRuntime(
        config,
        TextToTextEncoder(config),
        TokenCrossEntropy(),
        GeneratedTextEvaluator(config, config, scoring),
        {"copy": Baseline(partial(_fit_copy, config, scoring))},
        TextGenerator(config),
        GenerationSetup(config.length, config),
    )


@dataclass(frozen=True)
class TranslationScoring(TextScoring):
    """Compares translations with one or several references."""

    config: Translation

    def references(self, rows: Rows) -> np.ndarray:
        return get_references(self.config, rows)

    def metrics(self) -> list[Metric]:
        # While it is still `auto`, only the metrics' names are used; `configure` resolves it before anything
        # is scored.
        config = self.config
        tokenize = "13a" if config.tokenize == "auto" else config.tokenize
        return [
            *create_translation_metrics(1 + len(config.references), tokenize, config.ter_words),
            *create_text_metrics(),
        ]

    def configure(self, rows: Rows) -> Translation:
        config = self.config
        if "auto" not in (config.tokenize, config.ter_words):
            return config
        tokenize = select_tokenizer(self.references(rows))
        suited = {"tokenize": tokenize, "ter_words": "spaces" if tokenize == "13a" else "bleu"}
        left = {name: value for name, value in suited.items() if getattr(config, name) == "auto"}
        return config.model_copy(update=left)


def _fit_copy(
    config: Translation,
    scoring: TextScoring,
    train: Rows,
    facts: DataFacts,
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Rows], Columns]:
    return lambda rows: scoring.baseline_columns(list(rows[config.source]), rows)
