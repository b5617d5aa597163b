"""The explorer in a browser: pictures appear, a run is stepped through, a calibration runs and its card is saved."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import opened_browser
from explorer_server import choose, serving
from toy_outcomes import OUTCOMES

import longstride as ls
from longstride.report import save_outcome

TABS = ("Compare", "Step through", "Tables", "Calibrate", "Proof of concept")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the explorer, with an outcome."""
    found = tmp_path_factory.mktemp("explorer")
    save_outcome(OUTCOMES["great"], found / "outcome.json")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(shared: Path, folder: Path, browser: Any) -> Iterator[str]:
    with serving(shared / "a", folder=folder) as found:
        yield found


@pytest.fixture(scope="module")
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page with its first pictures. It must load everything from the explorer, and complain of nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    found, complaints, requests = context.new_page(), [], []
    found.on("console", lambda message: complaints.append(message.text))
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("request", lambda one: requests.append(one.url))
    found.goto(address)
    found.locator("[data-row='3'] img").first.wait_for()
    yield found
    context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith((address, address.replace("http", "ws"), "data:"))] == []


def draw(page: Any) -> None:
    """Draw, which waits for a drawing that goes on."""
    page.get_by_role("button", name="Draw", exact=True).click()


def field(page: Any, label: str) -> Any:
    return page.get_by_label(label, exact=True)


def test_pictures_of_four_samplers_appear(page: Any):
    page.get_by_role("tab", name="Compare").click()
    assert page.locator("[data-row]").count() == 4
    assert page.locator("[data-row] .ls-strip img").count() == 32
    assert page.evaluate("[...document.images].every(i => i.alt && i.complete && i.naturalWidth > 0)")
    sources = page.locator("[data-row='0'] .ls-strip img").evaluate_all("all => all.map(i => i.src)")
    field(page, "Seed").first.fill("5")
    page.get_by_role("checkbox", name="Errors against the converged solution").click()
    draw(page)
    page.wait_for_function(
        "old => { const now = document.querySelector(\"[data-row='0'] .ls-strip img\"); return now && now.src != old }",
        arg=sources[0],
    )
    page.locator("[data-converged] img").first.wait_for()
    assert "RMSE 0." in page.locator("[data-row='3']").inner_text()
    least = page.locator("figcaption.ls-least").all_inner_texts()
    assert len(least) >= 8


def test_a_run_is_stepped_through(page: Any):
    page.get_by_role("tab", name="Step through").click()
    picture = page.locator(".ls-column .ls-cell img").first
    picture.wait_for()
    page.get_by_role("slider").press("Home")
    page.get_by_text("call 1 of 6").first.wait_for()
    before = picture.get_attribute("src")
    page.get_by_role("slider").press("ArrowRight")
    page.get_by_text("call 2 of 6").first.wait_for()
    assert picture.get_attribute("src") != before
    page.get_by_role("slider").press("End")
    page.get_by_text("end after 6 calls").first.wait_for()


def test_a_calibration_runs_and_its_card_is_saved_and_drawn(page: Any, folder: Path):
    page.get_by_role("tab", name="Calibrate").click()
    for label, value in (("Calls", 3), ("Fitted", 8), ("Held out", 8), ("Starts", 0), ("Steps", 1)):
        panel = page.locator(".q-tab-panel").filter(has=page.get_by_label("Held out"))
        panel.get_by_label(label, exact=True).fill(str(value))
    page.get_by_role("button", name="Calibrate", exact=True).click()
    page.locator("[data-result]").get_by_text("held-out samples").wait_for(timeout=60_000)
    field(page, "File name").fill("made here")
    page.get_by_role("button", name="Save the card").click()
    page.get_by_text("Saved as made here.json").wait_for()
    assert ls.load_card(folder / "made here.json").nfe == 3
    page.get_by_role("tab", name="Compare").click()
    draw(page)
    page.locator("[data-row='3'] .ls-strip img").first.wait_for()
    assert "3 network calls" in page.locator("[data-row='3']").inner_text()
    page.get_by_role("tab", name="Tables").click()
    figure = page.locator("img.ls-figure").first
    figure.wait_for()
    assert figure.get_attribute("alt").startswith("Weights of ")


def test_an_outcome_is_shown_and_a_model_that_is_not_here_is_told(page: Any):
    page.get_by_role("tab", name="Proof of concept").click()
    choose(page, "Outcome", "outcome.json")
    page.get_by_role("heading", name="Adopt").wait_for()
    page.get_by_role("button", name="Draw its samplers").click()
    page.get_by_text("the model 'toy' is not among").wait_for()
    page.get_by_role("button", name="Close").click()


@pytest.mark.parametrize("tab", TABS)
def test_nothing_serious_is_found_by_axe(page: Any, tab: str):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.get_by_role("tab", name=tab).click()
    page.wait_for_timeout(300)
    found = axe.run(page).response["violations"]
    serious = [
        (one["id"], [node["html"][:160] for node in one["nodes"][:3]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_the_page_fits_a_phone(page: Any):
    try:
        page.set_viewport_size({"width": 390, "height": 850})
        for tab in TABS:
            page.get_by_role("tab", name=tab).click()
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab
    finally:
        page.set_viewport_size({"width": 1280, "height": 900})


def test_other_names_of_this_machine_are_refused(address: str):
    """A page of the web whose name leads here (DNS rebinding) gets nothing."""
    request = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=10)
