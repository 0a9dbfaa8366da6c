"""Encodes texts, hides tokens of them, and scores how well a model predicts what was hidden."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hfpipe.encoding.padding import pad, pad_inputs
from hfpipe.errors import Problem, StageError
from hfpipe.metrics.scores.language import create_language_metrics, create_pseudo_likelihood_metrics
from hfpipe.metrics.scores.sentences import NextSentenceAccuracy, NextSentenceLoss
from hfpipe.modeling.losses.losses import IGNORED, compute_token_columns, compute_token_loss
from hfpipe.modeling.random import create_generator
from hfpipe.runtime import Encoder, Evaluator, Generator, ModelSetup, Objective, TaskRuntime
from hfpipe.tasks.masked_lm.masking import mask_tokens
from hfpipe.tasks.masked_lm.pseudo_likelihood import score_hidden_tokens
from hfpipe.tasks.masked_lm.sentence_pairs import (
    combine_losses,
    compute_pair_columns,
    compute_pair_loss,
    encode_sentence_pairs,
    has_pair_head,
)
from hfpipe.tasks.shared.documents import (
    check_beginnings,
    find_separation_problems,
    get_opening_token,
    number_documents,
)
from hfpipe.tasks.shared.objectives import TokenCrossEntropy
from hfpipe.tasks.shared.row_values import count_utf8_bytes, place_at_first_examples
from hfpipe.tokenization.encoding import encode_ids, encode_plain
from hfpipe.tokenization.round_trip import count_lost_bytes

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.tasks.masked_lm.task import MaskedLM
    from hfpipe.types import Batch, Columns, Counted, Rows


def compose_masked_lm(config: MaskedLM) -> TaskRuntime:
    """Return the task's encoder, objective, evaluator and, for a pseudo-perplexity, its generator."""
    tokens = TokenCrossEntropy(predicted_share=config.mask)
    return TaskRuntime(
        config,
        MaskedLMEncoder(config),
        TokensAndPairs(tokens) if config.next_sentence else tokens,
        MaskedLMEvaluator(config),
        generator=PseudoLikelihood() if config.pseudo_perplexity else None,
        model_setup=MaskedLMSetup(config),
    )


@dataclass(frozen=True)
class MaskedLMEncoder(Encoder):
    """Encodes documents or pairs of segments, and hides tokens of each example in its batch."""

    config: MaskedLM

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        if tokenizer.mask_token_id is None:
            raise StageError(
                "masked-lm needs a mask token, and this tokenizer has none; use another tokenizer"
            )
        texts = list(rows[self.config.text])
        if self.config.next_sentence:
            return encode_sentence_pairs(texts, tokenizer, self.config.length)
        documents = encode_ids(tokenizer, texts, special_tokens=True).input_ids
        if self.config.separates_documents:
            check_beginnings(documents, tokenizer)
        return {"input_ids": documents, "row": range(len(texts))}

    def encode_windows(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        found = super().encode_windows(rows, tokenizer, facts)
        if not self.config.pseudo_perplexity:
            return found
        texts = rows[self.config.text]
        lost = count_lost_bytes(tokenizer, texts, encode_plain(tokenizer, texts))
        return {**found, "lost": place_at_first_examples(lost, found["row"])}

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        config = self.config
        share = config.mask if train else config.eval_mask
        masked = []
        for example in examples:
            epoch = (0 if config.static else example["epoch"]) if train else None
            random = create_generator(seed, epoch, example["index"])
            masked.append(
                mask_tokens(example["input_ids"], tokenizer, share, random, whole_words=config.whole_words)
            )
        labels = pad([labels for _, labels in masked], IGNORED)
        batch = pad_inputs([ids for ids, _ in masked], tokenizer) | {"labels": labels}
        if train and config.separates_documents:
            del batch["attention_mask"]  # replaced by document numbers; padding counts as a document
            batch |= number_documents(
                [example["input_ids"] for example in examples], get_opening_token(tokenizer)
            )
        if config.next_sentence:
            follows = [int(example["next_sentence_label"]) for example in examples]
            batch["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0)
            batch["_next_sentence"] = torch.tensor(follows)
        if "lost" in examples[0]:
            batch["_lost"] = torch.tensor([int(example["lost"]) for example in examples])
        return batch


@dataclass(frozen=True)
class TokensAndPairs(Objective):
    """Cross-entropy of the hidden tokens, and of whether the second segment follows the first."""

    tokens: TokenCrossEntropy

    @property
    def predicted_share(self) -> float:
        return self.tokens.predicted_share

    def positions(self, batch: Batch) -> torch.Tensor | None:
        return self.tokens.positions(batch)

    def count(self, batch: Batch) -> torch.Tensor:
        return torch.stack([self.tokens.count(batch), (batch["_next_sentence"] != IGNORED).sum()])

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        pairs = compute_pair_loss(outputs.seq_relationship_logits, batch["_next_sentence"])
        logits, labels = outputs.prediction_logits, batch["labels"]
        return combine_losses(compute_token_loss(logits, labels, smoothing, batch.get("_positions")), pairs)


class PseudoLikelihood(Generator):
    """Hides one token at a time; validation during training hides many at once, which is faster."""

    def runs(self, *, training: bool) -> bool:
        return not training

    def generate(self, model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
        lost = {"lost": batch["_lost"].cpu().numpy()} if "_lost" in batch else {}
        return {**score_hidden_tokens(model, batch, tokenizer), **lost}


@dataclass(frozen=True)
class MaskedLMEvaluator(Evaluator):
    """Scores the hidden tokens of a text."""

    config: MaskedLM

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Batch:
        if not self.config.next_sentence:
            return compute_token_columns(outputs.logits, batch["labels"])
        pairs = compute_pair_columns(outputs.seq_relationship_logits, batch["_next_sentence"])
        return compute_token_columns(outputs.prediction_logits, batch["labels"]) | pairs

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        summed = super().columns_by_row(columns, row_index, rows, facts)
        text = self.config.text
        return {**summed, "bytes": count_utf8_bytes(rows[text])} if self.config.pseudo_perplexity else summed

    def metrics(self, facts: DataFacts) -> list[Metric]:
        return (
            create_pseudo_likelihood_metrics()
            if self.config.pseudo_perplexity
            else self.validation_metrics(facts)
        )

    def validation_metrics(self, facts: DataFacts) -> list[Metric]:
        pairs = [NextSentenceLoss(), NextSentenceAccuracy()] if self.config.next_sentence else []
        return [*create_language_metrics(), *pairs]


@dataclass(frozen=True)
class MaskedLMSetup(ModelSetup):
    """Checks that a model can keep documents apart or judge pairs, where the task does."""

    config: MaskedLM

    def check(self, model: PreTrainedModel) -> Iterator[Problem]:
        if self.config.separates_documents:
            yield from find_separation_problems(model)
        if self.config.next_sentence and not has_pair_head(model):
            yield Problem(
                f"{model.config.model_type} has no head for sentence pairs, bert has; or delete next_sentence"
            )
