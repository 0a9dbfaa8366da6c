"""The CPU benchmark: it runs whole at toy size, and its tables say what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent / "bench"
sys.path.append(str(BENCH))

import cpu  # noqa: E402
from cpu_parts import tables  # noqa: E402
from cpu_parts.works import WORKS, work  # noqa: E402

PEAK = {
    "part": "peak",
    "round": 1,
    "processor": "A processor",
    "flags": ["avx2"],
    "cores": 2,
    "threads": 2,
    "bfloat16_gflops": 400.0,
    "float32_gflops": 200.0,
    "versions": {"torch": "2"},
}
README = f"# Title\n\n{tables.BEGIN}\nold\n{tables.END}\n\nThe rest.\n"


def bench(out: Path, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run the benchmark; return its exit code, the lines of its results and what it printed."""
    done = subprocess.run(
        [sys.executable, str(BENCH / "cpu.py"), *arguments],
        env={**os.environ, "OUT": str(out)},
        capture_output=True,
        text=True,
        check=False,
    )
    file = out / "cpu.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return done.returncode, [json.loads(line) for line in lines], done.stdout + done.stderr


def trained(contender: str, speed: float, **facts: Any) -> dict[str, Any]:
    """Return a line as a training leaves it."""
    return {
        "part": "train",
        "work": "causal-lm-6x384",
        "contender": contender,
        "round": 1,
        "unit": "tokens/s",
        "speed": speed,
        "speed_5min": speed / 2,
        "flops_s": 1e11,
        "peak_rss_mb": 900,
        "first_step_s": 2.0,
        "from_start_s": 9.0,
        "losses": {"2": 9.7, "4": 9.5},
    } | facts


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str, str]:
    """Run a part of each kind at toy size; return the lines of the results, what was printed, and the log."""
    out = tmp_path_factory.mktemp("toy")
    parts = ["--parts", "peak,causal-lm-6x384,seq2seq-4x256,checkpoints,preparation"]
    some = ["--contenders", "hfpipe,trainer-fast,loop,raw", "--rounds", "1", "--profile"]
    code, lines, printed = bench(out, "--size", "toy", *parts, *some)
    assert code == 0, printed
    return lines, printed, (out / "cpu.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_contender_is_measured_on_the_same_tokens(toy: tuple[list[dict[str, Any]], str, str]) -> None:
    lines, printed, log = toy
    model = work("causal-lm-6x384", toy=True)
    found = [line for line in lines if line["part"] == "train" and line["work"] == model.name]
    assert [line["contender"] for line in found] == ["hfpipe", "trainer-fast", "loop"]
    for line in found:
        assert line["speed"] == pytest.approx(model.batch * model.length / line["step_ms"] * 1000, rel=0.02)
        assert line["flops_s"] == pytest.approx(line["speed"] * model.flops, rel=0.02)
        assert 5 < line["losses"]["2"] < 7  # about the logarithm of the toy's vocabulary
        assert f"profile of {model.name}, {line['contender']}" in log
        assert f"profile of {model.name}, {line['contender']}" in printed
    equal = [line for line in lines if line["part"] == "equal"]
    assert [line["ok"] for line in equal] == [True] * 3
    for text in ("**hfpipe**, defaults", "plain loop, bf16", "GFLOP/s in bf16", "of the raw tokenizer"):
        assert text in printed


@pytest.mark.slow
def test_time_without_a_step_is_measured(toy: tuple[list[dict[str, Any]], str, str]) -> None:
    [ours] = [
        line for line in toy[0] if line["part"] == "train" and "waiting" in line and "6x384" in line["work"]
    ]
    assert 0 < ours["waiting"] < 1
    [line] = [line for line in toy[0] if line["part"] == "checkpoints"]
    assert len(line["still_s"]) == len(line["step_after_s"]) == 3
    assert all(seconds > 0 for seconds in line["still_s"])
    assert line["megabytes"] > 0
    assert 0 < line["share"] < 1


@pytest.mark.slow
def test_uneven_rows_are_measured_over_whole_epochs(toy: tuple[list[dict[str, Any]], str, str]) -> None:
    model = work("seq2seq-4x256", toy=True)
    ours, theirs = (line for line in toy[0] if line.get("work") == model.name and line["part"] == "train")
    assert ours["steps"] % model.epoch == theirs["steps"] % model.epoch == 0
    per_step = [line["speed"] * line["step_ms"] for line in (ours, theirs)]
    assert per_step[0] == pytest.approx(per_step[1], rel=0.02)  # the same tokens, padding apart


@pytest.mark.slow
def test_preparation_is_measured_with_its_memory(toy: tuple[list[dict[str, Any]], str, str]) -> None:
    lines = [line for line in toy[0] if line["part"] == "preparation"]
    found = {(line["contender"], line["what"]): line for line in lines}
    assert list(found) == [("hfpipe", "dataset"), ("hfpipe", "encoding"), ("raw", "encoding")]
    assert all(line["mb_s"] > 0 for line in lines)
    assert all(line["megabytes"] == pytest.approx(0.1, rel=0.05) for line in lines)
    for what in ("dataset", "encoding"):
        assert found["hfpipe", what]["rss_mb"] > found["hfpipe", what]["anonymous_mb"] > 0


@pytest.mark.slow
def test_a_contender_without_time_is_recorded_as_skipped(tmp_path: Path) -> None:
    code, lines, _ = bench(tmp_path, "--minutes", "0", "--parts", "causal-lm-6x384", "--contenders", "loop")
    assert code == 1
    assert {line["status"] for line in lines if line["part"] == "run"} == {"skipped"}


def test_what_was_out_of_time_in_the_first_round_is_not_begun_again() -> None:
    first, second, other = (cpu.Item("start", *each, 20) for each in (("a", 1), ("a", 2), ("b", 2)))
    lines = [{"part": "run", "item": first.name, "status": "out of time"}, {"part": "begin"}]
    assert cpu.why_not(second, lines, 1000) == "it was out of time in the first round"
    assert cpu.why_not(first, [], 1000) is None
    assert cpu.why_not(other, lines, 1000) is None
    assert cpu.why_not(other, lines, 1) == "no time left"


@pytest.mark.slow
def test_a_part_or_contender_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    code, lines, printed = bench(tmp_path, "--parts", "peak,gpu")
    assert code == 2
    assert "no part 'gpu'; there are peak, masked-lm-4x256" in printed
    code, lines, printed = bench(tmp_path, "--parts", "seq2seq-4x256", "--contenders", "loop")
    assert code == 2
    assert "have no 'loop'; they have hfpipe, trainer, trainer-fast, trainer-eager" in printed
    assert lines == []
    code, lines, printed = bench(tmp_path, "--megabytes", "20,")
    assert code == 2
    assert "--megabytes: write whole numbers, as 20,200" in printed


def test_the_table_of_checkpoints_has_the_share_of_time_without_a_step() -> None:
    facts = {
        "still_s": [1.0, 1.5, 3.0],
        "share": 0.0421,
        "seconds_between": 30.2,
        "share_each_minute": 0.0306,
    }
    line = {"part": "checkpoints", "work": "causal-lm-6x384", "megabytes": 204.3, **facts}
    text = tables.markdown([line, trained("hfpipe", 300.0, waiting=0.0049)])
    assert "| causal-lm-6x384 | 204 MB | 1.50 [1.00, 3.00] s | 4.2% of 30 s | 3.1% |" in text
    assert "|  | 0.5% | 900 MB |" in text


def test_the_table_has_medians_ranges_and_ratios() -> None:
    lines = [PEAK, trained("hfpipe", 300.0), trained("trainer", 100.0), trained("hfpipe", 500.0, round=2)]
    text = tables.markdown(lines)
    assert "| causal-lm-6x384 | **hfpipe**, defaults | 400 [300, 500] tokens/s |  | 150 |" in text
    assert (
        "| Trainer, defaults | 100 tokens/s | 4.00× | 50 | 3.00× | 25% |  | 900 MB | 2.0 s | 9.0 s |" in text
    )


def test_a_contender_whose_loss_differs_has_not_done_equal_work() -> None:
    odd = trained("loop", 100.0, losses={"2": 9.7, "4": 9.0, "6": 9.0})
    none = trained("trainer", 100.0, losses={})
    found = list(tables.equal_work([trained("hfpipe", 300.0), odd, none, trained("loop-compiled", 100.0)]))
    assert [(line["contender"], line["step"], line["ok"]) for line in found] == [
        ("loop", 4, False),
        ("trainer", None, False),
        ("loop-compiled", 4, True),
    ]


@pytest.mark.slow
def test_the_table_of_an_earlier_run_replaces_what_is_between_the_markers(tmp_path: Path) -> None:
    manual, readme = tmp_path / "docs" / "speed.md", tmp_path / "tests" / "bench" / "README.md"
    results = tmp_path / "earlier.jsonl"
    begin = {"part": "begin", "date": "2026-11-27", "commit": "abc", "load": 0.25}
    lines = [begin, PEAK, trained("hfpipe", 300.0), trained("trainer", 100.0)]
    results.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    for file in (manual, readme):
        file.parent.mkdir(parents=True)
        file.write_text(README, encoding="utf-8")
    arguments = ["--table-from", str(results), "--write-table", "--root", str(tmp_path)]
    for _ in range(2):
        code, _, printed = bench(tmp_path / "out", *arguments)
        assert code == 0, printed
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# Title")
    assert text.endswith("The rest.\n")
    assert "old" not in text
    assert text.count("3.00×") == 2
    assert "2026-11-27, A processor" in text
    assert "| causal-lm-6x384 | 300 tokens/s | 100 (3.00×) |" in manual.read_text(encoding="utf-8")
    kept = readme.parent / "results" / "2026-11-27-cpu.jsonl"
    assert kept.read_text(encoding="utf-8") == results.read_text(encoding="utf-8")
    assert (readme.parent / "results" / "2026-11-27-cpu.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_readme_names_every_work_and_has_a_place_for_the_table() -> None:
    for file in (BENCH / "README.md", BENCH.parents[1] / "docs" / "speed.md"):
        text = file.read_text(encoding="utf-8")
        assert 0 < text.index(tables.BEGIN) < text.index(tables.END)
    text = (BENCH / "README.md").read_text(encoding="utf-8")
    assert all(f"`{each.name}`" in text for each in WORKS)
