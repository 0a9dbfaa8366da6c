"""A finished stage that is run again gives the same to the bit, or the first step that differs is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import small

import hfpipe
from hfpipe.cli.main import main
from hfpipe.errors import RecipeError

NUDGED = """
import os
from dataclasses import replace

from hfpipe import Counted
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tasks.shared.objectives import TokenCrossEntropy


class Nudged(TokenCrossEntropy):
    step = 0

    def loss(self, outputs, batch, smoothing=0.0):
        total, targets = super().loss(outputs, batch, smoothing)
        type(self).step += 1
        nudge = 1.25 if os.environ.get("NUDGE") == str(self.step) else 1.0
        return Counted(total * nudge, targets)


class NudgedLM(MaskedLM):
    kind: str = "nudged.py:NudgedLM"

    def runtime(self):
        Nudged.step = 0
        return replace(super().runtime(), objective=Nudged())
"""
"""A task whose loss depends on something that no key holds."""


@pytest.mark.slow
def test_every_stage_is_equal_when_it_is_run_again_and_a_training_that_is_not_names_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nudged.py").write_text(NUDGED, encoding="utf-8")
    made = small.recipe("bert", eval_steps=3)
    made["stages"]["pretrain"]["task"]["kind"] = "nudged.py:NudgedLM"
    path, runs = small.write(tmp_path, made), tmp_path / "runs"
    recipe = hfpipe.load(path)
    hfpipe.run(recipe, runs, say=lambda _: None)
    before = {file: file.stat().st_mtime_ns for file in (runs / "small").rglob("*")}

    found = {name: hfpipe.rerun(recipe, name, runs) for name in made["stages"]}
    assert {name: each.differences for name, each in found.items()} == dict.fromkeys(made["stages"], ())
    assert "logged steps" in found["pretrain"].summary

    monkeypatch.setenv("NUDGE", "4")
    assert main(["verify", str(path), "--again", "pretrain", "--runs", str(runs)]) == 1
    printed = capsys.readouterr()
    assert "differs when it is run again" in printed.out + printed.err
    assert "step 4 is the first that differs: loss " in printed.err
    assert "model.safetensors differs" in printed.err
    after = {file: file.stat().st_mtime_ns for file in (runs / "small").rglob("*")}
    assert after == before


def test_a_stage_that_is_not_done_has_nothing_to_compare(tmp_path: Path) -> None:
    recipe = hfpipe.load(small.write(tmp_path, small.recipe()))
    with pytest.raises(RecipeError, match=r"small\.yaml: wiki is not done, so there is nothing to compare"):
        hfpipe.rerun(recipe, "words", tmp_path / "runs")
