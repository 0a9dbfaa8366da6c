"""Wheel and source archive hold what an installation needs, and the shipped recipes can be copied from it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

import hfpipe
from hfpipe.cli.main import main
from hfpipe.errors import RecipeError
from hfpipe.recipe import shipped

ROOT = Path(__file__).parent.parent
RECIPES = {
    path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*") if path.suffix != ".pyc"
}
FILES = {name for name in RECIPES if (ROOT / name).is_file()}


def build(kind: str, tree: Path, folder: Path) -> Path:
    """Return the archive that the build backend makes of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    [made] = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_types_and_every_recipe(wheel: Path) -> None:
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for kind in ("*.py", "templates/*") for path in (ROOT / "hfpipe").rglob(kind)]
    package = {path.relative_to(ROOT).as_posix() for path in files}
    assert len(FILES) > 20
    assert names == package | {"hfpipe/py.typed"} | {f"hfpipe/{name}" for name in FILES}


@pytest.mark.slow
def test_the_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    [tree] = tmp_path.glob("hfpipe-*")
    assert {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"} <= {
        path.name for path in tree.iterdir()
    }
    again = build("wheel", tree, tmp_path / "wheel")
    assert contents(again) == contents(wheel)


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_a_recipe_copied_from_an_installed_wheel_passes_its_check(wheel: Path, tmp_path: Path) -> None:
    """The environment has the wheel alone and borrows what it depends on; the repository is out of reach."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    scheme = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
    Path(scheme["purelib"], "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    install = [
        "-m",
        "pip",
        "--python",
        str(home / "bin" / "python"),
        "install",
        "-q",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([sys.executable, *install, str(wheel)], check=True, capture_output=True)
    (tmp_path / "here").mkdir()

    def ran(*words: str) -> str:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [str(home / "bin" / "hfpipe"), *words],
            check=False,
            cwd=tmp_path / "here",
            env=clean,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert "\ndemo  " in ran("recipes")
    assert ran("recipes", "copy", "demo").split() == ["recipes/demo.yaml", "recipes/sources/wiki.py"]
    assert ran("check", "recipes/demo.yaml") == "recipes/demo.yaml: fine\n"
    where = [str(home / "bin" / "python"), "-c", "import hfpipe; print(hfpipe.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True, env={}).stdout
    assert Path(found.strip()).is_relative_to(home)


def test_every_recipe_is_listed_with_the_first_line_of_its_comment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    listed = [line.split(maxsplit=1) for line in lines]
    assert {f"recipes/{name}.yaml" for name, _ in listed} == {
        name for name in FILES if name.endswith(".yaml")
    }
    for name, about in listed:
        comment = (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8").replace("\n# ", " ")
        assert comment.startswith(f"# {about}")
        assert about.endswith("."), "a whole sentence, also where it has two lines"


@pytest.mark.parametrize(
    "name", [each.name for each in shipped.list_shipped_recipes() if "/" not in each.name]
)
def test_a_copied_recipe_is_right_where_it_lies(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    recipe, *others = hfpipe.copy_recipe(name, tmp_path)
    assert recipe == tmp_path / f"{name}.yaml"
    assert hfpipe.load(recipe).stages
    for path in (recipe, *others):
        assert path.read_bytes() == (ROOT / "recipes" / path.relative_to(tmp_path)).read_bytes()


def test_what_is_there_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = hfpipe.copy_recipe("demo")
    assert hfpipe.copy_recipe("demo") == first
    assert hfpipe.copy_recipe("gpt2-abstracts") == [Path("recipes/gpt2-abstracts.yaml"), first[1]]
    first[1].write_text("mine", encoding="utf-8")
    with pytest.raises(
        RecipeError, match=r"^recipes/sources/wiki\.py: another file is there; copy into"
    ) as caught:
        hfpipe.copy_recipe("minilm-topics")
    assert not Path("recipes/minilm-topics.yaml").exists()
    assert first[1].read_text(encoding="utf-8") == "mine"
    advised = str(caught.value).partition("`hfpipe ")[2].rstrip("`").split()
    assert main(advised) == 0
    assert Path("recipes-2/sources/wiki.py").read_bytes() == (ROOT / "recipes/sources/wiki.py").read_bytes()


@pytest.mark.parametrize("there", ["folder", "dangling link"])
def test_a_recipe_is_not_copied_onto_what_is_not_a_file(tmp_path: Path, there: str) -> None:
    path = tmp_path / "cloze.yaml"
    if there == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="another file is there"):
        hfpipe.copy_recipe("cloze", tmp_path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_an_unknown_recipe_is_answered_with_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipes", "copy", "dmeo"]) == 2
    assert capsys.readouterr().err == "there is no recipe 'dmeo'; did you mean 'demo'?\n"
    assert main(["recipes", "copy", "../../etc/passwd"]) == 2
    assert capsys.readouterr().err.startswith(
        "there is no recipe '../../etc/passwd'; there are bert-wikitext, "
    )
