"""How long the command line takes when it starts nothing: best of ten, beside a bare Python."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

RECIPE = str(Path(__file__).parents[2] / "recipes" / "demo.yaml")
TURNS = 10
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "hfpipe --help": ["-m", "hfpipe", "--help"],
    "hfpipe check": ["-m", "hfpipe", "check", RECIPE],
    "hfpipe plan": ["-m", "hfpipe", "plan", RECIPE, "--runs", sys.argv[1] if sys.argv[1:] else "runs"],
}


def seconds(arguments: list[str]) -> float:
    """Return the wall time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    for name, arguments in COMMANDS.items():
        best = min(seconds(arguments) for _ in range(TURNS))
        print(f"{name:16}{best:6.2f} s   (best of {TURNS}; promised: 0.5)")
