"""A browser for tests: the system's chromium, driven by Playwright. Nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["PROGRAMS", "opened_browser"]

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
