"""What names a folder, what makes it finished, and what is read back from it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toys
from commands import LIMIT
from hypothesis import given
from hypothesis import strategies as st

from hfpipe.errors import DataError, StageError
from hfpipe.report import Report
from hfpipe.store.digests import Digests
from hfpipe.store.files import write_atomically, write_parts
from hfpipe.store.store import (
    StageFile,
    StageIdentity,
    Store,
    identify,
    is_done,
    read_report,
    read_stage,
)

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
SETTINGS = st.dictionaries(st.text(max_size=5), LEAVES | st.lists(LEAVES, max_size=3), max_size=5)


def identity(**changes: Any) -> StageIdentity:
    plain = {"kind": "dataset", "version": 1, "seed": 17, "settings": {}, "files": {}, "inputs": {}}
    return StageIdentity.model_validate(plain | changes)


def begun(root: Path) -> tuple[Store, Path]:
    """Begin a stage, as the runner does."""
    store, made = Store(root), identity()
    folder = store.get_folder("names", made.key)
    store.begin(folder, StageFile(name="names", base=str(root), folders={}, identity=made))
    return store, folder


@given(SETTINGS, st.randoms())
def test_the_order_of_keys_does_not_show_in_the_key(settings: dict[str, Any], random: Any) -> None:
    shuffled = list(settings.items())
    random.shuffle(shuffled)
    assert identity(settings=settings).key == identity(settings=dict(shuffled)).key


@given(SETTINGS, SETTINGS)
def test_settings_that_differ_as_json_have_keys_that_differ(one: dict[str, Any], two: dict[str, Any]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert (identity(settings=one).key == identity(settings=two).key) == same


@pytest.mark.parametrize(
    "change",
    [{"kind": "tokenizer"}, {"version": 2}, {"seed": 18}, {"files": {"a": "1"}}, {"inputs": {"a": "1"}}],
)
def test_everything_that_decides_a_stage_shows_in_its_key(change: dict[str, Any]) -> None:
    assert identity(**change).key != identity().key


def test_an_absolute_pattern_names_the_same_files_from_wherever_the_recipe_lies(tmp_path: Path) -> None:
    toys.write(tmp_path)
    stage = toys.Names(files=[f"{tmp_path}/data/*.tsv"])
    near, far = (identify(stage, 17, base, {}, Digests()) for base in (tmp_path, tmp_path / "far" / "away"))
    assert near.files.keys() == {f"{tmp_path}/data/topics.tsv"}
    assert near.key == far.key


def test_a_stage_is_done_once_its_report_is_there_and_not_before(tmp_path: Path) -> None:
    store, folder = begun(tmp_path)
    (folder / "rows.tsv").write_text("The Nile\triver")
    assert not is_done(folder)
    store.finish(folder, Report(kind="dataset", summary="1 row"))
    assert is_done(folder)
    assert read_report(folder).summary == "1 row"
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "rows.tsv", "stage.json"]


def test_beginning_again_clears_the_folder_but_keeps_the_scratch(tmp_path: Path) -> None:
    store, folder = begun(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.txt").write_text("not the stage's")
    (folder / "half").mkdir()
    (folder / "half" / "rows.tsv").write_text("The N")
    (folder / "link").symlink_to(elsewhere)
    (folder / ".work" / "checkpoint").write_text("step 40")
    store.begin(folder, read_stage(folder))
    assert sorted(path.name for path in folder.iterdir()) == [".work", "stage.json"]
    assert (folder / ".work" / "checkpoint").read_text() == "step 40"
    assert (elsewhere / "precious.txt").exists()


def test_other_finished_folders_of_a_stage_come_newest_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ages = {"names-" + "a" * 12: 300, "names-" + "b" * 12: 100, "names-" + "c" * 12: 200}
    for name, age in ages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text("{}")
        os.utime(tmp_path / name / "report.json", (1e9 - age, 1e9 - age))
    (tmp_path / ("names-" + "d" * 12)).mkdir()
    (tmp_path / ("names-two-" + "e" * 12)).mkdir()
    (tmp_path / ("names-two-" + "e" * 12) / "report.json").write_text("{}")
    assert [path.name[-1] for path in store.find_others("names", "a" * 12)] == ["b", "c"]


@pytest.mark.parametrize("damage", ["", "{", '{"kind": "dataset"}', "[]", "\udcff"], ids=repr)
@pytest.mark.parametrize("name", ["stage.json", "report.json"])
def test_a_damaged_file_is_one_line_that_says_what_to_delete(tmp_path: Path, name: str, damage: str) -> None:
    store, folder = begun(tmp_path)
    store.finish(folder, Report(kind="dataset", summary="1 row"))
    (folder / name).write_bytes(damage.encode(errors="surrogateescape"))
    with pytest.raises(StageError) as caught:
        (read_stage if name == "stage.json" else read_report)(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / name}: cannot be read (")
    assert message.endswith(f"; delete {folder} and run its recipe again, which recreates it")
    assert "\n" not in message


def written(path: Path, number: int, start: Any) -> None:
    start.wait()
    for _ in range(50):
        write_atomically(path, json.dumps([number] * 5000))


@pytest.mark.slow
def test_two_processes_may_write_one_file_and_it_is_whole(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    path, start = tmp_path / "report.json", spawn.Barrier(2)
    writers = [spawn.Process(target=written, args=(path, number, start)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(LIMIT)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(json.loads(path.read_text())) == 5000
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_is_never_readable_by_others(tmp_path: Path) -> None:
    modes: list[int] = []

    def write_and_look() -> Iterator[str]:
        yield "the token"
        modes.extend(path.stat().st_mode & 0o777 for path in tmp_path.iterdir())

    before = os.umask(0)
    try:
        write_parts(tmp_path / "address", write_and_look(), private=True)
    finally:
        os.umask(before)
    assert [*modes, (tmp_path / "address").stat().st_mode & 0o777] == [0o600, 0o600]


def test_a_file_that_does_not_fit_leaves_the_one_before_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "report.json", "before")
    (tmp_path / f".report.json.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_atomically(tmp_path / "report.json", "after")
    assert (tmp_path / "report.json").read_text() == "before"


def test_a_digest_is_of_content_not_of_times(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("The Nile")
    before = Digests().compute(path)
    os.utime(path, (1, 1))
    assert Digests().compute(path) == before
    path.write_text("The Nila")
    assert Digests().compute(path) != before


def test_a_remembered_digest_notices_a_change_that_keeps_size_and_time(tmp_path: Path) -> None:
    path, memory = tmp_path / "corpus.txt", tmp_path / "digests.json"
    path.write_text("The Nile")
    stat = path.stat()
    known = [Digests().compute(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    memory.write_text(json.dumps({str(path): known}))
    path.write_text("The Nilo")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert Digests(memory).compute(path) == Digests().compute(path) != known[0]


def test_a_file_that_was_just_written_is_not_yet_remembered(tmp_path: Path) -> None:
    path, memory = tmp_path / "corpus.txt", tmp_path / "digests.json"
    path.write_text("The Nile")
    digests = Digests(memory)
    digests.compute(path)
    digests.save()
    assert not memory.exists()


@pytest.mark.parametrize("memory", ["", "[]", "7", '{"PATH": 3}', '{"PATH": []}', '{"PATH": ["x", 1]}'])
def test_a_damaged_cache_of_digests_is_made_again(tmp_path: Path, memory: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("The Nile")
    (tmp_path / "digests.json").write_text(memory.replace("PATH", str(path)))
    assert Digests(tmp_path / "digests.json").compute(path) == Digests().compute(path)


def test_the_digest_of_a_folder_tells_names_from_contents(tmp_path: Path) -> None:
    for folder, files in {
        "one": {"a": "x", "b": "y"},
        "two": {"a": "y", "b": "x"},
        "three": {"a": "x", "b": "y"},
    }.items():
        (tmp_path / folder / "inner").mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / folder / "inner" / name).write_text(text)
    one, two, three = (Digests().compute(tmp_path / name) for name in ("one", "two", "three"))
    assert one == three != two


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read \(No such file or directory\); fix"):
        Digests().compute(tmp_path / "gone.txt")
