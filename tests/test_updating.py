"""`pytest --update-messages` lists what changed and writes the table of wrong recipes again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import test_recipe_messages as table
from updating import ListChanged


def test_a_message_that_no_longer_fits_is_listed_with_its_place() -> None:
    plugin = ListChanged(pytest.raises)
    with plugin.raises(ValueError, match=r"^the old words") as caught:
        raise ValueError("the new words")
    assert str(caught.value) == "the new words"
    [changed] = plugin.found
    where, pattern, message = changed.lines().splitlines()
    assert where.startswith("test_updating.py:")
    assert (pattern, message) == ("  match:   ^the old words", "  message: the new words")


def test_a_message_that_fits_is_not_listed_and_another_error_still_fails() -> None:
    plugin = ListChanged(pytest.raises)
    with plugin.raises(ValueError, match="new w.rds"):
        raise ValueError("the new words")
    with pytest.raises(KeyError), plugin.raises(ValueError, match="words"):
        raise KeyError("words")
    with (
        pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"),
        plugin.raises(ValueError, match="words"),
    ):
        pass
    assert not plugin.found


@pytest.mark.slow
def test_the_table_of_messages_is_written_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = table.TABLE.read_text(encoding="utf-8")
    copy = Path(shutil.copy(table.TABLE, tmp_path))
    copy.write_text(right.replace("; did you mean 'name'?", ""), encoding="utf-8")
    monkeypatch.setattr(table, "TABLE", copy)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.chdir(tmp_path)
    table.regenerate()
    assert copy.read_text(encoding="utf-8") == right
