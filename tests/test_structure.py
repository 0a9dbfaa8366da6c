"""How the package is built: names, folders and modules stay as small and as clear as the rules say."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from conftest import LONGEST

PACKAGE = Path(__file__).parent.parent / "hfpipe"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_FILES, MOST_LINES, LONGEST_FUNCTION = 15, 350, 50
SAME_INTERFACE = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("metrics/modules/*.py")}
"""`evaluate` loads a metric by its file, and each has the class that the file is named after."""


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def definitions() -> Iterator[tuple[str, str]]:
    """Yield each public top-level function and class with its module."""
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield node.name, name_of(path)


def test_no_public_name_is_defined_twice() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for name, module in definitions():
        if module not in SAME_INTERFACE:
            found[name].append(module)
    assert len(found) > 500
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=name_of)
def test_a_folder_has_few_files(folder: Path) -> None:
    files = [path for path in folder.glob("*.py") if name_of(path) not in SAME_INTERFACE]
    assert len(files) <= MOST_FILES


def test_a_module_fits_in_the_head() -> None:
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_a_function_fits_on_a_screen() -> None:
    found = {
        f"{name_of(path)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None
    }
    assert {name: count for name, count in found.items() if count > LONGEST_FUNCTION} == {}


def imported(path: Path, names: set[str]) -> Iterator[str]:
    """Yield the modules of hfpipe that a module imports where it is loaded."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in names else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {
        "hfpipe." + name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__"): path
        for path in MODULES
    }
    graph = {
        name: {each for each in imported(path, set(names)) if each in names} for name, path in names.items()
    }
    left = dict(graph)
    while free := [name for name, above in left.items() if not above & left.keys()]:
        for name in free:
            del left[name]
    assert sorted(left) == []


TASKS = sorted(PACKAGE.glob("tasks/**/*.py"))


def test_a_task_imports_in_a_function_only_its_runtime() -> None:
    """What needs torch is in modules that import it at their top."""
    found = [
        (name_of(path), function.name)
        for path in TASKS
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef)
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(function))
    ]
    assert {path for path, _ in found} == {name_of(path) for path in TASKS if path.name == "task.py"}
    assert {name for _, name in found} == {"runtime"}


def test_no_other_part_imports_the_folder_of_a_task() -> None:
    folders = {f"hfpipe.tasks.{path.parent.name}" for path in TASKS if path.name == "task.py"}
    assert len(folders) > 10
    imports = {
        (name_of(path), node.module)
        for path in MODULES
        if PACKAGE / "tasks" not in path.parents
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module is not None
    }
    assert {(path, module) for path, module in imports if ".".join(module.split(".")[:3]) in folders} == set()


def test_no_class_of_a_task_is_more_than_two_steps_below_its_root() -> None:
    """Parts of a task are composed: `Translation` is a `TaskConfig`, and that is `Settings`."""

    def depth(cls: type) -> int:
        ours = [base for base in cls.__bases__ if base.__module__.startswith("hfpipe.")]
        return 1 + max(map(depth, ours)) if ours else 0

    modules = [import_module(f"hfpipe.{name_of(path)[:-3].replace('/', '.')}") for path in TASKS]
    depths = {
        cls.__qualname__: depth(cls)
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and cls.__module__ == module.__name__
    }
    assert depths["Translation"] == 2
    assert {name: steps for name, steps in depths.items() if steps > 2} == {}


def test_the_files_of_tests_that_start_first_exist() -> None:
    assert [name for name in LONGEST if not Path(__file__).with_name(f"{name}.py").exists()] == []


def test_one_module_reads_rank_and_world_size_from_the_environment() -> None:
    found = {
        name_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and node.value in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    }
    assert found == {"distributed/world.py"}
