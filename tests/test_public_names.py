"""Every public name is there, is what it says, and can be used twice in a row."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hfpipe
from hfpipe.errors import HfpipeError, RecipeError

ROOT = Path(__file__).parent.parent
PUBLIC = ["hfpipe", "hfpipe.metrics", "hfpipe.recipe", "hfpipe.runner"]
"""Packages that say what they export."""
EXPORTED_MODULES = {"hfpipe.metrics"}
"""Modules that are public themselves: `hfpipe.metrics.path("bleu")`."""


def modules() -> list[str]:
    """Return the names of all modules of hfpipe but those that run when they are imported."""
    names = [found.name for found in pkgutil.walk_packages(hfpipe.__path__, "hfpipe.")]
    return ["hfpipe", *(name for name in names if not name.endswith(".__main__"))]


def test_no_module_hides_an_exported_name_once_everything_is_imported() -> None:
    packages = [found for found in map(importlib.import_module, modules()) if hasattr(found, "__all__")]
    assert {"hfpipe", "hfpipe.metrics", "hfpipe.recipe", "hfpipe.runner"} <= {
        each.__name__ for each in packages
    }
    hidden = [
        f"{package.__name__}.{name}"
        for package in packages
        for name in package.__all__
        if isinstance(getattr(package, name), ModuleType)
    ]
    assert set(hidden) == EXPORTED_MODULES


@pytest.mark.parametrize("package", PUBLIC)
def test_exported_names_are_sorted_and_documented(package: str) -> None:
    found = importlib.import_module(package)
    assert found.__all__ == sorted(found.__all__)
    assert [name for name in found.__all__ if not inspect.getdoc(getattr(found, name))] == []


RECIPE = "stages:\n  data: {kind: dataset, source: {files: a.txt}}\n"


def test_every_function_can_be_called_twice_in_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One line.\nAnother line.\n", encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    runs, recipe = tmp_path / "runs", hfpipe.load(path)
    first = hfpipe.run(recipe, runs, say=lambda _: None)
    calls: dict[str, Callable[[], Any]] = {
        "adopt": lambda: refusal(lambda: hfpipe.adopt(recipe, "data", runs)),
        "compare": lambda: refusal(lambda: hfpipe.compare(path, runs=runs)),
        "copy_recipe": lambda: hfpipe.copy_recipe("demo", tmp_path / "copied"),
        "demo": lambda: refusal(lambda: hfpipe.demo(tmp_path / "none")),
        "doctor": lambda: hfpipe.doctor(recipe, runs=runs),
        "explain": lambda: refusal(lambda: hfpipe.explain(tmp_path / "none", "a text")),
        "list_recipes": lambda: [each.name for each in hfpipe.list_recipes()],
        "explain_run": lambda: refusal(lambda: hfpipe.explain_run(hfpipe.open(path, runs))),
        "load": lambda: hfpipe.load(path).name,
        "open": lambda: hfpipe.open(path, runs).folders,
        "plan": lambda: [(step.name, step.done) for step in hfpipe.plan(recipe, runs)],
        "predict": lambda: refusal(lambda: hfpipe.predict(tmp_path / "none", ["a text"])),
        "replay": lambda: refusal(lambda: hfpipe.replay(tmp_path / "none")),
        "push": lambda: refusal(lambda: hfpipe.push(path, "owner/model", runs)),
        "rerun": lambda: hfpipe.rerun(recipe, "data", runs).differences,
        "run": lambda: hfpipe.run(recipe, runs, say=lambda _: None).folders,
        "schema": lambda: hfpipe.schema()["type"],
        "show": lambda: hfpipe.show(recipe, "data", runs).rows,
        "sizes": lambda: [size.stage for size in hfpipe.sizes(recipe, hfpipe.plan(recipe, runs))],
        "status": lambda: [(each.name, each.state) for each in hfpipe.status(recipe, runs)],
        "verify": lambda: [each.damage for each in hfpipe.verify(path, runs)],
    }
    public = {name for name in hfpipe.__all__ if inspect.isfunction(getattr(hfpipe, name))}
    assert calls.keys() == public
    once, again = ({name: call() for name, call in calls.items()} for _ in range(2))
    assert once == again
    assert once["run"] == once["open"] == first.folders
    assert once["sizes"] == ["data"]


def refusal(call: Callable[[], Any]) -> str:
    """Return the message of a call that names nothing to work on."""
    with pytest.raises(HfpipeError) as caught:
        call()
    return str(caught.value)


def told() -> set[str]:
    """Return every dotted name of hfpipe that a message, a docstring or a manual gives to users."""
    texts = [
        path.read_text(encoding="utf-8")
        for path in (ROOT / "README.md", ROOT / "recipes" / "README.md", *(ROOT / "docs").glob("*.md"))
    ]
    for path in (ROOT / "hfpipe").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts += [
            each.value
            for each in ast.walk(tree)
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
    return {name for text in texts for name in re.findall(r"\bhfpipe(?:\.[A-Za-z_]\w*)+(?![\w./-])", text)}


def test_every_name_that_users_are_told_to_use_is_there() -> None:
    names = told()
    assert {"hfpipe.TaskConfig", "hfpipe.sizes", "hfpipe.open"} & names
    assert [name for name in sorted(names) if not is_there(name)] == []


def is_there(name: str) -> bool:
    """Tell whether a dotted name is a module, or what an importable one has under that name."""
    module, _, last = name.rpartition(".")
    if module == "hfpipe":
        return last in hfpipe.__all__ or name in modules()
    return name in modules() or (module in modules() and hasattr(importlib.import_module(module), last))


def test_what_is_not_a_task_gets_the_name_of_the_base_class(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("import hfpipe\n\nclass Mine:\n    pass\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("One line.\n", encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    task = '  fit: {kind: pretrain, task: {kind: "code.py:Mine"}, data: stage:data, model: {type: bert}}\n'
    path.write_text(RECIPE + task, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"code\.py:Mine is not a subclass of hfpipe\.TaskConfig"):
        hfpipe.load(path)
    (tmp_path / "code.py").write_text(
        "import hfpipe\n\nclass Mine(hfpipe.TaskConfig):\n    pass\n", encoding="utf-8"
    )
    with pytest.raises(RecipeError, match="it must still define 'auto_class', 'columns' and 'runtime'"):
        hfpipe.load(path)
