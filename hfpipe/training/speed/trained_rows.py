"""Decides whether a training on a CPU trains only the rows of the word embeddings that its examples read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.trainer_utils import unwrap_peft_model

from hfpipe.modeling.read_rows import find_word_embedding, skip_unread_rows

if TYPE_CHECKING:
    from hfpipe.encoding.encoded import Examples
    from hfpipe.training.trainer import TaskTrainer

log = logging.getLogger(__name__)

CLASSES = (
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
)
"""Auto classes of the tasks whose models read the ids of the encoded examples, and padding."""
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")
"""Optimizers that do not change a row without gradients; embeddings have one of them with Muon too."""
SAVED = 0.25
"""Share of the rows that must not be read."""
AT_ONCE = 4096
"""Number of examples whose ids are looked at at once."""


@contextmanager
def train_read_rows(trainer: TaskTrainer, *, compiled: bool) -> Iterator[None]:
    """Temporarily train only the rows of the embeddings that the examples of a training read."""
    model = trainer.bare
    embedding = find_word_embedding(model) if not compiled and _keeps_other_rows(trainer) else None
    if embedding is None:
        yield
        return
    size, config = embedding.num_embeddings, model.config.get_text_config()
    always = [0, embedding.padding_idx, config.pad_token_id, *trainer.tokenizer.all_special_ids]
    read = find_read_rows(trainer.examples, [each for each in always if each is not None], size)
    if read is None:
        yield
        return
    with skip_unread_rows(model, embedding, torch.from_numpy(read)) as skipping:
        if skipping:
            log.info(
                "word embeddings: only %s of %s rows, which the training texts contain, are trained",
                f"{int(read.sum()):,}",
                f"{size:,}",
            )
        yield


def _keeps_other_rows(trainer: TaskTrainer) -> bool:
    """Return whether ids are read only as they were encoded, and AdamW keeps rows that are not read."""
    args, config = trainer.args, trainer.task.config
    whole = not trainer.split and trainer.layout.context == 1 and args.device.type == "cpu"
    as_encoded = config.code is None and config.auto_class in CLASSES and not config.packed
    plain = unwrap_peft_model(trainer.bare) is trainer.bare
    kept = args.optim in OPTIMIZERS and args.weight_decay == 0 and args.adam_epsilon > 0
    return whole and as_encoded and plain and kept


def find_read_rows(examples: Examples, always: Iterable[int], size: int) -> np.ndarray | None:
    """Return which of `size` rows are selected by ids of examples or `always`, bool (size,).

    None if these are too many rows for a gain, or if there is no row for an id.
    """
    read = np.zeros(size, dtype=bool)
    read[[each for each in always if 0 <= each < size]] = True
    for start in range(0, len(examples), AT_ONCE):
        ids = examples.read_ids(start, min(start + AT_ONCE, len(examples)))
        if ids.max(initial=0) >= size:
            return None
        read[ids] = True
        if read.sum() > (1 - SAVED) * size:
            return None
    return read
