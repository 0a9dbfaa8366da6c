"""Wrong recipes and the exact message that each gets: the table is `wrong_recipes.txt`.

`python tests/test_recipe_messages.py` writes the messages of today into the table, to be read in the diff.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

import pytest

from hfpipe.errors import RecipeError
from hfpipe.recipe import load_recipe
from hfpipe.stages import KINDS
from hfpipe.tasks import TASKS

STAGES = {
    "<wiki>": "wiki: {kind: dataset, source: {files: a.txt}, columns: {text: t, label: l}}",
    "<held>": "held: {kind: dataset, source: {files: a.txt}, columns: {text: t, label: l},"
    " split: {validation: 0.1, test: 0.1}}",
    "<words>": "words: {kind: tokenizer, data: stage:wiki, algorithm: wordpiece}",
}
"""One-line stages that the table writes by name, so that each case shows only what is wrong."""

FILES = {
    "a.txt": "One line.\n",
    "code.py": "from hfpipe.task import TaskConfig\n\ndef rows(): ...\n\nclass Half(TaskConfig): ...\n",
    "pairs.py": "from hfpipe.tasks.masked_lm.task import MaskedLM\n\nclass Pairs(MaskedLM):\n"
    "    kind: str\n    next_sentence: bool = False\n",
    "broken.py": "def rows(:\n",
    "fails.py": "import no_such_module\n\nclass Task: ...\n",
    "saved/config.json": json.dumps({"model_type": "bert", "max_position_embeddings": 512}),
    "saved/tokenizer.json": json.dumps(
        {"added_tokens": [{"id": 0, "content": "<pad>"}], "model": {"vocab": ["a"]}}
    ),
}


TABLE = Path(__file__).with_name("wrong_recipes.txt").absolute()


def table() -> list[tuple[str, list[str], str, list[str]]]:
    """Return (title, overrides, recipe, messages) of every case."""
    text = TABLE.read_text(encoding="utf-8")
    cases = []
    for part in re.split(r"(?m)^### ", text)[1:]:
        title, _, body = part.partition("\n")
        recipe, _, messages = body.partition("=>\n")
        overrides = re.findall(r"(?m)^\$ (.*)\n", recipe)
        recipe = re.sub(r"(?m)^\$ .*\n", "", recipe)
        for name, stage in STAGES.items():
            recipe = recipe.replace(
                name, stage.replace("wiki", "held") if "words" in name and "<held>" in body else stage
            )
        cases.append((title, overrides, recipe, messages.strip().splitlines()))
    return cases


CASES = table()


def write_files(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_files(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def messages(recipe: str, overrides: list[str]) -> list[str]:
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("recipe.yaml"), kinds=KINDS, tasks=TASKS, overrides=overrides)
    here = f"{Path.cwd()}/"
    return [
        str(problem).partition("\n")[0].replace(here, "").replace(str(Path.cwd()), ".")
        for problem in caught.value.problems
    ]


@pytest.mark.parametrize(("title", "overrides", "recipe", "expected"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.usefixtures("folder")
def test_a_wrong_recipe_gets_a_place_and_a_fix(
    title: str, overrides: list[str], recipe: str, expected: list[str]
):
    assert messages(recipe, overrides) == expected


def test_there_are_sixty_wrong_recipes_or_more():
    assert len({case[0] for case in CASES}) == len(CASES) >= 60


def regenerate() -> None:
    """Write what each recipe of the table is answered now in the place of the expected messages."""
    parts = re.split(r"(?m)^(?=### )", TABLE.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name))
        os.chdir(name)
        for number, (_, overrides, recipe, _) in enumerate(CASES, 1):
            head = parts[number].partition("=>\n")[0]
            parts[number] = "\n".join([f"{head}=>", *messages(recipe, overrides), "", ""])
    TABLE.write_text("".join(parts).rstrip("\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    regenerate()
