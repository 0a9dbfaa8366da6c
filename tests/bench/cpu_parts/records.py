"""What every part of the CPU benchmark shares: its records and its settings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from parts.records import Records

CPU = Records("cpu")
emit, read, LOG = CPU.emit, CPU.read, CPU.log


@dataclass(frozen=True)
class Settings:
    """What a part is told."""

    toy: bool
    """Tiny models and few rows, to try the script itself."""
    work: Path
    """Scratch folder that all parts of a run share."""
    deadline: float
    """`time.time()` by which the part has to end."""
    round: int
    """Which turn this is; compiled code and caches of the first turn are there in the next."""
    profile: bool
    """Whether to show where the time of a step goes."""
    seconds: float
    """Least time of the steps that count."""
    megabytes: int
    """Text that data preparation is given."""

    @property
    def data(self) -> Path:
        """Folder of the data and tokenizers."""
        return self.work / "data"

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()


def peak_rss_mb() -> int:
    """Return the largest resident memory of this process so far, in MB, mapped files included."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
