"""Marks the tokens of a batch by its labels: what is learned, replaced, ignored or padding.

The layout of `labels` follows from the auto class of the task, so that a user-defined task is shown as well:
token ids at the position of the logits that predict them, class ids, a second sequence, a span, or a value
for the whole example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hfpipe.inspection.shown import Mark, ShownSequence, ShownToken
from hfpipe.inspection.token_texts import TokenTexts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from hfpipe.types import Batch

FOLLOWS = {0: "follows the first", 1: "is of another text", -100: "there is none"}
"""Label of next-sentence prediction → its meaning for the second segment."""


@dataclass(frozen=True)
class BatchMarker:
    """Marks batches, given the task and tokenizer."""

    auto_class: str
    packed: bool
    """Whether examples are cut from the concatenation of all documents."""
    classes: Mapping[int, str]
    """Names of the model's classes; empty if it has none."""
    tokenizer: PreTrainedTokenizerBase
    texts: TokenTexts

    def mark_sequences(self, batch: Batch, row: int) -> list[ShownSequence]:
        """Return the tokens of a row of a batch: one sequence, or one for each side or ending."""
        if self.auto_class == "AutoModelForMultipleChoice":
            return [*self._iterate_endings(batch, row)]
        read = self._mark_read(batch["input_ids"][row], _get_mask(batch)[row])
        labels = batch["labels"]
        if self.auto_class == "AutoModelForSeq2SeqLM":
            return [ShownSequence("source", read), ShownSequence("target", self._mark_written(labels[row]))]
        if self.auto_class == "AutoModelForQuestionAnswering":
            start, end = labels[row].tolist()
            return [ShownSequence("", _mark_span(read, start, end))]
        if labels.shape == batch["input_ids"].shape:
            read = self._mark_labels(read, batch, row)
        starts = self._find_starts(batch, row) if self.packed else set()
        return [
            ShownSequence("", [replace(token, opens=place in starts) for place, token in enumerate(read)])
        ]

    def list_targets(self, batch: Batch, row: int) -> Iterator[tuple[str, str]]:
        """Yield the targets of a whole row, name and value."""
        labels = batch["labels"]
        if self.auto_class == "AutoModelForMultipleChoice":
            yield "correct", f"ending {int(labels[row]) + 1}"
        elif self.auto_class == "AutoModelForQuestionAnswering":
            start, end = labels[row].tolist()
            ids = batch["input_ids"][row, start : end + 1].tolist()
            none = start == end == int(batch["_nothing"][row]) if "_nothing" in batch else False
            yield "answer", "not in this window" if none else str(self.tokenizer.decode(ids))
        elif labels.dim() == 1:
            value = labels[row].item()
            yield "label", self._get_class_name(value) if isinstance(value, int) else f"{value:g}"
        elif labels.shape != batch["input_ids"].shape and self.auto_class != "AutoModelForSeq2SeqLM":
            yield "labels", self._format_labels(labels[row])
        if "_next_sentence" in batch:
            yield "second segment", FOLLOWS[int(batch["_next_sentence"][row])]

    def _get_class_name(self, number: int) -> str:
        return self.classes.get(number, str(number))

    def _format_labels(self, labels: torch.Tensor) -> str:
        """Return the classes of several labels, or other labels unchanged."""
        if labels.dim() == 1 and len(labels) == len(self.classes):
            chosen = [
                self._get_class_name(number) for number, value in enumerate(labels.tolist()) if value > 0.5
            ]
            return ", ".join(chosen) or "none"
        return str(labels.tolist())

    def _mark_read(self, ids: torch.Tensor, mask: torch.Tensor) -> list[ShownToken]:
        marks: list[Mark] = ["ignored" if there else "padding" for there in mask.tolist()]
        return [
            ShownToken(text, mark) for text, mark in zip(self.texts.write(ids.tolist()), marks, strict=True)
        ]

    def _mark_written(self, labels: torch.Tensor) -> list[ShownToken]:
        """Return the tokens that a decoder learns to generate; positions without a label are padding."""
        from hfpipe.modeling.losses.losses import IGNORED

        there = (labels != IGNORED).tolist()
        texts = iter(self.texts.write(number for number in labels.tolist() if number != IGNORED))
        return [ShownToken(next(texts), "target") if each else ShownToken("", "padding") for each in there]

    def _mark_labels(self, read: list[ShownToken], batch: Batch, row: int) -> list[ShownToken]:
        """Return the tokens of a row with a label at each position."""
        from hfpipe.modeling.losses.losses import IGNORED

        labels = batch["labels"][row].tolist()
        if self.auto_class == "AutoModelForCausalLM":
            # The logits of a position predict the next token, which gets the mark.
            length = int(_get_mask(batch)[row].sum())
            after = [ShownToken("", "ignored")] if labels[length - 1] != IGNORED else []
            read = [*read[:length], *after, *read[length:]]
            labels = [IGNORED, *labels][: len(read)]
        if self.auto_class == "AutoModelForTokenClassification":
            return [
                token
                if label == IGNORED
                else replace(token, mark="target", target=self._get_class_name(label))
                for token, label in zip(read, labels, strict=True)
            ]
        wanted = dict(zip(labels, self.texts.write(max(label, 0) for label in labels), strict=True))
        return [
            token if label == IGNORED else _mark_learned(token, wanted[label])
            for token, label in zip(read, labels, strict=True)
        ]

    def _iterate_endings(self, batch: Batch, row: int) -> Iterator[ShownSequence]:
        count = int(batch["_endings"][row]) if "_endings" in batch else batch["input_ids"].shape[1]
        for number in range(count):
            read = self._mark_read(batch["input_ids"][row, number], batch["attention_mask"][row, number])
            correct = number == int(batch["labels"][row])
            yield ShownSequence(f"ending {number + 1}" + (" (correct)" if correct else ""), read)

    def _find_starts(self, batch: Batch, row: int) -> set[int]:
        """Return the positions at which a document of a packed example begins."""
        from hfpipe.tasks.shared.documents import get_boundary_ids, get_opening_token

        if "_documents" in batch:
            numbers = batch["_documents"][row].tolist()
            return {
                place
                for place, (before, number) in enumerate(zip([0, *numbers], numbers, strict=False))
                if number not in (0, before)
            }
        ids = batch["input_ids"][row].tolist()
        if self.auto_class != "AutoModelForCausalLM":
            first = get_opening_token(self.tokenizer)
            return {place for place, number in enumerate(ids) if number == first}
        begin, end = get_boundary_ids(self.tokenizer)
        if begin == end:  # one token between two documents, which ends the first
            return {place + 1 for place, number in enumerate(ids[:-1]) if number == end}
        return {place for place, number in enumerate(ids) if number == begin}


def _get_mask(batch: Batch) -> torch.Tensor:
    from hfpipe.encoding.padding import make_token_mask

    return make_token_mask(batch)


def _mark_learned(token: ShownToken, target: str) -> ShownToken:
    if token.text in ("", target):
        return ShownToken(token.text, "target", "" if token.text else target)
    return ShownToken(token.text, "masked", target)


def _mark_span(read: list[ShownToken], start: int, end: int) -> list[ShownToken]:
    return [
        replace(token, mark="target") if start <= place <= end else token for place, token in enumerate(read)
    ]
