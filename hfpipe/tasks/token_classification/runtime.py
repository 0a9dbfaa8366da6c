"""Encodes sentences in windows with the tags of their words, and scores tags or entities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from hfpipe.encoding.padding import pad, pad_inputs
from hfpipe.errors import DataError
from hfpipe.metrics.baselines.gazetteer import Gazetteer
from hfpipe.metrics.metric import to_object_array
from hfpipe.metrics.scores.entities import (
    TagAccuracy,
    convert_words,
    create_tagging_metrics,
    extract_entities,
)
from hfpipe.metrics.scores.language import TokenLoss
from hfpipe.modeling.losses.losses import IGNORED, compute_token_columns
from hfpipe.runtime import Baseline, Encoder, Evaluator, TaskRuntime
from hfpipe.tasks.shared.objectives import TokenLabelLoss
from hfpipe.tasks.shared.sliding_windows import encode_sliding_windows
from hfpipe.tasks.token_classification.token_labels import align_words, locate_words

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.metrics.scores.entities import Entity
    from hfpipe.report import DataFacts
    from hfpipe.tasks.token_classification.task import TokenClassification
    from hfpipe.types import Batch, Columns, Rows

OUTSIDE = "O"
"""Tag of a word outside of all entities."""


def compose_token_classification(config: TokenClassification) -> TaskRuntime:
    """Return the task's encoder, objective, evaluator and baselines."""
    evaluator = TokenClassificationEvaluator(config)
    return TaskRuntime(
        config,
        TokenClassificationEncoder(config),
        TokenLabelLoss(),
        evaluator,
        {"gazetteer": Baseline(partial(_fit_gazetteer, evaluator), evaluator.create_tag_metrics)},
    )


@dataclass(frozen=True)
class TokenClassificationEncoder(Encoder):
    """Encodes sentences in windows; the first token of a word has its tag."""

    config: TokenClassification

    def placeholder(self, column: str, rows: Rows, facts: DataFacts) -> Sequence[Any]:
        return [[0] * len(locate_words(given).words) for given in rows[self.config.words]]

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        config = self.config
        sentences = [locate_words(given) for given in rows[config.words]]
        self._check_counts([len(each.words) for each in sentences], rows)
        found = encode_sliding_windows(
            tokenizer, [each.text for each in sentences], config.length, config.stride
        )
        marks = [
            each
            for row, group in groupby(found, lambda window: window.row)
            for each in align_words(list(group), sentences[row].words)
        ]
        labels = [
            [rows[config.tags][window.row][word] if word >= 0 else IGNORED for word in each]
            for window, each in zip(found, marks, strict=True)
        ]
        return {
            "input_ids": [window.input_ids for window in found],
            "labels": labels,
            "word": marks,
            "row": [window.row for window in found],
        }

    def _check_counts(self, counts: list[int], rows: Rows) -> None:
        words, tagged = self.config.words, self.config.tags
        for number, (count, tags) in enumerate(zip(counts, rows[tagged], strict=True)):
            if len(tags) != count:
                name = rows["id"][number] if "id" in rows else number
                raise DataError(
                    f"row {name}: {count} {words} but {len(tags)} {tagged}; write one tag per word"
                )

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        batch = pad_inputs([example["input_ids"] for example in examples], tokenizer)
        batch["labels"] = pad([example["labels"] for example in examples], IGNORED)
        return batch | {"_word": pad([example["word"] for example in examples], -1)}


@dataclass(frozen=True)
class TokenClassificationEvaluator(Evaluator):
    """Scores the tags of words and, where tags mark entities, whole entities."""

    config: TokenClassification

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        """Return the words tagged in each window, with classes and probabilities, and the summed loss."""
        words = batch["_word"]
        scores, prediction = outputs.logits.float().softmax(-1).max(-1)
        predicted = {"word": words, "prediction": prediction, "score": scores}
        lists = {
            name: [row[taken >= 0].tolist() for row, taken in zip(each, words, strict=True)]
            for name, each in predicted.items()
        }
        return {**lists, **compute_token_columns(outputs.logits, batch["labels"])}

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        """Return reference, prediction (tag names) and score, each with one value per word, and loss sums."""
        names = facts.labels[self.config.tags]
        # A word without tokens has no prediction and counts as outside of entities.
        unseen = OUTSIDE if OUTSIDE in names else names[0]
        counts = [len(locate_words(given).words) for given in rows[self.config.words]]
        prediction, score = [[unseen] * count for count in counts], [[0.0] * count for count in counts]
        for number, row in enumerate(row_index.tolist()):
            predicted = (columns[name][number] for name in ("word", "prediction", "score"))
            for word, tag, sure in zip(*predicted, strict=True):
                prediction[row][word], score[row][word] = names[tag], sure
        sums = {name: columns[name] for name in ("nll", "tokens", "correct")}
        lists = {
            "reference": to_object_array(self.get_tag_names(rows, facts)),
            "prediction": to_object_array(prediction),
            "score": to_object_array(score),
        }
        return {**lists, **super().columns_by_row(sums, row_index, rows, facts)}

    def get_tag_names(self, rows: Rows, facts: DataFacts) -> list[list[str]]:
        """Return the names of the reference tags of each row."""
        names = facts.labels[self.config.tags]
        return [[names[tag] for tag in tags] for tags in rows[self.config.tags]]

    def metrics(self, facts: DataFacts) -> list[Metric]:
        return [*self.create_tag_metrics(facts), TokenLoss()]

    def create_tag_metrics(self, facts: DataFacts) -> list[Metric]:
        """Return the metrics that need only the tags."""
        names = facts.labels[self.config.tags]
        marked = self.config.marks_entities(names)
        return create_tagging_metrics(names, self.config.scheme) if marked else [TagAccuracy()]

    def find_entities(self, facts: DataFacts) -> Callable[[Sequence[str]], list[Entity]]:
        """Return a function that finds the entities of a sentence; without prefixes, each word is one."""
        marked = self.config.marks_entities(facts.labels[self.config.tags])
        return partial(extract_entities, scheme=self.config.scheme) if marked else convert_words

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        """Return the entities of each row; `start` and `end` are character positions in the text.

        If words were given, the text is the words joined by spaces.
        """
        find = self.find_entities(facts)
        found = []
        for given, tags, scores in zip(
            rows[self.config.words], columns["prediction"], columns["score"], strict=True
        ):
            text, words = locate_words(given)
            found.append({"entities": [_describe_entity(each, text, words, scores) for each in find(tags)]})
        return found


def _describe_entity(
    entity: Entity, text: str, words: Sequence[tuple[int, int]], scores: Sequence[float]
) -> dict[str, Any]:
    kind, first, last = entity
    start, end = words[first][0], words[last - 1][1]
    score = sum(scores[first:last]) / (last - first)
    return {"entity_group": kind, "score": score, "word": text[start:end], "start": start, "end": end}


def _fit_gazetteer(
    evaluator: TokenClassificationEvaluator,
    train: Rows,
    facts: DataFacts,
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Rows], Columns]:
    words = evaluator.config.words
    gazetteer = Gazetteer(evaluator.find_entities(facts))
    gazetteer.fit(train[words], evaluator.get_tag_names(train, facts))
    return lambda rows: {
        "reference": to_object_array(evaluator.get_tag_names(rows, facts)),
        "prediction": to_object_array(map(gazetteer.tag, rows[words])),
    }
