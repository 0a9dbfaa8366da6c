"""Page of the metrics: the definition and the source of every score, from the docstrings of the metrics."""

from __future__ import annotations

import ast
from inspect import cleandoc
from pathlib import Path

from formatting import cell, prose, table

import hfpipe

BASES = Path(hfpipe.metrics.path("accuracy")).parents[1] / "module.py"
INTRODUCTION = (
    "Every metric is a module of `evaluate`: `evaluate.load(hfpipe.metrics.path(NAME))`. An evaluate stage "
    "computes those of its task, each with a 95 % interval "
    "([Evaluation](../evaluation.md#intervals-and-tests)). Where a metric is that of another library, the "
    "tests compare it with that library."
)


def metrics() -> str:
    """Return the page of every metric; those that take the same inputs are in one table."""
    bases = {node.name: _doc(node) for node in _classes(BASES)}
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for name in hfpipe.metrics.module_names():
        [found] = _classes(Path(hfpipe.metrics.path(name)))
        [base] = (ast.unparse(each).rpartition(".")[2] for each in found.bases)
        definition, _, source = _doc(found).partition("\n\nSource: ")
        groups.setdefault(base, []).append((f"`{name}`", cell(definition), cell(source)))
    parts = ["# Metrics", INTRODUCTION]
    for base, rows in groups.items():
        title, _, inputs = bases[base].partition(".\n\n")
        parts += [f"## {title}", prose(inputs), table(("metric", "definition", "source"), rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _classes(file: Path) -> list[ast.ClassDef]:
    return [
        node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)
    ]


def _doc(node: ast.ClassDef) -> str:
    return cleandoc(ast.get_docstring(node) or "")
