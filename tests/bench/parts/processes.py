"""Runs one measurement in a process of its own, for a limited time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import IO

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
}
KEPT = 600_000
"""Bytes of what a process printed that the log keeps."""


def ended(command: list[str], environ: dict[str, str], output: IO[bytes], limit: float) -> int | None:
    """Run a command and all that it starts for `limit` seconds at most; return its code, None without one."""
    process = subprocess.Popen(
        command, env=environ, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def logged(name: str, output: IO[bytes], log: Path) -> str:
    """Append the end of what a process printed to a log, and return it."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - KEPT))
    text = output.read().decode(errors="replace")
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n##### {name}\n{text}\n")
    return text
