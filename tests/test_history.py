"""The history of a card: what a rollback brings back, and that no moment loses a card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import longstride as ls
from longstride.history import history_file, load_history, replace_card, roll_back


@pytest.fixture
def cards(found: ls.Calibration) -> list[ls.Card]:
    """Cards that differ in their seed."""
    return [found.card.model_copy(update={"settings": {**found.card.settings, "seed": n}}) for n in range(4)]


@pytest.fixture
def path(tmp_path: Path, cards: list[ls.Card]) -> Path:
    cards[0].save(tmp_path / "card.json")
    return tmp_path / "card.json"


def put(path: Path, card: ls.Card, **told) -> None:
    replace_card(path, ls.load_card(path), card, "recalibrated", "better", **told)


def test_a_rollback_restores_the_very_file(path, cards):
    before = path.read_bytes()
    put(path, cards[1])
    assert ls.load_card(path) == cards[1]
    former = roll_back(path, reason="odd colours")
    assert path.read_bytes() == before
    assert (former.number, former.by, former.reason) == (1, "recalibrated", "better")
    last = load_history(path).entries[-1]
    assert (last.by, last.to, last.reason) == ("rolled back", 1, "odd colours")
    assert last.parsed(path) == cards[1]


def test_a_second_rollback_goes_further_back_and_the_history_only_grows(path, cards):
    for card in cards[1:3]:
        put(path, card)
    for n, expected in enumerate((1, 0), start=3):
        roll_back(path)
        assert ls.load_card(path) == cards[expected]
        assert len(load_history(path).entries) == n
    with pytest.raises(ls.InputError, match="no card before"):
        roll_back(path)
    roll_back(path, to=3)  # the card that the first rollback took away
    assert ls.load_card(path) == cards[2]
    roll_back(path)  # which undoes that
    assert ls.load_card(path) == cards[0]
    kept = [entry.parsed(path).settings["seed"] for entry in load_history(path).entries]
    assert kept == [0, 1, 2, 1, 0, 2]


def test_after_a_rollback_a_new_card_follows_the_card_that_was_brought_back(path, cards):
    put(path, cards[1])
    roll_back(path)
    put(path, cards[2])
    assert load_history(path).previous.parsed(path) == cards[0]


def test_a_kill_between_the_two_steps_loses_nothing(path, cards, monkeypatch):
    """The history is written, the card is not: as if the replacement had not begun."""
    before = path.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr(ls.Card, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put(path, cards[1])
    assert path.read_bytes() == before
    assert history_file(path).exists()
    assert load_history(path).entries == ()
    put(path, cards[2])
    assert [entry.parsed(path) for entry in load_history(path).entries] == [cards[0]]


def test_another_file_takes_the_history_along(path, cards, tmp_path):
    put(path, cards[1])
    before = path.read_bytes()
    put(path, cards[2], out=tmp_path / "new.json")
    assert path.read_bytes() == before
    assert len(load_history(path).entries) == 1
    assert [entry.parsed(path) for entry in load_history(tmp_path / "new.json").entries] == cards[:2]
    roll_back(tmp_path / "new.json")
    assert (tmp_path / "new.json").read_bytes() == before


def test_a_card_that_another_process_has_changed_is_not_replaced(path, cards):
    cards[3].save(path)
    with pytest.raises(ls.InputError, match="changed by another process"):
        replace_card(path, cards[0], cards[1], "recalibrated", "better")
    assert ls.load_card(path) == cards[3]
    assert not history_file(path).exists()


@pytest.mark.parametrize("harm", ["edited", "cut", "newer", "numbers", "card"])
def test_a_damaged_history_is_told_and_the_card_stays(path, cards, harm):
    put(path, cards[1])
    file, before = history_file(path), path.read_bytes()
    content = json.loads(file.read_text())
    if harm == "cut":
        file.write_text(file.read_text()[:-40])
    elif harm == "newer":
        file.write_text(json.dumps({**content, "version": 99}))
    elif harm == "edited":
        content["entries"][0]["reason"] = "another"
        file.write_text(json.dumps(content))
    else:
        history = load_history(path)
        change = {"number": 7} if harm == "numbers" else {"card": {"format": "longstride-card"}}
        entry = history.entries[0].model_copy(update=change)
        history.model_copy(update={"entries": (entry,)}).save(file)
    with pytest.raises(ls.CardError, match="history"):
        roll_back(path)
    assert path.read_bytes() == before


def test_a_card_of_a_former_version_comes_back_as_it_was(path, cards):
    """Digests of its file hold again, though a card that is read and written anew has further fields."""
    from longstride.documents import checksum

    content = json.loads(path.read_text())
    old = {key: value for key, value in content.items() if key not in ("guard", "call", "checksum")} | {"version": 3}
    path.write_text(json.dumps({**old, "checksum": checksum(old)}, indent=1) + "\n")
    before = path.read_bytes()
    put(path, cards[1])
    roll_back(path)
    assert path.read_bytes() == before
