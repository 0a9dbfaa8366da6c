"""Pads lists of ids into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch.nn import functional as F

from hfpipe.encoding.sampler import GRAIN, cut_by_length, group_by_tokens
from hfpipe.modeling.attention.layout import make_layout
from hfpipe.modeling.attention.separate_documents import find_document_bounds
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.modeling.static_shapes import find_static_positions, round_positions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.modeling.losses.training_loss import TrainingLoss
    from hfpipe.runtime import TaskRuntime
    from hfpipe.task import TaskConfig
    from hfpipe.types import Batch

    Batches: TypeAlias = Batch | list[Batch]

TARGETS = 32
"""The logits of an encoder-decoder on a CPU are computed at a multiple of this number of positions.

Every other number of them would be a shape of products that are compiled and kept: for T5 4 × 256,
2 MB more after each step.
"""


def list_forward_passes(batches: Batches) -> list[Batch]:
    """Return the forward passes of a micro-batch, which is one batch or split into several."""
    return batches if isinstance(batches, list) else [batches]


def is_cut(config: TaskConfig, device: str) -> bool:
    """Return whether the batches of a model that is whole in each process are cut by length.

    An accelerator would idle between small passes; the examples of a packed task have one length.
    """
    return device == "cpu" and not config.packed


@dataclass(frozen=True)
class Collator:
    """Collates the training batches of a task; depends only on the examples, so it can run in workers."""

    task: TaskRuntime
    tokenizer: PreTrainedTokenizerBase
    seed: int
    static: bool = False
    """Whether batches have static shapes: few sizes of target positions, and no mask if none is needed."""
    multiple: int = 1
    """The length of a batch is padded to a multiple of this number."""
    cut: bool = False
    """Whether a batch of uneven lengths is split into several forward passes."""
    unpadded: int = 0
    """Batches get a layout without padding, of a multiple of this number of tokens; 0 for none."""
    training_loss: TrainingLoss | None = None
    """The loss that reads weights of rows, which are added to a batch."""

    def __call__(self, examples: list[dict[str, Any]]) -> Batches:
        """Return encoded examples as one batch, or as several with `cut`."""
        if self.cut:
            return [self._make_batch(group) for group in self.group_examples(examples)]
        batch = self._make_batch(examples)
        return (
            batch | {"_bounds": find_document_bounds(batch["_documents"])} if "_documents" in batch else batch
        )

    def group_examples(self, examples: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """Return the examples of each forward pass, in the order of its rows."""
        if not self.cut:
            return [examples]
        lengths = np.array([self._measure_sides(example) for example in examples])
        if self.unpadded:
            found = group_by_tokens(lengths.sum(1))
        else:
            found = cut_by_length(lengths, multiple=GRAIN if self._is_paired else 1)
        return [[examples[row] for row in group] for group in found]

    def _make_batch(self, examples: list[dict[str, Any]]) -> Batch:
        batch = self.task.encoder.collate(examples, self.tokenizer, self.seed, train=True)
        if self.training_loss is not None:
            batch = self.training_loss.add_entries(batch, examples)
        if self.multiple > 1:
            batch = pad_length(batch, self.multiple)
        if self.cut and self._is_paired and not self.unpadded:
            batch = self._round_sides(batch)
            batch["_positions"] = round_positions(batch["labels"], IGNORED, TARGETS)
        if self.unpadded and "attention_mask" in batch:
            batch = batch | make_layout(batch["attention_mask"], self.unpadded)
        if not self.static:
            return batch
        # Padding follows the tokens, where a causal model does not attend to it.
        causal = self.task.config.auto_class == "AutoModelForCausalLM"
        if "attention_mask" in batch and (causal or bool(batch["attention_mask"].all())):
            del batch["attention_mask"]
        if self.task.config.best_fit and "attention_mask" not in batch:
            batch = self._pad_to_length(batch)
        return batch | {"_positions": find_static_positions(batch["labels"], IGNORED)}

    def _pad_to_length(self, batch: Batch) -> Batch:
        """Return a batch padded to the task's length, even if its longest example is shorter."""
        rows, longest = batch["input_ids"].shape
        missing = (0, self.task.config.length - longest)
        fills = {"input_ids": self.tokenizer.pad_token_id or 0, "labels": IGNORED}
        return {
            name: F.pad(each, missing, value=fills.get(name, 0)) if each.shape == (rows, longest) else each
            for name, each in batch.items()
        }

    @property
    def _is_paired(self) -> bool:
        """Whether an example has a source and a target, with a length each."""
        return self.task.config.auto_class == "AutoModelForSeq2SeqLM"

    def _measure_sides(self, example: dict[str, Any]) -> list[int]:
        """Return how many positions an example has in the encoder, and in the decoder if there is one."""
        return [len(example[name]) for name in ("input_ids", *(["labels"] if self._is_paired else []))]

    def _round_sides(self, batch: Batch) -> Batch:
        """Return a batch whose lengths are multiples of `GRAIN`, or the largest that the task allows."""
        config, source, target = self.task.config, batch["input_ids"].shape, batch["labels"].shape
        most = getattr(config, "target_length", 0)
        limits = {source: config.length, target: min(most, config.length) if source == target else most}
        fills = {"input_ids": self.tokenizer.pad_token_id or 0, "labels": IGNORED}
        rounded = {}
        for name, each in batch.items():
            room = limits.get(each.shape, 0) - each.shape[-1]
            missing = min(-each.shape[-1] % GRAIN, max(0, room))
            rounded[name] = F.pad(each, (0, missing), value=fills.get(name, 0))
        return rounded


def pad_length(batch: Batch, multiple: int) -> Batch:
    """Return a batch with its (rows, length) tensors padded on the right to a multiple of `multiple`."""
    short = -batch["input_ids"].shape[1] % multiple
    return {
        name: torch.nn.functional.pad(tensor, (0, short), value=IGNORED if name == "labels" else 0)
        for name, tensor in batch.items()
    }


def make_token_mask(batch: Batch) -> torch.Tensor:
    """Return 1 for each token of a batch and 0 for padding, int64 (rows, length)."""
    if "_documents" in batch:  # documents are numbered from 1, padding is 0
        return (batch["_documents"] > 0).long()
    return batch.get("attention_mask", torch.ones_like(batch["input_ids"]))


def pad(sequences: Sequence[np.ndarray], value: int) -> torch.Tensor:
    """Return the sequences as one int64 tensor (rows, longest), padded with `value` on the right.

    With padding on the left, absolute positions would depend on the batch.
    """
    out = np.full((len(sequences), max(1, *map(len, sequences))), value, dtype=np.int64)
    for row, ids in zip(out, sequences, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(out)


def pad_inputs(sequences: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Return `input_ids` and `attention_mask`, int64 (rows, longest).

    The mask is computed from lengths, not from ids, because the padding id may also be a real token. Models
    need at least one token per row, so an empty sequence becomes one padding token with mask 1.
    """
    fill = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return {
        "input_ids": pad(sequences, fill),
        "attention_mask": pad([np.ones(max(1, len(ids)), dtype=np.int64) for ids in sequences], 0),
    }
