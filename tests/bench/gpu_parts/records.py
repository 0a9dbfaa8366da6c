"""What every part of the GPU benchmark shares: where it writes, its device, how it takes the time."""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
RESULTS = Path(os.environ.get("OUT") or ROOT / "tests" / "bench" / "results")
RECORDS = RESULTS / "gpu.jsonl"
LOG = RESULTS / "gpu.log"
NOMINAL = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Part of a GPU's name → dense bf16 FLOP/s by the vendor's datasheet (SXM)."""


@dataclass(frozen=True)
class Settings:
    """What a part is told."""

    toy: bool
    """Tiny models on the CPU, to try the script itself."""
    work: Path
    """Scratch folder that all parts of a run share."""
    deadline: float
    """`time.time()` by which the part has to end."""
    contenders: tuple[str, ...] = ("hfpipe", "trainer")
    """What part c measures."""

    @property
    def device(self) -> str:
        """Device of the measurements."""
        return "cpu" if self.toy else "cuda"

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()


def emit(part: str, **values: Any) -> None:
    """Append one JSON line to the results."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with RECORDS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"part": part, **values}) + "\n")
    print(f"{part}: " + ", ".join(f"{name} {value}" for name, value in values.items())[:400], flush=True)


def read() -> list[dict[str, Any]]:
    """Return the lines written so far."""
    if not RECORDS.exists():
        return []
    return [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()]


def peaks() -> tuple[float | None, float | None]:
    """Return the FLOP/s in bf16 of the datasheet and of the measured matrix product, where they are known."""
    machine = next((line for line in read() if line["part"] == "a" and "gemm_tflops" in line), None)
    if machine is None:
        return None, None
    nominal = next((peak for name, peak in NOMINAL.items() if name in machine["gpu"]), None)
    return nominal, machine["gemm_tflops"] * 1e12


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
