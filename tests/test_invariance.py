"""The manual says how far apart the numbers of each task are that should be equal, as they were measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cases import CASES

sys.path.append(str(Path(__file__).parent / "bench"))

import invariance

MEASURED = Path(__file__).parent / "bench" / "results" / "invariance.jsonl"


def test_the_table_of_the_manual_has_what_was_measured_of_every_task() -> None:
    measured = invariance.read_measured(MEASURED)
    assert sorted(measured) == sorted(CASES)
    for entry in measured.values():
        assert sorted(entry["trainings"]) == sorted(invariance.HEAD[1:5])
        assert [each for each in entry["trainings"].values() if each["passed"] is False] == []
        assert entry["evaluation"] < 1e-4
    text = invariance.MANUAL.read_text(encoding="utf-8")
    assert f"{invariance.BEGIN}\n{invariance.table(measured.values())}\n{invariance.END}" in text


@pytest.mark.slow
def test_a_task_is_measured_by_its_own_run_and_by_the_doctor(tmp_path: Path) -> None:
    found = invariance.measure_task("text-classification", tmp_path, ["accumulation", "packing"])
    accumulation, packing = found["trainings"].values()
    assert accumulation["passed"]
    assert 0 < accumulation["gradient"] < 1e-4
    assert packing["reason"] == "text-classification does not pack documents"
    assert 0 < found["evaluation"] < 1e-4
    row = invariance.table([found]).splitlines()[2]
    assert row.startswith("| `text-classification` | ")
    assert " | not measured | not packed | not measured | " in row
    page = tmp_path / "page.md"
    page.write_text(f"before\n{invariance.BEGIN}\nold\n{invariance.END}\nafter\n", encoding="utf-8")
    invariance.write_table(row, page)
    assert page.read_text() == f"before\n{invariance.BEGIN}\n{row}\n{invariance.END}\nafter\n"
