"""No input makes the recipe loader or a reader hang, fill the memory or raise an error that is not ours."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script that fuzzes for as long as one wants."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "bench"))
    return importlib.import_module("fuzz")


@pytest.mark.slow
def test_two_thousand_changed_recipes_and_files_raise_nothing_that_is_not_ours(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ones on every machine, however fast it is."""
    monkeypatch.setattr(fuzz, "SECONDS", 60)  # as a loaded machine may take longer for one than it should
    tally = fuzz.fuzz(math.inf, batches=12 * len(fuzz.TARGETS))
    told = "\n".join(tally.lines())
    assert set(tally.tried) == {target.__name__ for target in fuzz.TARGETS}
    assert sum(tally.tried.values()) > 2000, told
    assert all(0 < tally.refused[name] < tally.tried[name] for name in tally.tried), told
    assert not tally.foreign, told
    assert not tally.slow, told


def test_what_is_not_ours_and_what_takes_too_long_are_both_found(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = fuzz.Tally()

    def fails(draw: object, folder: Path) -> None:
        raise KeyError("not ours")

    def hangs(draw: object, folder: Path) -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz, "SECONDS", 0.1)
    for target in (fails, fails, hangs):
        fuzz.one(target, None, tally)
    assert tally.tried == {"fails": 2, "hangs": 1}
    assert len(tally.foreign) == len(tally.slow) == 1
    assert list(tally.lines())[2:5] == [
        "inputs: 3",
        "exceptions that are not ours: 1",
        "inputs over 0.1 s or 4 GB: 1",
    ]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_inputs(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[str]] = [[], []]
    for seen in tried:

        def target(draw: object, folder: Path, seen: list[str] = seen) -> None:
            path, options = fuzz.file_of(draw, folder)
            seen.append(f"{path.name} {path.read_bytes()!r} {options}")

        monkeypatch.setattr(fuzz, "TARGETS", (target,))
        fuzz.batch(3, fuzz.Tally())
    assert tried[0] == tried[1]
    assert len(set(tried[0])) > 10
