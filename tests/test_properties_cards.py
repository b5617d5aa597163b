"""What holds for every card and book: what is saved comes back; and for the bounds and arms of every roll-out."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import LIGHT, books, cards

import longstride as ls
from longstride.book import load_any
from longstride.rollout import Arm, Bounds, Plan, Stage
from longstride.rollout.assignment import arm_of, control_of, point, shares


def through_a_file(document):
    with tempfile.TemporaryDirectory() as folder:
        document.save(Path(folder) / "x.json")
        return load_any(Path(folder) / "x.json")


@LIGHT
@given(cards())
def test_a_card_comes_back_from_its_file(card):
    again = through_a_file(card)
    assert again == card
    assert again.dumps() == card.dumps()
    assert again.table.distance(card.table) == 0.0
    assert again.base_table.distance(card.base_table) == 0.0


@LIGHT
@given(books())
def test_a_book_comes_back_from_its_file(book):
    again = through_a_file(book)
    assert again == book
    for entry in book.entries:
        assert again.card(entry.nfe, entry.guidance) == entry.card


@LIGHT
@given(cards(), st.data())
def test_a_card_that_differs_in_one_byte_is_refused_or_the_same(card, data):
    """Bytes that JSON does not read, such as spaces, may differ."""
    text = bytearray(card.dumps().encode())
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.json"
        file.write_bytes(text)
        refused = None
        try:
            assert ls.load_card(file) == card
        except ls.CardError as error:
            refused = str(error)
        assert refused is None or (refused.isprintable() and str(file) in refused)


@LIGHT
@given(cards(), st.integers(0, 10**6))
def test_a_card_that_is_cut_short_is_refused(card, cut):
    text = card.dumps().rstrip()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.json"
        file.write_text(text[: cut % len(text)])
        with pytest.raises(ls.CardError, match="cut short or damaged"):
            ls.load_card(file)


# Roll-outs

PAIRS = st.lists(st.tuples(st.floats(0, 1), st.none() | st.floats(0, 1)), max_size=40)
PLANS = st.builds(
    lambda count, base, salt: Plan(
        arms=[Arm(name="base"), *([Arm(name="old")] if count else []), Arm(name="new")],
        stages=[Stage(share=0.1), Stage(share=0.5), Stage(share=1.0)],
        base_share=base,
        salt=salt,
    ),
    st.booleans(),
    st.floats(0, 0.9),
    st.text(max_size=8),
)


@LIGHT
@given(PAIRS, st.integers(0, 40), st.floats(0.001, 0.5), st.lists(st.floats(0.01, 0.99), max_size=2))
def test_bounds_that_were_kept_go_on_to_the_bit(pairs, cut, level, marks):
    straight, kept = Bounds(level, marks), Bounds(level, marks)
    for n, (a, b) in enumerate(pairs):
        straight.see(a, b)
        if n == cut:
            kept = Bounds(level, marks).loads(kept.dumps())
        kept.see(a, b)
    assert kept.dumps() == straight.dumps()
    assert 0 <= straight.lower <= 1
    assert 0 <= straight.upper <= 1
    assert straight.count == len(pairs)


@LIGHT
@given(PLANS, st.integers(0, 2), st.sets(st.sampled_from(["old", "new"])))
def test_shares_are_a_whole_and_keys_follow_them(plan, stage, withdrawn):
    gone = withdrawn & set(plan.names)
    found = shares(plan, stage, gone)
    assert sum(found.values()) == pytest.approx(1.0)
    assert all(part >= 0 for part in found.values())
    assert all(found[name] == 0 for name in gone if name != plan.names[0])
    answered = [arm_of(key, plan, stage, gone) for key in range(400)]
    for name, part in found.items():
        assert np.mean([arm == name for arm in answered]) == pytest.approx(part, abs=0.15)
    assert control_of(plan, gone) not in (gone - {plan.names[0]})


@LIGHT
@given(PLANS, st.text() | st.integers() | st.binary())
def test_a_key_that_the_new_arm_answers_it_keeps_while_its_share_grows(plan, key):
    arms = [arm_of(key, plan, stage, ()) for stage in range(3)]
    assert arms == sorted(arms, key="new".__eq__)
    assert arms[-1] == "new"
    assert 0 <= point(key, plan.salt) < 1
    if isinstance(key, int):
        assert point(key, plan.salt) == point(json.dumps(key), plan.salt)
