"""The card book: round trip, damage, and what it says outside of itself."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import EDMEulerScheduler
from toy_books import SCHEDULE, Toy

import longstride as ls
from longstride.book import BOOK_VERSION, Entry, Unjudged, load_any
from longstride.documents import checksum
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.interpolate import fill_guidance


@pytest.fixture
def book(toy_book: ls.CardBook) -> ls.CardBook:
    return toy_book


@pytest.fixture
def file(book: ls.CardBook, tmp_path: Path) -> Path:
    book.save(tmp_path / "book.json")
    return tmp_path / "book.json"


def test_between_two_scales_the_table_is_filled_and_says_so(book: ls.CardBook):
    nfe = 5
    fitted = {e.guidance: e.card.table for e in book.entries if e.nfe == nfe and e.how != "base"}
    assert len(fitted) == 3, "the toy no longer calibrates"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = book.card(nfe, 3.0)
    assert isinstance(found, Unjudged)
    assert (found.how, found.nfe, found.model.guidance) == ("filled", nfe, 3.0)
    assert found.table.name == "gauss_newton_filled"
    assert found.note == "filled between guidance 1, 2, 4; not judged on held-out noise"
    assert found.table.distance(fill_guidance(fitted, 3.0)) == 0
    assert np.all(np.diff(found.table.sigmas) < 0)


def test_a_pipeline_gets_what_the_book_gives(book: ls.CardBook):
    """One way of choosing: an entry, a table between two scales with its note, and outside of the book an error."""
    config = EDMEulerScheduler(sigma_min=0.05, sigma_max=20.0).config
    for guidance in (2.0, 3.0):
        scheduler = LongstrideScheduler.from_card(book, config, strict=True, guidance_scale=guidance)
        found = book.choose(5, guidance)
        if isinstance(found, Unjudged):
            with pytest.warns(UserWarning, match="note: filled between guidance 1, 2, 4; not judged"):
                scheduler.set_timesteps(5)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                scheduler.set_timesteps(5, "cpu")  # once is enough
        else:
            scheduler.set_timesteps(5)
        assert scheduler.setup.calibrated
        assert scheduler.sigmas.tolist() == found.table.sigmas.tolist()
        np.testing.assert_allclose(scheduler.timesteps.numpy(), SCHEDULE.time(found.table.sigmas[:-1]), rtol=1e-6)
    for guidance, said in (
        (8.0, "this book is for guidance 1.0, 2.0, 4.0, not 8.0"),
        (None, "say which with guidance_sc"),
    ):
        scheduler = LongstrideScheduler.from_card(book, config, strict=True, guidance_scale=guidance)
        with pytest.raises(ls.CardError, match=said):
            scheduler.set_timesteps(5)


def test_guidance_of_one_is_no_guidance(plain_book: ls.CardBook):
    assert plain_book.choose(3, 1.0) == plain_book.card(3)


def test_filled_between_scales_is_better_than_the_base(book: ls.CardBook):
    toy, seeds, found = Toy(), range(2000, 2064), book.card(5, 2.8)
    denoiser, noise = toy.denoiser(seeds, 2.8), toy.noise(seeds, found.table.sigmas[0])
    target = ls.solve_reference(denoiser, noise, found.table, steps=48).samples
    errors = [(ls.sample(denoiser, noise, t) - target).square().mean() for t in (found.table, found.base_table)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(("nfe", "guidance"), [(7, 2.0), (2, 1.0), (4, 8.0), (4, 0.5), (7, 3.0)])
def test_outside_it_says_so_once_and_gives_the_base(file: Path, nfe: int, guidance: float):
    book = ls.load_book(file)
    holds = "this book, which holds 3, 4, 5 network calls at guidance 1, 2, 4"
    asked = f"{nfe} network calls at guidance {guidance:g}: not in {holds}"
    with pytest.warns(UserWarning, match=f"{asked}; .*, its base, is used, uncalibrated"):
        found = book.card(nfe, guidance)
    assert isinstance(found, Unjudged)
    assert (found.how, found.table.nfe, found.model.guidance) == ("base", nfe, guidance)
    assert found.table.exact
    assert found.table.name in {entry.card.base.name for entry in book.entries}
    some = book.entries[0].card.table
    assert found.table.sigmas[[0, -1]].tolist() == some.sigmas[[0, -1]].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert book.card(nfe, guidance).table.distance(found.table) == 0
    with pytest.raises(ls.InputError, match=asked):
        book.card(nfe, guidance, strict=True)


def test_the_base_outside_is_the_same_solver_on_its_grid(book: ls.CardBook):
    near = book.entry(5, 4.0)
    assert near is not None
    assert near.card.search is not None
    solver, _, spacing = near.card.search.base.partition("@")
    with pytest.warns(UserWarning, match="is used, uncalibrated"):
        table = book.card(6, 4.0).table
    if spacing in ("karras", "log_snr", "uniform", "quadratic"):
        levels = ls.grid(spacing, 6, schedule=SCHEDULE, final="sigma_min")
        exact = ls.build(near.card.base.name, levels, schedule=SCHEDULE, **near.card.base.options)
        assert table.distance(exact) == 0
    assert solver.startswith(near.card.base.name)


def test_a_book_without_guidance(plain_book: ls.CardBook):
    assert plain_book.guidances == [None]
    assert plain_book.card(3).nfe == 3
    with pytest.warns(UserWarning, match="4 network calls at guidance 2: not in this book, which holds 3, 4 network"):
        assert plain_book.card(4, 2.0).model.guidance == 2.0


def test_several_scales_must_be_told_apart_and_one_need_not(book: ls.CardBook):
    with pytest.raises(ls.InputError, match="holds the guidance scales 1, 2, 4: say which"):
        book.card(4)
    one = ls.CardBook.of([e for e in book.entries if e.guidance == 2.0], SCHEDULE)
    assert one.card(4) == book.card(4, 2.0)


def test_a_base_beside_a_fitted_table_is_not_mixed_with_it(book: ls.CardBook):
    """Between the two lies nothing: the classical solver is used, and it is said."""
    entries = []
    for entry in book.entries:
        if (entry.nfe, entry.guidance) == (5, 4.0):
            end = replace(entry.card.end, accepted=False, reason="kept")
            card = entry.card.model_copy(update={"end": end, "data": entry.card.base_data})
            entry = Entry(how="base", card=card)
        entries.append(entry)
    made = ls.CardBook.of(entries, SCHEDULE)
    with pytest.warns(UserWarning, match="5 network calls at guidance 3: not in this book"):
        assert made.card(5, 3.0).table.exact
    assert made.choose(5, 1.5).how == "filled"


def test_whose_book_it_is(book: ls.CardBook):
    other = ls.ModelInfo(name="other", fingerprint="cd" * 32, guidance=3.0)
    for found in (book.card(4, 2.0), book.choose(4, 3.0), book.choose(9, 3.0)):
        with pytest.raises(ls.CardError, match="not on 'other'"):
            found.check_model(other)
    book.choose(4, 3.0).check_model(Toy().info(3.0))


def test_a_saved_book_comes_back_to_the_bit(book: ls.CardBook, file: Path):
    loaded = ls.load_book(file)
    assert loaded.dumps() == book.dumps() == file.read_text()
    for mine, theirs in zip(book.entries, loaded.entries, strict=True):
        assert mine == theirs
        assert mine.card.table.distance(theirs.card.table) == 0
    assert loaded.schedule is not None
    assert loaded.schedule.schedule() == SCHEDULE
    assert isinstance(load_any(file), ls.CardBook)
    raw = json.loads(file.read_text())
    assert (raw["format"], raw["version"], raw["longstride"]) == ("longstride-book", BOOK_VERSION, ls.__version__)
    assert file.read_text().isascii()


@pytest.mark.parametrize(
    "schedule",
    [SCHEDULE, ls.Schedule.vp(), ls.Schedule.vp_continuous(), ls.Schedule.flow(3.0), ls.Schedule.vp(steps=50)],
)
def test_every_schedule_comes_back(plain_book: ls.CardBook, schedule: ls.Schedule):
    made = ls.CardBook.of(plain_book.entries, schedule)
    again = type(made).model_validate_json(made.model_dump_json())
    assert again.schedule is not None
    assert again.schedule.schedule() == schedule


def refusal(file: Path) -> str:
    with pytest.raises(ls.CardError) as caught:
        ls.load_book(file)
    message = str(caught.value)
    assert "\n" not in message
    assert str(file) in message
    return message


def rewrite(file: Path, *, sign: bool = True, **changes: Any) -> None:
    raw = {**json.loads(file.read_text()), **changes}
    if sign:
        del raw["checksum"]
        raw["checksum"] = checksum(raw)
    file.write_text(json.dumps(raw))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_book_that_was_cut_short(file: Path, share: float):
    text = file.read_bytes().rstrip()
    file.write_bytes(text[: int(share * len(text))])
    assert "cut short or damaged" in refusal(file)


def test_a_book_that_was_edited(file: Path):
    raw = json.loads(file.read_text())
    raw["entries"][4]["card"]["data"]["rows"][0]["outputs"]["0"] *= 1.0001
    file.write_text(json.dumps(raw))
    assert "its checksum does not match" in refusal(file)


def test_books_that_are_none(file: Path, book: ls.CardBook, tmp_path: Path):
    assert "cannot read book" in refusal(tmp_path / "none.json")
    book.entries[0].card.save(tmp_path / "card.json")
    assert "is no longstride book" in refusal(tmp_path / "card.json")
    with pytest.raises(ls.CardError, match="is no longstride card"):
        ls.load_card(file)
    rewrite(file, version=BOOK_VERSION + 1)
    assert "upgrade longstride" in refusal(file)


def test_entries_that_do_not_fit_together(file: Path):
    raw = json.loads(file.read_text())
    entries = raw["entries"]
    rewrite(file, entries=[])
    assert "not a valid book: entries" in refusal(file)
    rewrite(file, entries=[*entries, entries[0]])
    assert "holds two entries for 3 network calls, guidance 1" in refusal(file)
    other = {**entries[0], "how": "base" if entries[0]["how"] != "base" else "filled"}
    rewrite(file, entries=[other])
    assert "but its gate" in refusal(file)
    rewrite(file, entries=[{**entries[0], "card": {**entries[0]["card"], "nfe": 7}}])
    assert "says nfe = 7" in refusal(file)
    rewrite(file, entries=entries, model={"name": "other", "fingerprint": None, "guidance": None})
    assert "calibrated on another model" in refusal(file)
    rewrite(file, model=raw["model"], schedule={"kind": "Flow", "numbers": {"what": 1.0}})
    assert "no usable schedule" in refusal(file)


def test_infinity_is_refused(file: Path):
    text = file.read_text()
    file.write_text(text.replace(f'"longstride": "{ls.__version__}"', '"longstride": Infinity', 1))
    assert "is no finite number" in refusal(file)
