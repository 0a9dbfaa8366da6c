"""Compares the durations of alternatives, and detects whether other processes used the cores meanwhile.

The CPU time of a process does not show this: a thread that waits for another one uses little, even on an idle
machine. But Linux counts for each thread how long it was ready to run while others ran (the second number of
`/proc/PID/task/TID/schedstat`, Documentation/scheduler/sched-stats.rst), which is almost 0 on a machine with
a core for each thread. Load on shared memory or on the other thread of a core is not detected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

PASSES, MOST_PASSES = 2, 8
"""Number of timed passes per alternative after one warm-up pass, and the maximum number on a busy machine."""
BUSY = 0.05
"""Seconds that threads waited for a core, per second of a pass, above which the machine counts as busy.

The threads of a product wait for the slowest one, so a pass takes up to this much longer. It is half of the
difference above which an alternative counts as faster.
"""
THREADS = Path("/proc/self/task")
"""A folder for each thread of this process."""


@dataclass(frozen=True)
class Timing:
    """Duration of a call."""

    seconds: float
    waited: float
    """Summed seconds that threads of this process waited for a core meanwhile; 0 if this is not counted."""

    @property
    def busy(self) -> bool:
        """Whether other processes used the cores for so long that the duration is not representative."""
        return self.waited > BUSY * self.seconds


@dataclass(frozen=True)
class TimingComparison:
    """Durations of several alternatives."""

    seconds: dict[str, float]
    """Alternative → seconds of its fastest pass."""
    busy: bool
    """Whether all passes of some alternative were disturbed; ratios are then more reliable than seconds."""


def time_calls(run: Callable[[], Any]) -> Timing:
    """Call a function once, and return its duration."""
    before, started = read_thread_delays(), time.perf_counter()
    run()
    seconds = max(time.perf_counter() - started, 1e-9)
    after = read_thread_delays()
    return Timing(seconds, sum(after[thread] - before.get(thread, 0.0) for thread in after))


def compare_timings(ways: Mapping[str, Callable[[int], Any]]) -> TimingComparison:
    """Return the seconds of the fastest pass of each alternative.

    Alternatives take turns under the same conditions, and receive the number of the pass. Passes on a busy
    machine count only if an alternative has no others after `MOST_PASSES`.
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
    """Return the fastest undisturbed pass of each alternative, or its fastest pass if all were disturbed."""
    quiet = {name: [each for each in passes if not each.busy] for name, passes in found.items()}
    seconds = {name: min(each.seconds for each in quiet[name] or found[name]) for name in found}
    return TimingComparison(seconds, busy=not all(quiet.values()))


def read_thread_delays(threads: Path = THREADS) -> dict[str, float]:
    """Return the seconds that each thread of this process has waited for a core; empty if not on Linux."""
    found = {}
    for file in threads.glob("*/schedstat"):
        try:
            found[file.parent.name] = int(file.read_text(encoding="ascii").split()[1]) / 1e9
        except (OSError, ValueError, IndexError):  # for example, if a thread has ended
            continue
    return found
