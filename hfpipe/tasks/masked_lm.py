"""Masked language modelling: guess the pieces that were hidden (Devlin et al., 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hfpipe.contract import Counted, Task
from hfpipe.errors import StageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from hfpipe.contract import Batch, Rows
    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts


class MaskedLM(Task):
    """Hides a share of the pieces and learns to name them from both sides."""

    kind: Literal["masked-lm"] = "masked-lm"
    stages: ClassVar[frozenset[str]] = frozenset({"pretrain", "finetune"})
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    packed: ClassVar[bool] = True
    text: str = "text"
    """Column to read."""
    length: int = Field(default=128, ge=8)
    """Tokens a training example, special tokens included."""
    mask: float = Field(default=0.3, gt=0, lt=1)
    """Share of tokens hidden in training (Wettig et al., 2023)."""
    eval_mask: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens hidden in evaluation, the same ones each time."""
    whole_words: bool = False
    """Hide a word in all its pieces or in none."""
    static: bool = False
    """Hide the same pieces in every epoch, as BERT did; by default others each time (Liu et al., 2019)."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,)

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        if tokenizer.mask_token_id is None:
            raise StageError("masked-lm needs a mask token, and this tokenizer has none; take another")
        encoded = tokenizer(
            list(rows[self.text]), return_attention_mask=False, return_token_type_ids=False, verbose=False
        )
        return {"input_ids": encoded["input_ids"], "row": range(len(rows[self.text]))}

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        from hfpipe.hf.collating import inputs, pad
        from hfpipe.hf.losses import IGNORED
        from hfpipe.hf.masking import generator, mask

        share = self.mask if train else self.eval_mask
        masked = []
        for example in examples:
            epoch = (0 if self.static else example["epoch"]) if train else None
            random = generator(seed, epoch, example["index"])
            masked.append(mask(example["input_ids"], tokenizer, share, random, whole_words=self.whole_words))
        labels = pad([labels for _, labels in masked], IGNORED)
        return inputs([ids for ids, _ in masked], tokenizer) | {"labels": labels}

    def positions(self, batch: Batch) -> torch.Tensor:
        from hfpipe.hf.losses import target_positions

        return target_positions(batch["labels"])

    def count(self, batch: Batch) -> torch.Tensor:
        from hfpipe.hf.losses import IGNORED

        return (batch["labels"] != IGNORED).sum()

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        from hfpipe.hf.losses import token_loss

        return token_loss(outputs.logits, batch["labels"], smoothing)

    def columns_out(self, outputs: Any, batch: Batch) -> Batch:
        from hfpipe.hf.losses import token_columns

        return token_columns(outputs.logits, batch["labels"])

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.language import language_modelling

        return language_modelling()
