"""What the README, the Makefile and the recipes say of themselves is true."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from fnmatch import filter as matching
from fnmatch import fnmatch
from operator import attrgetter
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import yaml

import hfpipe
from hfpipe.encoding.io import open_split

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
IGNORED = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()]
PROMISED = (
    "install demo pretrain finetune eval report notebook notebooks check test test-all golden bench "
    "bench-gpu clean help"
)
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "accelerate")

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def blocks(language: str) -> list[str]:
    """Return the README's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Return the words of every command line that the README shows."""
    lines = "".join(blocks("sh")).splitlines()
    return [words for line in lines if (words := shlex.split(line.partition(" > ")[0], comments=True))]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_the_makefile_has_the_promised_targets() -> None:
    assert targets() == set(PROMISED.split())


def test_every_target_has_a_line_of_help() -> None:
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run(
        [make, "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    shown = {line.split()[1] for line in done.stdout.splitlines() if len(line.split()) > 2}
    assert shown == targets()


def test_every_target_the_readme_names_exists() -> None:
    named = {words[1] for words in commands() if words[0] == "make"} | set(
        re.findall(r"`make ([a-z-]+)", README)
    )
    assert len(named) > 5
    assert named <= targets()
    recipes = {word.removeprefix("RECIPE=") for words in commands() for word in words if "RECIPE=" in word}
    assert len(recipes) > 1
    assert all((ROOT / recipe).is_file() for recipe in recipes)


def test_every_command_the_readme_shows_is_understood() -> None:
    """Options are read, and recipes looked for, without running anything."""
    from hfpipe.cli.parser import parse_command_line

    shown = [words[1:] for words in commands() if words[0] == "hfpipe"]
    shown += [words[words.index("hfpipe") + 1 :] for words in commands() if words[0] == "accelerate"]
    assert len(shown) > 5
    for words in shown:
        options = vars(parse_command_line(words))
        for path in (options.get("recipe"), *options.get("recipes", []), options.get("accelerate")):
            assert path is None or (ROOT / path).is_file(), f"{shlex.join(words)}: there is no {path}"


def tree() -> dict[str, set[str]]:
    """Return what the README says is in each folder whose content it lists; `.` is the top."""
    [block] = [block for block in blocks("text") if "pyproject.toml" in block]
    folders: dict[str, set[str]] = {".": set()}
    above: list[str] = []
    for line in block.splitlines():
        entry = re.fullmatch(r"((?:  )*)(\S+)  +(\S.*)", line)
        assert entry is not None, f"no name and comment: {line!r}"
        above = [*above[: len(entry[1]) // 2], entry[2].rstrip("/")]
        folders.setdefault("/".join(above[:-1]) or ".", set()).add(entry[2])
    return folders


def is_ignored(path: Path) -> bool:
    return any(fnmatch(each, name) for name in IGNORED for each in (path.name, f"/{path.relative_to(ROOT)}"))


def real(folder: Path) -> set[str]:
    """Return the names in a folder as the tree writes them; of the package only its folders."""
    return {
        path.name + "/" * path.is_dir()
        for path in folder.iterdir()
        if path.name not in {".git", "__init__.py"} and not is_ignored(path)
        if (any(path.iterdir()) if path.is_dir() else not folder.is_relative_to(ROOT / "hfpipe"))
    }


@pytest.mark.parametrize("folder", sorted(tree()))
def test_the_tree_of_the_readme_is_the_real_one(folder: str) -> None:
    shown, there = tree()[folder], real(ROOT / folder)
    assert [entry for entry in shown if not matching(there, entry)] == []
    assert [name for name in there if not any(fnmatch(name, entry) for entry in shown)] == []


def test_the_tree_opens_the_package() -> None:
    shown = {f"{above}/{entry}" for above, entries in tree().items() for entry in entries}
    tasks = {path.parent for path in (ROOT / "hfpipe" / "tasks").glob("*/task.py")}
    folders = {path.parent for path in (ROOT / "hfpipe").glob("*/*/*.py")} - tasks
    assert {f"{folder.relative_to(ROOT).as_posix()}/" for folder in folders} <= shown


def test_there_are_recipes() -> None:
    assert "demo" in [path.stem for path in RECIPES]


@each_recipe
def test_the_recipe_is_right(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(
        "HF_HUB_OFFLINE"
    )  # what is on the Hub is not here; reading a recipe does not ask for it
    assert hfpipe.load(recipe).stages


@each_recipe
def test_the_recipe_says_how_to_run_it(recipe: Path) -> None:
    header = re.match(r"(#.*\n)+", recipe.read_text(encoding="utf-8"))
    assert header is not None
    assert f"hfpipe run {recipe.relative_to(ROOT).as_posix()}" in header[0]


def test_the_recipe_that_the_readme_explains_is_right(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "recipes" / "sources", tmp_path / "sources")
    (tmp_path / "readme.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    assert list(hfpipe.load(tmp_path / "readme.yaml").stages) == [
        "wiki",
        "words",
        "pretrain",
        "topics",
        "score",
    ]


def test_the_task_that_the_readme_adds_is_taken(tmp_path: Path) -> None:
    [code] = [block for block in blocks("python") if "class FirstWords" in block]
    (tmp_path / "first_words.py").write_text(code, encoding="utf-8")
    shutil.copytree(ROOT / "recipes" / "sources", tmp_path / "sources")
    own = next(block for block in blocks("yaml") if "FirstWords" in block).strip()
    recipe = blocks("yaml")[0].replace("task: text-classification ", own + " ")
    (tmp_path / "readme.yaml").write_text(recipe, encoding="utf-8")
    task = hfpipe.load(tmp_path / "readme.yaml").stages["topics"].task
    assert task.words == 10


CSV = "text,label\nnumber 1,0.5\nnumber 2,1.5\nnumber 3,2.5\n"
CONLL = "-DOCSTART- -X- O O\n\nAda NNP I-NP B-PER\nsaw VBD I-VP O\n\nBonn NNP I-NP B-LOC\n"
ANSWERED = {"id": "q", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 7}]}
SQUAD = {"version": "v2.0", "data": [{"paragraphs": [{"context": "It was Ada.", "qas": [ANSWERED]}]}]}
NAMED = {"text": "one text", "label": "x"}
SHOWN: dict[str, tuple[dict[str, str | bytes], dict[str, int], dict[str, object]]] = {
    "reviews": (
        {f"reviews/{split}.csv": f"text,label\nfrom {split},x\n" for split in ("train", "dev", "test")},
        {"train": 1, "validation": 1, "test": 1},
        {"text": "from train"},
    ),
    "ratings": (
        {"ratings-1.csv": CSV, "ratings-2.csv": CSV, "held-out.csv": CSV},
        {"train": 6, "test": 3},
        {"text": "number 1", "label": 0.5},
    ),
    "german": (
        {"export.csv": "text;label\nschön, gut;x\n".encode("cp1252")},
        {"train": 1},
        {"text": "schön, gut"},
    ),
    "plain": ({"plain.csv": "one text,x\nanother,y\n"}, {"train": 2}, {"text": "one text", "label": 0}),
    "glue": ({"glue.tsv": 'text\tlabel\n"so it ""is""\tx\n'}, {"train": 1}, {"text": '"so it ""is""'}),
    "entities": ({"eng.conll": CONLL}, {"train": 2}, {"words": ["Ada", "saw"], "tags": [1, 2]}),
    "every-column": ({"eng.conll": CONLL}, {"train": 2}, {"words": ["Ada", "saw"], "pos": ["NNP", "VBD"]}),
    "questions": (
        {"train-v2.0.json": json.dumps(SQUAD)},
        {"train": 1},
        {"id": "q", "question": "Who?", "answers": {"text": ["Ada"], "answer_start": [7]}},
    ),
    "nested": ({"nested.json": json.dumps({"data": {"rows": [NAMED]}})}, {"train": 1}, {"text": "one text"}),
    "sheet": ({"survey.xlsx": b""}, {"train": 1}, {"text": "one text"}),
    "look": ({"ratings-1.csv": CSV, "ratings-2.csv": CSV}, {"train": 4}, {}),
}
"""Source in the README → files for it, the rows of each split, and what the first row of train holds."""


@pytest.mark.parametrize("name", SHOWN)
def test_the_sources_that_the_readme_shows_read_such_files(
    name: str, tmp_path: Path, make_data: Callable[..., Any]
) -> None:
    [block] = [block for block in blocks("yaml") if block.startswith("reviews: ")]
    stages = yaml.safe_load(block)
    assert list(stages) == list(SHOWN)
    files, splits, first = SHOWN[name]
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    if name == "sheet":
        book = openpyxl.Workbook()
        sheet = book.create_sheet("answers")
        for row in (list(NAMED), list(NAMED.values())):
            sheet.append(row)
        book.active.append(["of", "no", "use"])
        book.save(tmp_path / "survey.xlsx")
    report, folder = make_data(stages[name])
    assert report.data.splits == splits
    row = open_split(folder, "train")[0]
    assert {column: row[column] for column in first} == first


def test_python_of_the_readme_compiles() -> None:
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_every_function_of_hfpipe_that_the_readme_calls_is_there() -> None:
    called = set(re.findall(r"\bhfpipe\.([a-z_]+(?:\.[a-z_]+)*)\(", README))
    assert {"load", "metrics.path", "metrics.module_names"} <= called
    for name in called:
        assert callable(attrgetter(name)(hfpipe)), name
