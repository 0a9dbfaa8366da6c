"""Takes the time of a training's steps on a CPU, and says when enough of them are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from parts.timing import profiler, write_profile

from cpu_parts.records import LOG, Settings, peak_rss_mb
from cpu_parts.works import Work

PROFILED = 2
"""Steps that are profiled after those that count, where that is asked for."""
RUN = 300.0
"""Seconds of the run for which a speed with compilation is computed."""
BORN = psutil.Process().create_time()
"""When this process began."""


@dataclass
class Clock:
    """The times at which steps ended.

    `warm` steps do not count, then at least `least` do and at least `settings.seconds` pass; their number
    is a multiple of `unit`.
    """

    settings: Settings
    title: str
    warm: int
    least: int = 2
    unit: int = 1
    started: float = 0.0
    ended: list[float] = field(default_factory=list)
    _profiler: Any = None
    _left: int = 0

    def start(self) -> None:
        """Note when the data are ready, and making the model begins."""
        self.started = time.perf_counter()

    def tick(self) -> bool:
        """Note the end of a step, and tell whether the training may end."""
        if self._profiler is not None:
            self._left -= 1
            if not self._left:
                self._profiler.stop()
                write_profile(self._profiler, self.title, "cpu", LOG)
            return not self._left
        self.ended.append(time.perf_counter())
        if not self._enough:
            return False
        if self.settings.profile:
            self._profiler, self._left = profiler("cpu"), PROFILED
            self._profiler.start()
            return False
        return True

    @property
    def _enough(self) -> bool:
        counted = len(self.ended) - self.warm
        if counted < self.least or counted % self.unit:
            return False
        return self.settings.toy or self.window >= self.settings.seconds

    @property
    def window(self) -> float:
        """Seconds of the steps that count."""
        return self.ended[-1] - self.ended[self.warm - 1]

    def share(self, calls: Sequence[tuple[float, float]]) -> float:
        """Return the share of the steps that count that calls took, from their starts and ends."""
        first, last = self.ended[self.warm - 1], self.ended[-1]
        return sum(end - start for start, end in calls if first <= start and end <= last) / self.window

    def facts(self, work: Work, tokens: Sequence[int], losses: Mapping[int, float]) -> dict[str, Any]:
        """Return what a record says; `tokens` has the number of each step, without padding."""
        steps = len(self.ended)
        counted = sum(tokens[self.warm : steps])
        done = counted if work.bench is not None else (steps - self.warm) * work.batch
        speed = done / self.window
        steady = steps * self.window / (steps - self.warm)
        setup = max(0.0, self.ended[-1] - self.started - steady)
        return {
            "unit": work.unit,
            "speed": round(speed, 1),
            "speed_5min": round(speed * max(0.0, RUN - setup) / RUN, 1),
            "setup_s": round(setup, 1),
            "flops_s": round(counted / self.window * work.flops),
            "step_ms": round(self.window / (steps - self.warm) * 1000, 1),
            "first_step_s": round(self.ended[0] - self.started, 1),
            "from_start_s": round(self.ended[0] - time.perf_counter() + time.time() - BORN, 1),
            "steps": steps,
            "window_s": round(self.window, 1),
            "step_seconds": [
                round(b - a, 3) for a, b in zip([self.started, *self.ended], self.ended, strict=False)
            ],
            "peak_rss_mb": peak_rss_mb(),
            "threads": torch.get_num_threads(),
            "losses": {str(step): round(loss, 4) for step, loss in losses.items()},
        }


Tick = Callable[[], bool]
