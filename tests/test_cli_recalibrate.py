"""``longstride recalibrate`` and ``longstride rollback``: the card stays or is replaced, and comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import error, invoke, run

import longstride as ls
from longstride.history import history_file, load_history

QUICK = ("--iterations", 1, "--batch", 8, "--held-out", 8)


@pytest.fixture
def mine(card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A card of one's own."""
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_bytes(card.read_bytes())
    return Path("mine.json")


def test_the_verdict_is_told_and_files_agree_with_it(mine: Path, model: Path):
    before = mine.read_bytes()
    told = json.loads(invoke("recalibrate", mine, model, *QUICK, "--json").stdout)
    assert set(told["errors"]) == {"card", "fitted", "base"}
    assert told["samples"] == 8
    if told["verdict"] == "kept":
        assert (mine.read_bytes(), history_file(mine).exists()) == (before, False)
    else:
        assert mine.read_bytes() != before
        assert ls.load_card(mine).settings["seed"] == 1
        assert "history: former cards" in run("show", mine)
        run("rollback", mine, "--reason", "odd")
        assert mine.read_bytes() == before
        assert load_history(mine).entries[-1].reason == "odd"


def test_without_enough_samples_the_card_is_kept(mine: Path, model: Path):
    before = mine.read_bytes()
    result = invoke("recalibrate", mine, model, "--iterations", 1, "--batch", 4, "--held-out", 4)
    assert result.exit_code == 0
    assert result.stdout.startswith("kept: 4 held-out samples cannot show")
    assert mine.read_bytes() == before
    assert sorted(Path().iterdir()) == [mine]


def test_what_is_wrong_is_one_line(mine: Path, model: Path, shared: Path):
    assert "no card before" in error("rollback", mine)
    assert "entries 1 … 0, not 3" in error("rollback", mine, "--to", 3)
    assert "--size does nothing for the card of a network" in error("recalibrate", mine, model, "--size", "8x8")
