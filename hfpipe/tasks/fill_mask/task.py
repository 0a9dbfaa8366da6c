"""Filling blanks: predict the word in a blank, or classify by the likeliest word in a pattern's blank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from hfpipe.advice import advise_classes
from hfpipe.errors import Problem, StageError
from hfpipe.task import Requirements
from hfpipe.tasks.shared.templates import columns_of, parts_of_template
from hfpipe.tasks.shared.token_level import TokenTargets

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from hfpipe.metrics.metric import Metric
    from hfpipe.metrics.whole import WholeMetric
    from hfpipe.report import DataFacts
    from hfpipe.tokenization.text import Text
    from hfpipe.types import Batch, Columns, Rows


class FillMask(TokenTargets):
    """Learns to predict the words in blanks.

    A blank is encoded as as many mask tokens as its answer has tokens. Its candidates are those in `choices`;
    without `choices`, all answers of the train split if `answer` is a column of classes, otherwise any words.
    With `pattern` and `verbalizer` the task classifies: the prediction is the class whose word is likeliest
    in the pattern's blank (Schick and Schütze, 2021).
    """

    kind: Literal["fill-mask"] = "fill-mask"
    text: str = "text"
    """Column of the texts, each with one blank."""
    blank: str = Field(default="[MASK]", min_length=1)
    """String that marks the blank in a text or pattern."""
    answer: str = "answer"
    """Column of the correct words for the blanks: texts or classes."""
    choices: str | None = None
    """Column with the list of candidates for each blank."""
    pattern: str | None = None
    """Pattern for classification: column names in braces and a blank, as in `{text} It was [MASK].`."""
    verbalizer: dict[str, str] | None = None
    """Class → the word that represents it in the pattern's blank."""
    label: str = "label"
    """Column of the class, used with `pattern`."""
    length: int = Field(default=128, ge=8)
    """Maximum number of tokens; longer texts are truncated far from the blank, and the ledger counts the
    tokens that are lost."""

    @field_validator("pattern")
    @classmethod
    def _names_columns(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            columns_of(pattern)
        return pattern

    @model_validator(mode="after")
    def _whole_pattern(self) -> Self:
        if (self.pattern is None) != (self.verbalizer is None):
            raise ValueError("`pattern` and `verbalizer` go together; write both, or neither")
        if self.pattern is not None and self.pattern.count(self.blank) != 1:
            raise ValueError(f"`pattern` needs one blank {self.blank!r}; write it where the word belongs")
        if len(set(self._words)) < len(self._words):
            raise ValueError("`verbalizer` has one word for two classes; take another for one of them")
        return self

    @model_validator(mode="after")
    def _reads_all(self) -> Self:
        names = ("label",) if self.pattern is None else ("text", "answer", "choices")
        idle = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if idle:
            case = "without" if self.pattern is None else "with"
            raise ValueError(f"{case} `pattern`, nothing reads {' and '.join(idle)}; leave that out")
        return self

    @property
    def _fields(self) -> tuple[str, ...]:
        """Columns that the pattern refers to."""
        return columns_of(self.pattern) if self.pattern is not None else ()

    @property
    def _words(self) -> list[str]:
        return list((self.verbalizer or {}).values())

    @property
    def auto_class(self) -> str:
        return "AutoModelForMaskedLM"

    @property
    def requires(self) -> Requirements:
        return Requirements(mask_token=True)

    @property
    def pipeline(self) -> str | None:
        return "fill-mask" if self.pattern is None else None  # no pipeline classifies by a pattern

    @property
    def baselines(self) -> tuple[str, ...]:
        return ("majority", "tfidf") if self.pattern is not None else ("frequent",)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._fields or tuple(name for name in (self.text, self.choices) if name is not None)

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.pattern is None else ()

    @property
    def columns(self) -> tuple[str, ...]:
        if self.pattern is not None:
            return (*self._fields, self.label)
        return (self.text, self.answer, *([self.choices] if self.choices else []))

    def check(self, facts: DataFacts) -> Iterator[Problem]:
        yield from super().check(facts)
        kind = facts.columns.get(self.answer, "string")
        if self.pattern is None and kind not in ("string", "label"):
            yield Problem(f"column {self.answer!r} holds {kind} values, no words; name a column of words")
        kind = facts.columns.get(self.choices or "", "strings")
        if kind not in ("strings", "labels"):
            yield Problem(f"column {self.choices!r} holds {kind} values; it should list words", ("choices",))
        if self.verbalizer is None or self.label not in facts.columns:
            return
        classes = facts.labels.get(self.label)
        if classes is None or facts.columns[self.label] != "label":
            fix = advise_classes(self.label, facts.columns[self.label]) or "; name one that does"
            yield Problem(f"column {self.label!r} holds no classes{fix}", ("label",))
        elif set(classes) != set(self.verbalizer):
            there, named = ", ".join(classes), ", ".join(self.verbalizer)
            yield Problem(f"the classes are {there}; the verbalizer has {named}", ("verbalizer",))

    def facts_from_config(self, config: PretrainedConfig) -> DataFacts:
        from hfpipe.report import DataFacts

        if self.verbalizer is None:
            columns = {self.text: "string", self.answer: "string"}
            return DataFacts(columns=columns | ({self.choices: "strings"} if self.choices else {}), splits={})
        columns = dict.fromkeys(self._fields, "string") | {self.label: "label"}
        return DataFacts(columns=columns, splits={}, labels={self.label: list(self.verbalizer)})

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, facts: DataFacts) -> Rows:
        from hfpipe.tasks.fill_mask.encoding import encode_blanks

        texts, answers, choices = self._parts(rows), self._answers(rows, facts), self._choices(rows, facts)
        encoded = encode_blanks(texts, answers, choices, tokenizer, self.length)
        if self.verbalizer is not None and -1 in encoded["reference"]:
            word = answers[encoded["reference"].index(-1)]
            raise StageError(f"verbalizer: the tokenizer does not know {word!r}; take another word")
        return encoded

    def _texts(self, rows: Rows) -> list[str]:
        if self.pattern is None:
            return list(rows[self.text])
        return [self.blank.join("".join(side) for side in sides) for sides in self._parts(rows)]

    def _parts(self, rows: Rows) -> list[tuple[Text, Text]]:
        """Split the text of each row at its blank. Raises DataError unless there is exactly one."""
        from hfpipe.tasks.fill_mask.encoding import blank_parts

        if self.pattern is None:
            return [blank_parts(text, self.blank) for text in rows[self.text]]
        before, after = self.pattern.split(self.blank)
        filled = [
            dict(zip(self._fields, map(str, values), strict=True))
            for values in zip(*(rows[name] for name in self._fields), strict=True)
        ]
        return [(parts_of_template(before, row), parts_of_template(after, row)) for row in filled]

    def _answers(self, rows: Rows, facts: DataFacts) -> list[str]:
        if self.verbalizer is not None:
            return [self.verbalizer[facts.labels[self.label][number]] for number in rows[self.label]]
        return _named(rows[self.answer], facts.labels.get(self.answer))

    def _choices(self, rows: Rows, facts: DataFacts) -> list[list[str]]:
        """Return the candidates of each row; empty if any word is allowed."""
        if self.choices is not None and self.pattern is None:
            return [_named(row, facts.labels.get(self.choices)) for row in rows[self.choices]]
        if self.verbalizer is not None:
            names = [self.verbalizer[name] for name in facts.labels[self.label]]
        else:
            names = facts.labels.get(self.answer, [])
        return [names] * len(rows[self.columns[0]])

    def collate(
        self, examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, *, train: bool
    ) -> Batch:
        from hfpipe.tasks.fill_mask.encoding import collate_blanks

        return collate_blanks(examples, tokenizer)

    def generates(self, *, training: bool) -> bool:
        return True

    def generate(self, model: Any, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Columns:
        from hfpipe.tasks.fill_mask.decoding import class_scores, fill_blanks

        filled = fill_blanks(model, batch, tokenizer)
        return filled if self.verbalizer is None else class_scores(filled, batch["_gold"].cpu().numpy())

    def metrics(self, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.metric import Loss
        from hfpipe.metrics.scores.classification import single_label
        from hfpipe.metrics.scores.cloze import cloze

        return [*cloze(), Loss()] if self.verbalizer is None else single_label(facts.labels[self.label])

    def baseline_metrics(self, name: str, facts: DataFacts) -> list[Metric]:
        from hfpipe.metrics.scores.cloze import cloze

        return cloze() if name == "frequent" else self.metrics(facts)

    def whole_metrics(self, facts: DataFacts) -> list[WholeMetric]:
        from hfpipe.metrics.scores.ranking import ranked_classes

        return [] if self.verbalizer is None else ranked_classes(facts.labels[self.label])

    def class_names(self, facts: DataFacts) -> Mapping[str, Sequence[str]]:
        names = facts.labels.get(self.label, [])
        return {} if self.verbalizer is None else {"reference": names, "prediction": names}

    def class_order(self, facts: DataFacts) -> Mapping[str, Sequence[str]]:
        return {} if self.verbalizer is None else {"scores": facts.labels[self.label]}

    def format_predictions(self, columns: Columns, rows: Rows, facts: DataFacts) -> list[dict[str, Any]]:
        if self.verbalizer is not None:
            predictions = self.encode_predictions(columns, facts)["prediction"]
            best = columns["scores"].max(axis=1).tolist()
            return [{"label": label, "score": score} for label, score in zip(predictions, best, strict=True)]
        texts = self._texts(rows)
        return [
            {**fills[0], "fills": fills}
            for fills in (
                [
                    {"score": score, "token_str": word, "sequence": text.replace(self.blank, word)}
                    for word, score in zip(words, scores, strict=True)
                ]
                for text, words, scores in zip(texts, columns["fills"], columns["fill_scores"], strict=True)
            )
        ]

    def fit_baseline(
        self, name: str, train: Rows, facts: DataFacts, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[Rows], Columns]:
        import numpy as np

        from hfpipe.metrics.baselines.text import Majority, Tfidf
        from hfpipe.metrics.scores.cloze import Frequent

        if name == "frequent":
            frequent = Frequent(self._answers(train, facts))

            def ranked(rows: Rows) -> Columns:
                choices = self._choices(rows, facts)
                pairs = zip(self._answers(rows, facts), choices, strict=True)
                return {"rank": np.array([frequent.rank(answer, words or None) for answer, words in pairs])}

            return ranked
        baseline = {"majority": Majority, "tfidf": Tfidf}[name]("label", len(self._words))
        baseline.fit(self._texts(train), np.asarray(train[self.label]))
        return lambda rows: baseline.columns(self._texts(rows), np.asarray(rows[self.label]))


def _named(values: Sequence[Any], names: Sequence[str] | None) -> list[str]:
    """Return words; a column of classes stores them as ids."""
    return [names[value] for value in values] if names is not None else list(values)
