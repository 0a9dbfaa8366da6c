"""Generates texts for tasks to compose, and scores them against references."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hfpipe.errors import Problem
from hfpipe.metrics.metric import to_object_array
from hfpipe.metrics.scores.language import create_language_metrics
from hfpipe.modeling.losses.losses import compute_token_columns
from hfpipe.modeling.random import create_generator
from hfpipe.runtime import Evaluator, Generator, ModelSetup
from hfpipe.tasks.shared.generation import configure_generation, generate_texts
from hfpipe.tasks.shared.prompts import set_languages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.task import TaskConfig
    from hfpipe.tasks.shared.generative import GenerativeSettings
    from hfpipe.types import Batch, Columns, Rows


@dataclass(frozen=True)
class TextGenerator(Generator):
    """Generates a text for each row of a batch.

    For a decoder without an encoder, the batch also holds `_input_ids` and `_attention_mask`, the prompt.
    """

    settings: GenerativeSettings

    def runs(self, *, training: bool) -> bool:
        return self.settings.predict_with_generate or not training

    def generate(self, model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
        asked = batch
        if self.settings.prompted:
            asked = {name: batch[f"_{name}"] for name in ("input_ids", "attention_mask")}
        drawn = batch["_drawn"].tolist() if "_drawn" in batch else []
        out = generate_texts(
            model,
            asked,
            tokenizer,
            self.settings.limited_generation,
            forced_bos_token_id=set_languages(tokenizer, *self.settings.languages),
            random=[create_generator(seed, None, index) for seed, index in drawn],
        )
        return {"prediction": out.texts, "tokens": out.tokens, "cut": out.cut}


@dataclass(frozen=True)
class GenerationSetup(ModelSetup):
    """Checks that a model has positions for all tokens, and stores the generation settings in it."""

    length: int
    """Maximum number of tokens before the generated text, or of the source."""
    settings: GenerativeSettings

    def check(self, model: PreTrainedModel) -> Iterator[Problem]:
        most, prompted = getattr(model.config, "max_position_embeddings", None), self.settings.prompted
        written = max(self.settings.target_length, self.settings.generation.max_new_tokens or 0)
        needed = self.length + written if prompted else max(self.length, written)
        if isinstance(most, int) and needed > most:
            sides = "of prompt and target together" if prompted else "of source or target"
            message = f"up to {needed} tokens {sides} exceed the {most} positions of the model"
            yield Problem(f"{message}; lower length or target_length")

    def configure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        first = set_languages(tokenizer, *self.settings.languages)
        configure_generation(model, tokenizer, self.settings.limited_generation, first)


class TextScoring(ABC):
    """The references of a task that generates text, and the metrics that compare texts with them."""

    @abstractmethod
    def references(self, rows: Rows) -> np.ndarray:
        """Return the reference of each row, object (rows,): a text, or a list of several."""

    @abstractmethod
    def metrics(self) -> list[Metric]:
        """Return the metrics of texts."""

    @abstractmethod
    def configure(self, rows: Rows) -> TaskConfig:
        """Return the task's settings with those of its metrics filled in that depend on the rows."""

    def answer(self, text: str) -> str:
        """Return the part of a generated text that is compared."""
        return text

    def baseline_columns(self, prediction: list[str], rows: Rows) -> Columns:
        """Return the columns of a trivial baseline, whose texts are never truncated."""
        return {
            "prediction": to_object_array(prediction),
            "reference": self.references(rows),
            "cut": np.zeros(len(prediction), dtype=bool),
        }


@dataclass(frozen=True)
class GeneratedTextEvaluator(Evaluator):
    """Scores generated texts; validation during training computes only the loss by default."""

    settings: GenerativeSettings
    scoring: TextScoring

    def configure_metrics(self, rows: Rows) -> TaskConfig:
        return self.scoring.configure(rows)

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Batch:
        return compute_token_columns(outputs.logits, batch["labels"])

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        """Return the reference of each row and the text generated for its last example."""
        if "prediction" not in columns:
            return super().columns_by_row(columns, row_index, rows, facts)
        last = np.append(np.flatnonzero(np.diff(row_index)), len(row_index) - 1)
        answers = to_object_array(map(self.scoring.answer, columns["prediction"]))
        return {name: column[last] for name, column in {**columns, "prediction": answers}.items()} | {
            "reference": self.scoring.references(rows)
        }

    def metrics(self, facts: DataFacts) -> list[Metric]:
        return self.scoring.metrics()

    def validation_metrics(self, facts: DataFacts) -> list[Metric]:
        return self.metrics(facts) if self.settings.predict_with_generate else create_language_metrics()

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        return [{self.settings.answer: text} for text in columns["prediction"]]
