"""Encodes texts, hides spans of them, and scores or generates what was hidden."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hfpipe.advice import advise
from hfpipe.encoding.padding import pad, pad_inputs
from hfpipe.errors import Problem, StageError
from hfpipe.metrics.scores.language import create_language_metrics
from hfpipe.modeling.losses.losses import IGNORED, compute_token_columns, forward
from hfpipe.modeling.random import create_generator
from hfpipe.runtime import Encoder, Evaluator, Generator, ModelSetup, TaskRuntime
from hfpipe.tasks.denoising.span_corruption import (
    count_hidden,
    draw_spans,
    get_frame,
    get_sentinel_ids,
    hide,
    infill,
)
from hfpipe.tasks.shared.generation import generate_texts
from hfpipe.tasks.shared.objectives import TokenCrossEntropy
from hfpipe.tokenization.encoding import encode_ids
from hfpipe.tokenization.spelling import SENTINEL
from hfpipe.tokenization.text import mark_format

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.tasks.denoising.task import Denoising
    from hfpipe.tasks.shared.generation_config import Generation
    from hfpipe.types import Batch, Columns, Rows

FRAME = 2
"""Number of special tokens that BART's tokenizer adds to a text."""


def compose_denoising(config: Denoising) -> TaskRuntime:
    """Return the task's encoder, objective, evaluator and, if it generates, its generator."""
    objective = TokenCrossEntropy()
    generation = config.generation
    return TaskRuntime(
        config,
        DenoisingEncoder(config),
        objective,
        DenoisingEvaluator(config),
        generator=SpanGenerator(config.length, generation, objective) if generation is not None else None,
        model_setup=DenoisingSetup(config),
    )


@dataclass(frozen=True)
class DenoisingEncoder(Encoder):
    """Encodes documents, and hides spans of each example in its batch."""

    config: Denoising

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        config = self.config
        get_frame(tokenizer)
        if config.noise == "spans":
            get_sentinel_ids(tokenizer, count_hidden(config.length, config.share, config.span)[1])
        elif tokenizer.mask_token_id is None:
            raise StageError(
                "noise: infilling needs a mask token, and this tokenizer has none; add "
                f"{advise(style='bart')} to its stage"
            )
        texts = rows[config.text]
        return {"input_ids": encode_ids(tokenizer, texts).input_ids, "row": range(len(texts))}

    def encode_windows(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        """Return the examples of `encode`; mask strings become mask tokens only if the task generates."""
        config = self.config
        if config.generation is None:
            return super().encode_windows(rows, tokenizer, facts)
        blank = SENTINEL if config.noise == "spans" else re.escape(str(tokenizer.mask_token))
        marked = {**rows, config.text: [mark_format(text, blank) for text in rows[config.text]]}
        return super().encode_windows(marked, tokenizer, facts)

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        around = get_frame(tokenizer).wrap
        keeps_blanks = not train and self.config.generation is not None
        pairs = []
        for example in examples:
            ids = example["input_ids"]
            if keeps_blanks and np.isin(self._select_placeholders(ids, tokenizer), ids).any():
                pairs.append((ids, ids[:0]))
                continue
            random = create_generator(seed, example["epoch"] if train else None, example["index"])
            pairs.append(self._add_noise(ids, tokenizer, random))
        labels = pad([around(target) for _, target in pairs], IGNORED)
        return pad_inputs([around(read) for read, _ in pairs], tokenizer) | {"labels": labels}

    def _add_noise(
        self, ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs and the targets made from a text, int64 each."""
        config, blanks = self.config, self._select_placeholders(ids, tokenizer)
        if config.noise == "infilling":
            return infill(ids, config.share, config.span, int(blanks[0]), random), ids
        return hide(ids, draw_spans(len(ids), config.share, config.span, random), blanks)

    def _select_placeholders(self, ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
        """Return the ids that replace the hidden spans of a text, int64 (spans,) or (1,)."""
        if self.config.noise == "infilling":
            return np.array([tokenizer.mask_token_id])
        return get_sentinel_ids(tokenizer, count_hidden(len(ids), self.config.share, self.config.span)[1])


@dataclass(frozen=True)
class SpanGenerator(Generator):
    """Generates what was hidden, in addition to the columns of the loss."""

    length: int
    generation: Generation
    objective: TokenCrossEntropy

    def runs(self, *, training: bool) -> bool:
        return not training

    def generate(self, model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
        outputs = forward(model, batch, self.objective.positions(batch))
        foreseen = compute_token_columns(outputs.logits, batch["labels"])
        limit = {"max_new_tokens": self.length} | self.generation.model_dump(exclude_none=True)
        out = generate_texts(model, batch, tokenizer, self.generation.model_copy(update=limit))
        return {"prediction": out.texts} | {name: tensor.cpu().numpy() for name, tensor in foreseen.items()}


@dataclass(frozen=True)
class DenoisingEvaluator(Evaluator):
    """Scores the reconstruction token by token."""

    config: Denoising

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Batch:
        return compute_token_columns(outputs.logits, batch["labels"])

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        if "prediction" in columns:
            return [{"generated_text": text} for text in columns["prediction"]]
        sums = zip(columns["nll"], columns["correct"], columns["tokens"], strict=True)
        return [
            {"loss": float(nll / tokens), "accuracy": float(right / tokens)} for nll, right, tokens in sums
        ]

    def metrics(self, facts: DataFacts) -> list[Metric]:
        return create_language_metrics()


@dataclass(frozen=True)
class DenoisingSetup(ModelSetup):
    """Checks that a model has positions for the special tokens around an example."""

    config: Denoising

    def check(self, model: PreTrainedModel) -> Iterator[Problem]:
        length, most = self.config.length, getattr(model.config, "max_position_embeddings", None)
        if most is not None and length + FRAME > most:
            message = f"length {length} plus {FRAME} special tokens exceeds the {most} positions"
            yield Problem(f"{message} of the model; set it to {most - FRAME}", ("length",))
