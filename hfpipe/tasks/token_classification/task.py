"""Token classification: one tag per word, such as named entities or parts of speech."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from hfpipe.advice import advise, advise_classes
from hfpipe.errors import DataError, Problem
from hfpipe.modeling.loading.class_names import class_name_entries, class_names_of
from hfpipe.task import Task
from hfpipe.types import Counted

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.metrics.scores.entities import Entity
    from hfpipe.report import DataFacts
    from hfpipe.types import Batch, Columns, Rows

OUTSIDE = "O"
PREFIXES = {
    "IOB1": "IB",
    "IOB2": "IB",
    "IOE1": "IE",
    "IOE2": "IE",
    "IOBES": "BIES",
    "BMES": "BMES",
    "BILOU": "BILU",
}
"""Scheme → the prefixes of its entity tags."""


class TokenClassification(Task):
    """Tags the words of a sentence; with tags such as `B-PER`, whole entities are scored."""

    kind: Literal["token-classification"] = "token-classification"
    baselines: ClassVar[tuple[str, ...]] = ("gazetteer",)
    pipeline: ClassVar[str | None] = "token-classification"
    words: str = "words"
    """Column of the words, as lists of strings."""
    tags: str = "tags"
    """Column of the tags, as lists of classes, one per word."""
    length: int = Field(default=128, ge=8)
    """Maximum number of tokens per window; longer sentences are split into several windows, without loss."""
    stride: int = Field(default=32, ge=0)
    """Tokens that consecutive windows share; a word is tagged in the window where it has the most context."""
    scheme: Literal["IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BMES", "BILOU"] | None = None
    """Count only entities that conform to this scheme, as in seqeval's strict mode; by default, count as
    conlleval does."""

    @model_validator(mode="after")
    def _moves_on(self) -> Self:
        if self.stride > self.length // 2:
            raise ValueError("`stride` is more than half of `length`; make it less")
        return self

    @property
    def auto_class(self) -> str:
        return "AutoModelForTokenClassification"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.words, self.tags)

    @property
    def weighted_column(self) -> str:
        return self.tags

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        yield from super().check(facts)
        for key, column, kind, what in (
            ("words", self.words, "strings", "lists of words"),
            ("tags", self.tags, "labels", "lists of classes"),
        ):
            found = facts.columns.get(column)
            if found not in (None, kind):
                fix = advise_classes(column, str(found)) if (key, found) == ("tags", "strings") else ""
                yield Problem(f"column {column!r} holds {found}, not {what}{fix}", (key,))
        yield from self._misfits(facts.labels.get(self.tags, []))

    def _misfits(self, names: Sequence[str]) -> Iterator[Problem]:
        bmes = any(name.startswith("M-") for name in names)
        fits = PREFIXES[self.scheme or ("BMES" if bmes else "IOBES")]
        strange = [name for name in names if not re.fullmatch(rf"O|[{fits}](-.+)?", name)]
        if strange and (self.scheme is not None or self._mark_entities(names)):
            begin = ", ".join(f"{letter}-" for letter in fits)
            bilou = self.scheme is None and re.match("[LU]-", strange[0])
            fix = f"; write {advise(scheme='BILOU')}" if bilou else ""
            yield Problem(f"tag {strange[0]!r} is not O and does not begin with {begin}{fix}", ("tags",))

    def _mark_entities(self, names: Sequence[str]) -> bool:
        bare = {*names} <= {*"OBIES"} or {"B"} <= {*names} <= {*"OBMES"}
        return bare or any(re.match("[BIMESLU]-", name) for name in names)

    def head(self, facts: DataFacts) -> dict[str, Any]:
        return class_name_entries(facts.labels[self.tags])

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        from hfpipe.report import DataFacts

        return DataFacts(
            columns={self.words: "strings", self.tags: "labels"},
            splits={},
            labels={self.tags: class_names_of(config)},
        )

    def placeholder(self, column: str, rows: Rows, facts: DataFacts) -> Sequence[Any]:
        from hfpipe.tasks.token_classification.token_labels import sentence

        return [[0] * len(sentence(given).words) for given in rows[self.words]]

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        from hfpipe.modeling.losses.losses import IGNORED
        from hfpipe.tasks.shared.sliding_windows import sliding_windows
        from hfpipe.tasks.token_classification.token_labels import first_token_targets, sentence

        sentences = [sentence(given) for given in rows[self.words]]
        self._check_counts([len(each.words) for each in sentences], rows)
        found = sliding_windows(tokenizer, [each.text for each in sentences], self.length, self.stride)
        marks = [
            each
            for row, group in groupby(found, lambda window: window.row)
            for each in first_token_targets(list(group), sentences[row].words)
        ]
        labels = [
            [rows[self.tags][window.row][word] if word >= 0 else IGNORED for word in each]
            for window, each in zip(found, marks, strict=True)
        ]
        return {
            "input_ids": [window.input_ids for window in found],
            "labels": labels,
            "word": marks,
            "row": [window.row for window in found],
        }

    def _check_counts(self, counts: list[int], rows: Rows) -> None:
        for number, (count, tags) in enumerate(zip(counts, rows[self.tags], strict=True)):
            if len(tags) != count:
                name = rows["id"][number] if "id" in rows else number
                raise DataError(
                    f"row {name}: {count} {self.words} but {len(tags)} {self.tags}; write one tag a word"
                )

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        from hfpipe.encoding.padding import inputs, pad
        from hfpipe.modeling.losses.losses import IGNORED

        batch = inputs([example["input_ids"] for example in examples], tokenizer)
        batch["labels"] = pad([example["labels"] for example in examples], IGNORED)
        return batch | {"_word": pad([example["word"] for example in examples], -1)}

    def count(self, batch: Batch) -> torch.Tensor:
        from hfpipe.modeling.losses.losses import IGNORED

        return (batch["labels"] != IGNORED).sum()

    def loss(self, outputs: Any, batch: Batch, smoothing: float = 0.0) -> Counted:
        from hfpipe.modeling.losses.losses import token_loss

        return token_loss(outputs.logits, batch["labels"], smoothing)

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        """Return the words tagged in each window, with classes and probabilities, and the summed loss."""
        from hfpipe.modeling.losses.losses import token_columns

        words = batch["_word"]
        scores, prediction = outputs.logits.float().softmax(-1).max(-1)
        said = {"word": words, "prediction": prediction, "score": scores}
        lists = {
            name: [row[taken >= 0].tolist() for row, taken in zip(each, words, strict=True)]
            for name, each in said.items()
        }
        return {**lists, **token_columns(outputs.logits, batch["labels"])}

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        """Return reference, prediction (tag names) and score, each with one value per word, and loss sums."""
        from hfpipe.metrics.metric import objects
        from hfpipe.tasks.token_classification.token_labels import sentence

        names = facts.labels[self.tags]
        # A word without tokens has no prediction; outside is the best default.
        unseen = OUTSIDE if OUTSIDE in names else names[0]
        counts = [len(sentence(given).words) for given in rows[self.words]]
        prediction, score = [[unseen] * count for count in counts], [[0.0] * count for count in counts]
        for number, row in enumerate(row_index.tolist()):
            said = (columns[name][number] for name in ("word", "prediction", "score"))
            for word, tag, sure in zip(*said, strict=True):
                prediction[row][word], score[row][word] = names[tag], sure
        reference = [[names[tag] for tag in tags] for tags in rows[self.tags]]
        sums = {name: columns[name] for name in ("nll", "tokens", "correct")}
        lists = {"reference": objects(reference), "prediction": objects(prediction), "score": objects(score)}
        return {**lists, **super().columns_by_row(sums, row_index, rows, facts)}

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.language import TokenLoss

        return [*self._tagging(facts), TokenLoss()]

    def baseline_metrics(self, name: str, facts: DataFacts) -> list[Metric]:
        return self._tagging(facts)

    def _tagging(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.entities import TagAccuracy, tagging

        names = facts.labels[self.tags]
        return tagging(names, self.scheme) if self._mark_entities(names) else [TagAccuracy()]

    def _entities(self, facts: DataFacts) -> Callable[[Sequence[str]], list[Entity]]:
        """Return the function that finds the entities of a sentence; without prefixes, each word is one."""
        from functools import partial

        from hfpipe.metrics.scores.entities import entities, words_as_entities

        marked = self._mark_entities(facts.labels[self.tags])
        return partial(entities, scheme=self.scheme) if marked else words_as_entities

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        """Return the entities of each row; `start` and `end` are character positions in the text.

        If words were given, the text is the words joined by spaces.
        """
        from hfpipe.tasks.token_classification.token_labels import sentence

        find = self._entities(facts)
        found = []
        for given, tags, scores in zip(
            rows[self.words], columns["prediction"], columns["score"], strict=True
        ):
            text, words = sentence(given)
            found.append({"entities": [_entity(each, text, words, scores) for each in find(tags)]})
        return found

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        from hfpipe.metrics.baselines.gazetteer import Gazetteer
        from hfpipe.metrics.metric import objects

        gazetteer = Gazetteer(self._entities(facts))
        gazetteer.fit(train[self.words], self._named(train, facts))
        return lambda rows: {
            "reference": objects(self._named(rows, facts)),
            "prediction": objects(map(gazetteer.tag, rows[self.words])),
        }

    def _named(self, rows: Rows, facts: DataFacts) -> list[list[str]]:
        names = facts.labels[self.tags]
        return [[names[tag] for tag in tags] for tags in rows[self.tags]]


def _entity(
    entity: Entity, text: str, words: Sequence[tuple[int, int]], scores: Sequence[float]
) -> dict[str, Any]:
    kind, first, last = entity
    start, end = words[first][0], words[last - 1][1]
    score = sum(scores[first:last]) / (last - first)
    return {"entity_group": kind, "score": score, "word": text[start:end], "start": start, "end": end}
