"""Serves pages of `hfpipe demo` and tries them in headless Chromium, as a person with a keyboard does."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import processes
import pytest
from commands import LIMIT, wait_until
from playwright.sync_api import Browser, Request, expect

needs_gradio = pytest.mark.skipif(
    find_spec("gradio") is None, reason="Gradio is not installed: pip install 'hfpipe[demo-page]'"
)
OPENED = re.compile(r"^open (http://127\.0\.0\.1:\d+/) in a browser on this machine; Ctrl-C ends it$", re.M)
"""What the command prints once the page is there."""
STOPS = 60
"""Number of times that Tab is pressed at most to come to a place."""


def find_url(output: Path) -> str:
    """Return the address that a command has printed into a file, an empty text if it has not yet."""
    found = OPENED.search(output.read_text(encoding="utf-8")) if output.exists() else None
    return found[1] if found is not None else ""


@contextmanager
def serve_page(output: Path, *arguments: str | Path) -> Iterator[Callable[[], str]]:
    """Run `hfpipe demo` in a forked process; yields a function that waits for its address."""
    with processes.run_command(output, "demo", *arguments) as process:

        def wait_for_url() -> str:
            wait_until(lambda: find_url(output) or process.exitcode is not None)
            assert process.exitcode is None, output.read_text(encoding="utf-8")
            return find_url(output)

        yield wait_for_url


class DemoTab:
    """A tab with the page of a model, used by the keyboard alone; it may load nothing from elsewhere."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._page = browser.new_context(service_workers="block").new_page()
        self._page.set_default_timeout(LIMIT * 1000)
        expect.set_options(LIMIT * 1000)
        self.problems: list[str] = []
        """Messages in the console, errors of scripts, and what was loaded from elsewhere."""
        self._page.on("console", lambda each: self.problems.append(f"console {each.type}: {each.text}"))
        self._page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self._page.on("request", self._check_request)
        self._page.goto(url)
        expect(self._page.locator("#predict")).to_be_visible()

    def _check_request(self, request: Request) -> None:
        place = urlsplit(request.url)
        if place.scheme not in ("data", "blob") and place.hostname != "127.0.0.1":
            self.problems.append(f"loads {request.url}")

    def submit(self, fields: Mapping[str, str]) -> None:
        """Write into fields, over what is there, and press the button."""
        for name, text in fields.items():
            self._go_to(f"#input-{name} textarea")
            self._page.keyboard.press("ControlOrMeta+A")
            self._page.keyboard.press("Delete")
            self._page.keyboard.insert_text(text)
        self._go_to("#predict")
        self._page.keyboard.press("Enter")

    def _go_to(self, selector: str) -> None:
        """Press Tab until the focus is at a place that can be seen."""
        reached = f"document.activeElement?.matches({selector!r}) && document.activeElement.checkVisibility()"
        for _ in range(STOPS):
            if self._page.evaluate(reached):
                return
            self._page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to {selector}")

    def expect_message(self, text: str) -> None:
        """Wait until a message is shown that has a text in it."""
        expect(self._page.get_by_text(text).first).to_be_visible()

    def read_prediction(self) -> Any:
        """Wait for a prediction, and return its record."""
        record = self._page.locator("#json textarea")
        expect(record).not_to_have_value("")
        return json.loads(record.input_value())

    def expect_lines(self, lines: Sequence[str]) -> None:
        """Wait until the prediction is shown in these lines."""
        expect(self._page.locator("#prediction textarea")).to_have_value("\n".join(lines))

    def expect_shown(self, name: str, texts: Collection[str]) -> None:
        """Wait until the scores or the marked text have some texts; without any, they must not be there."""
        part = self._page.locator(f"#{name}")
        if not texts:
            expect(part).to_be_hidden()
        for text in texts:
            expect(part).to_contain_text(text)

    def close(self) -> list[str]:
        """Close the tab; return what was wrong with it."""
        self._page.context.close()
        return self.problems


def write_fields(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what a person writes for a row: a text as it is, and of a list one item on each line."""
    return {
        name: value
        if isinstance(value, str)
        else "\n".join(value)
        if all(isinstance(each, str) for each in value)
        else json.dumps(value)
        for name, value in row.items()
    }


def listening_addresses(port: int) -> set[str]:
    """Return the IPv4 and IPv6 addresses at which a process of this machine listens on a port."""
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        if (table := Path(f"/proc/net/{name}")).exists()
        for line in table.read_text().splitlines()[1:]
    ]
    places = [line[1].split(":") for line in lines if line[3] == "0A"]
    return {
        str(ipaddress.ip_address(bytes.fromhex(address)[::-1]))
        for address, number in places
        if int(number, 16) == port
    }
