"""Lists the recipes that are shipped with hfpipe, and copies them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from hfpipe.errors import Problem, RecipeError
from hfpipe.recipe.messages import suggest

INSTALLED = Path(__file__).parents[1] / "recipes"
"""Their location in an installed wheel."""
CHECKOUT = Path(__file__).parents[2] / "recipes"
"""Their location in a clone of the repository."""


@dataclass(frozen=True)
class RecipeFile:
    """One of the recipes, or one of the Accelerate configs next to them."""

    name: str
    """Its path without the file extension, such as `demo` or `accelerate/fsdp`."""
    about: str
    """The first sentence of its comment."""
    path: Path
    """Path of the file."""


def list_shipped_recipes() -> list[RecipeFile]:
    """Return the recipes and the Accelerate configs, sorted by name. Raises RecipeError if there are none."""
    folder = _find_folder()
    files = sorted(folder.rglob("*.yaml"), key=lambda file: (len(file.parts), file))
    return [RecipeFile(_make_name(file, folder), _read_title(file), file) for file in files]


def copy_shipped_recipe(name: str, folder: str | Path = "recipes") -> list[Path]:
    """Copy a recipe and the files it refers to into a folder; return their paths, with the recipe first.

    An existing file with the same content is kept.
    Raises RecipeError, and copies nothing, when there is no such recipe or a different file exists.
    """
    shipped = {recipe.name: recipe for recipe in list_shipped_recipes()}
    if name not in shipped:
        tail = suggest(name, shipped) or f"; there are {', '.join(shipped)}"
        raise RecipeError([Problem(f"there is no recipe {name!r}{tail}")])
    base, target = _find_folder(), Path(folder)
    contents = {
        target / file.relative_to(base): file.read_bytes() for file in _find_needed(shipped[name].path, base)
    }
    if taken := [path for path, content in contents.items() if _is_taken(path, content)]:
        other = f"`hfpipe recipes copy {name} {quote(f'{target}-2')}`"
        raise RecipeError(
            [Problem(f"{path}: another file is there; copy into another folder: {other}") for path in taken]
        )
    for path, content in contents.items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(content)
    return list(contents)


def _find_folder() -> Path:
    for folder in (INSTALLED, CHECKOUT):
        if folder.is_dir():
            return folder
    raise RecipeError([Problem(f"{INSTALLED}: this installation lacks the recipes; install hfpipe again")])


def _make_name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _read_title(file: Path) -> str:
    found = re.match(r"(?:#.*\n)+", file.read_text(encoding="utf-8"))
    lines = [line.lstrip("# ") for line in found[0].splitlines()] if found else []
    return re.split(r"(?<=\.) ", " ".join(lines), maxsplit=1)[0]


def _find_needed(recipe: Path, base: Path) -> list[Path]:
    """Return a recipe and the files below `base` whose paths it contains, in a value or a comment."""
    text = recipe.read_text(encoding="utf-8")
    named = sorted(set(re.findall(r"[\w./-]+", text)))
    paths = [Path(path.removeprefix("recipes/")) for path in named]
    below = [
        path for path in paths if len(path.parts) > 1 and ".." not in path.parts and not path.is_absolute()
    ]
    return [recipe, *(base / path for path in below if (base / path).is_file() and base / path != recipe)]


def _is_taken(path: Path, content: bytes) -> bool:
    """Return whether something with different content exists at a path."""
    if not path.exists() and not path.is_symlink():
        return False
    return not path.is_file() or path.read_bytes() != content
