"""The commands and the Python of the manual run, on a small copy of the recipe that they name."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_docs import ROOT, blocks

import hfpipe
from hfpipe.cli.main import main

FEW = {"max_steps": 2, "per_device_train_batch_size": 8}
SMALL = {
    "type": "modernbert",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
LEFT = re.compile(r"--processes|--accelerate|recipes copy|deepset/|--private|hfpipe demo")
"""Commands that start processes, serve a page, copy recipes or use the Hub; they have tests of their own."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the small recipe has run, with the files that the commands name."""
    folder = tmp_path_factory.mktemp("manual")
    shutil.copytree(ROOT / "recipes" / "sources", folder / "recipes" / "sources")
    recipe = yaml.safe_load((ROOT / "recipes" / "demo.yaml").read_text(encoding="utf-8"))
    for stage in recipe["stages"].values():
        if "training" in stage:
            stage["training"] = FEW
        if isinstance(stage.get("model"), dict):
            stage["model"] = SMALL
    del recipe["stages"]["from-scratch"]
    recipe["stages"]["wiki"]["limit"] = 400
    recipe["stages"]["words"]["vocab_size"] = 400
    recipe["stages"]["score"] |= {"baselines": ["majority", "tfidf"], "require": {}}
    (folder / "recipes" / "demo.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    lines = {
        "texts.jsonl": '{"text": "A river."}\n',
        "lines.txt": "A river.\n",
        "rows.csv": "A river.,x\n",
    }
    for name, text in lines.items():
        (folder / name).write_text(text, encoding="utf-8")
    runs = folder / "runs"
    hfpipe.run(hfpipe.load(folder / "recipes" / "demo.yaml"), runs, say=lambda _: None)
    for other in ("other", "third"):
        shutil.copytree(runs / "demo", runs / other)
    return folder


@pytest.mark.slow
def test_every_command_of_the_manual_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    lines = [
        line.partition(" > ")[0] for line in "".join(blocks("sh")).splitlines() if line.startswith("hfpipe")
    ]
    done = 0
    for line in dict.fromkeys(lines):
        if not LEFT.search(line):
            assert main(shlex.split(line, comments=True)[1:]) == 0, f"{line}: {capsys.readouterr().err}"
            done += 1
    assert done > 12
    assert (folder / "answers.jsonl").read_text(encoding="utf-8").count("prediction") == 1


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/predicting.md", "docs/evaluation.md"])
def test_the_python_of_the_manual_runs(folder: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page with `hfpipe.demo` runs in a process of its own: Gradio leaves sockets and event loops open."""
    monkeypatch.chdir(folder)
    trained = hfpipe.open("runs/demo").folder("topics").name
    code = "".join(blocks("python", page)).replace("topics-KEY", trained)
    (folder / "page.py").write_text(code, encoding="utf-8")
    if "hfpipe.demo(" in code:
        done = subprocess.run([sys.executable, "page.py"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "http://127.0.0.1:" in done.stdout
    else:
        assert runpy.run_path("page.py").keys() > {"hfpipe"}


@pytest.mark.slow
def test_the_manual_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    make = shutil.which("make")
    assert make is not None
    command = [make, "-o", ".venv/installed", "docs", f"ARGS=--site-dir {tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "INFO" in done.stderr  # a quiet build counts no warnings, and is never refused
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=.?(\S+)|<link[^>]* href=.?(\S+)", text)
        assert [each for each in loaded if "//" in "".join(each)] == [], page.name
    assert "hfpipe.predict" in (tmp_path / "reference" / "api.html").read_text(encoding="utf-8")
