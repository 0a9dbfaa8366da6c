"""Text classification: one label, several labels, sentence pairs, or regression."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hfpipe.advice import advise_classes
from hfpipe.errors import DataError, Problem
from hfpipe.modeling.loading.class_names import class_name_entries, class_names_of, problem_type
from hfpipe.recipe.messages import suggest
from hfpipe.report import DataFacts
from hfpipe.task import Task
from hfpipe.types import Counted

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.metrics.whole import WholeMetric
    from hfpipe.report import DataFacts
    from hfpipe.types import Batch, Columns, Rows

PROBLEM_TYPES = {
    "label": "single_label_classification",
    "labels": "multi_label_classification",
    "float": "regression",
}
"""Type of the label column → Transformers' `problem_type`."""


class TextClassification(Task):
    """Classifies a text or a pair of texts; regression when the label is a float."""

    kind: Literal["text-classification"] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    baselines: ClassVar[tuple[str, ...]] = ("majority", "tfidf")
    pipeline: ClassVar[str | None] = "text-classification"
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text, for sentence pairs."""
    label: str = "label"
    """Column of the label: a class, a list of classes, or a float for regression."""
    length: int = Field(default=256, ge=4)
    """Maximum number of tokens; longer texts are truncated, and the ledger counts the lost tokens."""

    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    """Class → the probability above which it is predicted, where rows have lists of classes.

    By default those that `calibrate` saved with the model, and 0.5 without any.
    """
    later: ClassVar[tuple[str, ...]] = ("thresholds",)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text, self.label) if self.text_pair is None else (self.text, self.text_pair, self.label)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.columns[:-1]

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    @property
    def weighted_column(self) -> str:
        return self.label

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        yield from super().check(facts)
        kind = facts.columns.get(self.label)
        if kind is not None and kind not in PROBLEM_TYPES:
            yield Problem(
                f"column {self.label!r} holds {kind} values, not labels{advise_classes(self.label, kind)}",
                ("label",),
            )

        yield from self._check_thresholds(kind, facts.labels.get(self.label, []))
        if len(facts.labels.get(self.label, ("", ""))) < 2:
            yield Problem(
                f"column {self.label!r} has a single class; there is nothing to tell apart", ("label",)
            )

    def _check_thresholds(self, kind: str | None, names: Sequence[str]) -> Iterator[Problem]:
        if self.thresholds is not None and kind in ("label", "float"):
            what = "one class" if kind == "label" else "a number"
            yield Problem(f"column {self.label!r} holds {what} per row; delete thresholds", ("thresholds",))
        elif kind == "labels":
            for name in (self.thresholds or {}).keys() - {*names}:
                message = f"column {self.label!r} has no class {name!r}{suggest(name, names)}"
                yield Problem(message, ("thresholds", name))

    def with_thresholds(self, thresholds: Mapping[str, float]) -> TextClassification:
        kept = self.thresholds is not None or not thresholds
        return self if kept else self.model_copy(update={"thresholds": dict(thresholds)})

    def head(self, facts: DataFacts) -> dict[str, Any]:
        names = facts.labels.get(self.label, ["LABEL_0"])
        return class_name_entries(names) | {"problem_type": PROBLEM_TYPES[facts.columns[self.label]]}

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        names = class_names_of(config)
        problem = problem_type(config)
        kind = next(kind for kind, known in PROBLEM_TYPES.items() if known == problem)
        columns = {**dict.fromkeys(self.inputs, "string"), self.label: kind}
        return DataFacts(columns=columns, splits={}, labels={} if kind == "float" else {self.label: names})

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        from hfpipe.encoding.encoded import cut

        pairs = list(rows[self.text_pair]) if self.text_pair is not None else None
        encoded = cut(tokenizer, list(rows[self.text]), pairs, self.length)
        return encoded | {
            "label": self._targets(rows[self.label], facts),
            "row": range(len(rows[self.label])),
        }

    def _targets(self, labels: Any, facts: DataFacts) -> list[Any]:
        """Return labels in the form the loss expects. Raises DataError at the first invalid label."""
        kind = facts.columns[self.label]
        if kind == "float":
            self._refuse((each for each in labels if each is None or not isfinite(each)), "a number")
            return list(labels)
        classes = range(len(facts.labels[self.label]))
        wanted = f"a class from 0 to {len(classes) - 1}"
        if kind == "label":
            self._refuse((each for each in labels if each not in classes), wanted)
            return list(labels)
        self._refuse(
            (each for row in labels for each in ([None] if row is None else row) if each not in classes),
            wanted,
        )
        return [[float(number in row) for number in classes] for row in labels]

    def _refuse(self, wrong: Iterable[Any], wanted: str) -> None:
        for label in wrong:
            raise DataError(f"column {self.label!r} holds {label} where {wanted} belongs; drop such rows")

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        import numpy as np
        import torch

        from hfpipe.encoding.padding import inputs, pad

        batch = inputs([example["input_ids"] for example in examples], tokenizer)
        if "token_type_ids" in examples[0]:
            types = [example["token_type_ids"] for example in examples]
            batch["token_type_ids"] = pad(types, 0)
        labels = torch.from_numpy(np.asarray([example["label"] for example in examples]))
        return batch | {"labels": labels.float() if labels.is_floating_point() else labels.long()}

    def count(self, batch: Batch) -> torch.Tensor:
        import torch

        return torch.tensor(batch["labels"].numel())

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        from hfpipe.modeling.losses.losses import label_loss

        return label_loss(outputs.logits, batch["labels"], smoothing)

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Batch:
        from hfpipe.modeling.losses.losses import label_columns

        return label_columns(outputs.logits, batch["labels"])

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        """Return the columns, with the classes predicted whose probability is above their threshold."""
        import numpy as np

        found = super().columns_by_row(columns, row_index, rows, facts)
        if not self.thresholds or facts.columns[self.label] != "labels":
            return found
        limits = np.array([self._threshold(name) for name in facts.labels[self.label]])
        return {**found, "prediction": (found["scores"] > limits).astype(found["prediction"].dtype)}

    def _threshold(self, name: str) -> float:
        return (self.thresholds or {}).get(name, 0.5)

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.classification import multi_label, single_label
        from hfpipe.metrics.scores.regression import regression

        kind = facts.columns[self.label]
        if kind == "float":
            return regression()
        names = facts.labels[self.label]
        return single_label(names) if kind == "label" else multi_label(names)

    def whole_metrics(self, facts: DataFacts) -> list[WholeMetric]:
        from hfpipe.metrics.scores.ranking import Spearman, ranked_classes

        if facts.columns[self.label] == "float":
            return [Spearman()]
        return ranked_classes(facts.labels[self.label])

    def class_names(self, facts: DataFacts) -> Mapping[str, Sequence[str]]:
        names = facts.labels.get(self.label, [])
        return {"reference": names, "prediction": names} if facts.columns[self.label] == "label" else {}

    def class_order(self, facts: DataFacts) -> Mapping[str, Sequence[str]]:
        each = {"label": ("scores",), "labels": ("reference", "prediction", "scores")}
        return dict.fromkeys(each.get(facts.columns[self.label], ()), facts.labels.get(self.label, []))

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        kind = facts.columns[self.label]
        if kind == "float":
            return [{"score": float(prediction)} for prediction in columns["prediction"]]
        each = [
            [{"label": facts.labels[self.label][number], "score": float(scores[number])} for number in best]
            for scores, best in zip(columns["scores"], (-columns["scores"]).argsort(axis=1), strict=True)
        ]
        if kind == "label":
            return [found[0] for found in each]
        return [
            {"labels": [label for label in found if label["score"] > self._threshold(label["label"])]}
            for found in each
        ]

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        from hfpipe.metrics.baselines.text import Majority, Tfidf

        kind = facts.columns[self.label]
        baseline = {"majority": Majority, "tfidf": Tfidf}[name](kind, len(facts.labels.get(self.label, [])))
        baseline.fit(*self._texts(train, facts))
        return lambda rows: baseline.columns(*self._texts(rows, facts))

    def _texts(self, rows: Rows, facts: DataFacts) -> tuple[list[str], Any]:
        import numpy as np

        texts = list(rows[self.text])
        if self.text_pair is not None:
            texts = [
                f"{first} [SEP] {second}" for first, second in zip(texts, rows[self.text_pair], strict=True)
            ]
        return texts, np.asarray(self._targets(rows[self.label], facts))
