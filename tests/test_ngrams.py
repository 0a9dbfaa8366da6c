"""N-gram baselines are the published models: held to a plain reading of the formulas, and to summing to 1."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfpipe.metrics.baselines import ngrams
from hfpipe.metrics.baselines.ngrams import FALLBACK, NGrams, estimate_discounts

BEGIN = -1
TEXT = """The sun is the star at the centre of the solar system . the moon goes round the earth ,
the earth goes round the sun . a star is a luminous sphere of plasma , and the sun is a star .
the moon is not a star . the earth is a planet of the solar system , and the moon is not a planet
of the sun . is the earth round ?"""
DOCUMENTS = [sentence.split() for sentence in TEXT.lower().split(".")]
WORDS = sorted({word for words in DOCUMENTS for word in words})
IDS = [[WORDS.index(word) for word in words] for words in DOCUMENTS]

documents = st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=8)


def plain(
    train: Sequence[Sequence[int]], order: int, vocabulary: int, context: Sequence[int], new: int
) -> float:
    """Return p(new | context) word for word from Chen & Goodman (1998), by dictionaries and recursion."""
    counts: dict[int, Counter[tuple[int, ...]]] = {order: Counter()}
    for ids in train:
        stream = [*[BEGIN] * (order - 1), *ids]
        counts[order].update(tuple(stream[at : at + order]) for at in range(len(stream) - order + 1))
    for shorter in range(order - 1, 0, -1):
        before = defaultdict(set)
        raw: Counter[tuple[int, ...]] = Counter()
        for gram, count in counts[shorter + 1].items():
            before[gram[1:]].add(gram[0])
            raw[gram[1:]] += count
        counts[shorter] = Counter(
            {gram: raw[gram] if gram[0] == BEGIN else len(those) for gram, those in before.items()}
        )

    def p(history: tuple[int, ...], length: int) -> float:
        if length == 0:
            return 1 / vocabulary
        d = (0.0, *estimate_discounts(np.array(list(counts[length].values()))))
        after = {gram[-1]: count for gram, count in counts[length].items() if gram[:-1] == history}
        below = p(history[1:], length - 1)
        if not after:
            return below
        total = sum(after.values())
        share = sum(d[min(count, 3)] for count in after.values()) / total
        count = after.get(new, 0)
        return (count - d[min(count, 3)]) / total + share * below

    history = (*[BEGIN] * (order - 1), *context)
    return p(history[len(history) - order + 1 :], order)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_every_probability_is_that_of_the_published_formula(order: int) -> None:
    train, held_out = IDS[:-2], [*IDS[-2:], [3, 1, 4, 1, 5]]
    found = NGrams(order, len(WORDS)).fit(train).compute_nll(held_out)
    for ids, nll in zip(held_out, found, strict=True):
        assert nll.shape == (len(ids),)
        expected = [-log(plain(train, order, len(WORDS), ids[:at], new)) for at, new in enumerate(ids)]
        assert nll == pytest.approx(expected, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(train=documents, context=st.lists(st.integers(0, 6), max_size=4), order=st.integers(1, 3))
def test_probabilities_add_up_to_one_after_any_context(
    train: list[list[int]], context: list[int], order: int
) -> None:
    model = NGrams(order, 7).fit(train)
    last = [nll[-1] for nll in model.compute_nll([[*context, new] for new in range(7)])]
    assert sum(exp(-nll) for nll in last) == pytest.approx(1, abs=1e-12)


@given(train=documents)
def test_a_model_is_the_same_in_however_many_pieces_it_counts(train: list[list[int]]) -> None:
    whole = NGrams(3, 5).fit(train).compute_nll(train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "TOKENS_AT_ONCE", 1)
        pieces = NGrams(3, 5).fit(iter(train)).compute_nll(train)
    assert all((one == other).all() for one, other in zip(whole, pieces, strict=True))


def test_more_context_helps_on_text_of_the_same_kind() -> None:
    train, held_out = IDS[:-2], IDS[-2:]
    nll = [
        np.concatenate(NGrams(order, len(WORDS)).fit(train).compute_nll(held_out)).mean() for order in (1, 3)
    ]
    assert nll[1] < nll[0] < log(len(WORDS))


def test_discounts_are_those_of_the_counts_of_counts() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [40, 16, 9, 5, 3])
    share = 40 / (40 + 2 * 16)
    assert estimate_discounts(counts) == pytest.approx(
        (1 - 2 * share * 16 / 40, 2 - 3 * share * 9 / 16, 3 - 4 * share * 5 / 9)
    )
    assert estimate_discounts(np.array([5, 6, 7])) == FALLBACK


def test_nothing_learned_leaves_every_id_alike() -> None:
    assert NGrams(3, 8).fit([]).compute_nll([[1, 2], []])[0].tolist() == [log(8), log(8)]
    assert NGrams(3, 8).fit([[1]]).compute_nll([]) == []


@pytest.mark.parametrize("document", [[0, 5], [6], [-1]])
def test_an_id_outside_the_vocabulary_is_refused(document: list[int]) -> None:
    with pytest.raises(ValueError, match="from 0 to 4"):
        NGrams(2, 5).fit([document])


def test_n_grams_that_cannot_be_numbered_are_refused() -> None:
    with pytest.raises(ValueError, match="63 bits"):
        NGrams(4, 200_000)
