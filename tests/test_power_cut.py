"""After a power cut nothing is taken for done whose content did not reach the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import small
from disk import Disk

import hfpipe
from hfpipe.encoding.shards import Batch, Shards, State
from hfpipe.store.files import write_atomically


def recorded(folder: Path) -> tuple[Disk, Path]:
    root = folder / "disk"
    root.mkdir()
    return Disk(root), root


NAMES = ("forced", "seen", "mixture")


def test_the_disk_of_this_test_loses_what_was_not_forced_onto_it(tmp_path: Path) -> None:
    disk, root = recorded(tmp_path)
    with disk.recording():
        (root / "lost.txt").write_text("never forced")
        (root / "nameless.txt").write_text("forced")
        with (root / "nameless.txt").open() as file:
            os.fsync(file.fileno())
    forced = disk.restore(disk.moments[-1], tmp_path / "forced", "forced")
    assert list(forced.iterdir()) == []
    seen = disk.restore(disk.moments[-1], tmp_path / "seen", "seen")
    assert (seen / "lost.txt").read_bytes() == bytes(12)
    assert (seen / "nameless.txt").read_text() == "forced"


def test_a_file_written_whole_is_there_whole_or_not_at_all_at_each_moment(tmp_path: Path) -> None:
    disk, root = recorded(tmp_path)
    with disk.recording():
        write_atomically(root / "a.json", "one")
        write_atomically(root / "a.json", "two")
    found = set()
    for number, moment in enumerate(disk.moments):
        for names in NAMES:
            file = disk.restore(moment, tmp_path / f"{number}-{names}", names) / "a.json"
            found.add(file.read_text() if file.exists() else None)
    assert found == {None, "one", "two"}
    assert (disk.restore(disk.moments[-1], tmp_path / "end", "forced") / "a.json").read_text() == "two"


def test_encoded_data_that_count_as_finished_are_whole_after_a_power_cut(tmp_path: Path) -> None:
    disk, root = recorded(tmp_path)
    batches = [Batch({"input_ids": [[number] * 20], "row": [number]}, 1) for number in range(4)]
    (root / "encoded").mkdir()
    with disk.recording():
        Shards(root / "encoded" / "train.arrow", 30).write(iter(batches), 0, State())
    finished = set()
    for number, moment in enumerate(disk.moments):
        for seed in range(6):
            runs = disk.restore(moment, tmp_path / f"{number}-{seed}", "mixture", seed)
            shards = Shards(runs / "encoded" / "train.arrow", 30)
            assert list(shards.find_damage()) == []
            finished.add(shards.resume()[0])
    assert finished == {0, 1, 2}


def sealed(runs: Path) -> set[str]:
    """Return the checkpoints that have a manifest."""
    return {
        str(file.relative_to(runs).parent) for file in runs.glob("small/*/.work/checkpoint-*/complete.json")
    }


@pytest.mark.slow
def test_a_power_cut_at_any_moment_leaves_nothing_done_that_is_not_whole(tmp_path: Path) -> None:
    """At 20 moments, with three states of the disk each.

    What is there counts as done, or as a whole checkpoint, only if every byte of it is there. What was done
    or saved before stays. From some of the moments the run ends with the same weights.
    """
    disk, root = recorded(tmp_path)
    content = small.recipe("bert", max_steps=12, save_steps=4)
    content["stages"]["score"]["baselines"] = ["majority"]
    path = small.write(tmp_path, content)
    reported: dict[str, int] = {}

    def say(line: str) -> None:
        reported[line.partition(":")[0]] = len(disk.moments)

    with disk.recording():
        whole = hfpipe.run(hfpipe.load(path), root / "runs", say=say)
    chosen = [round(number * (len(disk.moments) - 1) / 19) for number in range(20)]
    kept = 0
    for number in chosen:
        cut = {
            names: disk.restore(disk.moments[number], tmp_path / f"{number}-{names}", names) / "runs"
            for names in NAMES
        }
        before = sealed(
            disk.restore(disk.moments[max(0, number - 4)], tmp_path / f"{number}-before", "seen") / "runs"
        )
        assert sealed(cut["seen"]) & before <= sealed(cut["forced"])
        kept += len(before)
        for names, runs in cut.items():
            done = {file.parent.name.rpartition("-")[0] for file in runs.glob("small/*/report.json")}
            assert {stage for stage, when in reported.items() if when <= number} <= done
            if any(runs.glob("small/*/stage.json")):
                damage = [line for each in hfpipe.verify(runs / "small") for line in each.damage]
                # Of a checkpoint that was being removed a part may be left.
                assert [line for line in damage if names != "mixture" or "/checkpoint-" not in line] == []
    assert kept > 5
    for number in (chosen[10], chosen[14], chosen[17]):
        resumed = hfpipe.run(hfpipe.load(path), tmp_path / f"{number}-mixture" / "runs", say=lambda _: None)
        for stage in ("pretrain", "topics"):
            assert small.hash_weights(resumed.folders[stage]) == small.hash_weights(whole.folders[stage])
