"""Splits and ids depend on a row's text and the seed, never on the rows around it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfpipe.data.cleaning.digest_set import FIRST_BUCKETS, PER_BUCKET, DigestSet
from hfpipe.data.rows import Row
from hfpipe.data.split import RowIds, make_splitter
from hfpipe.errors import DataError

SHARES = {"validation": 0.1, "test": 0.2}


def row(*texts: str, split: str | None = None, **values: str) -> Row:
    return Row(values, "row", 1, split, list(texts))


@given(st.text(), st.integers(min_value=0, max_value=2**32), st.sampled_from([None, "train"]))
def test_equal_texts_never_straddle_two_splits(text: str, seed: int, split: str | None) -> None:
    choose = make_splitter(SHARES, {split}, seed)
    assert choose(row(text, label="a", split=split)) == choose(row(text, label="b", split=split))


@given(st.lists(st.text(max_size=5), unique=True), st.lists(st.text(min_size=6, max_size=9)))
def test_adding_rows_moves_no_row_to_another_split(old: list[str], new: list[str]) -> None:
    before = {text: make_splitter(SHARES, {None}, 1)(row(text)) for text in old}
    choose = make_splitter(SHARES, {None}, 1)
    after = {text: choose(row(text)) for text in [*new, *old]}
    assert {text: after[text] for text in old} == before


@given(st.text())
def test_a_larger_share_takes_rows_from_train_only(text: str) -> None:
    small, large = make_splitter({"test": 0.2}, {None}, 3), make_splitter({"test": 0.4}, {None}, 3)
    assert (small(row(text)), large(row(text))) != ("test", "train")


def test_shares_are_met_within_sampling_error() -> None:
    n = 20_000
    choose = make_splitter(SHARES, {None}, 17)
    counts = Counter(choose(row(f"text {number}")) for number in range(n))
    for split, share in {**SHARES, "train": 0.7}.items():
        assert abs(counts[split] / n - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_another_seed_gives_another_split() -> None:
    one, two = make_splitter(SHARES, {None}, 1), make_splitter(SHARES, {None}, 2)
    assert any(one(row(str(number))) != two(row(str(number))) for number in range(100))


def test_given_splits_stay_as_they_are() -> None:
    choose = make_splitter({"test": 0.99}, {"train", "test"}, 1)
    assert {choose(row(str(number), split="train")) for number in range(50)} == {"train"}
    assert make_splitter({"validation": 0.99}, {"train", "test"}, 1)(row("a", split="test")) == "test"


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3))))
def test_ids_are_unique_and_a_text_of_its_own_keeps_its_id(pairs: list[tuple[str, str]]) -> None:
    ids = RowIds()
    given_ids = [ids.make_id(row(*pair)) for pair in pairs]
    assert len(set(given_ids)) == len(pairs)
    first = dict(zip(reversed(pairs), reversed(given_ids), strict=True))
    assert all(first[pair] == RowIds().make_id(row(*pair)) for pair in first)


def test_an_id_of_the_source_is_refused_wherever_it_was_given_before() -> None:
    ids = RowIds()
    names = [f"{number}" for number in range(2 * PER_BUCKET * FIRST_BUCKETS)]
    assert [ids.make_id(row("same text", id=name)) for name in names] == names
    for name in (names[0], names[5000], names[-1]):
        with pytest.raises(DataError, match="was given before"):
            ids.make_id(row("same text", id=name))


@given(st.lists(st.binary(min_size=1, max_size=1).map(lambda part: part * 16), max_size=60))
def test_digests_are_told_apart_like_elements_of_a_set(digests: list[bytes]) -> None:
    compact, plain = DigestSet(), set[bytes]()
    for digest in digests:
        assert compact.add(digest) == (digest not in plain)
        plain.add(digest)
    assert len(compact) == len(plain)


def test_a_digest_across_the_boundary_of_two_others_is_new() -> None:
    compact = DigestSet()
    compact._buckets = [None]  # all digests are in one bucket
    first, second = bytes(range(16)), bytes(range(16, 32))
    assert compact.add(first)
    assert compact.add(second)
    assert all(compact.add((first + second)[start : start + 16]) for start in range(1, 16))
    assert not compact.add(second)


def test_digests_stay_known_when_the_buckets_grow() -> None:
    compact, count = DigestSet(), 5 * PER_BUCKET * FIRST_BUCKETS
    digests = [number.to_bytes(16, "little") for number in range(count)]
    assert all(map(compact.add, digests))
    assert not any(map(compact.add, digests))
    assert len(compact) == count


@given(st.permutations([("validation", 0.2), ("test", 0.3), ("later", 0.1)]), st.text())
def test_the_order_in_which_shares_are_written_moves_no_row(
    shares: list[tuple[str, float]], text: str
) -> None:
    as_written = make_splitter({"validation": 0.2, "test": 0.3, "later": 0.1}, [None], 1)
    assert make_splitter(dict(shares), [None], 1)(row(text)) == as_written(row(text))
