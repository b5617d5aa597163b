"""The guard within a calibration: what is saved by it, what is claimed, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Mixture
from toy_fits import SIGMAS, exact, noise_of
from toy_guards import BASE, TABLE, network, samples_with, unlucky_of

import longstride as ls
from longstride.calibration.acceptance.gate import judge
from longstride.calibration.acceptance.guarding import Guarding, guarded
from longstride.calibration.reference.solve import squared_errors
from longstride.guard.bound import upper_share

ASKED = Guarding(share=0.05, tail=0.02, added=2.0, mined=0.0, hard=0.1, margin=0.0, stability=4.0)


def verdict_on(samples, asked=ASKED, base=BASE, table=TABLE):
    _, end = judge(samples, base, table, margin=0.0, stability=4.0)
    return end, guarded(samples, base, table, end, asked)


@pytest.fixture(scope="module")
def saved():
    """A table with a few lost samples, which is judged with its guard."""
    samples = samples_with(unlucky_of(192))
    _, end = judge(samples, BASE, TABLE, margin=0.0, stability=4.0)
    judged = samples.total_calls()
    return samples, judged, end, guarded(samples, BASE, TABLE, end, ASKED)


def test_a_table_that_loses_a_few_samples_is_saved_by_its_guard(saved):
    _, _, end, verdict = saved
    assert not end.accepted
    assert verdict.end.accepted
    assert verdict.end.reason == ""
    assert verdict.table is TABLE
    assert verdict.guard.needed
    assert (verdict.end.base, verdict.end.calibrated, verdict.end.samples) == (end.base, end.calibrated, end.samples)
    report = verdict.end.guard
    assert report.unguarded.rmse > report.base.rmse > report.guarded.rmse
    assert report.guarded.median == pytest.approx(report.unguarded.median, rel=0.1)


def test_the_claim_is_the_bound_of_fresh_samples_and_holds(saved):
    _, _, _, verdict = saved
    report = verdict.end.guard
    assert (report.samples, report.bad) == (183, 0)
    assert report.share == upper_share(0, 183, 0.975) <= 0.02
    assert report.claim == (
        "at most 2 % of samples are more than 2 times as far off as with the base, with 95 % confidence "
        "(0 of 183 fresh samples were)"
    )
    x, unlucky = noise_of(2048, 77), unlucky_of(2048)
    card = replace_card(verdict)
    found = ls.sample_guarded(network(unlucky), x, card)
    ends = exact(Mixture(), x)
    after, before = squared_errors(found.samples, ends), squared_errors(ls.sample(network(unlucky), x, BASE), ends)
    assert (after > 4 * before).mean() <= report.share
    assert after.mean() <= before.mean()


def replace_card(verdict):
    """What sampling needs of a card."""

    class Carded:
        table, base_table, guard = verdict.table, BASE, verdict.guard

    return Carded()


def test_its_calls_are_counted(saved):
    """Two runs of all samples; of fresh samples the reference, its check on eight, and two runs."""
    samples, judged, _, verdict = saved
    assert samples.total_calls() - judged == 2 * 4 * 192
    assert verdict.calls == 183 * (32 + 2 * 4) + 8 * 16


def test_fresh_samples_have_the_conditions_in_turn_and_other_noise():
    """With every calibration sample unlucky, every fresh one is."""
    samples = samples_with(torch.ones(64, dtype=torch.bool))
    _, verdict = verdict_on(samples, replace(ASKED, tail=1.0))
    assert not verdict.end.accepted
    assert verdict.guard is None
    assert verdict.table.distance(BASE) == 0.0


def test_samples_that_did_not_do_for_the_claim_teach_the_guard():
    """A share of bad samples that no guard can foresee: both looks are taken, and the bound is honest."""
    samples = samples_with(unlucky_of(96, every=10**6))

    def chancy(x, sigma):
        out = Mixture()(x, sigma)
        fate = (x.sum(1) * 1e4).round().long() % 10 == 0  # of every tenth sample, as by a throw of dice
        return torch.where(fate[:, None] & (abs(sigma - TABLE.levels[-2]) < 1e-9), out + 0.01, out)

    samples = replace(samples, network=ls.as_denoiser(lambda x, t: chancy(x, float(t[0])), ls.Schedule.edm(), "data"))
    _, verdict = verdict_on(samples, replace(ASKED, tail=1e-3, added=1.0))
    report = verdict.end.guard
    assert report.samples == 48
    assert report.share == upper_share(report.bad, 48, 0.975) > 1e-3
    assert verdict.calls == 2 * (48 * (32 + 2 * 4) + 8 * 16)


def test_a_pool_sees_more_lost_samples_and_its_scores_set_the_threshold():
    """Six samples of 192 are lost; the pool has 24 more, of which all are hard, and the whole of it sets the share."""
    samples = samples_with(unlucky_of(192))
    _, verdict = verdict_on(samples, replace(ASKED, mined=4.0, hard=1 / 16))
    assert verdict.end.accepted
    x, unlucky = noise_of(4096, 78), unlucky_of(4096)
    flagged = ls.sample_guarded(network(unlucky), x, replace_card(verdict)).flagged
    assert flagged[unlucky].float().mean() > 0.9
    assert flagged.float().mean() == pytest.approx(verdict.guard.share, rel=0.25) or not flagged[~unlucky].any()


def test_a_table_that_is_no_better_is_refused_without_fresh_samples():
    samples = samples_with(unlucky_of(64, every=10**6))
    end, verdict = verdict_on(samples, base=TABLE, table=replace(BASE, name="fitted"))
    assert (verdict.end, verdict.guard, verdict.calls) == (end, None, 0)
    assert not end.accepted
    assert verdict.table.distance(TABLE) == 0.0


def test_without_a_share_nothing_changes(saved):
    samples, *_ = saved
    end, verdict = verdict_on(samples, replace(ASKED, share=0.0))
    assert (verdict.end, verdict.guard, verdict.calls) == (end, None, 0)


def test_without_fresh_samples_nothing_is_claimed(saved):
    samples, *_ = saved
    _, verdict = verdict_on(samples, replace(ASKED, added=0.0))
    assert verdict.end.accepted
    assert verdict.guard is not None
    assert (verdict.end.guard, verdict.calls) == (None, 0)


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"tail": 0.0}, {"added": -1.0}, {"added": float("inf")}])
def test_impossible_wishes(wrong):
    with pytest.raises(ls.InputError, match="expected guard_share in"):
        replace(ASKED, **wrong)


def test_a_calibration_keeps_its_guard_on_the_card(tmp_path):
    """Also after a restart from its journal, to the bit; and the old numbers are those of a calibration without it."""
    x, base = noise_of(96), ls.build("ddim", SIGMAS)
    options = {"reference_steps": 32, "iterations": 2, "scouts": 1}
    asked = {**options, "guard_share": 0.03, "guard_floor": None, "guard_mined": 0.0}
    found = ls.calibrate(Mixture(), x, base, journal=tmp_path / "work", **asked)
    found.card.save(tmp_path / "card.json")
    card = ls.load_card(tmp_path / "card.json")
    assert card == found.card
    assert not card.guard.needed
    assert card.end.guard.samples >= 144
    again = ls.calibrate(Mixture(), x, base, journal=tmp_path / "work", **asked)
    assert again.card == found.card
    plain = ls.calibrate(Mixture(), x, base, **options)
    assert plain.card.guard is None
    assert plain.table.distance(found.table) == 0.0
    assert replace(found.end, guard=None) == plain.end
    assert ls.sample(Mixture(), noise_of(8, 5), card).shape == (8, 6)


def test_a_guard_of_other_calls_is_no_valid_card(tmp_path):
    x, base = noise_of(48), ls.build("ddim", SIGMAS)
    card = ls.calibrate(Mixture(), x, base, reference_steps=16, iterations=1, scouts=1, guard_share=0.03).card
    short = replace(card.guard, centre=(0.0,), scale=(1.0,), weights=(1.0,), calls=None)
    card.model_copy(update={"guard": short}).save(tmp_path / "card.json")
    with pytest.raises(ls.CardError, match="a guard of 1 statistics, but a run of 4 calls has 25"):
        ls.load_card(tmp_path / "card.json")
    bad = card.model_dump(mode="json")
    bad["guard"]["scale"][0] = 0.0
    with pytest.raises(ValueError, match="positive deviations"):
        ls.Card.model_validate(bad)


@pytest.mark.slow
def test_of_accepted_tables_no_claim_fails_and_none_is_worse_than_its_base():
    """Small mixtures under guidance up to 8, few fitted samples and ten held out; then fresh noise tells."""
    accepted, failed = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        means, stds, guidance = rng.normal(size=4) * 1.5, rng.uniform(0.05, 0.6, 4), rng.uniform(1, 8)
        one, all_of = Mixture((0.5,) * 2, tuple(means[:2]), tuple(stds[:2])), Mixture((0.25,) * 4, tuple(means), stds)

        def guided(x, sigma, one=one, all_of=all_of, guidance=guidance):
            return all_of(x, sigma) + guidance * (one(x, sigma) - all_of(x, sigma))

        base, x = ls.build("ddim", SIGMAS[[0, 2, 3, 4]]), noise_of(int(rng.integers(18, 34)), seed, 2)
        options = {"held_out": 10, "reference_steps": 24, "scouts": 0, "iterations": 3, "guard_share": 0.03}
        card = ls.calibrate(guided, x, base, **options).card
        if not card.end.accepted:
            continue
        accepted += 1
        fresh = noise_of(2048, 1000 + seed, 2)
        target = ls.solve_reference(guided, fresh, base, steps=24, check_samples=0).samples
        after = squared_errors(ls.sample(guided, fresh, card), target)
        before = squared_errors(ls.sample(guided, fresh, card.base_table), target)
        assert after.mean() <= before.mean()
        failed += bool((after > 4 * before).mean() > card.end.guard.share)
    assert accepted >= 20
    assert failed <= 0.05 * accepted
