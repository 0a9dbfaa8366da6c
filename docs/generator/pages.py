"""The pages of the manual that are generated from the code.

mkdocs takes them while it builds, by the hook `on_files`; `python docs/generator/pages.py FOLDER` writes them
into a folder, to be read without mkdocs.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from metrics_page import metrics
from settings_pages import settings, training_arguments

import hfpipe
from hfpipe.cli.parser import make_parser

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

PACKAGE = Path(hfpipe.__file__).parent
GUIDE = re.compile(r"\[([^\]]+)\]\(\.\./(?!reference/)([^)#]+)[^)]*\)")
"""A link to a file of the repository that is not part of the manual."""


def command_line() -> str:
    """Return the page of every command with its arguments."""
    whole = make_parser()
    [commands] = (action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    parts = ["# Command line", "Each command as `hfpipe COMMAND --help` prints it.", _help(whole)]
    for name, command in commands.choices.items():
        parts += [f"## hfpipe {name}", _help(command)]
    return "\n\n".join(parts) + "\n"


def _help(command: argparse.ArgumentParser) -> str:
    return f"```text\n{command.format_help().strip()}\n```"


def functions() -> str:
    """Return the page of every public name, each of which mkdocstrings fills in."""
    names = [name for name in hfpipe.__all__ if name != "metrics"]
    parts = ["# Python API", "Everything that `import hfpipe` gives.", "## Functions"]
    parts += [f"::: hfpipe.{name}" for name in names if name[0].islower()]
    parts += [f"::: hfpipe.metrics.{name}" for name in hfpipe.metrics.__all__]
    parts += ["## Classes", *(f"::: hfpipe.{name}" for name in names if name[0].isupper())]
    return "\n\n".join(parts) + "\n"


def modules() -> str:
    """Return the page of every module of the package, with the first sentence of each."""
    return (
        "\n\n".join(
            [
                "# Modules",
                "Every folder and module of the package, by its first sentence.",
                f"```text\n{tree()}\n```",
            ]
        )
        + "\n"
    )


def tree() -> str:
    """Return the tree of the package: a line for each folder and module."""
    lines = [("hfpipe/", first_sentence(PACKAGE / "__init__.py")), *_below(PACKAGE, "  ")]
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:{width}}{about}" for name, about in lines)


def _below(folder: Path, indent: str) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_file(), path.name)):
        if (path / "__init__.py").is_file():
            yield f"{indent}{path.name}/", first_sentence(path / "__init__.py")
            yield from _below(path, f"{indent}  ")
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield f"{indent}{path.name}", first_sentence(path)


def first_sentence(file: Path) -> str:
    """Return the first line of a module's docstring without the full stop; ValueError if it has none."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{file} has no docstring")
    return text.partition("\n")[0].removesuffix(".")


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/settings.md": settings,
    "reference/training-arguments.md": training_arguments,
    "reference/metrics.md": metrics,
    "reference/command-line.md": command_line,
    "reference/api.md": functions,
    "reference/modules.md": modules,
}
"""Path in the manual → what makes the page."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those that mkdocs has found."""
    from mkdocs.structure.files import File

    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Name a file of the repository where a guide links to one: the built manual stands alone."""
    return GUIDE.sub(
        lambda link: f"`{link[2]}`" if link[1] == link[2] else f"{link[1]} (`{link[2]}`)", markdown
    )


def main() -> None:
    """Write the pages into a folder."""
    folder = Path(sys.argv[1])
    for path, page in PAGES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
