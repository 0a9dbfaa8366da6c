"""Opens pages in headless Chromium and returns what is wrong: errors, width, contrast, names, keys."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"
)
MEASURE = (Path(__file__).parent / "page_checks.js").read_text(encoding="utf-8")
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"],
    "resultTypes": ["violations"],
}
LOOKS = [(1280, "light"), (400, "dark"), (1280, "dark"), (400, "light")]
"""Widths in pixels and colour schemes."""
NO_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
"""Option of Chromium with which it finds no other machine."""
LEAST = 200
"""Texts that the pages of tests have at least, so that a check which reads nothing does not pass."""


@contextmanager
def launch_chromium() -> Iterator[Browser]:
    """Start headless Chromium without a network; it ends with the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", NO_NAMES])
        try:
            yield browser
        finally:
            browser.close()


def open_page(path: Path, looks: Sequence[tuple[int, str]] = LOOKS) -> list[str]:
    """Return what is wrong with a page at some widths and colours; nothing but the file may be loaded."""
    found: list[str] = []
    with launch_chromium() as browser:
        page = browser.new_page()
        page.on("console", lambda message: found.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: found.append(f"error: {error}"))
        page.on("request", lambda request: found.append(f"loads {request.url}"))
        page.goto(path.as_uri())
        assert found.pop(0) == f"loads {path.as_uri()}"
        page.add_script_tag(content=MEASURE)
        found += _keys(page)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        for width, scheme in looks:
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            found += [f"{width} {scheme}: {problem}" for problem in _looks(page)]
    return found


def _looks(page: Page) -> Iterator[str]:
    said: dict[str, Any] = page.evaluate("look()")
    assert said["texts"] > LEAST
    yield from said["problems"]
    for violation in Axe().run(page, options=RULES).response["violations"]:
        places = ", ".join(node["target"][0] for node in violation["nodes"][:3])
        summary = violation["nodes"][0]["failureSummary"].replace("\n", " ")
        yield f"axe {violation['id']}: {len(violation['nodes'])} places, as {places}: {summary}"


def _keys(page: Page) -> Iterator[str]:
    """Yield what cannot be reached, seen or done with the keyboard alone."""
    every = page.evaluate("reachable().length")
    reached = set()
    for _ in range(every):
        page.keyboard.press("Tab")
        place, is_seen = page.evaluate("focused()")
        reached.add(place)
        if not is_seen:
            yield f"the focus on item {place} is not seen"
    if reached != set(range(every)):
        yield f"keys reach {len(reached)} of {every} items"
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    if not page.locator("details[open]").count():
        yield "a fold does not open by key"
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    if not page.url.endswith("#results"):
        yield "the first link does not lead to the results"
