"""Timings tell whether other processes had the cores meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hfpipe.training.speed.timing import (
    BUSY,
    MOST_PASSES,
    PASSES,
    Timing,
    compare_timings,
    find_fastest,
    read_thread_delays,
    time_calls,
)

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux counts")


@contextmanager
def crowded(others: int) -> Iterator[None]:
    """Share one core with other processes that never wait."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    command = [sys.executable, "-S", "-c", "print(flush=True)\nwhile True: pass"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(others)]
    try:
        for each in started:
            assert each.stdout is not None
            each.stdout.readline()
        yield
    finally:
        for each in started:
            each.kill()
            each.communicate()
        os.sched_setaffinity(0, before)


def work(seconds: float) -> None:
    """Use the core for some time."""
    started = time.thread_time()
    while time.thread_time() - started < seconds:
        pass


def work_until_disturbed() -> None:
    """Use the core until others have had it for so long that the machine is busy."""
    before, started = sum(read_thread_delays().values()), time.perf_counter()
    while sum(read_thread_delays().values()) - before <= 2 * BUSY * (time.perf_counter() - started):
        work(0.005)


@linux
def test_work_that_shares_its_core_with_another_process_waits_for_it() -> None:
    with crowded(1):
        timings = [time_calls(lambda: work(0.03)) for _ in range(5)]
    # What is waited for before the clock is read and after it differs by load: the best one counts.
    timing = min(timings, key=lambda each: abs(each.seconds - 0.03 - each.waited))
    assert timing.busy
    assert timing.waited == pytest.approx(timing.seconds - 0.03, abs=0.02)


@linux
def test_a_process_that_sleeps_does_not_wait_for_a_core() -> None:
    with crowded(1):
        timing = min((time_calls(lambda: time.sleep(0.03)) for _ in range(3)), key=lambda each: each.waited)
    assert timing.waited < 0.02  # it waits once, when it wakes


def test_passes_without_other_processes_decide_even_if_a_disturbed_one_was_faster() -> None:
    quiet, disturbed = Timing(1.0, 0.9 * BUSY), Timing(0.9, 1.1 * BUSY)
    found = find_fastest({"a": [disturbed, quiet, Timing(1.2, 0.0)], "b": [quiet]})
    assert found.seconds == {"a": 1.0, "b": 1.0}
    assert not found.busy


def test_a_way_that_was_never_undisturbed_has_its_best_time_and_the_machine_was_busy() -> None:
    found = find_fastest({"a": [Timing(3.0, 1.0), Timing(2.0, 1.0)], "b": [Timing(1.0, 0.0)]})
    assert found.seconds == {"a": 2.0, "b": 1.0}
    assert found.busy


@linux
def test_more_passes_are_run_on_a_busy_machine_but_not_without_end() -> None:
    counts = {"a": 0, "b": 0}

    def run(name: str) -> None:
        counts[name] += 1
        work_until_disturbed()

    with crowded(1):
        found = compare_timings({name: lambda _, name=name: run(name) for name in counts})
    assert found.busy
    assert counts == {"a": 1 + MOST_PASSES, "b": 1 + MOST_PASSES}


def test_ways_take_turns_and_the_first_pass_of_each_only_warms_up() -> None:
    seen: list[tuple[str, int]] = []

    def run(name: str, number: int) -> None:
        seen.append((name, number))
        time.sleep(0.01 if number == 0 else 0.03)

    found = compare_timings({name: lambda number, name=name: run(name, number) for name in "ab"})
    assert seen[:4] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert len(seen) >= 2 * (1 + PASSES)
    assert all(seconds >= 0.03 for seconds in found.seconds.values())


def test_a_system_that_does_not_count_waiting_says_nothing_about_others(tmp_path: Path) -> None:
    assert read_thread_delays(tmp_path / "proc") == {}
    for thread, text in {"1": "5000 2000000000 3\n", "2": "", "3": "odd\n"}.items():
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(text, encoding="ascii")
    assert read_thread_delays(tmp_path) == {"1": 2.0}
