"""What every part of the GPU benchmark shares: its records, its settings, the two peaks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from parts.records import Records

GPU = Records("gpu")
emit, read, LOG = GPU.emit, GPU.read, GPU.log
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


def peaks() -> tuple[float | None, float | None]:
    """Return the FLOP/s in bf16 of the datasheet and of the measured matrix product, where they are known."""
    machine = next((line for line in read() if line["part"] == "a" and "gemm_tflops" in line), None)
    if machine is None:
        return None, None
    nominal = next((peak for name, peak in NOMINAL.items() if name in machine["gpu"]), None)
    return nominal, machine["gemm_tflops"] * 1e12
