"""Finds and loads user code, named as `file.py:name` in a recipe; no other code is executed."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from hfpipe.errors import DataError, format_typed_line
from hfpipe.references.places import Code, find_irregular_type


@dataclass(frozen=True)
class Trusted:
    """User code that may be executed: named by the current recipe or command, never by a stage's folder."""

    code: frozenset[tuple[Path, str]] = frozenset()
    """Resolved files, and the names inside them."""
    all: bool = False
    """Whether all user code may be executed, as with `trust_remote_code`."""

    @classmethod
    def from_code(cls, code: Iterable[Code], base: Path) -> Trusted:
        """Trust code whose path is relative to `base`."""
        return cls(frozenset(((base / each.file).resolve(), each.attribute) for each in code))

    def allows(self, code: Code, base: Path) -> bool:
        """Return whether code whose path is relative to `base` may be executed."""
        return self.all or ((base / code.file).resolve(), code.attribute) in self.code


NOTHING = Trusted()


def find_code(code: Code, base: Path) -> Path:
    """Return the file of user code after checking that it defines the name; executes nothing.

    `base` is the recipe's folder. Raises DataError when the file is missing, is not Python or lacks the name.
    """
    file = base / code.file
    try:
        file = file.resolve()
        if (kind := find_irregular_type(file)) is not None:
            raise DataError(f"{code}: {file} is {kind}; name a Python file")
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{code}: there is no {code.file}; fix the path, which is relative to {base}"
        ) from None
    except (OSError, RuntimeError) as error:  # RuntimeError: circular links
        cause = getattr(error, "strerror", None) or error
        raise DataError(f"{code}: {code.file} cannot be read: {cause}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # last two: code nested too deep
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise DataError(f"{code}: {file}{line} is not Python: {getattr(error, 'msg', error)}") from None
    names = _find_bound_names(tree)
    if code.attribute not in names:
        close = difflib.get_close_matches(code.attribute, names, n=1)
        tail = f"; did you mean {close[0]!r}?" if close else ""
        raise DataError(f"{code}: {file} defines no {code.attribute!r}{tail}")
    return file


def load_code(code: Code, base: Path) -> Any:
    """Execute the file and return the named function or class. Raises DataError in one line."""
    file = find_code(code, base)
    # The path is part of the module name, so that the `task.py` of two recipes are distinct.
    name = f"hfpipe_own_{file.stem}_{sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return getattr(module, code.attribute)
    except Exception as error:  # any exception of user code becomes one line
        raise DataError(f"{code}: {file} cannot be loaded: {type(error).__name__}: {error}") from error


def describe_failure(code: Code, base: Path, error: BaseException) -> str:
    """Return a one-line description of an error in user code, with its line number in the file."""
    file = (base / code.file).resolve()
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file]
    where = f", line {lines[-1]}" if lines else ""
    return f"{code} failed{where}: {format_typed_line(error)}; fix the task"


def _find_bound_names(tree: ast.Module) -> set[str]:
    """Return the names a module binds at its top level."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        else:
            names |= {
                n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
            names |= {n.name for n in ast.walk(node) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    return names
