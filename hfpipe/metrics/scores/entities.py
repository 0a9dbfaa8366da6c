"""Scores of tagged words: entities with correct span and type, and correct tags.

seqeval extracts the entities of a sentence (Nakayama, 2018); counts per sentence can be merged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from seqeval import scheme as schemes
from seqeval.metrics.sequence_labeling import get_entities

from hfpipe.metrics.metric import Metric, divide_or_zero

if TYPE_CHECKING:
    from hfpipe.types import Columns


class Entity(NamedTuple):
    """Consecutive words that form an entity."""

    type: str
    start: int
    """Position of the first word."""
    end: int
    """Position after the last word."""


def extract_entities(tags: Sequence[str], scheme: str | None = None) -> list[Entity]:
    """Return the entities of one sentence, as seqeval finds them.

    With a scheme, named as in seqeval, only valid sequences are entities (its strict mode); without one, BIO,
    IOB1, BIOES and BMES are read as in conlleval (its default mode): an `I-` without a beginning begins an
    entity. BMES is BIOES with `M-` instead of `I-`, which seqeval does not support.
    """
    tags = [f"I{tag[1:]}" if tag == "M" or tag.startswith("M-") else tag for tag in tags]
    if scheme is None:
        return [Entity(kind, first, last + 1) for kind, first, last in get_entities(tags)]
    found = schemes.Tokens(tags, schemes.IOBES if scheme == "BMES" else getattr(schemes, scheme)).entities
    return [Entity(entity.tag, entity.start, entity.end) for entity in found]


def convert_words(tags: Sequence[str]) -> list[Entity]:
    """Return every word of a sentence as a separate entity, for tags that do not mark entities."""
    return [Entity(tag, place, place + 1) for place, tag in enumerate(tags)]


def create_tagging_metrics(tags: Sequence[str], scheme: str | None = None) -> list[Metric]:
    """Return the metrics of a tagger whose tags mark entities; `tags` are all possible tags.

    They read `reference` and `prediction`: object arrays of shape (n,), each entry the tags of one sentence,
    as many in both.
    """
    # A single tag is an entity in the lenient mode, with any scheme.
    types = sorted({entity.type for tag in tags for entity in extract_entities([_make_inside_tag(tag)])})
    return [
        EntityScore("f1", types, scheme),
        EntityScore("precision", types, scheme),
        EntityScore("recall", types, scheme),
        TagAccuracy(),
        *(EntityScore("f1", types, scheme, of=kind) for kind in types),
    ]


def _make_inside_tag(tag: str) -> str:
    return tag if tag == "O" else f"I{tag[1:]}"


class EntityScore(Metric):
    """Precision, recall or F1 of entities, over all types or of one type."""

    bounds = (0.0, 1.0)
    is_proportion = True

    def __init__(
        self,
        what: Literal["precision", "recall", "f1"],
        types: Sequence[str],
        scheme: str | None,
        of: str | None = None,
    ) -> None:
        self.name = what if of is None else f"{what}[{of}]"
        self.what = what
        self.types = list(types)
        self.scheme = scheme
        self._counted = slice(None) if of is None else slice(self.types.index(of), self.types.index(of) + 1)

    @property
    def family(self) -> Hashable:
        return ("entities", self.scheme, tuple(self.types))

    @property
    def signature(self) -> str:
        mode = "default" if self.scheme is None else f"strict|scheme:{self.scheme}"
        return f"{self.name}|of:entities|average:micro|mode:{mode}|seqeval:{version('seqeval')}"

    def stats(self, columns: Columns) -> np.ndarray:
        pairs = zip(columns["reference"], columns["prediction"], strict=True)
        rows = [self._count(reference, prediction) for reference, prediction in pairs]
        return np.array(rows, dtype=np.float64).reshape(len(rows), 3 * len(self.types))

    def _count(self, reference: Sequence[str], prediction: Sequence[str]) -> list[int]:
        there, predicted = (
            set(extract_entities(reference, self.scheme)),
            set(extract_entities(prediction, self.scheme)),
        )
        counts = [Counter(entity.type for entity in each) for each in (there & predicted, predicted, there)]
        return [count[kind] for count in counts for kind in self.types]

    def value(self, sums: np.ndarray) -> np.ndarray:
        return divide_or_zero(*self.proportion(sums))

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hits, predictions, references = (
            each[..., self._counted].sum(-1) for each in np.split(sums, 3, axis=-1)
        )
        if self.what == "precision":
            return hits, predictions
        return (hits, references) if self.what == "recall" else (hits, (predictions + references) / 2)


class TagAccuracy(Metric):
    """Fraction of words whose tag is predicted correctly, including words outside of entities."""

    name = "accuracy"
    bounds = (0.0, 1.0)
    is_proportion = True

    @property
    def signature(self) -> str:
        return "accuracy|average:words"

    def stats(self, columns: Columns) -> np.ndarray:
        pairs = zip(columns["reference"], columns["prediction"], strict=True)
        rows = [
            [sum(one == other for one, other in zip(reference, prediction, strict=True)), len(reference)]
            for reference, prediction in pairs
        ]
        return np.array(rows, dtype=np.float64).reshape(len(rows), 2)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return divide_or_zero(*self.proportion(sums))

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sums[..., 0], sums[..., 1]
