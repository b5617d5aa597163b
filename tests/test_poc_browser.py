"""The page in a browser: it loads nothing, fits every width, works without scripts, and with them does what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import WIDTHS, Tab, opened_browser, serious_findings
from scipy.stats import beta
from toy_outcomes import OUTCOMES

from longstride.report.language import load_language
from longstride.report.page import write_page

LANGUAGES = ("en", "ja")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Files of some outcomes in both languages."""
    folder, found = tmp_path_factory.mktemp("pages"), {}
    for name in ("great", "no price", "non-finite"):
        for code in LANGUAGES:
            found[name, code] = folder / f"{name.replace(' ', '-')}-{code}.html"
            write_page(OUTCOMES[name], found[name, code], load_language(code), "report.files")
    return found


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("kind", WIDTHS)
def test_every_width_holds_the_page(browser, pages, kind: str, code: str):
    for (name, language), file in pages.items():
        if language != code:
            continue
        with Tab(browser, file, WIDTHS[kind]) as page:
            if kind == "print":
                page.emulate_media(media="print")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            assert page.evaluate("document.documentElement.lang") == code
            assert page.evaluate("[...document.images].every(i => !i.src || (i.complete && i.naturalWidth > 0))"), name


@pytest.mark.parametrize("code", LANGUAGES)
def test_nothing_serious_is_found_by_axe(browser, pages, code: str):
    for (name, language), file in pages.items():
        if language == code:
            with Tab(browser, file) as page:
                assert serious_findings(page) == [], name


def test_pictures_flip_by_click_and_by_key(browser, pages):
    with Tab(browser, pages["great", "en"]) as page:
        strips, buttons = page.locator("[data-strip]"), page.locator("[data-show]")
        assert buttons.count() == 4

        def shown() -> list[bool]:
            pressed = [buttons.nth(n).get_attribute("aria-pressed") == "true" for n in range(4)]
            assert pressed == [strips.nth(n).is_visible() for n in range(4)]
            return pressed

        assert shown() == [True, False, False, False]
        buttons.nth(2).click()
        assert shown() == [False, False, True, False]
        page.keyboard.press("4")
        assert shown() == [False, False, False, True]


def _sources(page: Any) -> dict[str, bool]:
    """Whether a picture is the calibrated one, by its address."""
    outcome = OUTCOMES["great"].pictures
    assert outcome is not None
    return {**{p.calibrated: True for p in outcome.blind}, **{p.today: False for p in outcome.blind}}


@pytest.mark.parametrize("wanted", [0, 10, 20])
def test_the_blind_choice_counts_what_was_taken(browser, pages, wanted: int):
    with Tab(browser, pages["great", "en"]) as page:
        ours, taken = _sources(page), 0
        for _ in range(20):
            images = [page.locator(f"[data-side='{side}'] img").get_attribute("src") for side in (0, 1)]
            assert sorted(ours[source] for source in images) == [False, True]  # one of each
            side = next(n for n, source in enumerate(images) if ours[source] == (taken < wanted))
            taken += ours[images[side]]
            page.locator(f"[data-side='{side}']").click()
        low = beta.ppf(0.025, taken, 21 - taken) if taken else 0.0
        high = beta.ppf(0.975, taken + 1, 20 - taken) if taken < 20 else 1.0
        told = page.locator("[data-blind] .result").inner_text()
        assert f"in {wanted} of 20 pairs (95 % interval {low:.0%} to {high:.0%})" in told
        assert ("cannot tell" in told) == (wanted == 10)
        assert page.locator("[data-solution]").is_visible()
        page.locator(".again").click()
        assert page.locator("[data-side='0']").is_visible()


def test_columns_sort_both_ways(browser, pages):
    with Tab(browser, pages["great", "en"]) as page:

        def column(n: int) -> list[float]:
            return page.evaluate(
                "n => [...document.querySelectorAll('[data-sortable] tbody tr')].map(r => r.cells[n])"
                ".map(c => c.querySelector('data') ? +c.querySelector('data').getAttribute('value') : Infinity)",
                n,
            )

        for n in (1, 2, 3, 5):
            button = page.locator("[data-sortable] thead th").nth(n).locator("button")
            button.click()
            assert column(n) == sorted(column(n))
            button.click()
            assert column(n) == sorted(column(n), reverse=True)
            assert page.locator("[data-sortable] thead th").nth(n).get_attribute("aria-sort") == "descending"


def test_curves_can_be_taken_away_and_tell_their_numbers(browser, pages):
    with Tab(browser, pages["great", "en"]) as page:
        point = page.locator("#rmse-s0-p5")
        point.hover(force=True)
        assert re.match(r"Calibrated \(longstride\), 5 calls: 0\.04", page.locator("#hint").inner_text())
        page.locator("[data-series='0']").uncheck()
        assert not point.is_visible()
        assert page.locator("#rmse-s1-p5").is_visible()


def test_the_planner_computes_from_the_figures(browser, pages):
    with Tab(browser, pages["no price", "en"]) as page:
        out = {name: page.locator(f"[data-out={name}]") for name in ("saved", "images", "days", "calls")}
        assert out["saved"].inner_text() == "–"
        page.locator("[data-number=price]").fill("3.6")
        page.locator("[data-number=volume]").fill("1000000")
        data = json.loads(page.locator("#outcome").text_content())
        seconds = {
            (one["name"], one["calls"]): sum(one["seconds"]) / len(one["seconds"])
            for one in data["samplers"]
            if one["seconds"]
        }
        saved = seconds["dpmpp_2m", 20] - seconds["calibrated", 5]
        assert out["saved"].inner_text() == f"€{float(f'{1000 * saved:.3g}'):,.0f}"
        assert float(out["images"].inner_text().replace(",", "")) == float(f"{data['cost']['seconds'] / saved:.3g}")
        before = page.locator("[data-line=ours]").get_attribute("y2")
        page.locator("[data-range=calls]").fill("0")
        assert out["calls"].inner_text() == "4"
        assert page.locator("[data-line=ours]").get_attribute("y2") != before
        page.locator("[data-range=price]").fill("1")
        assert page.locator("[data-number=price]").input_value() == "10"


def test_the_page_works_without_scripts(browser, pages):
    with Tab(browser, pages["great", "en"], scripts=False) as page:
        for strip in page.locator("[data-strip]").all():
            assert strip.is_visible()
        assert page.locator("[data-pair]").count() == 20
        assert page.locator("[data-pair]").first.is_visible()
        assert not page.locator("[data-blind]").is_visible()
        assert not page.locator(".controls").is_visible()
        assert page.locator("#rmse-s0-p5 title").text_content().startswith("Calibrated")


def test_the_page_prints_a_section_a_page(browser, pages):
    with Tab(browser, pages["great", "en"]) as page:
        pdf = page.pdf(prefer_css_page_size=True, print_background=True)
        count = len(re.findall(rb"/Type\s*/Page[^s]", pdf))
        assert 5 <= count <= 8
