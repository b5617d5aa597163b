"""The state of an adaptation: it goes on after a restart and a kill to the bit, and damage is told in one line."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from problems import Mixture
from toy_fits import SIGMAS, exact, networked, noise_of

import longstride as ls
from benchmarks.rollout_kills import forked
from longstride.adaptation.kept import Kept
from longstride.adaptation.settings import AdaptationSettings
from longstride.adaptation.state import State
from longstride.parameters import Parameters

MOVED = Mixture(weights=(0.55, 0.45), means=(-1.3, 0.9), stds=(0.3, 0.8))
NOISE = noise_of(120, 5)
ENDS = exact(MOVED, NOISE)


def text_of(path: Path) -> str:
    kept = Kept(None, path, 5.0, {})
    try:
        return kept.read()[0].dumps()
    finally:
        kept.close()


def observe(adaptation: ls.Adaptation, begin: int, end: int) -> None:
    for n in range(begin, end):
        adaptation.observe(networked(MOVED), NOISE[n : n + 1], ENDS[n : n + 1])


@pytest.fixture(scope="module")
def straight(found, tmp_path_factory):
    """The state after 60 samples, a trial under way, without any disturbance."""
    path = tmp_path_factory.mktemp("straight") / "adaptation.db"
    with ls.Adaptation(found.card, path) as adaptation:
        observe(adaptation, 0, 60)
        assert adaptation.status().counters.candidates > 0
    return path


def test_a_restart_after_every_sample_changes_nothing(found, straight, tmp_path):
    path = tmp_path / "adaptation.db"
    for n in range(60):
        with ls.Adaptation(found.card if n % 2 else None if n else found.card, path) as adaptation:
            observe(adaptation, n, n + 1)
    assert text_of(path) == text_of(straight)


def test_the_text_of_a_state_is_the_state(straight):
    text = text_of(straight)
    assert State.loads(text, len(Parameters(4, column=True)), 4, AdaptationSettings()).dumps() == text


def _observe_until_killed(path: Path, begin: int, pipe: int) -> None:
    with ls.Adaptation(None, path) as adaptation:
        for n in range(begin, len(NOISE)):
            observe(adaptation, n, n + 1)
            os.write(pipe, b".")
    time.sleep(60)


def test_a_kill_loses_the_sample_that_was_measured_at_most(found, tmp_path):
    path, chance, told, next_one = tmp_path / "adaptation.db", random.Random(2), 0, 0
    ls.Adaptation(found.card, path).close()
    for _ in range(8):
        child, pipe = forked(partial(_observe_until_killed, path, next_one))
        with os.fdopen(pipe, "rb") as lines:
            told += len(lines.read(chance.randrange(1, 6)))
            time.sleep(chance.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            told += len(lines.read())
        with ls.Adaptation(None, path) as adaptation:
            counters = adaptation.status().counters
        assert told <= counters.used <= told + 1
        assert 0 <= counters.samples - counters.used <= 8 + counters.refused["repeated"]
        told, next_one = counters.used, counters.samples
    assert told > 8


def test_several_threads_and_objects_share_a_store(found, tmp_path):
    path = tmp_path / "adaptation.db"
    ls.Adaptation(found.card, path).close()

    def work(begin: int) -> None:
        with ls.Adaptation(None, path, timeout=60) as adaptation:
            observe(adaptation, begin, begin + 10)
            assert adaptation.trouble is None

    threads = [threading.Thread(target=work, args=(10 * n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ls.Adaptation(None, path) as adaptation:
        assert adaptation.status().counters.used == 30
        observe(adaptation, 0, 30)
        assert adaptation.status().counters.refused["repeated"] == 30


def test_other_cards_and_settings_are_refused(found, straight, tmp_path):
    other = ls.calibrate(networked(Mixture()), noise_of(24), ls.build("ddim", SIGMAS), method="iia").card
    with pytest.raises(ls.InputError, match="adapts another card"):
        ls.Adaptation(other, straight)
    with pytest.raises(ls.InputError, match="made with another bound"):
        ls.Adaptation(None, straight, bound=0.5)
    ls.Adaptation(found.card, straight, bound=AdaptationSettings().bound).close()
    with pytest.raises(ls.InputError, match="is new: give the card"):
        ls.Adaptation(None, tmp_path / "new.db")
    with pytest.raises(ls.StoreError, match="cannot be used"):
        ls.Adaptation(found.card, tmp_path / "no folder" / "new.db")


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_refused_with_one_line_or_read_as_it_was(found, straight, tmp_path, seed):
    """Bits flipped, cut short, or overwritten: never another state, never another error."""
    chance, content = random.Random(seed), bytearray(straight.read_bytes())
    if seed % 3 == 0:
        del content[chance.randrange(1, len(content)) :]
    elif seed % 3 == 1:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    else:
        begin = chance.randrange(len(content))
        content[begin : begin + 512] = chance.randbytes(len(content[begin : begin + 512]))
    path = tmp_path / "damaged.db"
    path.write_bytes(content)
    told = None
    try:
        ls.Adaptation(None, path).close()
    except (ls.StoreError, ls.InputError) as error:
        told = str(error)
    if told is None:
        assert text_of(path) == text_of(straight)
    else:
        assert "\n" not in told
        assert str(path) in told


@pytest.mark.parametrize("name", ["settings", "calibrated", "card", "state"])
def test_an_edited_part_is_refused(straight, tmp_path, name):
    path = tmp_path / "edited.db"
    path.write_bytes(straight.read_bytes())
    connection = sqlite3.connect(path)
    connection.execute("UPDATE texts SET text = replace(text, '1', '2') WHERE name = ?", (name,))
    connection.commit()
    connection.close()
    with pytest.raises(ls.StoreError, match="is damaged"):
        ls.Adaptation(None, path)


def test_what_is_no_store_of_an_adaptation_is_left_alone(found, tmp_path):
    text, rollout = tmp_path / "notes.txt", tmp_path / "rollout.db"
    text.write_text("notes" * 1000)
    ls.Rollout.start(rollout, None).close()
    for path in (text, rollout):
        before = path.read_bytes()
        with pytest.raises(ls.StoreError):
            ls.Adaptation(found.card, path)
        assert path.read_bytes() == before


def test_a_store_that_cannot_be_written_fails_no_request(found, tmp_path):
    path = tmp_path / "adaptation.db"
    with ls.Adaptation(found.card, path, timeout=0.05) as adaptation:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert adaptation.observe(networked(MOVED), NOISE[:1], ENDS[:1]) == ls.adaptation.Observed()
        assert "locked" in adaptation.trouble
        other.execute("ROLLBACK")
        other.close()
        assert adaptation.observe(networked(MOVED), NOISE[:1], ENDS[:1]).used == 1
        assert adaptation.trouble is None


def test_a_newer_store_is_told(found, straight, tmp_path):
    path = tmp_path / "newer.db"
    path.write_bytes(straight.read_bytes())
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ls.StoreError, match="newer longstride"):
        ls.Adaptation(None, path)
