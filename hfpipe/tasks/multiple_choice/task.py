"""Multiple choice: select the correct ending of a context, as in SWAG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hfpipe.errors import DataError, Problem
from hfpipe.report import DataFacts
from hfpipe.task import Task
from hfpipe.types import Counted

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.types import Batch, Columns, Rows


class MultipleChoice(Task):
    """Selects the correct ending of a context; the model scores each pair of context and ending."""

    kind: Literal["multiple-choice"] = "multiple-choice"
    auto_class: ClassVar[str] = "AutoModelForMultipleChoice"
    baselines: ClassVar[tuple[str, ...]] = ("chance", "longest")
    context: str = "context"
    """Column of the text that the endings continue."""
    start: str | None = None
    """Column of the words that every ending begins with, such as SWAG's `sent2`."""
    endings: str | list[str] = "endings"
    """Column with a list of endings per row, or a list of columns with one ending each, such as
    `[ending0, ending1]`."""
    label: str = "label"
    """Column of the index of the correct ending, counted from 0."""
    length: int = Field(default=128, ge=4)
    """Maximum number of tokens of a context with one ending; the ledger counts the truncated tokens."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.inputs, self.label)

    @property
    def inputs(self) -> tuple[str, ...]:
        endings = (self.endings,) if isinstance(self.endings, str) else tuple(self.endings)
        return (self.context, *([] if self.start is None else [self.start]), *endings)

    @property
    def texts(self) -> tuple[str, ...]:
        return self.inputs[:-1] if isinstance(self.endings, str) else self.inputs

    def check_settings(self) -> Iterator[Problem]:
        if not isinstance(self.endings, str) and len(self.endings) < 2:
            yield Problem("endings: name at least two columns, or one that holds lists", ("endings",))

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        yield from super().check(facts)
        if isinstance(self.endings, str) and facts.columns.get(self.endings, "strings") != "strings":
            yield Problem(
                f"column {self.endings!r} holds {facts.columns[self.endings]} values, not lists "
                "of texts; name the columns of single endings in a list",
                ("endings",),
            )
        kind = facts.columns.get(self.label, "int")
        strange = [name for name in facts.labels.get(self.label, []) if not name.isdecimal()]
        if strange or kind not in ("int", "label"):
            found = f"the class {strange[0]!r}" if strange else f"{kind} values"
            yield Problem(
                f"column {self.label!r} holds {found} where the number of an ending belongs, counted from 0",
                ("label",),
            )

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        columns = dict.fromkeys(self.inputs, "string") | {self.label: "int"}
        if isinstance(self.endings, str):
            columns[self.endings] = "strings"
        return DataFacts(columns=columns, splits={})

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        from hfpipe.tasks.multiple_choice.choices import encode_choices

        endings = self._endings(rows)
        labels = self._labels(rows, facts)
        _check_labels(self.label, labels, endings)
        starts = rows[self.start] if self.start is not None else None
        encoded = encode_choices(tokenizer, rows[self.context], starts, endings, self.length)
        return encoded | {"label": labels, "row": range(len(endings))}

    def _endings(self, rows: Rows) -> list[Sequence[str]]:
        """Return the endings of each row."""
        if isinstance(self.endings, str):
            return list(rows[self.endings])
        return list(zip(*(rows[column] for column in self.endings), strict=True))

    def _labels(self, rows: Rows, facts: DataFacts) -> list[int]:
        """Return the indices of the correct endings; a column of classes stores them as class names."""
        names = facts.labels.get(self.label)
        return [number if names is None else int(names[number]) for number in rows[self.label]]

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        from hfpipe.tasks.multiple_choice.choices import collate_choices

        return collate_choices(examples, tokenizer)

    def count(self, batch: Batch) -> torch.Tensor:
        import torch

        return torch.tensor(batch["labels"].numel())

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        from hfpipe.tasks.multiple_choice.choices import choice_loss

        return choice_loss(outputs.logits, batch, smoothing)

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> dict[str, torch.Tensor | list[Any]]:
        from hfpipe.tasks.multiple_choice.choices import choice_columns

        return choice_columns(outputs.logits, batch)

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.metric import Loss
        from hfpipe.tasks.multiple_choice.choices import ChoiceAccuracy

        return [ChoiceAccuracy(), Loss()]

    def baseline_metrics(self, name: str, facts: DataFacts) -> list[Metric]:
        return self.metrics(facts)[:1]

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        chosen = zip(columns["prediction"].tolist(), columns["scores"], self._endings(rows), strict=True)
        return [
            {"ending": endings[number], "label": number, "score": float(scores[number])}
            for number, scores, endings in chosen
        ]

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        """Return `chance`, which depends only on the texts of a row, or `longest`, the ending with the most
        characters."""
        import numpy as np

        from hfpipe.tasks.multiple_choice.choices import draw_ending, longest_ending

        choose = {"chance": draw_ending, "longest": longest_ending}[name]

        def columns(rows: Rows) -> Columns:
            texts = zip(rows[self.context], self._endings(rows), strict=True)
            chosen = [choose(context, endings) for context, endings in texts]
            return {
                "reference": np.asarray(self._labels(rows, facts)),
                "prediction": np.asarray(chosen, dtype=np.int64),
            }

        return columns


def _check_labels(column: str, labels: Sequence[int], endings: Sequence[Sequence[str]]) -> None:
    """Raise DataError at the first row with fewer than two endings or without a correct ending."""
    for label, each in zip(labels, endings, strict=True):
        if len(each) < 2:
            raise DataError(
                f"a row has {len(each)} endings, so that there is nothing to choose; drop such rows"
            )
        if label not in range(len(each)):
            wanted = f"the number of an ending, from 0 to {len(each) - 1},"
            raise DataError(f"column {column!r} holds {label} where {wanted} belongs; drop such rows")
