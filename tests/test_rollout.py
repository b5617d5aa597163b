"""A roll-out: who answers, what is compared, when it goes on and back, and what the log says."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

import longstride as ls
from longstride.rollout import METRICS, Arm, Stage

#: Stages that are over soon.
FAST = (Stage(share=0.2, requests=3), Stage(share=0.6, requests=3, measured=4), Stage(share=1.0, requests=3))
#: Stages that nothing ends.
LONG = (Stage(share=0.5, requests=10**9),)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "rollout.db"


def three_arms(store: Path, card: Path, **options) -> ls.Rollout:
    return ls.Rollout.start(store, card, old=card, **options)


# Who answers


def test_shares_are_kept_and_a_key_never_leaves_the_new_arm_while_its_share_grows(store):
    keys = [f"user {n}" for n in range(2000)]
    with ls.Rollout.start(store, None) as rollout:
        before: set[str] = set()
        for share in (0.01, 0.1, 0.5, 1.0):
            new = {key for key in keys if rollout.arm(key) == "new"}
            assert before <= new
            assert len(new) == pytest.approx(share * len(keys), abs=4 * (len(keys) * share * (1 - share)) ** 0.5)
            before = new
            rollout.promote()
        assert rollout.status().status == "complete"
        assert {rollout.arm(key) for key in keys} == {"new"}
        rollout.rollback()
        assert {rollout.arm(key) for key in keys} == {"base"}


def test_the_assignment_is_the_same_everywhere(store):
    """In another process, for other types of the same key; another roll-out chooses other keys."""
    keys = range(300)
    with ls.Rollout.start(store, None, stages=LONG) as one, ls.Rollout(store) as two:
        chosen = [one.arm(key) for key in keys]
        assert chosen == [two.arm(str(key)) for key in keys] == [two.arm(str(key).encode()) for key in keys]
        one.rollback()
        ls.Rollout.start(store, None, stages=LONG).close()
        again = [two.arm(key) for key in keys]
    assert set(chosen) == set(again) == {"base", "new"}
    assert chosen != again


def test_the_safest_arm_keeps_its_share_until_the_new_one_needs_it(store, card):
    stages = (Stage(share=0.1), Stage(share=0.95))
    with three_arms(store, card, stages=stages, base_share=0.2) as rollout:
        first = {key: rollout.arm(key) for key in range(2000)}
        assert rollout.status().shares == pytest.approx({"base": 0.2, "old": 0.7, "new": 0.1})
        assert set(first.values()) == {"base", "old", "new"}
        rollout.promote()
        assert rollout.status().shares == pytest.approx({"base": 0.05, "old": 0.0, "new": 0.95})
        then = {key: rollout.arm(key) for key in range(2000)}
    assert set(then.values()) == {"base", "new"}
    assert all(then[key] == "new" for key in first if first[key] == "new")
    assert all(first[key] == "base" for key in then if then[key] == "base")


# Going on


def test_a_card_that_is_better_goes_to_all_requests_by_itself(store):
    stages = (
        Stage(share=0.1, requests=10),
        Stage(share=0.5, requests=30, measured=20, at_most={"error": 1.1}),
        Stage(share=1.0, requests=50, measured=40, at_most={"error": 1.0, "latency": 2.0}),
    )
    rng = random.Random(0)
    with ls.Rollout.start(store, None, stages=stages, error_cap=0.4) as rollout:
        for n in range(800):
            arm, errors = rollout.arm(n), {}
            if arm == "new":
                errors = {"error": 0.5 * rng.lognormvariate(-3, 0.3), "other_error": rng.lognormvariate(-3, 0.3)}
            rollout.record(n, arm, seconds=rng.uniform(0.1, 0.2), flagged=rng.random() < 0.02, **errors)
        log = [(d.action, d.stage, d.status, d.by) for d in rollout.log()]
        standing = rollout.status()
    assert log == [
        ("started", 0, "running", "hand"),
        ("promoted", 1, "running", "itself"),
        ("promoted", 2, "running", "itself"),
        ("completed", 2, "complete", "itself"),
    ]
    error, mean = standing.comparisons["error"], standing.mean_errors["new"]
    assert error.lower < 0.5 < error.upper < 0.7
    assert mean.lower < 0.5 * math.exp(-3 + 0.3**2 / 2) < mean.upper


def test_a_stage_says_what_it_waits_for_and_ends_with_the_last_piece(store):
    stage = Stage(share=0.5, requests=2, measured=2, at_most={"error": 5.0})
    with ls.Rollout.start(store, None, stages=(stage, Stage(share=1.0))) as rollout:
        assert rollout.status().waiting == [
            "2 more requests by new",
            "the error of 2 more requests by new",
            "typical error: at most any number of times so far, to be at most 5 times",
        ]
        for n in range(2):
            assert rollout.record(n, "new") is None
        assert [line.split(":")[0] for line in rollout.status().waiting] == [
            "the error of 2 more requests by new",
            "typical error",
        ]
        decision = None
        while decision is None:
            decision = rollout.measured(0, "new", 0.1, 0.2)
        pairs = rollout.status().comparisons["error"].pairs
        assert (decision.action, decision.stage, decision.reason) == (
            "promoted",
            1,
            "the evidence of the stage is there",
        )
        assert decision.evidence["error"]["upper"] <= 5
        assert decision.evidence["much_worse"]["pairs"] == pairs


# Going back

WORSE = {
    "flags": ({"flagged": True}, {"flagged": False}),
    "drift": ({"drift": True}, {"drift": False}),
    "latency": ({"seconds": 0.3}, {"seconds": 0.1}),
    "error": ({"error": 0.3}, {"error": 0.1}),
    "mean_error": ({"error": 0.9, "other_error": 0.5}, {}),
    "much_worse": ({"error": 0.5, "other_error": 0.1}, {}),
}


@pytest.mark.parametrize("name", WORSE)
def test_a_card_that_is_worse_in_one_comparison_is_rolled_back_for_it(store, name):
    """With this comparison alone: all others may be as bad as they like. Equal values never do."""
    bad, good = WORSE[name]
    most = {"ratio": 1e9, "mean": 1e9, "extra": 0.9999, "rate": 0.9999}
    others = {other: most[metric.unit] for other, metric in METRICS.items() if other != name}
    with ls.Rollout.start(store, None, stages=LONG, tolerances=others) as rollout:
        same = {**bad, "other_error": 0.5, "error": 0.5} if "error" in bad else good
        for n in range(100):
            rollout.record(n, "base", **good)
            assert rollout.record(n, "new", **same) is None
    store.unlink()
    with ls.Rollout.start(store, None, stages=LONG, tolerances=others) as rollout:
        for n in range(100):
            rollout.record(n, "base", **good)
            decision = rollout.record(n, "new", **bad)
            if decision is not None:
                break
        assert (decision.action, decision.by, decision.withdrawn) == ("rolled back", "itself", ("new",))
        assert decision.reason.startswith(METRICS[name].what)
        assert n < 60
        assert {rollout.arm(key) for key in range(100)} == {"base"}


def test_a_value_of_the_other_arm_is_used_once(store):
    """Else a single odd request there would count again and again."""
    with ls.Rollout.start(store, None, stages=LONG) as rollout:
        rollout.record(0, "base", seconds=0.1)
        for n in range(50):
            assert rollout.record(n, "new", seconds=9.0) is None
        assert rollout.status().comparisons["latency"].pairs == 1


def test_nan_withdraws_an_arm_at_once_and_the_one_before_it_answers(store, card):
    with three_arms(store, card, stages=LONG) as rollout:
        assert rollout.record(0, "base", non_finite=True) is None  # nothing is safer
        decision = rollout.record(1, "old", non_finite=True)
        assert (decision.action, decision.withdrawn, decision.status) == ("withdrawn", ("old",), "running")
        assert {rollout.arm(key) for key in range(100)} == {"base", "new"}
        assert rollout.status().control == "base"
        decision = rollout.record(2, "new", non_finite=True)
        assert (decision.action, decision.withdrawn) == ("rolled back", ("old", "new"))
        assert decision.reason == "new returned NaN or infinity"
        assert {rollout.arm(key) for key in range(100)} == {"base"}
        assert rollout.record(3, "new", non_finite=True) is None  # a request that was under way
        assert rollout.status().counts["new"].non_finite == 2


def test_nan_of_a_card_that_has_all_requests_brings_the_arm_before_it_back(store):
    with ls.Rollout.start(store, None, stages=(Stage(share=1.0),)) as rollout:
        assert rollout.promote().status == "complete"
        assert rollout.record(0, "new", non_finite=True).status == "rolled back"
        assert rollout.arm(0) == "base"


# By hand


def test_promotion_and_rollback_by_hand(store, card):
    with three_arms(store, card, stages=FAST) as rollout:
        assert [rollout.promote("looks fine").stage for _ in range(3)] == [1, 2, 2]
        with pytest.raises(ls.InputError, match="has ended \\(complete\\)"):
            rollout.promote()
        assert rollout.rollback("odd colours").withdrawn == ("new",)
        assert rollout.arm(0) == "old"
        with pytest.raises(ls.InputError, match="nothing above old answers"):
            rollout.rollback()
        with pytest.raises(ls.InputError, match="unknown arm 'olf': did you mean 'old'"):
            rollout.rollback(to="olf")
        assert rollout.rollback(to="base").withdrawn == ("old", "new")
        assert rollout.arm(0) == "base"
        last = rollout.log()[-2]
        assert (last.reason, last.by) == ("odd colours", "hand")


def test_a_second_roll_out_waits_for_the_end_of_the_first(store):
    with ls.Rollout.start(store, None, stages=LONG) as rollout:
        with pytest.raises(ls.InputError, match="a roll-out is under way in .*, at stage 1"):
            ls.Rollout.start(store, None)
        for n in range(5):
            rollout.record(n, "new", flagged=True)
        rollout.rollback()
        ls.Rollout.start(store, None).close()
        assert rollout.status().rollout == 2
        assert rollout.status().counts["new"].requests == 0
        assert [d.rollout for d in rollout.log()] == [1, 1, 2]


def test_an_answer_of_an_arm_that_is_gone_is_taken_and_tells_nothing(store, card):
    """The request was under way when another roll-out, without this arm, was started."""
    with three_arms(store, card, stages=LONG) as rollout:
        rollout.rollback()
        ls.Rollout.start(store, card, stages=LONG).close()
        rollout.arm(0)
        assert rollout.record(0, "old", seconds=0.1, non_finite=True) is None
        assert rollout.trouble is None
        assert sum(counts.requests for counts in rollout.status().counts.values()) == 0


def test_a_plan_that_cannot_be_used_is_refused_before_a_store_is_made(store, tmp_path):
    for options, message in (
        ({"stages": ()}, "the shares of the stages must grow, got \\[\\]"),
        ({"stages": (Stage(share=0.5), Stage(share=0.5))}, "must grow"),
        ({"tolerances": {"speed": 1.0}}, "unknown comparison 'speed': known: flags"),
        ({"tolerances": {"flags": 1.0}}, "flags must be at least -1 and below 1, got 1"),
        ({"false_alarms": 0.0}, "false_alarms: .*greater than 0"),
        ({"base_share": 1.0}, "base_share: .*less than 1"),
        ({"error_cap": 0.0}, "error_cap: .*greater than 0"),
    ):
        with pytest.raises(ls.InputError, match=message):
            ls.Rollout.start(store, None, **options)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ls.CardError):
        ls.Rollout.start(store, tmp_path / "broken.json")
    assert not store.exists()


def test_what_a_request_tells_is_checked(store):
    with ls.Rollout.start(store, None, stages=LONG) as rollout:
        with pytest.raises(ls.InputError, match="unknown arm 'newer': did you mean 'new'"):
            rollout.record(0, "newer")
        with pytest.raises(ls.InputError, match="seconds must be a finite number"):
            rollout.record(0, "new", seconds=-1.0)
        with pytest.raises(ls.InputError, match="error must be a number of at least 0, got nan"):
            rollout.measured(0, "new", float("nan"))
        assert rollout.status().counts["new"].requests == 0
        rollout.measured(0, "new", float("inf"), 0.1)
        assert rollout.status().comparisons["error"].pairs == 1


# Cards


def test_cards_are_bound_to_their_files(store, card, tmp_path):
    own = tmp_path / "new.json"
    shutil.copy(card, own)
    with ls.Rollout.start(store, own, old=card, stages=LONG) as rollout:
        assert rollout.load("base") is None
        assert rollout.load("new") == rollout.load("old") == ls.load_card(card)
        assert rollout.plan.error_cap == pytest.approx(8 * ls.load_card(card).end.base.rmse)
        own.write_text(own.read_text() + "\n")
        with pytest.raises(ls.CardError, match="new.json has changed since the roll-out started"):
            rollout.load("new")
        own.unlink()
        with pytest.raises(ls.CardError, match="cannot read .*new.json"):
            rollout.load("new")
    assert Arm.of("x", card).load() is not None


# The log


def test_the_log_is_only_added_to(store):
    ls.Rollout.start(store, None).close()
    connection = sqlite3.connect(store)
    for change in ("UPDATE decisions SET reason = ''", "DELETE FROM decisions", "DELETE FROM plans"):
        with pytest.raises(sqlite3.IntegrityError, match="only added to"):
            connection.execute(change)
    connection.close()


def test_clocks_that_jump_change_nothing_but_what_is_told(tmp_path, monkeypatch):
    def course(path: Path) -> list[tuple]:
        rng = random.Random(1)
        with ls.Rollout.start(path, None, stages=FAST) as rollout:
            for n in range(80):
                arm = "new" if n % 2 else "base"
                rollout.record(n, arm, seconds=rng.random(), error=rng.random(), other_error=rng.random())
            return [(d.number, d.action, d.stage, d.reason, json.dumps(d.evidence)) for d in rollout.log()]

    plain = course(tmp_path / "a.db")
    jumps = itertools.cycle((4e9, 0.0, -5.0, 1.8e9, 1e12))
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    assert course(tmp_path / "b.db") == plain
    assert len(plain) > 2


def test_where_it_stands_is_plain_data(store):
    with ls.Rollout.start(store, None, stages=LONG) as rollout:
        rollout.record(0, "base", seconds=1.0)
        rollout.record(1, "new", seconds=1.0, error=0.1, other_error=0.0)
        found = json.loads(json.dumps(rollout.status().as_dict(), allow_nan=False))
    assert found["status"] == "running"
    assert found["shares"] == {"base": 0.5, "new": 0.5}
    assert found["comparisons"]["latency"]["value"] == 1.0
    assert found["comparisons"]["error"]["value"] is None  # an infinite ratio
    assert found["counts"]["new"]["measured"] == 1
