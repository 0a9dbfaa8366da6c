"""Ids as arrays are the ids as lists, and an encoding that was killed ends as if it had not been."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pieces
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from hfpipe.encoding.encoded import Examples, encode, encode_truncated
from hfpipe.encoding.io import extract_facts
from hfpipe.encoding.packing import pack
from hfpipe.encoding.row_batches import iterate_batches
from hfpipe.encoding.shards import Batch
from hfpipe.tasks import TASKS
from hfpipe.tokenization.encoding import CHARACTERS_AT_ONCE, encode_ids, encode_plain, encode_texts
from hfpipe.tokenization.ragged import Ragged
from hfpipe.tokenization.spelling import OPENING, find_known_tokens
from hfpipe.tokenization.text import Format, Verbatim

TEXTS = ["The Nile flows north, past Cairo.", "Everest is high.", "Läuft die Straße nach Süden? 東京 too."]
TOKENIZERS = {family: pieces.tokenizer(TEXTS, family) for family in pieces.FAMILIES}


class OwnCode(PreTrainedTokenizerFast):
    """Encodes by code of its own."""

    def _encode_plus(self, text: Any, *others: Any, **options: Any) -> Any:
        return super()._encode_plus([each.replace("Nile", "Everest") for each in text], *others, **options)


def as_lists(tokenizer: Any, texts: Sequence[Any], pairs: Any = None, **options: Any) -> tuple[Any, Any]:
    encoded = encode_texts(tokenizer, texts, pairs, verbose=False, **options)
    return encoded["input_ids"], encoded.get("token_type_ids")


def row_lists(rows: Ragged) -> list[list[int]]:
    return [row.tolist() for row in rows]


words = st.sampled_from(["The", "Nile", " ", "high", ".", "ß", "東", "\u0301", "\n", "\0", "", OPENING + "0"])
tokens = st.sampled_from(
    sorted({token for each in TOKENIZERS.values() for token in find_known_tokens(each).control})
)
written = st.lists(st.one_of(words, tokens, st.text(max_size=4)), max_size=6).map("".join)
texts = st.one_of(
    written, st.lists(st.one_of(written, written.map(Format), written.map(Verbatim)), max_size=3)
)


@pytest.mark.parametrize("family", pieces.FAMILIES)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=4),
    special=st.booleans(),
    paired=st.booleans(),
)
def test_arrays_of_ids_are_the_lists_that_transformers_returns(
    family: str, rows: list[tuple[Any, Any]], special: bool, paired: bool
) -> None:
    first, second = [row[0] for row in rows], [row[1] for row in rows] if paired else None
    tokenizer = TOKENIZERS[family]
    found = encode_ids(tokenizer, first, second, special_tokens=special, token_types=True)
    ids, types = as_lists(tokenizer, first, second, add_special_tokens=special, return_token_type_ids=True)
    assert row_lists(found.input_ids) == ids
    assert found.token_type_ids is not None
    assert row_lists(found.token_type_ids) == types
    assert encode_plain(tokenizer, first) == as_lists(tokenizer, first, add_special_tokens=False)[0]


@pytest.mark.slow
def test_many_characters_are_encoded_part_by_part_in_their_order() -> None:
    tokenizer = TOKENIZERS["wordpiece"]
    rows = [f"{TEXTS[number % 3]} {number}" * (900 if number % 70 == 0 else 1) for number in range(1500)]
    assert sum(map(len, rows)) > 2 * CHARACTERS_AT_ONCE
    assert (
        row_lists(encode_ids(tokenizer, rows).input_ids)
        == as_lists(tokenizer, rows, add_special_tokens=False)[0]
    )


def test_a_text_is_whole_after_another_was_cut() -> None:
    tokenizer = pieces.tokenizer(TEXTS)
    whole = row_lists(encode_ids(tokenizer, TEXTS).input_ids)
    as_lists(tokenizer, TEXTS, truncation=True, max_length=4)
    assert row_lists(encode_ids(tokenizer, TEXTS).input_ids) == whole


def test_a_tokenizer_class_with_code_of_its_own_encodes_by_it() -> None:
    own = OwnCode(tokenizer_object=TOKENIZERS["wordpiece"].backend_tokenizer)
    assert row_lists(encode_ids(own, TEXTS).input_ids) == as_lists(own, TEXTS, add_special_tokens=False)[0]
    assert encode_plain(own, TEXTS) == row_lists(encode_ids(own, TEXTS).input_ids)
    assert row_lists(encode_ids(own, TEXTS).input_ids) != row_lists(
        encode_ids(TOKENIZERS["wordpiece"], TEXTS).input_ids
    )


def test_what_goes_round_a_text_may_change_between_calls() -> None:
    tokenizer = pieces.tokenizer(TEXTS)
    before = row_lists(encode_ids(tokenizer, TEXTS, special_tokens=True).input_ids)
    tokenizer.backend_tokenizer.post_processor = TOKENIZERS["bpe"].backend_tokenizer.post_processor
    after = row_lists(encode_ids(tokenizer, TEXTS, special_tokens=True).input_ids)
    assert [ids[1:-1] for ids in before] == after == as_lists(tokenizer, TEXTS)[0]


@given(
    rows=st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=6),
    before=st.lists(st.integers(10, 12), max_size=2),
    after=st.lists(st.integers(13, 15), max_size=2),
)
def test_rows_of_an_array_are_those_of_a_list(
    rows: list[list[int]], before: list[int], after: list[int]
) -> None:
    ragged = Ragged.from_rows(rows)
    assert row_lists(ragged) == rows
    assert ragged.lengths.tolist() == [*map(len, rows)]
    assert row_lists(ragged.add_around(before, after)) == [[*before, *row, *after] for row in rows]
    assert row_lists(ragged[1:].add_around(before, after)) == [[*before, *row, *after] for row in rows[1:]]
    assert [ragged[place].tolist() for place in range(-len(rows), 0)] == rows


@given(
    documents=st.lists(st.lists(st.lists(st.integers(0, 99), max_size=20), max_size=4), max_size=4),
    length=st.integers(2, 9),
    shared=st.integers(0, 1),
    as_arrays=st.booleans(),
)
def test_packed_examples_are_cut_from_one_stream(
    documents: list[list[list[int]]], length: int, shared: int, as_arrays: bool
) -> None:
    given_as = Ragged.from_rows if as_arrays else list
    batches = (Batch({"input_ids": given_as(batch)}, len(batch)) for batch in documents)
    stream = [*chain.from_iterable(chain.from_iterable(documents))]
    starts = range(0, max(0, len(stream) - shared), length - shared)
    found = [*pack(batches, length, shared, [])]
    examples = [ids.tolist() for batch in found for ids in batch.columns["input_ids"]]
    assert examples == [stream[start : start + length] for start in starts]
    assert sum(batch.rows for batch in found) == sum(map(len, documents))


def saved(folder: Path, count: int) -> datasets.Dataset:
    rows = {"text": [f"{TEXTS[number % 3]} {number}" for number in range(count)], "label": [0] * count}
    table = datasets.Dataset.from_dict(rows).cast_column("label", datasets.ClassLabel(names=["a", "b"]))
    table.save_to_disk(str(folder), num_shards=2)
    return datasets.load_from_disk(str(folder))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_rows_come_in_batches_of_one_size_however_they_lie_on_disk(size: int, tmp_path: Path) -> None:
    whole = saved(tmp_path, 23)
    other = whole.remove_columns("label").add_column("label", [1] * 23, feature=whole.features["label"])
    views = {
        "whole": whole,
        "some": whole.select([5, 2, 9]),
        "a part": whole.select(range(3, 20)),
        "other classes": other.select_columns(whole.column_names),
        "exchanged": datasets.concatenate_datasets([whole.select(range(10, 23)), whole.select(range(10))]),
        "mapped": whole.map(lambda row: {"text": row["text"].upper()}),
    }
    for name, rows in views.items():
        for start in (0, 2):
            found = [*iterate_batches(rows, size, start)]
            starts = [*range(start, len(rows), size)]
            assert [positions.start for positions, _ in found] == starts, name
            assert [batch for _, batch in found] == [rows[place : place + size] for place in starts], name


class Killed(BaseException):
    """What a signal leaves of a process."""


def encoded(
    task: str, rows: datasets.Dataset, folder: Path, dies_after: int | None = None
) -> tuple[Examples, Any]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if dies_after is not None and done >= dies_after:
            raise Killed

    facts = extract_facts(datasets.DatasetDict(train=rows))
    family = "bpe" if task == "causal-lm" else "wordpiece"
    return encode(
        TASKS[task](length=16).runtime(),
        rows,
        TOKENIZERS[family],
        facts,
        folder / "train.arrow",
        packed=True,
        advance=advance,
        shard_tokens=20_000,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "at_once"), [("causal-lm", 4000), ("masked-lm", 4000), ("text-classification", 1000)]
)
def test_a_killed_encoding_goes_on_and_ends_with_the_same_bytes(
    task: str, at_once: int, tmp_path: Path
) -> None:
    count = 4 * at_once + 500
    rows = saved(tmp_path / "rows", count)
    whole, ledger = encoded(task, rows, tmp_path / "whole")
    files = sorted((tmp_path / "whole").iterdir())
    assert len(files) > 4
    assert ledger["rows"] == count
    for at in (at_once, 2 * at_once, 3 * at_once, count):
        folder = tmp_path / f"killed {at}"
        with pytest.raises(Killed):
            encoded(task, rows, folder, dies_after=at)
        assert not (folder / "train.json").exists()
        (folder / "train-00001.json").unlink(missing_ok=True)  # killed before it was written
        again, same = encoded(task, rows, folder)
        assert same == ledger
        assert [file.name for file in sorted(folder.iterdir())] == [file.name for file in files]
        assert all((folder / file.name).read_bytes() == file.read_bytes() for file in files)
        assert len(again) == len(whole) == len(again.lengths)
        ends = [(0, 0), (0, len(whole) - 1)]
        for one, other in zip(whole.__getitems__(ends), again.__getitems__(ends), strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 60], ids=["4,000 rows", "fewer rows"])
def test_concatenated_documents_do_not_depend_on_how_many_are_encoded_at_once(
    repeats: int, tmp_path: Path
) -> None:
    rows = saved(tmp_path / "rows", 4500).map(lambda row: {"text": row["text"] * repeats})
    found, _ = encoded("causal-lm", rows, tmp_path / "encoded")
    facts = extract_facts(datasets.DatasetDict(train=rows))
    task = TASKS["causal-lm"](length=16)
    encode_rows = partial(task.runtime().encoder.encode, tokenizer=TOKENIZERS["bpe"], facts=facts)
    apart = (Batch(dict(encode_rows(rows[at : at + 100])), 100) for at in range(0, 4500, 100))
    packed = [each.columns["input_ids"].values for each in pack(apart, 16, task.shared, [])]
    assert np.array_equal(found.read_ids(0, len(found)), np.concatenate(packed))


def test_long_texts_are_cut_as_each_would_be_alone() -> None:
    tokenizer = pieces.tokenizer(TEXTS)
    pairs = [*reversed(TEXTS)]
    found = encode_truncated(tokenizer, TEXTS, pairs, 12)
    wanted = as_lists(tokenizer, TEXTS, pairs, truncation="longest_first", max_length=12)
    assert (row_lists(found["input_ids"]), row_lists(found["token_type_ids"])) == wanted
    whole = as_lists(tokenizer, TEXTS, pairs)[0]
    assert found["truncated"] == [len(one) - len(other) for one, other in zip(whole, wanted[0], strict=True)]
    assert max(found["truncated"]) > 0
