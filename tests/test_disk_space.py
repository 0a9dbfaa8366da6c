"""The disk that a plan needs, compared with what is free before anything starts."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import small
import toys

from hfpipe import api
from hfpipe.cli.main import main
from hfpipe.errors import HfpipeError
from hfpipe.estimation.disk import DiskSpace, DiskUse, compare_disk, get_free_bytes, measure_bytes

GB = 10**9
HUGE = {"type": "bert", "hidden_size": 65536, "num_hidden_layers": 20, "num_attention_heads": 256}
"""A model of terabytes."""


def recipe(folder: Path, rows: str, model: dict[str, Any], name: str = "rows.jsonl") -> Path:
    (folder / name).write_bytes(gzip.compress(rows.encode()) if name.endswith(".gz") else rows.encode())
    made = {
        "name": "disk",
        "stages": {
            "rows": {
                "kind": "dataset",
                "source": {"files": name},
                "columns": {"text": "text", "label": "label"},
            },
            "words": {"kind": "tokenizer", "data": "stage:rows", "algorithm": "wordpiece", "vocab_size": 90},
            "kinds": {
                "kind": "finetune",
                "task": {"kind": "text-classification", "length": 16},
                "data": "stage:rows",
                "tokenizer": "stage:words",
                "model": model,
                "training": {"max_steps": 4},
            },
        },
    }
    path = folder / "disk.yaml"
    path.write_text(json.dumps(made), encoding="utf-8")
    return path


def lines(number: int) -> str:
    """Return rows with the paragraphs of the manual, at most a number of them."""
    pages = sorted((small.ROOT / "docs").glob("*.md"))
    texts = [
        text for page in pages for text in page.read_text(encoding="utf-8").split("\n\n") if text.strip()
    ]
    rows = ({"text": text, "label": "ab"[row % 2]} for row, text in enumerate(texts[:number]))
    return small.to_json_lines(rows)


def space(path: Path, runs: Path) -> DiskSpace:
    made = api.load(path)
    steps = api.plan(made, runs)
    return api.disk_space(steps, api.sizes(made, steps), runs)


def test_stages_are_counted_one_after_the_other_and_not_again(tmp_path: Path) -> None:
    steps = toys.steps(toys.write(tmp_path), tmp_path / "runs")
    uses = [DiskUse(9 * GB, 1 * GB), DiskUse(2 * GB, 2 * GB), DiskUse(7 * GB, 3 * GB), None]
    found = compare_disk(steps, uses, tmp_path / "runs")
    assert found.needed == 10 * GB  # the third stage next to what the first two keep
    assert found.unknown == ("score",)
    assert found.free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    toys.make(tmp_path / "toy.yaml", tmp_path / "runs")
    steps = toys.steps(tmp_path / "toy.yaml", tmp_path / "runs")
    assert compare_disk(steps, uses, tmp_path / "runs").needed == 0


def test_what_an_interrupted_stage_has_written_is_not_needed_again(tmp_path: Path) -> None:
    steps = toys.steps(toys.write(tmp_path), tmp_path / "runs")
    steps[0].folder.mkdir(parents=True)
    (steps[0].folder / "half").write_bytes(bytes(400))
    found = compare_disk(steps[:1], [DiskUse(1000, 300)], tmp_path / "runs")
    assert found.needed == 600


def test_the_comparison_is_one_line() -> None:
    found = DiskSpace(Path("runs"), 3.1 * GB, int(1.2 * GB))
    assert str(found) == "needs about 3.1 GB, 1.2 GB free at runs/"
    assert not found.fits
    assert found.clearly_lacking
    near = DiskSpace(Path("runs"), 1.3 * GB, int(1.2 * GB), ("score",), (Path("/hub"), 5 * GB))
    assert not near.fits
    assert not near.clearly_lacking
    assert str(near).endswith(
        "; not counted, as not known yet: score; "
        "what is loaded from the Hub is not counted, 5 GB free at /hub/"
    )


def test_a_folder_that_is_not_there_yet_has_the_room_of_its_parent(tmp_path: Path) -> None:
    assert get_free_bytes(tmp_path / "a" / "b") == pytest.approx(get_free_bytes(tmp_path), rel=0.01)


@pytest.mark.parametrize("name", ["rows.jsonl", pytest.param("rows.jsonl.gz", marks=pytest.mark.slow)])
def test_a_data_set_takes_about_what_its_files_say(tmp_path: Path, name: str) -> None:
    path = recipe(tmp_path, lines(3000), HUGE, name)
    made = api.load(path)
    before = api.sizes(made, api.plan(made, tmp_path / "runs", until="rows"))[0].disk
    assert before is not None
    assert before.peak == 2 * before.kept
    folder = api.run(made, tmp_path / "runs", until="rows", say=lambda _: None).folders["rows"]
    assert before.kept / 3 < measure_bytes([folder]) < 3 * before.kept


@pytest.mark.slow
def test_a_plan_with_sizes_compares_need_and_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path, lines(10), HUGE)
    assert main(["plan", str(path), "--sizes", "--runs", str(tmp_path / "runs")]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("disk: ")]
    found = space(path, tmp_path / "runs")
    assert line.startswith(f"disk: needs about {found.needed / 1e12:.3g} TB, ")
    assert line.endswith(f"free at {tmp_path}/runs/")
    assert found.clearly_lacking


def test_a_run_that_clearly_does_not_fit_says_so_in_one_line_before_it_starts(tmp_path: Path) -> None:
    said: list[str] = []
    path = recipe(tmp_path, "{broken", HUGE)
    with pytest.raises(HfpipeError, match=r"rows\.jsonl"):
        api.run(api.load(path), tmp_path / "runs", say=said.append)
    assert len(said) == 1
    assert said[0].startswith("disk: needs about ")
    assert said[0].endswith("; free disk space, or lower save_total_limit")


def test_a_run_that_fits_says_nothing_of_the_disk(tmp_path: Path) -> None:
    said: list[str] = []
    small = {"type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(HfpipeError, match=r"rows\.jsonl"):
        api.run(api.load(recipe(tmp_path, "{broken", small)), tmp_path / "runs", say=said.append)
    assert said == []
