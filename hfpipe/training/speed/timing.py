"""Times ways of doing the same thing, and tells whether other processes had the cores meanwhile.

The time that a process has used a core does not tell: a thread that waits for another uses little, however
idle the machine is. But Linux counts for each thread how long it was ready to run while others ran (the
second number of `/proc/PID/task/TID/schedstat`, Documentation/scheduler/sched-stats.rst), which is next to
nothing on a machine with a core for each thread. Load on the same memory or on the other thread of a core is
not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

PASSES, MOST_PASSES = 2, 8
"""Passes of each way that are timed after one to warm up; more, up to the second, on a busy machine."""
BUSY = 0.05
"""Seconds that threads waited for a core, for each second of a pass, from which on the machine was busy.

The threads of a product wait for the slowest of them, so that a pass takes up to so much longer: half of the
difference from which on one way counts as faster than another.
"""
THREADS = Path("/proc/self/task")
"""A folder for each thread of this process."""


@dataclass(frozen=True)
class Timing:
    """How long something took."""

    seconds: float
    waited: float
    """Seconds that threads of this process waited for a core meanwhile, summed; 0 where nobody counts."""

    @property
    def busy(self) -> bool:
        """Whether other processes had the cores for so long that the time is not that of the machine."""
        return self.waited > BUSY * self.seconds


@dataclass(frozen=True)
class TimingComparison:
    """How long each of several ways takes."""

    seconds: dict[str, float]
    """Way → seconds of its fastest pass."""
    busy: bool
    """Whether some way had no pass without other processes; ratios are then better known than seconds."""


def time_calls(run: Callable[[], Any]) -> Timing:
    """Run something once, and return how long it took."""
    before, started = read_thread_delays(), time.perf_counter()
    run()
    seconds = max(time.perf_counter() - started, 1e-9)
    after = read_thread_delays()
    return Timing(seconds, sum(after[thread] - before.get(thread, 0.0) for thread in after))


def compare_timings(ways: Mapping[str, Callable[[int], Any]]) -> TimingComparison:
    """Return the seconds of the fastest pass of each way.

    The ways take turns, so that all see the same machine, and are given the number of the pass. Passes during
    which the machine was busy count only where a way has no other after `MOST_PASSES`.
    """
    found: dict[str, list[Timing]] = {name: [] for name in ways}
    for number in range(1 + MOST_PASSES):
        for name, run in ways.items():
            timing = time_calls(partial(run, number))
            if number:
                found[name].append(timing)
        if number >= PASSES and not find_fastest(found).busy:
            break
    return find_fastest(found)


def find_fastest(found: Mapping[str, list[Timing]]) -> TimingComparison:
    """Return the fastest pass of each way, of those without other processes where there are any."""
    quiet = {name: [each for each in passes if not each.busy] for name, passes in found.items()}
    seconds = {name: min(each.seconds for each in quiet[name] or found[name]) for name in found}
    return TimingComparison(seconds, busy=not all(quiet.values()))


def read_thread_delays(threads: Path = THREADS) -> dict[str, float]:
    """Return the seconds that each thread of this process has waited for a core; nothing if not on Linux."""
    found = {}
    for file in threads.glob("*/schedstat"):
        try:
            found[file.parent.name] = int(file.read_text(encoding="ascii").split()[1]) / 1e9
        except (OSError, ValueError, IndexError):  # as of a thread that has ended by now
            continue
    return found
