"""How long work takes on a device, how much memory it needs, and where the time goes."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def median_seconds(work: Callable[[], Any], device: str, turns: int) -> float:
    """Return the median time of a piece of work, by CUDA events on a GPU, after three warm-up turns."""
    import torch

    for _ in range(3):
        work()
    synchronize(device)
    seconds = []
    for _ in range(turns):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            seconds.append(start.elapsed_time(end) / 1000)
        else:
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def release() -> None:
    """Give back the memory, the compiled code and Accelerate's settings of what was measured before."""
    import torch
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)  # else the first training's would hold for all
    GradientState._reset_state()
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float | None:
    """Return the largest memory that tensors took on the GPU since `release`, in GB."""
    import torch

    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if torch.cuda.is_available() else None


def graphs() -> dict[str, int]:
    """Return how many graphs torch.compile made since `release`, and how often it broke one."""
    from torch._dynamo.utils import counters

    return {
        "graphs": int(counters["stats"]["unique_graphs"]),
        "breaks": sum(counters["graph_break"].values()),
    }


def profiler(device: str) -> Any:
    """Return a profiler of kernels."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    return profile(activities=activities)


def write_profile(found: Any, title: str, device: str, log: Path) -> None:
    """Append the 25 entries that take the most time on the device to a log."""
    key = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    table = found.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=90)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n=== profile of {title}\n{table}\n")


def profiles_in(log: str) -> list[str]:
    """Return the profiles that were written into a log."""
    found = [part.partition("\n##### ")[0] for part in log.split("\n=== profile of ")[1:]]
    return [f"=== profile of {part}" for part in found]
