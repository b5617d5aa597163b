"""Many settings at once: every entry holds what its gate says, and what was stopped goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_books import FAST, Toy

import longstride as ls


@pytest.fixture
def book(toy_book: ls.CardBook) -> ls.CardBook:
    return toy_book


def test_a_book_holds_a_card_for_every_setting(book: ls.CardBook):
    assert (book.nfes, book.guidances) == ([3, 4, 5], [1.0, 2.0, 4.0])
    assert [(e.guidance, e.nfe) for e in book.entries] == [(g, n) for g in (1.0, 2.0, 4.0) for n in (3, 4, 5)]
    for entry in book.entries:
        card = book.card(entry.nfe, entry.guidance)
        assert card is entry.card
        assert entry.how in (("calibrated", "base") if entry.nfe != 4 else ("filled", "filled and refined", "base"))
        assert (card.nfe, card.model.guidance, card.table.nfe) == (entry.nfe, entry.guidance, entry.nfe)
        assert card.end.accepted == (entry.how != "base")
        assert card.end.samples == 48
        if card.end.accepted:
            assert card.end.calibrated.rmse <= card.end.base.rmse
        assert ("filled_from" in card.settings) == (entry.nfe == 4)
    assert any(entry.how.startswith("filled") for entry in book.entries)


def test_filled_entries_hold_on_fresh_noise(book: ls.CardBook):
    """What the gate says is no accident of its own noise: the sampler beats its base on noise that nobody saw."""
    toy, seeds = Toy(), range(1000, 1064)
    for entry in (e for e in book.entries if e.how != "base"):
        table, base = entry.card.table, entry.card.base_table
        denoiser, noise = toy.denoiser(seeds, entry.guidance), toy.noise(seeds, table.sigmas[0])
        target = ls.solve_reference(denoiser, noise, table, steps=48).samples
        errors = [(ls.sample(denoiser, noise, one) - target).square().mean() for one in (table, base)]
        assert errors[0] < errors[1]


def test_without_refinement_an_entry_is_its_filling():
    made = ls.calibrate_book(Toy(), (3, 4, 5), anchors=(3, 5), **{**FAST, "refine": 0})
    entry = made.entry(4)
    assert entry is not None
    assert entry.how in ("filled", "base")


@pytest.mark.parametrize(
    ("nfes", "guidances", "options", "message"),
    [
        ((), (None,), {}, "needs numbers of calls"),
        ((3,), (), {}, "needs numbers of calls"),
        ((0, 3), (None,), {}, "1 or more"),
        ((3, 4), (None, 2.0), {}, "either guided or not"),
        ((3, 4, 5), (None,), {"anchors": (3, 4)}, "the first and the last included"),
        ((3, 4, 5), (None,), {"anchors": (3, 5, 6)}, "anchors must be among"),
        ((3, 4), (None,), {"iteration": 3}, "unexpected keyword argument 'iteration'"),
    ],
)
def test_bad_books_are_refused_before_any_call(nfes, guidances, options, message):
    with pytest.raises(ls.InputError, match=message):
        ls.calibrate_book(Toy(), nfes, guidances, **{**FAST, **options})


def test_a_book_that_was_stopped_goes_on_and_ends_in_the_same_file(tmp_path: Path):
    """Stopped while it calibrates: finished parts are read, and the same text comes out."""
    undisturbed = ls.calibrate_book(Toy(), (3, 4), **FAST, journal=tmp_path / "undisturbed")
    seen: list[str] = []

    def stop(done: int, total: int, what: str) -> None:
        seen.append(what)
        assert 0 <= done <= total
        if what == "calibrating" and done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ls.calibrate_book(Toy(), (3, 4), **FAST, journal=tmp_path / "journal", progress=stop)
    assert seen[0] == "converging"
    parts = {file: file.stat().st_mtime_ns for file in (tmp_path / "journal").rglob("*.npz")}
    assert parts
    again = ls.calibrate_book(Toy(), (3, 4), **FAST, journal=tmp_path / "journal")
    assert again.dumps() == undisturbed.dumps()
    assert {file: file.stat().st_mtime_ns for file in parts} == parts
    with pytest.raises(ls.InputError, match="unfinished work with another anchors, nfes"):
        ls.calibrate_book(Toy(), (3, 5), anchors=(3, 5), **FAST, journal=tmp_path / "journal")
