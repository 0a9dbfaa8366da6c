"""Encodes texts with a blank, fills the blank, and scores words or the classes that words represent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hfpipe.errors import StageError
from hfpipe.metrics.baselines.text import Majority, TextBaseline, Tfidf
from hfpipe.metrics.metric import Loss, to_object_array
from hfpipe.metrics.scores.classification import create_single_label_metrics
from hfpipe.metrics.scores.cloze import Frequent, create_cloze_metrics
from hfpipe.metrics.scores.ranking import create_ranking_metrics
from hfpipe.modeling.losses.losses import compute_token_columns
from hfpipe.runtime import Baseline, Encoder, Evaluator, Generator, TaskRuntime
from hfpipe.tasks.fill_mask.decoding import fill_blanks, score_classes
from hfpipe.tasks.fill_mask.encoding import collate_blanks, encode_blanks, split_at_blank
from hfpipe.tasks.shared.objectives import TokenCrossEntropy
from hfpipe.tasks.shared.templates import format_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.metrics.whole import WholeMetric
    from hfpipe.report import DataFacts
    from hfpipe.tasks.fill_mask.task import FillMask
    from hfpipe.tokenization.text import Text
    from hfpipe.types import Batch, Columns, Rows


def compose_fill_mask(config: FillMask) -> TaskRuntime:
    """Return the task's encoder, objective, evaluator, generator and baselines."""
    if config.pattern is None:
        baselines = {"frequent": Baseline(partial(_fit_frequent, config), _create_word_metrics)}
    else:
        baselines = {
            "majority": Baseline(partial(_fit_classifier, config, Majority)),
            "tfidf": Baseline(partial(_fit_classifier, config, Tfidf)),
        }
    return TaskRuntime(
        config,
        FillMaskEncoder(config),
        TokenCrossEntropy(),
        FillMaskEvaluator(config),
        baselines,
        BlankFiller(classifies=config.verbalizer is not None),
    )


@dataclass(frozen=True)
class FillMaskEncoder(Encoder):
    """Encodes each blank as one mask token per token of its answer."""

    config: FillMask

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        config = self.config
        texts, answers = split_texts(config, rows), _get_answers(config, rows, facts)
        encoded = encode_blanks(texts, answers, _get_choices(config, rows, facts), tokenizer, config.length)
        if config.verbalizer is not None and -1 in encoded["reference"]:
            word = answers[encoded["reference"].index(-1)]
            raise StageError(f"verbalizer: the tokenizer cannot encode {word!r}; use another word")
        return encoded

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        return collate_blanks(examples, tokenizer)


def split_texts(config: FillMask, rows: Rows) -> list[tuple[Text, Text]]:
    """Split the text of each row at its blank. Raises DataError unless there is exactly one."""
    if config.pattern is None:
        return [split_at_blank(text, config.blank) for text in rows[config.text]]
    before, after = config.pattern.split(config.blank)
    filled = [
        dict(zip(config.pattern_columns, map(str, values), strict=True))
        for values in zip(*(rows[name] for name in config.pattern_columns), strict=True)
    ]
    return [(format_template(before, row), format_template(after, row)) for row in filled]


def _get_texts(config: FillMask, rows: Rows) -> list[str]:
    if config.pattern is None:
        return list(rows[config.text])
    return [config.blank.join("".join(side) for side in sides) for sides in split_texts(config, rows)]


def _get_answers(config: FillMask, rows: Rows, facts: DataFacts) -> list[str]:
    if config.verbalizer is not None:
        return [config.verbalizer[facts.labels[config.label][number]] for number in rows[config.label]]
    return _to_words(rows[config.answer], facts.labels.get(config.answer))


def _get_choices(config: FillMask, rows: Rows, facts: DataFacts) -> list[list[str]]:
    """Return the candidates of each row; empty if any word is allowed."""
    if config.choices is not None and config.pattern is None:
        return [_to_words(row, facts.labels.get(config.choices)) for row in rows[config.choices]]
    if config.verbalizer is not None:
        names = [config.verbalizer[name] for name in facts.labels[config.label]]
    else:
        names = facts.labels.get(config.answer, [])
    return [names] * len(rows[config.columns[0]])


def _to_words(values: Sequence[Any], names: Sequence[str] | None) -> list[str]:
    """Return words; a column of classes stores them as ids."""
    return [names[value] for value in values] if names is not None else list(values)


@dataclass(frozen=True)
class BlankFiller(Generator):
    """Ranks the words that may fill a blank."""

    classifies: bool
    """Whether the words represent classes."""

    def generate(self, model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
        filled = fill_blanks(model, batch, tokenizer)
        return score_classes(filled, batch["_gold"].cpu().numpy()) if self.classifies else filled


@dataclass(frozen=True)
class FillMaskEvaluator(Evaluator):
    """Scores the rank of the correct word, or the class whose word is likeliest."""

    config: FillMask

    def outputs_to_columns(self, outputs: Any, batch: Batch) -> Batch:
        return compute_token_columns(outputs.logits, batch["labels"])

    def columns_by_row(
        self, columns: Columns, row_index: np.ndarray, rows: Rows, facts: DataFacts
    ) -> Columns:
        found = super().columns_by_row(columns, row_index, rows, facts)
        if self.config.verbalizer is not None:
            return found
        return {**found, "reference": to_object_array(_get_answers(self.config, rows, facts))}

    def metrics(self, facts: DataFacts) -> list[Metric]:
        if self.config.verbalizer is None:
            return [*create_cloze_metrics(), Loss()]
        return create_single_label_metrics(facts.labels[self.config.label])

    def whole_metrics(self, facts: DataFacts) -> list[WholeMetric]:
        return (
            [] if self.config.verbalizer is None else create_ranking_metrics(facts.labels[self.config.label])
        )

    def class_names(self, facts: DataFacts) -> Mapping[str, Sequence[str]]:
        names = facts.labels.get(self.config.label, [])
        return {} if self.config.verbalizer is None else {"reference": names, "prediction": names}

    def class_order(self, facts: DataFacts) -> Mapping[str, Sequence[str]]:
        return {} if self.config.verbalizer is None else {"scores": facts.labels[self.config.label]}

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        if self.config.verbalizer is not None:
            predictions = self.encode_predictions(columns, facts)["prediction"]
            best = columns["scores"].max(axis=1).tolist()
            return [{"label": label, "score": score} for label, score in zip(predictions, best, strict=True)]
        texts = _get_texts(self.config, rows)
        return [
            {**fills[0], "fills": fills}
            for fills in (
                [
                    {"score": score, "token_str": word, "sequence": text.replace(self.config.blank, word)}
                    for word, score in zip(words, scores, strict=True)
                ]
                for text, words, scores in zip(texts, columns["fills"], columns["fill_scores"], strict=True)
            )
        ]


def _create_word_metrics(facts: DataFacts) -> list[Metric]:
    return create_cloze_metrics()


def _fit_frequent(
    config: FillMask, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
) -> Callable[[Rows], Columns]:
    frequent = Frequent(_get_answers(config, train, facts))

    def predict(rows: Rows) -> Columns:
        pairs = zip(_get_answers(config, rows, facts), _get_choices(config, rows, facts), strict=True)
        return {"rank": np.array([frequent.rank(answer, words or None) for answer, words in pairs])}

    return predict


def _fit_classifier(
    config: FillMask,
    made: Callable[[str, int], TextBaseline],
    train: Rows,
    facts: DataFacts,
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Rows], Columns]:
    baseline = made("label", len(config.class_words))
    baseline.fit(_get_texts(config, train), np.asarray(train[config.label]))
    return lambda rows: baseline.predict(_get_texts(config, rows), np.asarray(rows[config.label]))
