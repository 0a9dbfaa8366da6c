"""Masked language modelling: predict hidden tokens (Devlin et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from hfpipe.errors import Problem, StageError
from hfpipe.task import Requirements
from hfpipe.tasks.shared.token_level import RunningText, at_first, utf8

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.types import Batch, Columns, Counted, Rows


class MaskedLM(RunningText):
    """Learns to predict hidden tokens from the context on both sides."""

    kind: Literal["masked-lm"] = "masked-lm"
    later: ClassVar[tuple[str, ...]] = ("packing", "documents")
    length: int = Field(default=128, ge=8)
    """Number of tokens per training example, including special tokens."""
    mask: float = Field(default=0.3, gt=0, lt=1)
    """Fraction of tokens hidden in training (Wettig et al., 2023)."""
    eval_mask: float = Field(default=0.15, gt=0, lt=1)
    """Fraction of tokens hidden in evaluation; every evaluation hides the same tokens."""
    whole_words: bool = False
    """Hide all tokens of a word or none (whole word masking)."""
    static: bool = False
    """Hide the same tokens in every epoch, as in BERT; by default masks are dynamic (Liu et al., 2019)."""
    next_sentence: bool = False
    """Also train on next-sentence prediction; needs a model with a next-sentence head, such as BERT."""
    pseudo_perplexity: bool = False
    """Evaluate by hiding one token at a time with all others visible, in place of `eval_mask`; slower."""

    documents: Literal["packed", "separate"] = "packed"
    """`packed`: in training a document attends to the others of its example; `separate`: only to itself."""

    @model_validator(mode="after")
    def _whole_documents(self) -> Self:
        if self.next_sentence and (self.best_fit or self.separates_documents):
            raise ValueError(
                "`next_sentence` makes an example of two segments and packs nothing; "
                "delete `packing` and `documents`"
            )
        if self.best_fit and not self.separates_documents:
            raise ValueError("`packing: bfd` pads examples, which needs `documents: separate`; add it")
        return self

    @model_validator(mode="after")
    def _one_evaluation(self) -> Self:
        if self.next_sentence and self.pseudo_perplexity:
            raise ValueError(
                "`pseudo_perplexity` reads whole texts, `next_sentence` pairs; give evaluation its own task"
            )
        return self

    @property
    def auto_class(self) -> str:
        return "AutoModelForPreTraining" if self.next_sentence else "AutoModelForMaskedLM"

    @property
    def requires(self) -> Requirements:
        return Requirements(mask_token=True, token_types="next_sentence" if self.next_sentence else None)

    @property
    def pipeline(self) -> str:
        return "fill-mask"

    @property
    def predicted_share(self) -> float:
        return self.mask

    @property
    def packed(self) -> bool:
        return not self.next_sentence

    @property
    def separates_documents(self) -> bool:
        return self.documents == "separate"

    def check_model(self, model: PreTrainedModel) -> Iterator[Problem]:
        from hfpipe.tasks.masked_lm.sentence_pairs import judges_pairs
        from hfpipe.tasks.shared.documents import separation_problems

        if self.separates_documents:
            yield from separation_problems(model)
        if self.next_sentence and not judges_pairs(model):
            yield Problem(
                f"{model.config.model_type} has no head for sentence pairs, bert has; or delete next_sentence"
            )

    @property
    def prediction_task(self) -> dict[str, Any]:
        return {"kind": "fill-mask", "text": self.text, "length": self.length}

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        from hfpipe.tasks.masked_lm.sentence_pairs import sentence_pairs
        from hfpipe.tasks.shared.documents import check_begins
        from hfpipe.tokenization.encoding import encode_ids

        if tokenizer.mask_token_id is None:
            raise StageError("masked-lm needs a mask token, and this tokenizer has none; take another")
        texts = list(rows[self.text])
        if self.next_sentence:
            return sentence_pairs(texts, tokenizer, self.length)
        documents = encode_ids(tokenizer, texts, special_tokens=True).input_ids
        if self.separates_documents:
            check_begins(documents, tokenizer)
        return {"input_ids": documents, "row": range(len(texts))}

    def encode_windows(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        from hfpipe.tokenization.encoding import encode_plain
        from hfpipe.tokenization.round_trip import lost_bytes

        found = super().encode_windows(rows, tokenizer, facts)
        if not self.pseudo_perplexity:
            return found
        lost = lost_bytes(tokenizer, rows[self.text], encode_plain(tokenizer, rows[self.text]))
        return {**found, "lost": at_first(lost, found["row"])}

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        import torch

        from hfpipe.encoding.padding import inputs, pad
        from hfpipe.modeling.losses.losses import IGNORED
        from hfpipe.modeling.random import generator
        from hfpipe.tasks.masked_lm.masking import mask_tokens
        from hfpipe.tasks.shared.documents import opening_token, separated

        share = self.mask if train else self.eval_mask
        masked = []
        for example in examples:
            epoch = (0 if self.static else example["epoch"]) if train else None
            random = generator(seed, epoch, example["index"])
            masked.append(
                mask_tokens(example["input_ids"], tokenizer, share, random, whole_words=self.whole_words)
            )
        labels = pad([labels for _, labels in masked], IGNORED)
        batch = inputs([ids for ids, _ in masked], tokenizer) | {"labels": labels}
        if train and self.separates_documents:
            del batch["attention_mask"]  # replaced by document numbers; padding counts as a document
            batch |= separated([example["input_ids"] for example in examples], opening_token(tokenizer))
        if self.next_sentence:
            follows = [int(example["next_sentence_label"]) for example in examples]
            batch["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0)
            batch["_next_sentence"] = torch.tensor(follows)
        if "lost" in examples[0]:
            batch["_lost"] = torch.tensor([int(example["lost"]) for example in examples])
        return batch

    @property
    def loss_is_cross_entropy(self) -> bool:
        return type(self).loss is MaskedLM.loss and not self.next_sentence

    def count(self, batch: Batch) -> torch.Tensor:
        import torch

        from hfpipe.modeling.losses.losses import IGNORED

        if not self.next_sentence:
            return super().count(batch)
        return torch.stack([super().count(batch), (batch["_next_sentence"] != IGNORED).sum()])

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        from hfpipe.modeling.losses.losses import token_loss
        from hfpipe.tasks.masked_lm.sentence_pairs import both, pair_loss

        if not self.next_sentence:
            return super().loss(outputs, batch, smoothing)
        pairs = pair_loss(outputs.seq_relationship_logits, batch["_next_sentence"])
        return both(
            token_loss(outputs.prediction_logits, batch["labels"], smoothing, batch.get("_positions")), pairs
        )

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Batch:
        from hfpipe.modeling.losses.losses import token_columns
        from hfpipe.tasks.masked_lm.sentence_pairs import pair_columns

        if not self.next_sentence:
            return super().outputs_to_columns(outputs, batch)
        pairs = pair_columns(outputs.seq_relationship_logits, batch["_next_sentence"])
        return token_columns(outputs.prediction_logits, batch["labels"]) | pairs

    def generates(self, *, training: bool) -> bool:
        return self.pseudo_perplexity and not training

    def generate(self, model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
        from hfpipe.tasks.masked_lm.pseudo_likelihood import each_hidden

        lost = {"lost": batch["_lost"].cpu().numpy()} if "_lost" in batch else {}
        return {**each_hidden(model, batch, tokenizer), **lost}

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        summed = super().columns_by_row(columns, row_index, rows, facts)
        return {**summed, "bytes": utf8(rows[self.text])} if self.pseudo_perplexity else summed

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.language import pseudo_likelihood

        return pseudo_likelihood() if self.pseudo_perplexity else self.validation_metrics(facts)

    def validation_metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.language import language_modelling
        from hfpipe.metrics.scores.sentences import NextSentenceAccuracy, NextSentenceLoss

        pairs = [NextSentenceLoss(), NextSentenceAccuracy()] if self.next_sentence else []
        return [*language_modelling(), *pairs]
