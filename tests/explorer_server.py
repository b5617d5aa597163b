"""The explorer as a process of its own, for tests; as a command it takes the picture of its page for the docs.

python tests/explorer_server.py docs/images/ui.png
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser import opened_browser

__all__ = ["choose", "serving"]


@contextmanager
def serving(*models: object, folder: Path) -> Iterator[str]:
    """Address of an explorer at any free port. It must start, and end without a traceback."""
    command = [sys.executable, "-m", "longstride", "ui", *map(str, models), "--folder", str(folder), "--port", "0"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            log.seek(0)
            assert found, f"{line}{log.read()}"
            yield found[0]
        finally:
            process.terminate()
            process.wait(timeout=30)
            log.seek(0)
            said = log.read()
        assert "Traceback" not in said, said


def choose(page: Any, label: str, option: str) -> None:
    """Choose an option of a field."""
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def _take_picture(path: Path, folder: Path) -> None:
    """Put a card of the bundled model beside classical solvers, and take the page; a missing card is made."""
    if not (folder / "card-5.json").exists():
        few = ["--batch", "40", "--held-out", "24", "--iterations", "2"]
        calibrate = ["calibrate", "garments", "--nfe", "5", *few, "--out", str(folder / "card-5.json")]
        subprocess.run([sys.executable, "-m", "longstride", *calibrate], check=True)
    with serving("garments", folder=folder) as address, opened_browser() as browser:
        page = browser.new_page(viewport={"width": 1180, "height": 900}, device_scale_factor=1.5)
        page.set_default_timeout(300_000)
        page.goto(address)
        page.locator("[data-row='3'] img").first.wait_for()
        choose(page, "Sampler 4", "card-5.json")
        for number in range(3):
            page.locator(f"[data-row='{number}']").get_by_label("Calls").fill("5")
        page.get_by_role("checkbox", name="Errors against the converged solution").click()
        page.get_by_role("button", name="Draw", exact=True).click()
        page.locator("[data-converged] img").first.wait_for()
        page.mouse.move(0, 0)
        page.wait_for_timeout(1000)
        page.screenshot(path=path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        _take_picture(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else place))
