"""What the manual (README.md and docs/), the Makefile and the recipes say is true."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from fnmatch import fnmatch
from functools import lru_cache
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import yaml

import hfpipe
from hfpipe import RecipeError
from hfpipe.data.labels.settings import LabelColumn
from hfpipe.encoding.io import open_split

ROOT = Path(__file__).parent.parent
MANUAL = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
"""Path of a page → its text."""
README = MANUAL["README.md"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
IGNORED = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()]
PROMISED = (
    "install demo pretrain finetune eval report notebook notebooks docs check test test-all golden bench "
    "bench-gpu clean help"
)
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "accelerate")

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
each_page = pytest.mark.parametrize("page", MANUAL)


def blocks(language: str, *pages: str) -> list[str]:
    """Return the fenced blocks of one language on some pages, by default on all."""
    pattern = rf"^```{language}\n(.*?)^```$"
    texts = [MANUAL[page] for page in pages or MANUAL]
    return [block for text in texts for block in re.findall(pattern, text, re.MULTILINE | re.DOTALL)]


def commands() -> list[list[str]]:
    """Return the words of every command line that the manual shows."""
    lines = "".join(blocks("sh")).splitlines()
    return [words for line in lines if (words := shlex.split(line.partition(" > ")[0], comments=True))]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_the_readme_is_read_in_ten_minutes() -> None:
    assert len(README.splitlines()) <= 350


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


def test_every_target_that_the_manual_names_exists() -> None:
    named = {words[1] for words in commands() if words[0] == "make"}
    named |= {name for text in MANUAL.values() for name in re.findall(r"`make ([a-z-]+)", text)}
    assert len(named) > 8
    assert named <= targets()
    recipes = {word.removeprefix("RECIPE=") for words in commands() for word in words if "RECIPE=" in word}
    assert len(recipes) > 1
    assert all((ROOT / recipe).is_file() for recipe in recipes)


def test_every_command_that_the_manual_shows_is_understood() -> None:
    """Options are read, and recipes looked for, without running anything."""
    from hfpipe.cli.parser import parse_command_line

    shown = [words[1:] for words in commands() if words[0] == "hfpipe"]
    shown += [words[words.index("hfpipe") + 1 :] for words in commands() if words[0] == "accelerate"]
    assert len(shown) > 15
    for words in shown:
        options = vars(parse_command_line(words))
        for path in (options.get("recipe"), *options.get("recipes", []), options.get("accelerate")):
            assert path is None or (ROOT / path).is_file(), f"{shlex.join(words)}: there is no {path}"


def test_every_block_of_the_manual_is_of_a_kind_that_is_checked() -> None:
    """Shell, YAML and Python are checked below; `text` and `console` show files and output."""
    fence = re.compile(r"^```(.*)\n(?:.*\n)*?```$", re.MULTILINE)
    found = [kind for text in MANUAL.values() for kind in fence.findall(text)]
    assert set(found) == {"sh", "yaml", "python", "text", "console"}
    assert {words[0] for words in commands()} == {"make", "hfpipe", "accelerate", "sbatch"}


def links(text: str) -> list[str]:
    """Return what a page links to, without code."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL))


@each_page
def test_every_link_leads_to_a_file_and_a_heading(page: str, generated: dict[str, str]) -> None:
    folder = (ROOT / page).parent
    for link in links(MANUAL[page]):
        path, _, anchor = link.partition("#")
        file = (folder / path).resolve() if path else ROOT / page
        made = file.relative_to(ROOT / "docs").as_posix() if file.is_relative_to(ROOT / "docs") else ""
        assert file.exists() or made in generated, f"{page}: there is no {link}"
        if anchor:
            text = generated.get(made) or file.read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*?)(?: \{#([\w-]+)\})?$", text, re.MULTILINE)
            assert anchor in {named or slug(title) for title, named in headings}, f"{page}: {link}"


def slug(title: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def is_ignored(path: Path) -> bool:
    return any(fnmatch(each, name) for name in IGNORED for each in (path.name, f"/{path.relative_to(ROOT)}"))


def tree() -> dict[str, str]:
    """Return the folders of the README's tree by their path, each with what it says of it."""
    [block] = [block for block in blocks("text", "README.md") if "hfpipe/  " in block]
    folders: dict[str, str] = {}
    above: list[str] = []
    for line in block.splitlines():
        entry = re.fullmatch(r"((?:  )*)(\S+)/  +(\S.*)", line)
        assert entry is not None, f"no folder with a comment: {line!r}"
        above = [*above[: len(entry[1]) // 2], entry[2]]
        folders["/".join(above)] = entry[3]
    return folders


def test_the_tree_of_the_readme_is_the_real_one() -> None:
    shown = set(tree())
    opened = {ROOT, *(ROOT / path.rpartition("/")[0] for path in shown)}
    assert ROOT / "hfpipe" in opened
    there = {
        path.relative_to(ROOT).as_posix()
        for folder in opened
        for path in folder.iterdir()
        if path.is_dir() and path.name != ".git" and not is_ignored(path)
        if any(inside.is_file() for inside in path.rglob("[!_]*") if "__pycache__" not in inside.parts)
    }
    assert shown == there


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


def recipes() -> list[str]:
    return [block for block in blocks("yaml") if re.search(r"^stages:$", block, re.MULTILINE)]


def explained(folder: Path, change: Callable[[str], str] = str) -> hfpipe.Recipe:
    """Return the recipe that the README explains, with a change to its text."""
    shutil.copytree(ROOT / "recipes" / "sources", folder / "sources")
    text, _ = blocks("yaml", "README.md")
    (folder / "readme.yaml").write_text(change(text), encoding="utf-8")
    return hfpipe.load(folder / "readme.yaml")


def test_the_recipe_that_the_readme_explains_is_right(tmp_path: Path) -> None:
    assert list(explained(tmp_path).stages) == ["wiki", "labelled", "words", "pretrain", "topics", "score"]


def test_every_block_of_yaml_is_a_recipe_or_has_a_test_of_its_own() -> None:
    others = {page for page in MANUAL for block in blocks("yaml", page) if block not in recipes()}
    tested = ("data", "evaluation", "repeats", "tasks", "training", "user-tasks")
    assert others <= {f"docs/{name}.md" for name in tested}


@pytest.mark.parametrize("number", range(len(recipes())))
def test_every_recipe_of_the_manual_is_right(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")  # what is on the Hub is not here
    shutil.copytree(ROOT / "recipes" / "sources", tmp_path / "sources")
    for name in re.findall(r"files: ([\w.]+)", recipes()[number]):
        (tmp_path / name).touch()
    (tmp_path / "recipe.yaml").write_text(recipes()[number], encoding="utf-8")
    assert hfpipe.load(tmp_path / "recipe.yaml").stages


def test_the_recipe_for_a_table_of_your_own_reads_such_a_table(
    tmp_path: Path, make_data: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")  # its model is on the Hub
    _, text = blocks("yaml", "README.md")
    lines = "".join(f"some text {number},{'good' if number % 2 else 'bad'}\n" for number in range(40))
    (tmp_path / "reviews.csv").write_text(f"review,stars\n{lines}", encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert list(hfpipe.load(tmp_path / "recipe.yaml").stages) == ["table", "stars", "score"]
    report, _ = make_data(yaml.safe_load(text)["stages"]["table"])
    assert report.data.splits.keys() == {"train", "validation", "test"}
    assert report.data.labels == {"label": ["bad", "good"]}


def test_the_task_that_the_manual_adds_is_taken(tmp_path: Path) -> None:
    [code], [task] = blocks("python", "docs/user-tasks.md"), blocks("yaml", "docs/user-tasks.md")
    assert len(code.splitlines()) <= 15  # 14 and the line that names the file
    (tmp_path / "first_words.py").write_text(code, encoding="utf-8")
    recipe = explained(tmp_path, lambda text: text.replace("task: text-classification ", task.strip() + " "))
    assert recipe.stages["topics"].task.words == 10


PARTS = [
    (stage, block)
    for page, stage in (
        ("docs/training.md", "topics"),
        ("docs/repeats.md", "topics"),
        ("docs/evaluation.md", "score"),
    )
    for block in blocks("yaml", page)
    if block not in recipes()
    and "matrix" not in yaml.safe_load(block)  # a key of the whole recipe, which has its own test too
]
"""Stage of the README's recipe, and what a page writes into such a stage."""


@pytest.mark.parametrize(("stage", "block"), PARTS)
def test_what_the_manual_writes_into_a_stage_is_taken(
    stage: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")  # a metric is on the Hub
    given = yaml.safe_load(block)
    for name in ("shares", "wer"):
        (tmp_path / f"{name}.py").write_text("", encoding="utf-8")

    (tmp_path / "large-classifier").mkdir()

    def change(text: str) -> str:
        recipe = yaml.safe_load(text)
        recipe["stages"][stage] |= {**given, "trust_remote_code": True}
        if "folds" in given:
            recipe["stages"]["score"]["split"] = "out-of-fold"
        return yaml.safe_dump(recipe, sort_keys=False)

    if "tensorboard" in block and find_spec("tensorboard") is None:
        with pytest.raises(RecipeError, match="the tracker 'tensorboard' needs tensorboard") as caught:
            explained(tmp_path, change)
        assert len(caught.value.problems) == 1
        return
    taken = explained(tmp_path, change).stages[stage]
    assert given.keys() <= taken.model_fields_set


def test_the_matrix_that_the_manual_shows_is_taken(tmp_path: Path) -> None:
    [block] = [block for block in blocks("yaml", "docs/repeats.md") if "matrix" in yaml.safe_load(block)]
    model = "{type: gpt2, n_embd: 32, n_head: 2}"
    block = block.replace("lm.", "pretrain.")

    def change(text: str) -> str:
        recipe = yaml.safe_load(text)
        recipe["stages"]["pretrain"] |= {"task": "causal-lm", "model": yaml.safe_load(model)}
        del recipe["stages"]["topics"], recipe["stages"]["score"]
        return yaml.safe_dump(recipe | yaml.safe_load(block), sort_keys=False)

    found = explained(tmp_path, change).stages
    assert found["pretrain@limit=4000,size=large"].model["n_embd"] == 64
    assert found["wiki@limit=1000"].limit == 1000


def test_the_mappings_of_labels_that_the_manual_shows_are_taken() -> None:
    shown = re.findall(r"^\| `(\{.*\})` \|", MANUAL["docs/data.md"], re.MULTILINE)
    assert len(shown) == 4
    for each in shown:
        assert LabelColumn.model_validate(yaml.safe_load(each)).model_fields_set


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
def test_the_sources_that_the_manual_shows_read_such_files(
    name: str, tmp_path: Path, make_data: Callable[..., Any]
) -> None:
    [block] = blocks("yaml", "docs/data.md")
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
        book.active.append(["another", "sheet"])
        book.save(tmp_path / "survey.xlsx")
    report, folder = make_data(stages[name])
    assert report.data.splits == splits
    row = open_split(folder, "train")[0]
    assert {column: row[column] for column in first} == first


def test_python_of_the_manual_calls_what_there_is() -> None:
    called = set()
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("hfpipe."):
                continue
            name = ast.unparse(node.func).removeprefix("hfpipe.")
            keywords = {keyword.arg: None for keyword in node.keywords}
            inspect.signature(attrgetter(name)(hfpipe)).bind(*node.args, **keywords)
            called.add(name)
    assert {"load", "plan", "run", "open", "predict", "compare", "metrics.path"} <= called


def test_every_function_that_the_manual_names_is_there() -> None:
    named = {
        name for text in MANUAL.values() for name in re.findall(r"\bhfpipe\.([a-z_]+(?:\.[a-z_]+)*)\(", text)
    }
    assert {"load", "metrics.path", "metrics.module_names"} <= named
    for name in named:
        assert callable(attrgetter(name)(hfpipe)), name


def test_the_tests_that_the_promises_name_exist() -> None:
    named = re.findall(r"`(tests/\w+\.py)`", MANUAL["docs/promises.md"])
    assert len(named) > 12
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_table_of_the_readme_is_the_one_of_the_recipes() -> None:
    scores = re.search(r"^accuracy +model +(\S+ \[\S+ \S+\])", README, re.MULTILINE)
    assert scores is not None
    table = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    [row] = [line for line in table.splitlines() if line.startswith("| [demo]")]
    assert f"accuracy {scores[1]}" in row


@lru_cache(maxsize=1)
def printed() -> str:
    """Return every text in the code of the package, a line each; what an f-string fills in is a zero byte."""
    texts = []
    for path in (ROOT / "hfpipe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


EXAMPLE = re.compile(
    r"…|;|^(?:stage )?\w+: |'[^']*'|\./\w+|[\w./:-]*\d[\w.,:/]*|\b(?:NAME|FILE|nan|accuracy)\b"
    r"|\S*(?:stage|package):\w*|\S+\.(?:jsonl|csv|yaml)\S*"
)
"""What a message in the manual has for its example alone: names, numbers, paths, and what is left out."""


def is_printed(part: str, source: str) -> bool:
    """Tell whether a part of a message is in the code, of which up to half may be filled in at one point."""
    if part in source:
        return True
    words = [re.escape(word) for word in re.findall(r"\w+|[^\w\s]", part)]
    filled = [
        [*words[:start], r"\x00", *words[start + length :]]
        for length in range(1, len(words) // 2 + 1)
        for start in range(len(words) - length + 1)
    ]
    return any(re.search(r"\s*".join(each), source) for each in filled)


@pytest.mark.parametrize("page", ["README.md", "docs/messages.md"])
def test_every_message_that_the_manual_explains_is_one_of_hfpipe(page: str) -> None:
    source = printed()
    messages = re.findall(r"^\| `([^`]* [^`]*)` \| \S", MANUAL[page], re.MULTILINE)
    assert len(messages) >= 10
    for message in messages:
        parts = [part.strip(" ,;:()?.") for part in EXAMPLE.split(message)]
        parts = [part for part in parts if " " in part] or [part for part in parts if part]
        assert parts, message
        assert [part for part in parts if not is_printed(part, source)] == [], message


def test_contributing_names_every_folder_of_the_package() -> None:
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)/`", row)}
    assert named == {path.parent.name for path in (ROOT / "hfpipe").glob("*/__init__.py")}
    files = {name for row in rows for name in re.findall(r"`(\w+\.py)`", row)}
    assert all((ROOT / "hfpipe" / name).is_file() for name in files)


FOREIGN = (
    r"mend|mends|mended|whoever|thereof|hereby|anew|beside|from nothing(?! else)|of whom|says for whom"
    r"|one's own|(?<!there )is no (?!longer)"
)
"""Words that the documentation of PyTorch or scikit-learn does not use."""
PROSE = (
    "README.md",
    "CHANGELOG.md",
    "Makefile",
    ".github/*",
    "docs/*",
    "hfpipe/*",
    "notebooks/*",
    "recipes/*",
    "tests/*",
)


def test_everything_that_people_read_is_in_plain_english() -> None:
    git = shutil.which("git")
    assert git is not None
    listed = subprocess.run([git, "ls-files", *PROSE], cwd=ROOT, capture_output=True, text=True, check=True)
    kinds = {".py", ".md", ".yaml", ".yml", ".txt", ".sh", ".js", ".j2", ".ipynb", ""}
    paths = [path for path in map(Path, listed.stdout.splitlines()) if path.suffix in kinds]
    paths = [
        path for path in paths if path.parts[:2] != ("tests", "inputs") and path != Path("tests/test_docs.py")
    ]
    assert len(paths) > 400
    found = {}
    for path in paths:
        text = (ROOT / path).read_text(encoding="utf-8").replace("_", " ")
        found[str(path)] = re.findall(rf"\b(?:{FOREIGN})\b", text, re.IGNORECASE)
    assert {path: words for path, words in found.items() if words} == {}
