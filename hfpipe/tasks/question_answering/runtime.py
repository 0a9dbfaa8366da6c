"""Encodes questions with windows of their texts, and scores the spans that a model finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfpipe.advice import advise
from hfpipe.data.answers import locate_answer, read_answers
from hfpipe.encoding.padding import pad, pad_inputs
from hfpipe.errors import DataError
from hfpipe.metrics.metric import Loss, to_object_array
from hfpipe.metrics.scores.spans import create_span_metrics, find_nearest_sentence
from hfpipe.runtime import Baseline, Encoder, Evaluator, Objective, TaskRuntime
from hfpipe.tasks.question_answering.answer_spans import (
    compute_span_loss,
    find_likeliest_spans,
    find_no_answer_index,
    find_span_targets,
    sum_losses,
)
from hfpipe.tasks.shared.sliding_windows import encode_sliding_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.tasks.question_answering.task import QuestionAnswering
    from hfpipe.types import Batch, Columns, Counted, Rows


def compose_question_answering(config: QuestionAnswering) -> TaskRuntime:
    """Return the task's encoder, objective, evaluator and baselines."""
    evaluator = QuestionAnsweringEvaluator(config)
    return TaskRuntime(
        config,
        QuestionAnsweringEncoder(config),
        SpanLoss(),
        evaluator,
        {"sentence": Baseline(partial(_fit_nearest_sentence, config), evaluator.create_answer_metrics)},
    )


@dataclass(frozen=True)
class QuestionAnsweringEncoder(Encoder):
    """Encodes a question with each window of its text, and the first answer as a span of tokens."""

    config: QuestionAnswering

    def placeholder(self, column: str, rows: Rows, facts: DataFacts) -> Sequence[Any]:
        return [{"text": [""], "answer_start": [0]}] * len(rows[self.config.question])

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        config = self.config
        contexts = list(rows[config.context])
        found = encode_sliding_windows(
            tokenizer, contexts, config.length, config.stride, list(rows[config.question])
        )
        spans = [
            span
            for row, group in groupby(found, lambda window: window.row)
            for span in find_span_targets(
                list(group), self._get_answer_span(rows, row) if facts.splits else None
            )
        ]
        nothing = [find_no_answer_index(window, tokenizer) for window in found]
        typed = {"token_type_ids": [window.token_type_ids for window in found]}
        return {
            "input_ids": [window.input_ids for window in found],
            **(typed if any(typed["token_type_ids"]) else {}),
            "span": [list(span or (place, place)) for span, place in zip(spans, nothing, strict=True)],
            "nothing": nothing,
            "starts": [[span[0] if span else -1 for span in window.spans] for window in found],
            "ends": [[span[1] if span else -1 for span in window.spans] for window in found],
            "row": [window.row for window in found],
        }

    def _get_answer_span(self, rows: Rows, row: int) -> tuple[int, int] | None:
        """Return the characters of a row's first answer. Raises DataError when it is not in the context."""
        config = self.config
        try:
            right = [answer for answer in read_answers(rows[config.answer][row]) if answer.text]
        except DataError as error:
            raise DataError(f"{config.answer!r} {error}") from None
        if not right:
            if not config.version_2:
                asked = f"{rows[config.question][row]!r:.60}"
                raise DataError(
                    f"{asked} has no answer; add {advise(version_2=True)} to the task, or remove the row"
                )
            return None
        found = locate_answer(right[0], rows[config.context][row])
        if found is None:
            raise DataError(
                f"the answer {right[0].text!r:.60} is not in its context; fix the row or remove it"
            )
        return found

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        batch = pad_inputs([example["input_ids"] for example in examples], tokenizer)
        if "token_type_ids" in examples[0]:
            batch["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0)
        spans = np.asarray([example["span"] for example in examples], dtype=np.int64)
        batch["labels"] = torch.from_numpy(spans)
        batch["_nothing"] = torch.tensor([int(example["nothing"]) for example in examples])
        return batch | {
            f"_{name}": pad([example[name] for example in examples], -1) for name in ("starts", "ends")
        }


class SpanLoss(Objective):
    """Mean of the cross-entropies of a span's start and end, per window."""

    def count(self, batch: Batch) -> torch.Tensor:
        return torch.tensor(len(batch["labels"]))

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        return sum_losses(compute_window_losses(outputs, batch, smoothing))


def compute_window_losses(outputs: Any, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
    """Return the loss of each window in nats, float32 (windows,)."""
    start, end = outputs.start_logits, outputs.end_logits
    return compute_span_loss(start, end, batch["labels"], batch["attention_mask"], smoothing)


@dataclass(frozen=True)
class QuestionAnsweringEvaluator(Evaluator):
    """Finds the likeliest span over all windows of a row, and compares it with the reference answers."""

    config: QuestionAnswering

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Batch:
        """Return each window's likeliest span in characters, its score, and the score of no answer."""
        start, end = outputs.start_logits, outputs.end_logits
        found = find_likeliest_spans(start, end, batch["_starts"] >= 0, self.config.max_answer_length)
        place = batch["_nothing"][:, None]
        return {
            "best": found["best"],
            "total": found["total"],
            "start": batch["_starts"].gather(1, found["first"][:, None]).squeeze(1),
            "end": batch["_ends"].gather(1, found["last"][:, None]).squeeze(1),
            "nothing": (start.gather(1, place) + end.gather(1, place)).squeeze(1).float(),
            "nll": compute_window_losses(outputs, batch),
        }

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        """Return the likeliest answer over all windows of each row, and the references.

        With `version_2`, the prediction is the empty text if every window scores "no answer" higher than any
        span (Devlin et al., 2019). `score` is the probability among all candidate spans and "no answer".
        """
        starts = np.flatnonzero(np.diff(row_index, prepend=-1))
        parts = np.split(np.arange(len(row_index)), starts[1:])
        chosen = np.array([part[columns["best"][part].argmax()] for part in parts])
        best, total = columns["best"][chosen], np.logaddexp.reduceat(columns["total"], starts)
        none = ~np.isfinite(best)
        if self.config.version_2:
            nothing = np.minimum.reduceat(columns["nothing"], starts)
            none |= nothing > best
            best, total = np.where(none, nothing, best), np.logaddexp(total, nothing)
        start, end = (np.where(none, 0, columns[name][chosen]) for name in ("start", "end"))
        sure = np.subtract(best, total, out=np.full(len(best), -np.inf), where=np.isfinite(best))
        return {
            "reference": get_answer_texts(self.config, rows),
            "prediction": to_object_array(
                context[a:b] for context, a, b in zip(rows[self.config.context], start, end, strict=True)
            ),
            "score": np.exp(sure),
            "start": start,
            "end": end,
            "nll": np.add.reduceat(columns["nll"], starts) / np.diff(starts, append=len(row_index)),
        }

    def metrics(self, facts: DataFacts) -> list[Metric]:
        return [*self.create_answer_metrics(facts), Loss()]

    def create_answer_metrics(self, facts: DataFacts) -> list[Metric]:
        """Return the metrics that need only the answers."""
        return create_span_metrics(version_2=self.config.version_2)

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        names = {"prediction": "answer", "start": "start", "end": "end", "score": "score"}
        lists = [columns[name].tolist() for name in names]
        return [dict(zip(names.values(), row, strict=True)) for row in zip(*lists, strict=True)]


def get_answer_texts(config: QuestionAnswering, rows: Rows) -> np.ndarray:
    """Return the reference answers of each row, object (rows,) of lists; an empty list for no answer."""
    return to_object_array(
        [answer.text for answer in read_answers(value) if answer.text] for value in rows[config.answer]
    )


def _fit_nearest_sentence(
    config: QuestionAnswering, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
) -> Callable[[Rows], Columns]:
    return lambda rows: {
        "reference": get_answer_texts(config, rows),
        "prediction": to_object_array(
            map(find_nearest_sentence, rows[config.question], rows[config.context])
        ),
    }
