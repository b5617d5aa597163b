"""The page as text: every number again from the data in it, every sentence translated, nothing loaded, nothing run."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po
from catalogues import HOME, messages
from toy_outcomes import OUTCOMES

from longstride.errors import InputError
from longstride.evaluation.bootstrap import group_bootstrap
from longstride.guard.bound import upper_share
from longstride.report import language as languages
from longstride.report.asked import FULL, QUICK
from longstride.report.decision import decide
from longstride.report.language import load_language
from longstride.report.page import render

#: Words that are data and not sentences: names of samplers, files, versions and units of the toy outcomes.
DATA = re.compile(
    r"longstride|DPM-Solver\+\+ 2M|UniPC-3 on log_snr|efficientnet-lite0|PyTorch|Python|toy|cpu|a processor, 2 cores|"
    r"0123456789ab|EUR|RMSE|NaN"
)
#: Letters that Babel writes: units, the names of months, and between names in a row.
BABEL = re.compile(r"\b(sek|min|h|t|d|tagoj?|horoj?|minutoj?|sekundoj?|novembro|kaj)\b", re.IGNORECASE)


class Page(HTMLParser):
    """What a reader sees: texts, what a screen reader says, and the numbers with their keys."""

    SILENT = ("style", "script", "code", "pre")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.path: list[str] = []
        self.texts: list[str] = []
        self.rows: list[list[tuple[dict[str, str | None], str]]] = []
        self.scripts: dict[str, str] = {}
        self.links: list[str] = []
        self._id: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.texts += [value for name, value in attrs if name in ("aria-label", "alt") and value]
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag == "tr":
            self.rows.append([])
        if tag == "data":
            self.rows[-1].append((known, ""))
        if tag == "script":
            self._id = known.get("id")
        if tag not in ("img", "meta", "input", "br", "line", "path"):
            self.path.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.path and self.path.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.path and self.path[-1] == "script" and self._id:
            self.scripts[self._id] = data
        if "data" in self.path and self.path[-1] == "data":
            known, text = self.rows[-1][-1]
            self.rows[-1][-1] = (known, text + data)
        if not set(self.path) & set(self.SILENT):
            self.texts.append(data)


def page_of(name: str, code: str = "en") -> str:
    return render(OUTCOMES[name], decide(OUTCOMES[name]), load_language(code), "report.files")


def untranslated(text: str) -> str:
    """Letters outside of the marks that a pseudo-locale puts around every sentence."""
    depth, found = 0, ""
    for letter in text:
        depth += (letter == "⟦") - (letter == "⟧")
        found += letter if depth == 0 and letter != "⟧" else ""
    return "".join(c for c in BABEL.sub("", DATA.sub("", found)) if c.isalpha() and c not in "ABT×")


@pytest.fixture(scope="module")
def pseudo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalogue in which every sentence is marked; Esperanto lends its numbers and dates."""
    folder, catalogue = tmp_path_factory.mktemp("locale"), Catalog(locale="eo")
    for message in messages():
        catalogue.add(message, f"⟦{message}⟧")
    with (folder / "eo.po").open("wb") as file:
        write_po(file, catalogue)
    return folder


@pytest.mark.parametrize("name", OUTCOMES)
def test_no_string_of_the_page_is_left_untranslated(name: str, pseudo: Path):
    outcome, language = OUTCOMES[name], load_language("eo", pseudo)
    page = Page(render(outcome, decide(outcome), language, "report.files"))
    assert [text for text in page.texts if untranslated(text)] == []
    assert [text for text in json.loads(page.scripts["words"]).values() if untranslated(text)] == []


def test_a_string_outside_of_the_catalogue_would_be_found(pseudo: Path):
    assert untranslated("⟦Cost ⟦of⟧ 3⟧ more") == "more"


@pytest.mark.parametrize("file", sorted((HOME / "locale").glob("*.po")), ids=lambda file: file.stem)
def test_a_catalogue_is_complete_and_says_nothing_else(file: Path):
    with file.open("rb") as opened:
        catalogue = read_po(opened, locale=file.stem)
    said = {one.id: one.string for one in catalogue if one.id}
    assert sorted(set(messages()) - set(said)) == []
    assert sorted(set(said) - set(messages())) == []
    for message, text in said.items():
        assert text, message
        assert sorted(re.findall(r"\{\w+\}", message)) == sorted(re.findall(r"\{\w+\}", text)), message


def test_numbers_are_those_of_the_data_in_the_page():
    """Every number of the table, again from the errors of the samples, by the textbook's formulas."""
    page = Page(page_of("great"))
    data = json.loads(page.scripts["outcome"])
    language = load_language("en")
    measured = {(one["label"], one["calls"]): one for one in data["samplers"]}
    today = np.array(measured["DPM-Solver++ 2M", 20]["errors"])
    known = {json.dumps(one["errors"][:3]): one for one in data["samplers"]}
    assert len(known) == len(data["samplers"])
    seen = 0
    for row in page.rows:
        cells = {cell["data-n"]: (cell, text) for cell, text in row}
        if "rmse" not in cells:
            continue
        seen += 1
        rmse = float(str(cells["rmse"][0]["value"]))
        one = min(data["samplers"], key=lambda s: abs(np.sqrt(np.mean(np.square(s["errors"]))) - rmse))
        errors = np.array(one["errors"])
        expected = {
            "calls": one["calls"],
            "rmse": np.sqrt(np.mean(errors**2)),
            "median": np.median(errors),
            "ratio": np.sqrt((errors**2).sum() / (today**2).sum()),
            "distance": one["distance"]["value"],
            **{f"worse{'' if f == 1 else f'_{f}'}": (errors > f * today).mean() for f in (1, 2, 4)},
        }
        for key, (cell, text) in cells.items():
            assert float(str(cell["value"])) == pytest.approx(expected[key], rel=1e-12), key
            write = (
                language.percent if key.startswith("worse") else language.whole if key == "calls" else language.number
            )
            itself = key == "ratio" and one["calls"] == 20
            assert text == ("1" if itself else write(expected[key])), key
        if one["calls"] != 20:
            pairs = np.stack([errors**2, today**2], axis=1)
            found = group_bootstrap(lambda s: float(np.sqrt(s[0] / s[1])), pairs, replicates=2000, level=1 - 0.05 / 4)
            assert float(str(cells["ratio"][0]["data-low"])) == found.low
            assert float(str(cells["ratio"][0]["data-high"])) == found.high
    assert seen == len(data["samplers"])


def test_what_the_page_says_of_tails_and_money_is_arithmetic():
    text = page_of("tail")
    data = json.loads(Page(text).scripts["outcome"])
    of = {(one["name"], one["calls"]): one for one in data["samplers"]}
    ours, today = of["calibrated", 4], of["dpmpp_2m", 20]
    worse = int((np.array(ours["errors"]) > 4 * np.array(today["errors"])).sum())
    most = load_language("en").percent(upper_share(worse, 512, 0.95), 3)
    assert f"{worse} of 512 samples are more than 4 times as far off as today. Up to {most} of all may be" in text
    saved = np.mean(today["seconds"]) - np.mean(ours["seconds"])
    month = saved * data["figures"]["images_per_month"] * data["figures"]["price_per_hour"] / 3600
    assert f"€{float(f'{month:.3g}'):,.0f} (" in text
    images = float(f"{data['cost']['seconds'] / saved:.3g}")
    assert f"paid back after {images:,.0f} pictures" in text


def test_the_csv_files_hold_the_data():
    page = Page(page_of("great"))
    table, samples = (
        list(csv.DictReader(io.StringIO(base64.b64decode(link.partition("base64,")[2]).decode())))
        for link in page.links
        if link.startswith("data:text/csv")
    )
    outcome = OUTCOMES["great"]
    assert [(row["sampler"], int(row["calls"])) for row in table] == [(s.name, s.calls) for s in outcome.samplers]
    for one in outcome.samplers:
        assert tuple(float(row[f"{one.name}-{one.calls}"]) for row in samples) == one.errors


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_page_loads_nothing_and_its_data_are_the_outcome(name: str):
    text = page_of(name)
    page = Page(text)
    assert [link for link in page.links if not link.startswith(("data:", "#"))] == []
    assert "http" not in re.sub(r"http://www\.w3\.org/\d+/\w+|http-equiv", "", text)
    assert json.loads(page.scripts["outcome"]) == json.loads(OUTCOMES[name].without_pictures().dumps())
    assert len((HOME / "templates" / "script.js").read_bytes()) < 11_000


def test_a_hostile_name_is_text():
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    outcome = OUTCOMES["great"]
    samplers = tuple(replace(one, label=evil) if one.name == "unipc3_log_snr" else one for one in outcome.samplers)
    outcome = replace(outcome, subject=replace(outcome.subject, model=evil), samplers=samplers)
    text = render(outcome, decide(outcome), load_language("en"), "report.files")
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert json.loads(Page(text).scripts["outcome"])["subject"]["model"] == evil


def test_a_page_is_the_same_again():
    assert page_of("great") == page_of("great")


def test_numbers_and_money_in_both_languages():
    english, japanese = load_language("en"), load_language("ja")
    assert english.money(1234.5, "EUR") == "€1,230"
    assert japanese.money(1234567, "JPY") == "￥1,230,000"
    assert english.day("2026-11-29") == "November 29, 2026"
    assert japanese.day("2026-11-29") == "2026年11月29日"
    assert english.number(0.0123456) == "0.0123"
    assert english.number(float("inf")) == "∞"
    assert english.percent(0.00583) == "0.58%"
    assert japanese.duration(600) == "10 分"
    assert english.whole(553_210) == "553,000"


def test_the_documentation_says_how_much_is_measured():
    text = (Path(__file__).resolve().parent.parent / "docs" / "poc.md").read_text()
    rows = {
        "samples that all samplers draw": (f"{QUICK.samples}", f"{FULL.samples:,}"),
        "samples of the calibration, fitted and held out": tuple(f"{e.fitted} + {e.held_out}" for e in (QUICK, FULL)),
        "calls of the converged solution": tuple(str(e.reference_steps) for e in (QUICK, FULL)),
        "dimensions of the Fréchet distance": tuple(str(e.dimensions) for e in (QUICK, FULL)),
    }
    for name, (quick, full) in rows.items():
        assert f"| {name} | {quick} | {full} |" in text


def test_an_unknown_language_and_a_missing_extra(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="unknown language 'xx'.*known: en, ja"):
        load_language("xx")

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(languages, "import_module", missing)
    with pytest.raises(InputError, match=r"^the report needs extra packages: pip install 'longstride\[report\]'$"):
        load_language("en")


def test_a_damaged_catalogue_is_named(tmp_path: Path):
    (tmp_path / "ja.po").write_text("no catalogue\n")
    with pytest.raises(InputError, match="the catalogue .*ja.po is damaged"):
        load_language("ja", tmp_path)
