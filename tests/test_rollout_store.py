"""Faults of a roll-out's store: kills, other processes, full and read-only disks, damaged and lost files."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import longstride as ls
from benchmarks.rollout_kills import forked, kill_at_random
from longstride.rollout import Stage

LONG = (Stage(share=0.5, requests=10**9),)
#: Keys of both arms at a share of one half.
KEYS = range(60)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "rollout.db"
    ls.Rollout.start(path, None, stages=LONG).close()
    return path


def arms(rollout: ls.Rollout) -> set[str]:
    return {rollout.arm(key) for key in KEYS}


# Processes and threads


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path):
    found = kill_at_random(tmp_path, 6, seed=1)
    assert found["kills"] == 6
    assert found["requests"] > 50
    assert (found["lost"], found["damaged"]) == (0, 0)


def test_two_processes_lose_no_request_and_decide_once(store):
    stages = (Stage(share=0.5, requests=40), Stage(share=0.7, requests=40), Stage(share=1.0, requests=10**9))
    with ls.Rollout(store) as rollout:
        rollout.rollback()

    ls.Rollout.start(store, None, stages=stages).close()

    def work(pipe: int) -> None:
        with ls.Rollout(store, timeout=60) as rollout:
            for n in range(120):
                rollout.record(n, "new", seconds=0.1)
            os.write(pipe, (rollout.trouble or "fine").encode())

    children = [forked(work) for _ in range(2)]
    for child, pipe in children:
        with os.fdopen(pipe, "rb") as told:
            assert told.read() == b"fine"
        assert os.waitpid(child, 0)[1] == 0
    with ls.Rollout(store) as rollout:
        assert rollout.status().counts["new"].requests == 240
        assert [d.action for d in rollout.log() if d.rollout == 2] == ["started", "promoted", "promoted"]


def test_a_rollback_is_in_effect_with_the_next_request_of_another_process(store):
    asks, hears = os.pipe(), os.pipe()

    def serve(_: int) -> None:
        with ls.Rollout(store) as rollout:
            while os.read(asks[0], 1) == b"?":
                os.write(hears[1], b"n" if "new" in arms(rollout) else b"b")

    child, pipe = forked(serve)
    with ls.Rollout(store) as rollout:
        answers = []
        for _ in range(3):
            os.write(asks[1], b"?")
            answers.append(os.read(hears[0], 1))
        rollout.rollback()
        os.write(asks[1], b"?")
        assert [*answers, os.read(hears[0], 1)] == [b"n", b"n", b"n", b"b"]
    os.write(asks[1], b".")
    assert os.waitpid(child, 0)[1] == 0
    for end in (*asks, *hears, pipe):
        os.close(end)


def test_threads_share_one_roll_out(store):
    with ls.Rollout(store) as rollout:

        def work() -> None:
            for n in range(40):
                rollout.record(n, rollout.arm(n), seconds=0.1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert rollout.trouble is None
        assert sum(counts.requests for counts in rollout.status().counts.values()) == 160


def test_a_store_that_another_process_keeps_locked_fails_no_request(store):
    other = sqlite3.connect(store, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with ls.Rollout(store, timeout=0.05) as rollout:
        assert rollout.record(0, "new") is None
        assert "locked" in rollout.trouble
        assert arms(rollout) == {"base"}
        with pytest.raises(ls.StoreError, match="locked"):
            rollout.promote()
        other.execute("COMMIT")
        other.close()
        rollout.record(1, "base")
        assert rollout.trouble is None
        assert arms(rollout) == {"base", "new"}


# Disks


def test_on_a_full_disk_no_request_fails_and_the_new_arm_rests_until_there_is_room(store):
    """The limit on the size of files is the operating system's own."""

    def work(pipe: int) -> None:
        with ls.Rollout(store) as rollout:
            rollout.record(0, "base", seconds=0.1)
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
            written = 1
            while rollout.trouble is None:
                rollout.record(written, "new" if written % 2 else "base", seconds=0.1)
                written += rollout.trouble is None
            assert arms(rollout) == {"base"}
            rollout.record(written, "base", seconds=0.1)  # takes less room, so it may still be written
            written += rollout.trouble is None
            with pytest.raises(ls.StoreError):
                rollout.rollback()
            known = rollout.status().counts
            assert sum(counts.requests for counts in known.values()) == written
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            rollout.record(written, "base", seconds=0.1)
            assert rollout.trouble is None
            assert arms(rollout) == {"base", "new"}
            os.write(pipe, b"fine")

    child, pipe = forked(work)
    with os.fdopen(pipe, "rb") as told:
        assert told.read() == b"fine"
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that this process cannot write, with a store; root gives up its rights for a while."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ls.Rollout.start(folder / "rollout.db", None, stages=LONG).close()
        (folder / "rollout.db").chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        folder.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)


def test_a_read_only_store_can_be_looked_at_and_fails_no_request(read_only):
    with ls.Rollout(read_only / "rollout.db", timeout=0.1) as rollout:
        assert rollout.status().status == "running"
        assert [d.action for d in rollout.log()] == ["started"]
        assert arms(rollout) == {"base", "new"}
        assert rollout.record(0, "new") is None
        assert "cannot be used" in rollout.trouble
        assert arms(rollout) == {"base"}
        with pytest.raises(ls.StoreError):
            rollout.promote()
    with pytest.raises(ls.StoreError, match="cannot be used"):
        ls.Rollout.start(read_only / "other.db", None)
    assert sorted(path.name for path in read_only.iterdir()) == ["rollout.db"]


# Files


def test_what_is_no_store_is_told(tmp_path, store):
    with pytest.raises(ls.StoreError, match="there is no store at .*missing.db: longstride rollout start makes one"):
        ls.Rollout(tmp_path / "missing.db")
    (tmp_path / "text.db").write_text("not a database, but a longer text than its header" * 50)
    with pytest.raises(ls.StoreError, match="file is not a database"):
        ls.Rollout(tmp_path / "text.db")
    with pytest.raises(ls.StoreError, match="file is not a database"):
        ls.Rollout.start(tmp_path / "text.db", None)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE t (x)")
    other.close()
    for opened in (ls.Rollout, lambda path: ls.Rollout.start(path, None)):
        with pytest.raises(ls.StoreError, match="other.db is no store of a roll-out"):
            opened(tmp_path / "other.db")
    newer = sqlite3.connect(store)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(ls.StoreError, match="version 99 of a newer longstride: update longstride"):
        ls.Rollout(store)
    with pytest.raises(ls.StoreError, match="cannot be used: unable to open"):
        ls.Rollout.start(tmp_path / "no folder" / "rollout.db", None)


def test_a_store_that_is_lost_is_no_experiment_any_more_and_goes_on_when_it_is_back(store, tmp_path):
    with ls.Rollout(store) as rollout:
        rollout.record(0, "new")
        rollout.close()  # so that the file is whole
        shutil.move(store, tmp_path / "elsewhere.db")
        assert arms(rollout) == {"base"}
        assert "unable to open" in rollout.trouble
        assert rollout.record(1, "base") is None
        assert not store.exists()
        shutil.move(tmp_path / "elsewhere.db", store)
        assert arms(rollout) == {"base", "new"}
        assert rollout.trouble is None
        assert rollout.status().counts["new"].requests == 1


def test_a_store_that_is_put_in_its_place_is_read(store, tmp_path):
    """A backup, say: not the file that this process has opened."""
    shutil.copy(store, tmp_path / "backup.db")
    with ls.Rollout(store) as rollout:
        rollout.rollback()
        assert arms(rollout) == {"base"}
        rollout.close()
        os.replace(tmp_path / "backup.db", store)
        assert arms(rollout) == {"base", "new"}


# Any order of anything

STAGES = (Stage(share=0.2, requests=3), Stage(share=0.6, requests=2), Stage(share=1.0, requests=4))


class AnyOrder(RuleBasedStateMachine):
    """Requests and decisions in any order, by two openings of one store, against a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "rollout.db"
        self.rollouts = [ls.Rollout.start(self.path, None, stages=STAGES), ls.Rollout(self.path)]
        self.stage, self.status, self.requests, self.in_stage, self.decisions = 0, "running", 0, 0, 1
        self.before: list = []

    def decided(self) -> None:
        self.decisions += 1
        self.in_stage = 0

    @rule(which=st.integers(0, 1), arm=st.sampled_from(["base", "new"]), non_finite=st.booleans(), key=st.integers())
    def record(self, which, arm, non_finite, key):
        made = self.rollouts[which].record(key, arm, non_finite=non_finite and key % 5 == 0, seconds=0.1)
        self.requests += 1
        expected = None
        if non_finite and key % 5 == 0:
            if arm == "new" and self.status != "rolled back":
                expected = self.status = "rolled back"
        elif arm == "new" and self.status == "running":
            self.in_stage += 1
            if self.in_stage == STAGES[self.stage].requests:
                expected = "completed" if self.stage == 2 else "promoted"
                self.status = "complete" if self.stage == 2 else "running"
                self.stage = min(2, self.stage + 1)
        assert (None if made is None else made.action) == expected
        if expected:
            self.decided()

    @precondition(lambda self: self.status == "running")
    @rule(which=st.integers(0, 1))
    def promote(self, which):
        self.status = "complete" if self.stage == 2 else "running"
        self.stage = min(2, self.stage + 1)
        assert self.rollouts[which].promote().stage == self.stage
        self.decided()

    @precondition(lambda self: self.status != "rolled back")
    @rule(which=st.integers(0, 1))
    def rollback(self, which):
        assert self.rollouts[which].rollback().stage == self.stage
        self.status = "rolled back"
        self.decided()

    @precondition(lambda self: self.status != "running")
    @rule()
    def start(self):
        ls.Rollout.start(self.path, None, stages=STAGES).close()
        self.stage, self.status, self.requests = 0, "running", 0
        self.decided()

    @rule(which=st.integers(0, 1))
    def open_again(self, which):
        self.rollouts[which].close()
        self.rollouts[which] = ls.Rollout(self.path)

    @invariant()
    def both_see_the_same(self):
        for rollout in self.rollouts:
            standing, log = rollout.status(), rollout.log()
            assert (standing.stage, standing.status, rollout.trouble) == (self.stage, self.status, None)
            assert sum(counts.requests for counts in standing.counts.values()) == self.requests
            assert len(log) == self.decisions
            assert log[: len(self.before)] == self.before
            assert [d.number for d in log] == list(range(1, len(log) + 1))
            share = {"running": STAGES[self.stage].share, "complete": 1.0, "rolled back": 0.0}[self.status]
            assert standing.shares["new"] == share
            assert {rollout.arm(key) for key in KEYS} == {name for name, part in standing.shares.items() if part > 0}
        self.before = log

    def teardown(self):
        for rollout in self.rollouts:
            rollout.close()
        self.folder.cleanup()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=15,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
