"""Translated pages keep step with the English ones: headings, code, tables, markers and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Pages that are translated, each with the ending of its translation's name.
PAGES = ("README.md", "docs/tutorial.md")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def outline(text: str) -> dict[str, object]:
    """What a page and its translation have in common; the order of links and words of code is the language's own."""
    code, prose = _FENCE.findall(text), _FENCE.sub("", text)
    lines = prose.splitlines()
    tables = [line for line in lines if line.startswith("|")]
    return {
        "headings": [len(line) - len(line.lstrip("#")) for line in lines if re.match("#+ ", line)],
        "code": code,
        "words of code": sorted(" ".join(word.split()) for word in re.findall(r"`([^`]+)`", prose)),
        "markers": re.findall(r"<!-- \S+ -->", prose),
        "tables": [(line.count("|"), re.findall(r"\d+(?:[.,]\d+)*", line)) for line in tables],
        "links": sorted(link.replace(".ja.md", ".md") for link in re.findall(r"\]\(([^)]+)\)", prose)),
    }


def translation(page: str) -> Path:
    return ROOT / page.replace(".md", ".ja.md")


@pytest.mark.parametrize("page", PAGES)
def test_translations_keep_step(page: str) -> None:
    english, japanese = outline((ROOT / page).read_text()), outline(translation(page).read_text())
    for what, found in english.items():
        assert japanese[what] == found, f"{translation(page).name} is behind {page} in its {what}"


@pytest.mark.parametrize("page", PAGES)
def test_each_language_leads_to_the_other(page: str) -> None:
    for here, there in ((ROOT / page, translation(page)), (translation(page), ROOT / page)):
        top = here.read_text().split("\n\n")[1]
        assert f"]({there.name})" in top


@pytest.mark.parametrize("page", PAGES)
def test_links_of_translations_lead_somewhere(page: str) -> None:
    """Also anchors, which are those of English headings, since translated pages link to pages in English."""
    here = translation(page)
    for link in re.findall(r"\]\(([^)]+)\)", _FENCE.sub("", here.read_text())):
        if not link.startswith("http"):
            name, _, anchor = link.partition("#")
            assert (here.parent / name).exists(), link
            headings = re.findall(r"^#+ (.+)$", (here.parent / name).read_text(), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize(
    ("english", "behind", "what"),
    [
        ("# A\n\n## B", "# あ", "headings"),
        ("```python\nf(5)\n```", "```python\nf(4)\n```", "code"),
        ("| 0.181 | 0.2 |", "| 0.118 | 0.2 |", "tables"),
        ("<!-- memory -->", "<!-- launches -->", "markers"),
        ("[a](x.md#one)", "[あ](x.ja.md#two)", "links"),
        ("run `--nfe 8`", "`--nfe 6`", "words of code"),
    ],
)
def test_whatever_falls_behind_is_seen(english: str, behind: str, what: str) -> None:
    assert outline(english)[what] != outline(behind)[what]
