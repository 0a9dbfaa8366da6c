"""Python's garbage collector runs less often while rows are processed, and as before afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from hfpipe.garbage import ALLOCATIONS, collect_garbage_rarely


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """Restore the thresholds of this process."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(
    ("before", "inside"), [(700, ALLOCATIONS), (9 * ALLOCATIONS, 9 * ALLOCATIONS), (0, 0)]
)
def test_the_collector_runs_less_often_and_stays_off_where_it_is_off(before: int, inside: int) -> None:
    gc.set_threshold(before, 10, 11)
    with collect_garbage_rarely():
        assert gc.get_threshold() == (inside, 10, 11)
    assert gc.get_threshold() == (before, 10, 11)


def test_the_collector_is_as_before_after_a_failure() -> None:
    gc.set_threshold(701, 10, 10)
    with pytest.raises(KeyError), collect_garbage_rarely():
        raise KeyError
    assert gc.get_threshold() == (701, 10, 10)
