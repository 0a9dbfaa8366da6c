"""Hostile and broken input: what never ends, leads out of its folder, steers a terminal or is too large."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import hfpipe
from hfpipe.cli.main import main
from hfpipe.errors import DataError, RecipeError
from hfpipe.recipe.source import parse_yaml
from hfpipe.references.places import Code, Glob, find_matches, locate_in_package
from hfpipe.references.user_code import find_code
from hfpipe.store.digests import Digests

DATA = "stages:\n  data: {kind: dataset, source: {files: a.txt}}\n"


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail, and do not hang, when something takes longer."""

    def late(*_: Any) -> None:
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that writes a recipe next to a small text file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("One line.\n", encoding="utf-8")

    def write(text: str) -> Path:
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return Path("recipe.yaml")

    return write


def refused(path: Path, overrides: tuple[str, ...] = ()) -> RecipeError:
    with within(60), pytest.raises(RecipeError) as caught:
        hfpipe.load(path, overrides)
    return caught.value


BOMBS = {
    "merges of merges": [
        "a0: &a0 {x: 1}",
        *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], y{n}: 1}}" for n in range(1, 31)),
    ],
    "merges of merges one after another": [
        "a0: &a0 {x: 1}",
        *(f"a{n}: &a{n} {{<<: *a{n - 1}, <<: *a{n - 1}}}" for n in range(1, 31)),
    ],
    "a merge of ten thousand": [
        f"a: &a {{{', '.join(f'k{n}: 1' for n in range(2000))}}}",
        f"b: {{<<: [{', '.join(['*a'] * 2000)}]}}",
    ],
    "aliases of aliases": [
        "a0: &a0 [x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)),
    ],
    "aliases of a long text": [f"a: &a {'x' * 100_000}", f"b: [{', '.join(['*a'] * 5000)}]"],
}


@pytest.mark.slow
@pytest.mark.parametrize("lines", BOMBS.values(), ids=BOMBS)
def test_what_grows_without_end_by_aliases_and_merges_is_read_or_refused_at_once(lines: list[str]) -> None:
    with within(60):
        document = parse_yaml("\n".join(lines), Path("recipe.yaml"))
    told = [problem.message for problem in document.problems]
    assert told == [] or "once every alias is expanded" in told[0] or "is given twice" in told[0]


def test_merges_of_merges_hold_what_they_merge() -> None:
    document = parse_yaml("\n".join(BOMBS["merges of merges"]), Path("recipe.yaml"))
    assert document.data["a30"] == {"x": 1} | {f"y{n}": 1 for n in range(1, 31)}


def test_a_recipe_that_is_not_a_regular_file_is_refused_without_being_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "demo.yaml").touch()
    told = {name: str(refused(tmp_path / name)) for name in ("pipe.yaml", "zero.yaml", "sub")}
    assert told["pipe.yaml"].endswith("pipe.yaml: is a named pipe; name a recipe file")
    assert told["zero.yaml"].endswith("zero.yaml: is a device; name a recipe file")
    assert told["sub"] == f"{tmp_path}/sub: is a folder; name a recipe file, such as {tmp_path}/sub/demo.yaml"
    assert "File name too long" in str(refused(tmp_path / ("n" * 300)))


def test_a_line_of_a_hundred_megabytes_is_refused_in_one_line(recipe: Callable[[str], Path]) -> None:
    path = recipe("name: ")
    with path.open("a", encoding="utf-8") as file:
        file.truncate(100_000_000)
    assert str(refused(path)).startswith("recipe.yaml: is larger than 1 MB")


@pytest.mark.slow
def test_of_very_many_problems_fifty_are_shown_and_the_others_counted(recipe: Callable[[str], Path]) -> None:
    keys = "".join(f"      k{number}: 1\n" for number in range(20_000))
    stage = "  lm:\n    kind: pretrain\n    task: masked-lm\n    data: stage:data\n    tokenizer: a/b\n"
    for section in ("training:\n", "model:\n      type: bert\n"):
        other = "    model: {type: bert}\n" if section.startswith("training") else ""
        error = refused(recipe(f"{DATA}{stage}{other}    {section}{keys}"))
        lines = [line for line in str(error).splitlines() if not line.startswith("  ")]
        assert len(lines) == 51
        assert lines[-1] == "… and 19,950 more; fix these first"
        assert len(str(error)) < 20_000


@pytest.mark.slow
def test_very_many_wrong_values_of_a_list_are_counted_too(recipe: Callable[[str], Path]) -> None:
    error = refused(recipe(DATA.replace("a.txt}", f"a.txt}}, clean: [{', '.join(['zap'] * 20_000)}]")))
    assert 50 <= len(str(error).splitlines()) <= 200
    assert "more" in str(error).splitlines()[-1]


def test_a_key_of_any_length_is_quoted_in_part(recipe: Callable[[str], Path]) -> None:
    error = refused(recipe(f"{DATA}{'k' * 50_000}: 1\n"))
    assert len(str(error)) < 3000


NAMES = ["n" * 300, "é" * 60, "..", "a/b", "a\\b", "", ".hidden", "a\nb", "a\x1b[31m", "a\u202eb"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_folder_can_have_is_refused(name: str, recipe: Callable[[str], Path]) -> None:
    (problem,) = refused(recipe(yaml.safe_dump({"name": name}) + DATA)).problems
    assert "cannot name a run" in problem.message
    (problem,) = refused(
        recipe(yaml.safe_dump({"stages": {name: yaml.safe_load(DATA)["stages"]["data"]}}))
    ).problems
    assert "cannot name a stage" in problem.message


def test_folders_with_a_pipe_or_a_device_in_them_have_no_digest(tmp_path: Path) -> None:
    for name in ("pipe", "zero", "inside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.txt").write_text("One.\n")
    os.mkfifo(tmp_path / "pipe" / "rows.fifo")
    (tmp_path / "zero" / "rows.link").symlink_to("/dev/zero")
    for path, kind in (("pipe", "a named pipe"), ("zero", "a device"), ("zero/rows.link", "a device")):
        with within(60), pytest.raises(DataError, match=f"is {kind}, which has no end"):
            Digests().compute(tmp_path / path)
    with within(60), pytest.raises(DataError, match="is a device, which has no end"):
        Digests().compute(Path("/dev/zero"))
    (tmp_path / "inside" / "dangling").symlink_to("nowhere")
    assert Digests().compute(tmp_path / "inside")


@pytest.mark.parametrize("source", ["files: rows.txt", "files: [rows.txt]", "files: {train: rows.txt}"])
def test_a_source_without_an_end_ends_a_run_in_one_line(
    source: str, recipe: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.txt").symlink_to("/dev/zero")
    path = recipe(DATA.replace("files: a.txt", source))
    for command in ("plan", "run"):
        with within(60):
            assert main([command, str(path)]) in (1, 2)
        assert "is a device, which has no end" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_pipe_in_the_folder_of_a_model_or_tokenizer_is_not_waited_for(
    name: str, recipe: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("m").mkdir()
    Path("m/config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    Path("m", name).unlink(missing_ok=True)
    os.mkfifo(Path("m", name))
    for given, told in (("{type: bert}", "./m"), ("./m", "stage:words")):
        (problem,) = refused(
            recipe(WHOLE.replace("{type: bert}", given).replace("stage:words\n", f"{told}\n"))
        ).problems
        assert f"{name}: is a named pipe, which has no end; name a regular file" in problem.message
    if name != "config.json":  # without one it is not a model's folder
        with within(60):
            assert main(["predict", "m", "A text."]) == 1
        assert f"{name}: is a named pipe" in capsys.readouterr().err


def test_code_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.py")
    with within(60), pytest.raises(DataError, match=r"rows\.py is a named pipe; name a Python file"):
        find_code(Code("rows.py:rows"), tmp_path)
    (tmp_path / "deep.py").write_text("rows = " + "(" * 100_000)
    with within(60), pytest.raises(DataError, match="is not Python"):
        find_code(Code("deep.py:rows"), tmp_path)


def test_a_pattern_that_a_link_leads_round_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "sub" / "rows.txt").touch()
    assert len(find_matches(Glob("data/**/*.txt"), tmp_path)) == 1
    for name in ("one", "two"):
        (tmp_path / "data" / "sub" / name).symlink_to(tmp_path / "data")
    with (
        within(60),
        pytest.raises(DataError, match=r"links to a folder that contains it, so `\*\*` never ends"),
    ):
        find_matches(Glob("data/**/*.txt"), tmp_path)


OUTSIDE = [
    "../../../../../../../../../etc/passwd",
    "/etc/passwd",
    "../yaml",
    "numpy/../yaml/__init__.py",
    ".",
    "",
    "n" * 5000,
]


@pytest.mark.parametrize("inside", OUTSIDE)
def test_a_place_in_a_package_never_leads_out_of_it(inside: str) -> None:
    with pytest.raises(DataError, match=r"^package:numpy/"):
        locate_in_package("numpy", inside)


def test_a_link_in_a_package_never_leads_out_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "small-1.0.dist-info").mkdir(parents=True)
    (site / "small-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n"
    )
    (site / "small").mkdir()
    (site / "small" / "rows.txt").write_text("One.\n")
    (site / "small" / "passwd").symlink_to("/etc/passwd")
    monkeypatch.syspath_prepend(str(site))
    assert locate_in_package("small", "small/rows.txt").read_text() == "One.\n"
    with pytest.raises(DataError, match="leads out of the package"):
        locate_in_package("small", "small/passwd")


@pytest.mark.parametrize("name", ["\0", "a\0b"])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_column_whose_name_holds_a_zero_byte_is_named(
    name: str, kind: str, tmp_path: Path, make_data: Callable[..., Any]
) -> None:
    if kind == "parquet":
        pq.write_table(pa.table({"text": ["One.", "Two."], name: [1, 2]}), tmp_path / "a.parquet")
    else:
        (tmp_path / "a.jsonl").write_text(json.dumps({"text": "One.", name: 1}))
    with pytest.raises(DataError, match="holds a zero byte; rename it"):
        make_data({"source": {"files": f"a.{kind}"}})


NUMBERS: dict[str, list[Any]] = {
    "data.limit": [0, -1, -(2**63)],
    "data.clean.0.min_chars": [0, -1],
    "data.split.test": [0, -0.5, 1, ".nan", ".inf", "-.inf"],
    "words.vocab_size": [-1, 15, 2**62],
    "words.max_bytes": [0, -1],
    "clf.task.length": [0, -1, -(2**63)],
    "clf.early_stopping.patience": [0, -1],
    "clf.early_stopping.threshold": [-0.1, ".nan", ".inf"],
    "score.resamples": [0, -1, 2**62],
    "score.batch_size": [0, -1],
    "score.require.accuracy.min": [".nan", ".inf", "-.inf"],
}
WHOLE = """
stages:
  data:
    kind: dataset
    source: {files: a.txt}
    columns: {text: t, label: l}
    clean: [{min_chars: 3}]
    split: {test: 0.2, validation: 0.2}
  words: {kind: tokenizer, data: stage:data, algorithm: wordpiece}
  clf:
    kind: finetune
    task: {kind: text-classification, length: 32}
    data: stage:data
    tokenizer: stage:words
    model: {type: bert}
  score: {kind: evaluate, model: stage:clf, data: stage:data}
"""


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, given in NUMBERS.items() for value in given]
)
def test_numbers_without_a_meaning_are_refused_before_anything_runs(
    key: str, value: Any, recipe: Callable[[str], Path]
) -> None:
    path = recipe(WHOLE)
    hfpipe.load(path)
    told = [problem.message for problem in refused(path, (f"{key}={value}",)).problems]
    assert any(message.startswith(f"--set {key}={value}: ") for message in told)


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "1e999", "9" * 5000])
def test_numbers_that_no_library_holds_are_refused_in_every_setting(
    key: str, value: Any, recipe: Callable[[str], Path]
) -> None:
    (problem,) = refused(recipe(WHOLE), (f"{key}={value}",)).problems
    assert "is larger than" in problem.message or "is not of type !!int" in problem.message


SETS = r"""
    = =1 a data data. data..x=1 .data=1 data.limit=[ data.limit=*x data.limit=!!python/object:os.system
    name.x=1 data.source.files.0=x seed= seed=nan stages=1 data=1
""".split()  # noqa: SIM905


@pytest.mark.parametrize("text", ["", *SETS, "data.limit=\x00", "data.limit=\ud800", "data.lim\nit=1"])
def test_an_override_that_is_garbage_is_one_line(text: str, recipe: Callable[[str], Path]) -> None:
    path = recipe(DATA)
    error = refused(path, (text,))
    assert error.problems
    assert "\n" not in error.problems[0].message
