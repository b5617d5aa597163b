"""A browser for tests: the system's chromium, driven by Playwright. Nothing is downloaded.

A tab takes nothing from the network, and complains about nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["PROGRAMS", "WIDTHS", "Tab", "opened_browser", "serious_findings"]

#: Widths in pixels at which a page is looked at; print: A4 less its margins.
WIDTHS = {"phone": 390, "laptop": 1280, "print": 718}

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_HELP = (
    "the tests of the pages need a browser and Playwright: apt-get install chromium, and "
    "pip install 'longstride[dev]'; CHROMIUM names another program"
)


def _missing(what: str) -> None:
    """Skip with a clear message; where the browser is needed (CI), fail."""
    if os.environ.get("LONGSTRIDE_NEEDS_BROWSER"):
        pytest.fail(f"{what}: {_HELP}")
    pytest.skip(f"{what}: {_HELP}")


@contextmanager
def opened_browser() -> Iterator[Any]:
    """A headless browser."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        _missing("no chromium was found")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("Playwright is not installed")
    with sync_playwright() as playwright:
        # Tests may run as root, for which chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A page of the browser, and everything that it complains about or asks for."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, *, scripts: bool = True) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 850}, java_script_enabled=scripts)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda one: self.requests.append(one.url))
        self.page.goto(file.as_uri())

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *_: object) -> None:
        outside = [url for url in self.requests if not url.startswith(("file:", "data:"))]
        self.context.close()
        assert self.complaints == []
        assert outside == []


def serious_findings(page: Any) -> list[tuple[str, list[str]]]:
    """What axe finds that is serious or critical, with the elements."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.context.set_default_timeout(120_000)
    return [
        (one["id"], [node["html"][:120] for node in one["nodes"][:3]])
        for one in axe.run(page).response["violations"]
        if one["impact"] in ("serious", "critical")
    ]
