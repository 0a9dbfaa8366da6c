"""Pairs of segments for next-sentence prediction, BERT's second objective (Devlin et al., 2019)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from inspect import signature
from itertools import islice
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Tensor
from torch.nn import functional as F

from hfpipe.advice import advise
from hfpipe.errors import StageError
from hfpipe.modeling.losses.losses import IGNORED
from hfpipe.modeling.random import create_generator
from hfpipe.tokenization.encoding import encode_plain
from hfpipe.types import Counted

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SENTENCE_END = re.compile(
    r"(?<=[.!?])\s+|(?<=[.!?][\"'\u201d\u2019)\]])\s+|(?<=[\u3002\uff01\uff1f])\s*|\s*\n\s*"
)
"""End of a sentence, also in Chinese and Japanese; splitting at abbreviations does no harm."""
FOLLOWS, RANDOM = 0, 1
"""Labels of the second segment, as in BertForPreTraining."""
SEED = 0
"""Fixed seed: pairs are built before training and are the same for every training seed."""

Sentence = list[int]
Document = list[Sentence]


def encode_sentence_pairs(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> dict[str, list[Any]]:
    """Turn texts into pairs of segments of at most `length` tokens, using every token of each text.

    If at least two sentences fit, the second segment is the continuation of the same text or, with
    probability 1/2, comes from another of `texts`; the replaced sentences then begin the next pair. A single
    remaining sentence, as at the end of a text, becomes an example without a second segment and without a
    label. The result depends on the texts alone.

    Returns `input_ids`, `token_type_ids` (0, and 1 in the second segment), `next_sentence_label` (0 follows,
    1 random, -100 no second segment) and `row`. Raises StageError when the tokenizer has no [CLS] or [SEP].
    """
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    if begin is None or end is None:
        raise StageError(
            f"next_sentence needs a tokenizer with [CLS] and [SEP]; add {advise(style='bert')} to its stage"
        )
    room = length - 3
    documents = _encode_documents(texts, tokenizer, room // 2)
    lenders = [row for row, document in enumerate(documents) if any(document)]
    names = ("input_ids", "token_type_ids", "next_sentence_label", "row")
    out: dict[str, list[Any]] = {name: [] for name in names}
    for row, document in enumerate(documents):
        random = create_generator(SEED, None, crc32(texts[row].encode()))
        others = [documents[lender] for lender in lenders if lender != row]
        for first, second, label in _draw_pairs(document, others, room, random):
            tail = [*second, end] if second else []
            out["input_ids"].append([begin, *first, end, *tail])
            out["token_type_ids"].append([0] * (len(first) + 2) + [1] * len(tail))
            out["next_sentence_label"].append(label)
            out["row"].append(row)
    return out


def _encode_documents(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, longest: int
) -> list[Document]:
    """Return the sentences of each text as ids; long ones are split, an empty text has one empty sentence."""
    split = [SENTENCE_END.split(text) for text in texts]
    encoded = iter(encode_plain(tokenizer, [sentence for sentences in split for sentence in sentences]))
    documents = []
    for sentences in split:
        each = islice(encoded, len(sentences))
        parts = [ids[start : start + longest] for ids in each for start in range(0, len(ids), longest)]
        documents.append(parts or [[]])
    return documents


def _draw_pairs(
    document: Document, others: Sequence[Document], room: int, random: np.random.Generator
) -> Iterator[tuple[Sentence, Sentence, int]]:
    start = 0
    while start < len(document):
        stop = start + _count_fitting(document[start:], room)
        if stop - start == 1:
            yield document[start], [], IGNORED
            start = stop
            continue
        middle = int(random.integers(start + 1, stop))
        first = _concatenate(document[start:middle])
        if others and random.random() < 0.5:
            other = others[int(random.integers(len(others)))]
            drawn = other[random.integers(len(other)) :]
            left = room - len(first)
            yield first, _concatenate(drawn[: _count_fitting(drawn, left)])[:left], RANDOM
            start = middle
        else:
            yield first, _concatenate(document[middle:stop]), FOLLOWS
            start = stop


def _count_fitting(sentences: Document, room: int) -> int:
    """Return how many leading sentences fit in `room`; at least one."""
    count, used = 1, len(sentences[0])
    while count < len(sentences) and used + len(sentences[count]) <= room:
        used += len(sentences[count])
        count += 1
    return count


def _concatenate(sentences: Document) -> Sentence:
    return [piece for sentence in sentences for piece in sentence]


def has_pair_head(model: PreTrainedModel) -> bool:
    """Return whether a model has a next-sentence prediction head."""
    return "next_sentence_label" in signature(model.forward).parameters


def compute_pair_loss(logits: Tensor, labels: Tensor) -> Counted:
    """Return the summed cross-entropy of the pairs with a label: logits (rows, 2), labels int64 (rows,)."""
    total = F.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=IGNORED)
    return Counted(total, (labels != IGNORED).sum())


def compute_pair_columns(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return nats, pairs and correct predictions of each row: float64 and int64, shape (rows,)."""
    nll = F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=IGNORED)
    return {
        "next_sentence_nll": nll.double(),
        "next_sentence_pairs": (labels != IGNORED).long(),
        "next_sentence_correct": (logits.argmax(-1) == labels).long(),
    }


def combine_losses(first: Counted, second: Counted) -> Counted:
    """Combine two objectives into one: each is averaged separately, and the means are added."""
    return Counted(torch.stack([first.total, second.total]), torch.stack([first.targets, second.targets]))
