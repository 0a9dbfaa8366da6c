"""`pytest --update-messages`: brings the messages that tests expect up to date, or lists them for review.

The expected messages of `wrong_recipes.txt` are written again; read the diff. Every `pytest.raises(match=…)`
that no longer fits is listed at the end with the present message, and the run fails; those files stay.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest

OPTION = "--update-messages"


@dataclass(frozen=True)
class Changed:
    """A pattern that a message does not fit."""

    where: str
    """File and line of the `pytest.raises`."""
    pattern: str
    message: str

    def lines(self) -> str:
        """Return what a person reads to write the new pattern."""
        return f"{self.where}\n  match:   {self.pattern}\n  message: {self.message}"


class ListChanged:
    """A plugin in whose run `pytest.raises` takes any message, and remembers those that do not fit."""

    def __init__(self, raises: Any) -> None:
        self._raises = raises
        self.found: dict[Changed, None] = {}

    def raises(self, expected: Any, *arguments: Any, match: Any = None, **options: Any) -> Any:
        """Stand in for `pytest.raises`."""
        if match is None or arguments:
            return self._raises(expected, *arguments, **options)
        frame = sys._getframe(1)
        return self._remembered(expected, match, f"{frame.f_code.co_filename}:{frame.f_lineno}", options)

    @contextmanager
    def _remembered(
        self, expected: Any, match: Any, where: str, options: dict[str, Any]
    ) -> Iterator[pytest.ExceptionInfo[Any]]:
        with self._raises(expected, **options) as caught:
            yield caught
        message = str(caught.value)
        if re.search(match, message) is None:
            file, _, line = where.rpartition(":")
            short = f"{Path(file).name}:{line}"
            self.found[Changed(short, getattr(match, "pattern", match), message)] = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Write the table, before its cases are read, and put the stand-in where tests find it."""
        if not hasattr(session.config, "workerinput"):
            online = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
            command = [sys.executable, str(Path(__file__).with_name("test_recipe_messages.py"))]
            subprocess.run(command, check=True, env=online)
        pytest.raises = self.raises  # type: ignore[assignment]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run, for what was listed is not true yet."""
        pytest.raises = self._raises
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["changed"] = [astuple(changed) for changed in self.found]
        elif self.found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a process of xdist has found."""
        self.found |= {Changed(*each): None for each in getattr(node, "workeroutput", {}).get("changed", [])}

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """List what changed, by file and line."""
        if self.found:
            terminalreporter.section(f"{len(self.found)} messages that their match= does not fit")
            for changed in sorted(self.found, key=lambda each: each.where):
                terminalreporter.write_line(changed.lines())
