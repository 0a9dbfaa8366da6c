"""Where a benchmark keeps what it measures: one JSON line a measurement, and a log of what was printed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
RESULTS = Path(os.environ.get("OUT") or ROOT / "tests" / "bench" / "results")


class Records:
    """The results of one benchmark, `NAME.jsonl` and `NAME.log`."""

    def __init__(self, name: str) -> None:
        self.path, self.log = RESULTS / f"{name}.jsonl", RESULTS / f"{name}.log"

    def clear(self) -> None:
        """Make the folder, and delete what an earlier run left in it."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)

    def emit(self, part: str, **values: Any) -> None:
        """Append one JSON line to the results."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": part, **values}) + "\n")
        print(f"{part}: " + ", ".join(f"{name} {value}" for name, value in values.items())[:400], flush=True)

    def read(self) -> list[dict[str, Any]]:
        """Return the lines written so far."""
        return lines_of(self.path) if self.path.exists() else []


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of results."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
