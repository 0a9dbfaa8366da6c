"""Entity scores equal seqeval's, in its default and its strict mode, and a gazetteer tags what it knows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import metrics as reference
from seqeval import scheme as schemes

from hfpipe.metrics.baselines.gazetteer import Gazetteer
from hfpipe.metrics.metric import to_object_array
from hfpipe.metrics.scores.entities import Entity, convert_words, create_tagging_metrics, extract_entities
from hfpipe.metrics.tally import Tally

PREFIXES: dict[str | None, str] = {
    None: "BIES",
    "IOB1": "BI",
    "IOB2": "BI",
    "IOE1": "IE",
    "IOE2": "IE",
    "IOBES": "BIES",
    "BILOU": "BILU",
}
TYPES = ("PER", "LOC", "MISC-X")
Sentences = Sequence[Sequence[str]]


def names(scheme: str | None) -> list[str]:
    return ["O", *(f"{prefix}-{kind}" for prefix in PREFIXES[scheme] for kind in TYPES)]


def scores(
    gold: Sentences, prediction: Sentences, tags: Sequence[str], scheme: str | None
) -> dict[str, float]:
    tally = Tally(create_tagging_metrics(tags, scheme), 0, 17)
    tally.add(
        np.arange(len(gold)), {"reference": to_object_array(gold), "prediction": to_object_array(prediction)}
    )
    return {metric.name: float(tally.compute_values(metric)[0]) for metric in tally.metrics}


def by_seqeval(gold: Sentences, prediction: Sentences, scheme: str | None) -> dict[str, float]:
    how = {} if scheme is None else {"mode": "strict", "scheme": getattr(schemes, scheme)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns where it sets 0
        found = {
            "f1": reference.f1_score(gold, prediction, **how),
            "precision": reference.precision_score(gold, prediction, **how),
            "recall": reference.recall_score(gold, prediction, **how),
            "accuracy": reference.accuracy_score(gold, prediction),
        }
        try:
            report = reference.classification_report(gold, prediction, output_dict=True, **how)
        except ValueError:  # it cannot write a report without any entity
            report = {}
    return found | {f"f1[{kind}]": report.get(kind, {}).get("f1-score", 0.0) for kind in TYPES}


@st.composite
def tagged(draw: st.DrawFn, scheme: str | None) -> tuple[list[list[str]], list[list[str]]]:
    """Draw gold tags and guesses of some sentences: often the same, often against the scheme."""
    tag = st.sampled_from(names(scheme))
    gold = draw(st.lists(st.lists(tag, min_size=1, max_size=8), min_size=1, max_size=5))
    prediction = [[draw(st.one_of(st.just(mark), tag)) for mark in sentence] for sentence in gold]
    return gold, prediction


@pytest.mark.slow
@pytest.mark.parametrize("scheme", PREFIXES)
def test_scores_equal_those_of_seqeval(scheme: str | None) -> None:
    @settings(deadline=None, max_examples=60)
    @given(tagged(scheme))
    def check(case: tuple[list[list[str]], list[list[str]]]) -> None:
        gold, prediction = case
        assert scores(gold, prediction, names(scheme), scheme) == pytest.approx(
            by_seqeval(gold, prediction, scheme)
        )

    check()


def test_an_entity_counts_only_whole_and_with_its_type() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC"], ["O"]]
    prediction = [["B-PER", "O", "O", "B-LOC"], ["O", "B-PER"], ["O"]]
    found = scores(gold, prediction, ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], None)
    assert found == pytest.approx(
        {
            "f1": 1 / 3,
            "precision": 1 / 3,
            "recall": 1 / 3,
            "accuracy": 5 / 7,
            "f1[LOC]": 2 / 3,
            "f1[PER]": 0,
        }
    )


def test_a_stray_inside_tag_begins_an_entity_only_without_a_scheme() -> None:
    tags = ["O", "I-PER", "I-PER", "I-LOC"]
    assert extract_entities(tags) == [Entity("PER", 1, 3), Entity("LOC", 3, 4)]
    assert extract_entities(tags, "IOB1") == extract_entities(tags)
    assert extract_entities(tags, "IOB2") == []


def test_sentences_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        scores([["O", "B-PER"]], [["O"]], ["O", "B-PER"], None)


def test_entities_do_not_run_over_the_end_of_a_sentence() -> None:
    tags = ["O", "B-PER", "I-PER"]
    gold = [["O", "B-PER"], ["I-PER", "O"]]
    assert scores(gold, [["O", "B-PER"], ["O", "O"]], tags, None)["recall"] == 0.5


def test_a_signature_names_mode_and_scheme() -> None:
    assert create_tagging_metrics(["O", "B-PER"])[0].signature.startswith(
        "f1|of:entities|average:micro|mode:default|seq"
    )
    assert "|mode:strict|scheme:IOB2|" in create_tagging_metrics(["O", "B-PER"], "IOB2")[0].signature


def test_a_gazetteer_tags_the_longest_entity_it_knows() -> None:
    gazetteer = Gazetteer(extract_entities)
    gazetteer.fit(
        [
            ["Ada", "Lovelace", "was", "born", "in", "London"],
            ["London", "is", "large"],
            ["Jack", "London", "wrote"],
            ["London", "Calling"],
        ],
        [
            ["B-PER", "I-PER", "O", "O", "O", "B-LOC"],
            ["B-LOC", "O", "O"],
            ["B-PER", "I-PER", "O"],
            ["B-MISC", "I-MISC"],
        ],
    )
    assert gazetteer.tag(["Jack", "London", "left", "London"]) == ["B-PER", "I-PER", "O", "B-LOC"]
    assert gazetteer.tag(["Lovelace", "london"]) == ["O", "O"]
    assert gazetteer.tag([]) == []


def test_a_gazetteer_writes_entities_as_the_train_split_does() -> None:
    gazetteer = Gazetteer(partial(extract_entities, scheme="IOBES"))
    gazetteer.fit([["New", "York", "and", "Rome"]], [["B-LOC", "E-LOC", "O", "S-LOC"]])
    assert gazetteer.tag(["Rome", "New", "York"]) == ["S-LOC", "B-LOC", "E-LOC"]


def test_a_gazetteer_gives_a_string_of_several_types_the_most_frequent_one() -> None:
    gazetteer = Gazetteer(extract_entities)
    gazetteer.fit([["Paris"]] * 3, [["B-LOC"], ["B-PER"], ["B-PER"]])
    assert gazetteer.tag(["Paris"]) == ["B-PER"]


def test_a_gazetteer_without_entities_tags_nothing() -> None:
    gazetteer = Gazetteer(extract_entities)
    gazetteer.fit([["No", "names"]], [["O", "O"]])
    assert gazetteer.tag(["No", "names"]) == ["O", "O"]


def test_a_gazetteer_of_tags_that_mark_no_entities_knows_each_word() -> None:
    gazetteer = Gazetteer(convert_words)
    gazetteer.fit([["Ships", "sail", "seas"], ["ships", "sail"]], [["N", "V", "N"], ["N", "V"]])
    assert gazetteer.tag(["ships", "sail", "home"]) == ["N", "V", "N"]
