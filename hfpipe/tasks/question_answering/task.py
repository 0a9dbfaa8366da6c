"""Extractive question answering: find the span of a text that answers a question, as in SQuAD."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hfpipe.advice import advise
from hfpipe.errors import DataError, Problem
from hfpipe.task import Task
from hfpipe.types import Counted

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.report import DataFacts
    from hfpipe.types import Batch, Columns, Rows


class QuestionAnswering(Task):
    """Finds the answer to a question in a text, with the columns and scores of SQuAD."""

    kind: Literal["question-answering"] = "question-answering"
    baselines: ClassVar[tuple[str, ...]] = ("sentence",)
    grouped_by: ClassVar[str | None] = "context"
    question: str = "question"
    """Column of the question."""
    context: str = "context"
    """Column of the text that contains the answer."""
    answer: str = "answers"
    """Column of the reference answers: objects of two lists, `text` and `answer_start` (in characters).

    A text, an object with one text, and a list of texts or objects are accepted too. Without a position, the
    text must occur exactly once in the context.
    """
    length: int = Field(default=384, ge=16)
    """Maximum number of tokens of a question with one window of its text; longer texts are split into several
    windows."""
    stride: int = Field(default=128, ge=0)
    """Tokens that consecutive windows share; fewer if a long question leaves too little room."""
    max_answer_length: int = Field(default=30, ge=1)
    """Maximum number of tokens per answer."""
    version_2: bool = False
    """Whether a question may have no answer, as in SQuAD 2.0; an empty prediction means no answer."""

    @property
    def auto_class(self) -> str:
        return "AutoModelForQuestionAnswering"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.question, self.context, self.answer)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.question, self.context)

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        yield from super().check(facts)
        for key, column, kinds, what in (
            ("question", self.question, ("string",), "text"),
            ("context", self.context, ("string",), "text"),
            (
                "answer",
                self.answer,
                ("nested", "string", "strings"),
                "objects {text: [...], answer_start: [...]}",
            ),
        ):
            found = facts.columns.get(column)
            if found not in (None, *kinds):
                yield Problem(f"column {column!r} holds {found}, not {what}", (key,))

    def head(self, facts: DataFacts) -> dict[str, Any]:
        return {"num_labels": 2}

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        from hfpipe.report import DataFacts

        kinds = {self.question: "string", self.context: "string", self.answer: "nested"}
        return DataFacts(columns=kinds, splits={})

    def placeholder(self, column: str, rows: Rows, facts: DataFacts) -> Sequence[Any]:
        return [{"text": [""], "answer_start": [0]}] * len(rows[self.question])

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        from hfpipe.tasks.question_answering.answer_spans import no_answer_index, span_targets
        from hfpipe.tasks.shared.sliding_windows import sliding_windows

        contexts = list(rows[self.context])
        found = sliding_windows(tokenizer, contexts, self.length, self.stride, list(rows[self.question]))
        spans = [
            span
            for row, group in groupby(found, lambda window: window.row)
            for span in span_targets(list(group), self._span(rows, row) if facts.splits else None)
        ]
        nothing = [no_answer_index(window, tokenizer) for window in found]
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

    def _span(self, rows: Rows, row: int) -> tuple[int, int] | None:
        """Return the characters of a row's first answer. Raises DataError when it is not in the context."""
        from hfpipe.data.answers import locate_answer, read_answers

        try:
            right = [answer for answer in read_answers(rows[self.answer][row]) if answer.text]
        except DataError as error:
            raise DataError(f"{self.answer!r} {error}") from None
        if not right:
            if not self.version_2:
                asked = f"{rows[self.question][row]!r:.60}"
                raise DataError(
                    f"{asked} has no answer; add {advise(version_2=True)} to the task, or take the row out"
                )
            return None
        found = locate_answer(right[0], rows[self.context][row])
        if found is None:
            raise DataError(
                f"the answer {right[0].text!r:.60} is not in its context; fix the row or take it out"
            )
        return found

    def _right(self, rows: Rows) -> np.ndarray:
        """Return the reference answers of each row, object (rows,) of lists; an empty list for no answer."""
        from hfpipe.data.answers import read_answers
        from hfpipe.metrics.metric import objects

        return objects(
            [answer.text for answer in read_answers(value) if answer.text] for value in rows[self.answer]
        )

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        import numpy as np
        import torch

        from hfpipe.encoding.padding import inputs, pad

        batch = inputs([example["input_ids"] for example in examples], tokenizer)
        if "token_type_ids" in examples[0]:
            batch["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0)
        spans = np.asarray([example["span"] for example in examples], dtype=np.int64)
        batch["labels"] = torch.from_numpy(spans)
        batch["_nothing"] = torch.tensor([int(example["nothing"]) for example in examples])
        return batch | {
            f"_{name}": pad([example[name] for example in examples], -1) for name in ("starts", "ends")
        }

    def count(self, batch: Batch) -> torch.Tensor:
        import torch

        return torch.tensor(len(batch["labels"]))

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        from hfpipe.tasks.question_answering.answer_spans import sum_losses

        return sum_losses(self._losses(outputs, batch, smoothing))

    def _losses(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        from hfpipe.tasks.question_answering.answer_spans import span_loss

        start, end = outputs.start_logits, outputs.end_logits
        return span_loss(start, end, batch["labels"], batch["attention_mask"], smoothing)

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Batch:
        """Return each window's likeliest span in characters, its score, and the score of no answer."""
        from hfpipe.tasks.question_answering.answer_spans import likeliest_spans

        start, end = outputs.start_logits, outputs.end_logits
        found = likeliest_spans(start, end, batch["_starts"] >= 0, self.max_answer_length)
        place = batch["_nothing"][:, None]
        return {
            "best": found["best"],
            "total": found["total"],
            "start": batch["_starts"].gather(1, found["first"][:, None]).squeeze(1),
            "end": batch["_ends"].gather(1, found["last"][:, None]).squeeze(1),
            "nothing": (start.gather(1, place) + end.gather(1, place)).squeeze(1).float(),
            "nll": self._losses(outputs, batch),
        }

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        """Return the likeliest answer over all windows of each row, and the references.

        With `version_2`, the prediction is no answer if every window scores no answer higher than any span
        (Devlin et al., 2019). `score` is the probability among all candidate spans and no answer.
        """
        import numpy as np

        from hfpipe.metrics.metric import objects

        starts = np.flatnonzero(np.diff(row_index, prepend=-1))
        parts = np.split(np.arange(len(row_index)), starts[1:])
        chosen = np.array([part[columns["best"][part].argmax()] for part in parts])
        best, total = columns["best"][chosen], np.logaddexp.reduceat(columns["total"], starts)
        none = ~np.isfinite(best)
        if self.version_2:
            nothing = np.minimum.reduceat(columns["nothing"], starts)
            none |= nothing > best
            best, total = np.where(none, nothing, best), np.logaddexp(total, nothing)
        start, end = (np.where(none, 0, columns[name][chosen]) for name in ("start", "end"))
        sure = np.subtract(best, total, out=np.full(len(best), -np.inf), where=np.isfinite(best))
        return {
            "reference": self._right(rows),
            "prediction": objects(
                context[a:b] for context, a, b in zip(rows[self.context], start, end, strict=True)
            ),
            "score": np.exp(sure),
            "start": start,
            "end": end,
            "nll": np.add.reduceat(columns["nll"], starts) / np.diff(starts, append=len(row_index)),
        }

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.metric import Loss
        from hfpipe.metrics.scores.spans import answering

        return [*answering(version_2=self.version_2), Loss()]

    def baseline_metrics(self, name: str, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.spans import answering

        return answering(version_2=self.version_2)

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        names = {"prediction": "answer", "start": "start", "end": "end", "score": "score"}
        lists = [columns[name].tolist() for name in names]
        return [dict(zip(names.values(), row, strict=True)) for row in zip(*lists, strict=True)]

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        from hfpipe.metrics.metric import objects
        from hfpipe.metrics.scores.spans import nearest_sentence

        return lambda rows: {
            "reference": self._right(rows),
            "prediction": objects(map(nearest_sentence, rows[self.question], rows[self.context])),
        }
