"""What is installed: what the package imports is declared, and what is declared is pinned."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
OPTIONAL = ("deepspeed", "demo-page", "excel", "explain", "export", "lora", "search")


def declared(extra: str) -> dict[str, Requirement]:
    """Return the distributions that hfpipe asks for, or that one of its extras does."""
    found = map(Requirement, requires("hfpipe") or [])
    return {
        canonicalize_name(requirement.name): requirement
        for requirement in found
        if (f'extra == "{extra}"' in str(requirement.marker) if extra else requirement.marker is None)
    }


def imported() -> set[str]:
    """Return the distributions that modules of hfpipe import, wherever in the file."""
    names: set[str] = set()
    for path in (ROOT / "hfpipe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                names.add(node.module.partition(".")[0])
    owners = packages_distributions()
    others = names - sys.stdlib_module_names - {"hfpipe"}
    return {canonicalize_name(owners.get(name, [name])[0]) for name in others}


@pytest.mark.slow
def test_dependencies_are_what_the_package_imports() -> None:
    brought = {"pydantic-core", "markupsafe"}  # pydantic pins one to the letter, Jinja2 is made of the other
    asked = {"codecarbon", "liger-kernel"}  # by settings that say what to install
    of_torch = {"onnx", "onnxscript"}  # by which torch writes ONNX
    launched = {"deepspeed"}  # by Accelerate
    wanted = {name for extra in ("", *OPTIONAL) for name in declared(extra)}
    assert imported() - brought - asked == wanted - of_torch - launched


def test_every_dependency_is_pinned() -> None:
    text = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8")
    pinned = set(
        re.findall(r"^([a-z0-9-]+)==[\w.]+(?:; python_version (?:>=|<) \"3\.11\")?$", text, re.MULTILINE)
    )
    wanted = {name for extra in ("", "demo", "dev", "docs", *OPTIONAL) for name in declared(extra)} - {
        "hfpipe"
    }
    assert len(wanted) > 20
    assert wanted <= pinned
