"""The error of live traffic: what is measured, of which requests, and what becomes of those that cannot be."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from problems import Mixture

import longstride as ls
from longstride.rollout import LiveReference, Measured, Stage, live_errors

LONG = (Stage(share=0.5, requests=10**9),)
SIGMAS = ls.grid("karras", 4, sigma_min=0.05, sigma_max=20.0)


@pytest.fixture
def rollout(tmp_path: Path):
    with ls.Rollout.start(tmp_path / "rollout.db", None, stages=LONG) as opened:
        yield opened


def test_the_errors_are_those_against_the_converged_solution():
    noise = 20 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    table, other = ls.build("dpmpp_2m", SIGMAS), ls.build("ddim", SIGMAS)
    served = ls.sample(Mixture(), noise, table)
    found = live_errors(Mixture(), noise, served, table, other, steps=40)
    converged = ls.solve_reference(Mixture(), noise, table, steps=40).samples
    assert found.error == pytest.approx(float((served - converged).square().mean().sqrt()), rel=1e-6)
    plain = ls.sample(Mixture(), noise, other)
    assert found.other == pytest.approx(float((plain - converged).square().mean().sqrt()), rel=1e-6)
    assert live_errors(Mixture(), noise, converged, table, steps=40) == Measured(0.0, None)


def test_nan_is_an_infinite_error():
    noise = 20 * torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    table = ls.build("ddim", SIGMAS)
    assert live_errors(Mixture(), noise, noise * float("nan"), table, steps=8).error == float("inf")


def test_a_share_of_each_arm_is_measured_whatever_arm_the_key_was_given(rollout):
    with LiveReference(rollout, {"base": 0.1, "new": 0.4}) as reference:
        keys = range(3000)
        new = [key for key in keys if reference.wants(key, "new")]
        base = [key for key in keys if reference.wants(key, "base")]
        assert set(base) < set(new)
        assert len(new) == pytest.approx(1200, abs=4 * 27)
        assert len(base) == pytest.approx(300, abs=4 * 17)
        assert not any(reference.wants(key, "other") for key in keys)
        of_new = sum(rollout.arm(key) == "new" for key in new)
        assert of_new == pytest.approx(len(new) / 2, abs=4 * (len(new) / 4) ** 0.5)


def test_measured_errors_are_recorded(rollout):
    with LiveReference(rollout, 1.0) as reference:
        for key in range(6):
            assert reference.offer(key, "new", lambda: Measured(0.1, 0.2))
            reference.wait()
        assert not reference.offer(7, "new", lambda: Measured(0.1)) or reference.wait() is None
    standing = rollout.status()
    assert standing.comparisons["error"].pairs == 6
    assert standing.comparisons["error"].value == pytest.approx(0.5)
    assert standing.counts["new"].measured == 7
    assert standing.counts["new"].requests == 0  # those are recorded when they are answered
    assert standing.mean_errors["new"].value == pytest.approx(0.1)


def test_a_full_queue_drops_and_never_waits(rollout):
    started, go_on = threading.Event(), threading.Event()

    def slow() -> Measured:
        started.set()
        go_on.wait()
        return Measured(0.1)

    with LiveReference(rollout, 1.0, waiting=2) as reference:
        assert reference.offer(0, "base", slow)
        started.wait()
        assert [reference.offer(key, "base", slow) for key in range(1, 5)] == [True, True, False, False]
        go_on.set()
        reference.wait()
        assert (reference.tally.chosen, reference.tally.measured, reference.tally.dropped) == (5, 3, 2)
    assert not reference.offer(9, "base", slow)  # closed


def test_a_measurement_that_fails_is_counted_and_the_next_one_is_made(rollout):
    def broken() -> Measured:
        raise RuntimeError("out of memory")

    with LiveReference(rollout, 1.0) as reference:
        reference.offer(0, "new", broken)
        reference.offer(1, "new", lambda: Measured(0.1))
        reference.wait()
        assert (reference.tally.failed, reference.tally.measured) == (1, 1)


def test_shares_and_queues_are_checked(rollout):
    with pytest.raises(ls.InputError, match="a share lies between 0 and 1"):
        LiveReference(rollout, {"new": 1.5})
    with pytest.raises(ls.InputError, match="at least 1 request"):
        LiveReference(rollout, waiting=0)
