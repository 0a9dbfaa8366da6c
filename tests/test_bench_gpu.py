"""The GPU benchmark: it runs whole at toy size, ends what hangs, and counts what it says it counts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent / "bench"
sys.path.append(str(BENCH))

from parts.corpus import write_texts, write_tokenizer  # noqa: E402
from parts.models import BENCHES, GPT2, LLAMA, LORA, sized  # noqa: E402
from parts.processes import ended  # noqa: E402


def bench(out: Path, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run the benchmark; return its exit code, the lines of its results and what it printed."""
    done = subprocess.run(
        [sys.executable, str(BENCH / "gpu.py"), *arguments],
        env={**os.environ, "OUT": str(out)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (out / "gpu.jsonl").read_text(encoding="utf-8").splitlines()
    return done.returncode, [json.loads(line) for line in lines], done.stdout + done.stderr


@pytest.mark.slow
def test_the_toy_size_runs_on_the_cpu(tmp_path: Path) -> None:
    parts = "a,c:gpt2-124m,f:equality,e:modernbert-base,u,l,m:gpt2-124m"
    code, lines, printed = bench(tmp_path, "--size", "toy", "--parts", parts)
    assert code == 0, printed
    assert [line for line in lines if "error" in line] == []
    machine, *others = lines
    assert machine["gemm_tflops"] > 0
    assert machine["copy_gb_s"] > 0
    assert machine["unmet"] == []
    finished = [(line["item"], line["status"]) for line in lines if line["part"] == "run"]
    assert finished == [(item, "ok") for item in parts.split(",")]
    tuned = [line["contender"] for line in lines if line["part"] == "u" and "rows_s" in line]
    assert tuned == ["fine-tuning, padded", "fine-tuning, unpadded"] * 2
    measured = [line for line in others if "tokens_s" in line and line["part"] != "u"]
    assert [line["contender"] for line in measured if line["part"] == "c"] == ["hfpipe", "trainer"]
    assert len([line for line in measured if line["part"] == "e"]) == 3
    modes = {line["contender"]: line["compile_mode"] for line in measured if line["part"] == "m"}
    assert len(modes) == 3
    assert all(name == f"hfpipe, {mode}" for name, mode in modes.items())
    for line in [line for line in measured if line["part"] in "cm"]:
        assert line["first_step_s"] >= 0
    ways = {line["way"]: line for line in lines if "way" in line}
    assert all(ways[name]["ok"] for name in ("logits, compiled", "chunks, compiled", "chunks"))
    assert all("skipped" in ways[name] or ways[name]["ok"] for name in ("Liger", "cut_cross_entropy"))
    for line in measured:
        model = sized(BENCHES[line["model"]], toy=True)
        assert line["tokens_s"] == pytest.approx(model.tokens / line["step_ms"] * 1000, rel=0.01)
        assert line["of_gemm"] == pytest.approx(
            line["tokens_s"] * model.flops / machine["gemm_tflops"] / 1e12, rel=0.02, abs=1e-4
        )
        assert 5 < line["loss"] < 7  # about the logarithm of the toy's vocabulary
        assert f"{line['tokens_s']:,}" in printed
    checked = {line["check"]: line for line in lines if "check" in line}
    for kind in ("gpt2", "llama", "qwen2", "modernbert"):
        for attention in ("sdpa", "flex_attention"):
            assert checked[f"separate documents, {kind}, {attention}"]["ok"] is True
        assert checked[f"unpadded, {kind}, fp32"]["ok"] is True
    assert "profile of gpt2-124m, hfpipe" in (tmp_path / "gpu.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_part_without_time_is_recorded_as_skipped(tmp_path: Path) -> None:
    code, lines, _ = bench(tmp_path, "--minutes", "0", "--parts", "a,c:bert-base")
    assert code == 1
    assert [(line["item"], line["status"]) for line in lines] == [
        ("a", "skipped"),
        ("c:bert-base", "skipped"),
    ]


@pytest.mark.slow
def test_a_part_that_hangs_is_ended_with_everything_that_it_started(tmp_path: Path) -> None:
    child = f"import time, pathlib; time.sleep(1.5); pathlib.Path({str(tmp_path / 'late')!r}).touch()"
    hanging = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    )
    started = time.monotonic()
    with (tmp_path / "output").open("wb") as output:
        code = ended([sys.executable, "-c", hanging], dict(os.environ), output, 0.7)
    assert code is None
    assert time.monotonic() - started < 60
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()


@pytest.mark.slow
def test_a_failed_part_is_recorded_with_its_last_lines_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('this torch is broken')\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, lines, printed = bench(tmp_path / "out", "--size", "toy", "--parts", "a,e:gpt2-124m")
    assert code == 1
    assert [(line["item"], line["status"]) for line in lines] == [("a", "failed"), ("e:gpt2-124m", "failed")]
    assert all("this torch is broken" in line["error"] for line in lines)
    assert "this torch is broken" in printed


def test_every_requirement_is_among_the_collected_wheels_or_named_as_being_there() -> None:
    from packaging.requirements import Requirement
    from parts.machine import needed

    script = (BENCH / "gpu_wheels.sh").read_text(encoding="utf-8")
    wheels, sources, there = (
        set(re.search(rf"^{name}=\((.*?)\)", script, re.M | re.S)[1].split())
        for name in ("wheels", "sources", "there")
    )
    pins = (BENCH.parents[1] / ".ci" / "constraints.txt").read_text(encoding="utf-8").lower().splitlines()
    pinned = dict(line.partition(";")[0].strip().split("==") for line in pins if "==" in line)
    requirements = {each.name: each.specifier for each in map(Requirement, needed())}
    assert {"torch", "transformers", "peft", "num2words"} <= requirements.keys() <= wheels | sources | there
    for name in wheels | sources:
        assert name in pinned
        assert pinned[name] in requirements.get(name, Requirement("any").specifier)


@pytest.mark.slow
def test_a_part_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "gpu.py"), "--parts", "a,z"],
        env={**os.environ, "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no part 'z'; there are a, b, c, d, e, f, l, m, u, c:gpt2-124m" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_gpt2_needs_the_flops_a_token_that_others_count() -> None:
    """124 million weights with 50,304 entries at length 1,024: 0.854 GFLOP, attention counted whole."""
    assert GPT2.flops / 1e9 == pytest.approx(0.854, abs=0.002)


@pytest.mark.slow
def test_frozen_weights_count_for_4_operations_a_token_and_those_of_an_adapter_for_6() -> None:
    attended = 12 * 24 * 1024 * 2048
    weights = 24 * (4 * 1024**2 + 3 * 1024 * 4096) + 32_000 * 1024
    adapters = 24 * 16 * (4 * (1024 + 1024) + 3 * (1024 + 4096))
    assert LLAMA.flops == pytest.approx(attended + 6 * weights, rel=0.001)
    assert LORA.flops == pytest.approx(attended + 4 * weights + 6 * adapters, rel=0.005)


@pytest.mark.parametrize("encoder", [True, False], ids=["encoder", "decoder"])
def test_each_word_of_the_synthetic_text_is_one_token(tmp_path: Path, encoder: bool) -> None:
    from transformers import AutoTokenizer

    write_texts(tmp_path / "texts.jsonl", 5000, words=100)
    write_tokenizer(tmp_path / "tokenizer", 256, encoder=encoder, words=100)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert len(tokenizer) == 256
    texts = [json.loads(line)["text"] for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert sum(map(len, ids)) == 5000
    assert not {tokenizer.unk_token_id} & {token for row in ids for token in row}
    assert (tokenizer.mask_token_id is not None) == encoder
    assert (tokenizer.eos_token_id is not None) != encoder
