"""The notebooks: stored without outputs, simple, and running whole on what is installed."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

import hfpipe

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IMPORTED = {"datasets", "hfpipe", "matplotlib", "numpy", "pandas", "scipy", "transformers", "warnings"}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

SHORTER = {
    "SAMPLE = 400_000": "SAMPLE = 100_000",
    "STEPS = [20, 200, 1000]": "STEPS = [10, 20, 40]",
    'CHANGES = ["': 'CHANGES = ["wiki.limit=1200", "pretrain.training.budget=40 steps", '
    '"pretrain.training.eval_steps=40", "',
    'CHANGES += [f"': 'CHANGES += ["alone.training.num_train_epochs=0.5", '
    '"student.training.num_train_epochs=0.5"]\nCHANGES += [f"',
    'length = [f"': 'length = ["wiki.limit=1200", f"',
    "quick = [": 'quick = ["numbers.limit=1500",',
    'TOKENS = "200k tokens"': 'TOKENS = "8k tokens"',
    "SMALL = [": 'SMALL = ["wiki.limit=600",',
    "STEPS = 150": "STEPS = 30",
    "=[100, 300, 900]": "=[10, 30]",
    "[DATA]": '[DATA, "wiki.limit=600"]',
    "SEEDS = [1, 2, 3]": "SEEDS = [1, 2]",
}
"""How long the models of the notebooks train → less than that; `make notebooks` runs them as they are."""

BEFORE = """
import json, sys
from pathlib import Path
from pytest_socket import disable_socket

disable_socket(allow_unix_socket=True)

def note(figure, figures=Path(__file__).with_name("figures.jsonl")):
    labels = [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes if ax.get_label() != "<colorbar>"]
    with figures.open("a") as file:
        file.write(json.dumps(labels) + "\\n")

def watch():
    pyplot = sys.modules.get("matplotlib.pyplot")
    for figure in map(pyplot.figure, pyplot.get_fignums() if pyplot else ()):
        note(figure)

def watch_result(result):
    if type(result.result).__name__ == "Figure":
        note(result.result)

get_ipython().events.register("post_execute", watch)
get_ipython().events.register("post_run_cell", watch_result)
"""
"""What a kernel runs first: it has no network, and notes the labels of each figure, drawn or returned."""


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> ast.Module:
    """Return the code of all cells; a trailing semicolon, which hides an output, is Python too."""
    return ast.parse("\n".join(cell.source for cell in read(path).cells if cell.cell_type == "code"))


def test_there_are_seven() -> None:
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4", "5", "6", "7"]


@each_notebook
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert len(cells) > 5
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@each_notebook
def test_a_notebook_explains_what_it_does(path: Path) -> None:
    kinds = [cell.cell_type for cell in read(path).cells]
    assert kinds[0] == "markdown"
    assert kinds.count("markdown") * 5 >= len(kinds) * 2
    assert "code code code" not in " ".join(kinds)


def test_a_notebook_links_to_what_is_there() -> None:
    cells = [(path, cell) for path in NOTEBOOKS for cell in read(path).cells if cell.cell_type == "markdown"]
    links = [(path, link) for path, cell in cells for link in re.findall(r"\]\(([^)]+)\)", cell.source)]
    assert links
    assert [link for path, link in links if not (path.parent / link).is_file()] == []


def test_the_recipe_of_the_notebooks_is_right() -> None:
    assert list(hfpipe.load(ROOT / "notebooks" / "small.yaml").stages) == [
        "wiki",
        "words",
        "pretrain",
        "topics",
        "score",
    ]


def test_the_last_notebook_goes_on_from_the_model_of_the_others() -> None:
    """Its first stages are written again, as a recipe includes no other, and must have the same keys."""
    first, last = (
        {step.name: step.identity.key for step in hfpipe.plan(hfpipe.load(ROOT / "notebooks" / name))}
        for name in ("small.yaml", "lighter.yaml")
    )
    shared = ("wiki", "words", "pretrain", "topics")
    assert [last[name] for name in shared] == [first[name] for name in shared]


@each_notebook
def test_a_notebook_uses_the_public_names_only(path: Path) -> None:
    used = set()
    for node in ast.walk(code(path)):
        if isinstance(node, ast.Import):
            used |= {alias.name.partition(".")[0] for alias in node.names}
            assert not any(alias.name.startswith("hfpipe.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert not node.module.startswith("hfpipe")
            used.add(node.module.partition(".")[0])
        elif (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hfpipe"
        ):
            assert node.attr in hfpipe.__all__
    assert "hfpipe" in used
    assert used <= IMPORTED


@each_notebook
def test_a_notebook_has_no_long_function(path: Path) -> None:
    for node in ast.walk(code(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 5, node.name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of recipes and notebooks, in which one takes up what another has made."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("notebooks", "recipes"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return copy


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which matplotlib has listed the fonts; it says on stderr where that takes long."""
    found = tmp_path_factory.mktemp("fonts")
    command = [sys.executable, "-c", "import matplotlib.font_manager"]
    subprocess.run(command, env=os.environ | {"MPLCONFIGDIR": str(found)}, capture_output=True, check=True)
    return found


def shorten(path: Path) -> None:
    """Let the models of a notebook train for less time."""
    notebook = read(path)
    for cell in notebook.cells:
        for long, short in SHORTER.items():
            if cell.cell_type == "code" and long in cell.source:
                cell.source = cell.source.replace(long, short)
    nbformat.write(notebook, path)


def test_what_makes_the_notebooks_shorter_is_in_them() -> None:
    sources = [cell.source for path in NOTEBOOKS for cell in read(path).cells if cell.cell_type == "code"]
    assert [long for long in SHORTER if not any(long in source for source in sources)] == []


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_without_network_and_labels_its_axes(
    path: Path, folder: Path, fonts: Path, tmp_path: Path
) -> None:
    startup = tmp_path / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "before.py").write_text(BEFORE, encoding="utf-8")
    copied = folder / "notebooks" / path.name
    shorten(copied)
    done = subprocess.run(
        [Path(sys.executable).with_name("jupyter"), "execute", "--inplace", copied],
        env=os.environ | {"IPYTHONDIR": str(tmp_path), "MPLCONFIGDIR": str(fonts)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    outputs = [output for cell in read(copied).cells for output in cell.get("outputs", ())]
    noise = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert noise == []
    figures = (startup / "figures.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(figures) >= 2
    assert sum("image/png" in output.get("data", {}) for output in outputs) == len(figures)
    for axes in map(json.loads, figures):
        assert axes
        assert all(label for labels in axes for label in labels)
