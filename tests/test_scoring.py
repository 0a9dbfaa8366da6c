"""How examples are put together for a pass over a split: whole rows, each once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hfpipe.evaluation.loop import batch_rows
from hfpipe.evaluation.predictions_file import ROWS_AT_ONCE, Predictions, read_predictions, write_joined
from hfpipe.modeling.losses.losses import IGNORED, shift_labels


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 7), st.randoms())
def test_the_pieces_of_a_row_always_come_together(counts: list[int], batch_size: int, random: object) -> None:
    rows = np.repeat(np.arange(0, 3 * len(counts), 3), counts)
    lengths = np.array([random.randint(1, 50) for _ in rows])
    groups = batch_rows(rows, lengths, batch_size)
    assert np.sort(np.concatenate(groups)).tolist() == list(range(len(rows)))
    seen: set[int] = set()
    for group in groups:
        mine = set(rows[group].tolist())
        assert not mine & seen
        assert len(group) <= batch_size or len(mine) == 1
        assert (np.diff(rows[group]) >= 0).all()
        seen |= mine


def test_a_decoder_reads_what_it_is_to_say_one_step_later() -> None:
    class Config:
        decoder_start_token_id, pad_token_id = 7, 0

    labels = torch.tensor([[5, 6, 1], [4, 1, IGNORED]])
    assert shift_labels(labels, Config()).tolist() == [[7, 5, 6], [7, 4, 1]]


def test_predictions_lie_in_few_groups_of_rows_however_few_come_at_once(tmp_path: Path) -> None:
    count = ROWS_AT_ONCE + 10
    with Predictions(tmp_path / "predictions.parquet") as predictions:
        for number in range(count):
            predictions.add([f"row {number}"], np.array([number]), {"prediction": ["The Nile"], "nll": [0.5]})
    file = pq.ParquetFile(tmp_path / "predictions.parquet")
    assert file.num_row_groups == 2
    assert file.read()["row"].to_pylist() == list(range(count))


@pytest.mark.parametrize("before", [1, ROWS_AT_ONCE + 1])
def test_rows_that_come_later_may_tell_what_a_column_holds(tmp_path: Path, before: int) -> None:
    """As where the sentences that one process, or the first group of rows, is given are all empty."""
    parts = [tmp_path / f"{number}.part" for number in range(2)]
    rows = np.arange(before + 2)
    for part, some in zip(parts, (rows[:-1], rows[-1:]), strict=True):
        with Predictions(part) as predictions:
            for row in some.tolist():
                scores = [0.25] if row == before else []
                predictions.add([f"row {row}"], np.array([row]), {"score": [scores]})
    write_joined(parts[::-1], tmp_path / "predictions.parquet")
    positions, columns = read_predictions(tmp_path / "predictions.parquet")
    assert positions.tolist() == rows.tolist()
    assert list(columns["score"]) == [[]] * before + [[0.25], []]
