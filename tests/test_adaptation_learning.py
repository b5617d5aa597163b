"""What one sample teaches: a calibration's equations, forgotten as declared, and a step that no data moves too far."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from problems import Mixture
from scipy.optimize import minimize
from toy_fits import INFINITE, exact, networked, newton_of, noise_of

import longstride as ls
from longstride.adaptation.kept import Kept
from longstride.adaptation.proposing import Cards
from longstride.adaptation.region import bounded_step, box
from longstride.adaptation.sums import Sums
from longstride.calibration.loss import Loss
from longstride.calibration.normal_equations import NormalEquations, Pull
from longstride.parameters import Parameters, level_ratios

LIGHT = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
#: No box, no forgetting, no cap, plain squares.
FREE = {"step": 1e9, "bound": 1e9, "forgetting": 1.0, "cap": 1e9, "robust": 0.0}
#: The mixture of the session's card, after its network was trained further.
MOVED = Mixture(weights=(0.55, 0.45), means=(-1.3, 0.9), stds=(0.3, 0.8))


def observed(card, problem, noise, path, converged=None, **options):
    """An adaptation that has seen every sample of ``noise``."""
    adaptation = ls.Adaptation(card, path, **options)
    ends = exact(problem, noise) if converged is None else converged
    for one, end in zip(noise.split(1), ends.split(1), strict=True):
        adaptation.observe(networked(problem), one, end)
    return adaptation


def kept(path):
    """State and cards in a store."""
    opened = Kept(None, path, 5.0, {})
    try:
        return opened.read()
    finally:
        opened.close()


# Equations


@pytest.mark.parametrize("robust", [0.0, 1.0])
def test_one_by_one_the_samples_give_the_equations_of_a_calibration(found, tmp_path, robust):
    """And without bounds the step of Gauss–Newton, ridge included; robust weights of the first sample's loss."""
    noise, card, network = noise_of(32, 5), found.card, networked(MOVED)
    whole = torch.cat([noise, noise_of(8)])
    with observed(card, MOVED, noise, tmp_path / "a.db", fewest=1000, **{**FREE, "robust": robust}) as adaptation:
        assert adaptation.status().counters.used == 32
    state, cards = kept(tmp_path / "a.db")
    newton = newton_of(network, whole, exact(MOVED, whole), parameters=Parameters(4, column=True))
    if robust:
        latest, expected = [], NormalEquations(len(newton.parameters)).pack()
        for n in range(32):
            few = whole[[n, *range(32, 40)]]
            part = newton_of(network, few, exact(MOVED, few), parameters=newton.parameters)
            usual = latest or [card.end.calibrated.median**2]
            expected = expected + part.equations(cards.table, Loss.of(np.array(usual), robust), part.fitted).pack()
            latest.append(float(part.errors(cards.table, part.fitted)[0, 1]))
        assert state.sums.latest == pytest.approx(latest)
    else:
        expected = newton.equations(cards.table, Loss(INFINITE), newton.fitted).pack()
    np.testing.assert_allclose(state.sums.equations.pack()[:-1], expected[:-1], rtol=1e-9, atol=1e-15)
    wanted = NormalEquations.unpack(expected, len(newton.parameters))
    low, high = np.full((2, len(newton.parameters)), 1e9) * [[-1], [1]]
    step = bounded_step(state.sums.equations, 0.03, low, high)
    np.testing.assert_allclose(
        step, wanted.pulled(Pull.plain(0.03, np.zeros(len(step)))).solve(0.0), rtol=1e-6, atol=1e-9
    )


def test_one_call_is_one_division(tmp_path):
    """With K = 1 and a column that cannot move, the only weight is <D, r> / <D, D>: what a recalibration finds."""
    sigmas, noise = [10.0, 0.05], noise_of(64, 1)
    table = ls.build("ddim", sigmas)
    network = ls.as_denoiser(lambda x, t: Mixture()(x, float(t[0])), ls.Schedule.edm(0.05, 10.0), "data")
    card = ls.calibrate(network, noise, table, method="iia", monitor=0).card
    ends = exact(Mixture(), noise)
    with ls.Adaptation(card, tmp_path / "a.db", ridge=0.0, **FREE) as adaptation:
        for one, end in zip(noise.split(1), ends.split(1), strict=True):
            adaptation.observe(network, one, end)
    state, cards = kept(tmp_path / "a.db")
    own = cards.table
    output, first = Mixture()(noise, 10.0).flatten(), noise.flatten()
    left = (ends - ls.sample(network, noise, own)).flatten()
    columns = torch.stack([output, float(own.a[1]) * first], 1)
    expected = torch.linalg.lstsq(columns, left[:, None]).solution[:, 0]
    low, high = np.array([[-1e9, -1e9], [1e9, 1e9]])
    assert bounded_step(state.sums.equations, 0.0, low, high) == pytest.approx(expected.numpy(), rel=0.02)


# Forgetting, cap


def equations(seed, p=3, size=1.0):
    rng = np.random.default_rng(seed)
    columns = [torch.from_numpy(size * rng.normal(size=20)) for _ in range(p)]
    return NormalEquations.of(columns, torch.from_numpy(rng.normal(size=20)))


@pytest.mark.parametrize("forgetting", [1.0, 0.9, 0.3])
def test_every_sample_counts_by_its_age(forgetting):
    sums, parts = Sums.empty(3), [equations(n) for n in range(12)]
    for n, part in enumerate(parts):
        sums = sums.plus(part, float(n), forgetting, cap=1e9)
    weights = forgetting ** np.arange(11, -1, -1)
    np.testing.assert_allclose(sums.equations.gram, sum(w * one.gram for w, one in zip(weights, parts, strict=True)))
    np.testing.assert_allclose(
        sums.equations.moment, sum(w * one.moment for w, one in zip(weights, parts, strict=True))
    )
    assert sums.equations.energy == pytest.approx(sum(w * one.energy for w, one in zip(weights, parts, strict=True)))
    assert sums.effective == pytest.approx(weights.sum())
    assert (sums.seen, sums.latest) == (12, tuple(range(12)))


def test_no_sample_has_more_energy_than_the_cap():
    sums = Sums.empty(3)
    for n in range(20):
        sums = sums.plus(equations(n), 1.0, 1.0, cap=4.0)
    mean = np.diag(sums.equations.gram) / 20
    for size in (10.0, 1e6):
        more = sums.plus(equations(99, size=size), 1.0, 1.0, cap=4.0)
        added = np.diag(more.equations.gram) - np.diag(sums.equations.gram)
        assert (added / mean).mean() == pytest.approx(4.0, rel=1e-6)
    usual = sums.plus(equations(99), 1.0, 1.0, cap=4.0)
    np.testing.assert_allclose(usual.equations.gram - sums.equations.gram, equations(99).gram, rtol=1e-9)


def test_a_far_sample_pulls_no_more_than_the_robust_loss_allows(found, tmp_path):
    """Its weighted residual is at most c, however far its solution lies."""
    noise, card = noise_of(17, 5), found.card
    ends, pulls = exact(MOVED, noise), []
    for far in (1e3, 1e9):
        moved = ends.clone()
        moved[-1] += far
        path = tmp_path / f"{far}.db"
        observed(card, MOVED, noise[:-1], path, ends[:-1], fewest=60, forgetting=1.0).close()
        before = kept(path)[0].sums.equations
        with ls.Adaptation(None, path) as adaptation:
            adaptation.observe(networked(MOVED), noise[-1:], moved[-1:])
        pulls.append(kept(path)[0].sums.equations.moment - before.moment)
    np.testing.assert_allclose(pulls[0], pulls[1], rtol=1e-2)
    assert np.abs(pulls[0]).max() > 0


# The box


@LIGHT
@given(st.integers(0, 10**6), st.floats(0.01, 1.0))
def test_the_step_is_the_best_one_in_the_box(seed, reach):
    """Against a general solver of bounded problems."""
    rng = np.random.default_rng(seed)
    part = equations(seed, p=5)
    low, high = -reach * rng.random(5), reach * rng.random(5)
    low[0] = high[0] = 0.0
    step = bounded_step(part, 0.03, low, high)
    assert (low <= step).all()
    assert (step <= high).all()
    gram = part.gram + 0.03 * np.diag(np.diag(part.gram))

    def loss(d):
        return d @ gram @ d - 2 * d @ part.moment

    other = minimize(loss, np.zeros(5), jac=lambda d: 2 * (gram @ d - part.moment), bounds=np.stack([low, high], 1))
    assert loss(step) <= other.fun + 1e-9 * (1 + abs(other.fun))


def test_equations_that_are_not_finite_move_nothing():
    part = equations(0)
    part.gram[1, 1] = math.inf
    assert not bounded_step(part, 0.03, -np.ones(3), np.ones(3)).any()
    assert not bounded_step(NormalEquations(3), 0.03, -np.ones(3), np.ones(3)).any()


def test_the_box_is_the_step_around_the_card_and_the_bound_around_the_calibration(found):
    cards = Cards(found.card, found.card)
    parameters, anchor = cards.parameters, cards.anchor
    low, high = box(parameters, anchor, anchor, 0.1, 0.3)
    weights = np.array([one.kind != "level" for one in parameters.all])
    assert high[weights] == pytest.approx(0.1)
    assert low[weights] == pytest.approx(-0.1)
    moved = parameters.with_values(anchor, parameters.values(anchor) + 0.25 * weights)
    low, high = box(parameters, anchor, moved, 0.1, 0.3)
    assert high[weights] == pytest.approx(0.05)
    assert low[weights] == pytest.approx(-0.1)
    levels = np.log(level_ratios(anchor))
    for n, one in enumerate(parameters.all):
        if one.kind == "level":
            gap = min(levels[one.k - 1] - levels[one.k], levels[one.k] - levels[one.k + 1])
            assert max(-low[n], high[n]) <= 0.1
            assert min(-low[n], high[n]) == pytest.approx(min(0.1, 0.4 * gap))


# Whatever is seen


def adversary(found, strength, seed):
    """A table far away, whose samples a client passes off as converged."""
    table = found.card.table.unrolled()
    rng = np.random.default_rng(seed)
    parameters = Parameters(table.nfe, column=True)
    return parameters.with_values(table, parameters.values(table) + strength * rng.normal(size=len(parameters)))


def driven(found, step, bound, strength, seed, level, count=48):
    """Proposals that an adversary had adopted, and the largest move at the end; no number ever left its box.

    Every proposal that wins is adopted, and the settings ask for next to nothing.
    """
    far = adversary(found, strength, seed)
    eager = {"fewest": 4.0, "every": 4, "gain": 0.0, "level": level, "stability": 1e9, "margin": 1e9}
    parameters = Parameters(4, column=True)
    before = anchor = parameters.values(found.card.table.unrolled())
    with ls.Adaptation(found.card, step=step, bound=bound, **eager) as adaptation:
        for one in noise_of(count, seed).split(1):
            adaptation.observe(networked(Mixture()), one, ls.sample(networked(Mixture()), one, far))
            assert adaptation.status().next_move <= bound
            if (proposal := adaptation.proposal()) is not None:
                now = parameters.values(proposal.card.table.unrolled())
                assert np.abs(now - before).max() <= step
                assert np.abs(now - anchor).max() <= bound
                assert proposal.move == pytest.approx(np.abs(now - anchor).max())
                adaptation.settle(adopted=True)
                before = now
        told = adaptation.status()
        assert told.move <= bound
        return told.counters.adopted, told.move


@pytest.mark.slow
@settings(LIGHT, max_examples=6)
@given(st.floats(0.01, 0.2), st.floats(1.0, 4.0), st.floats(0.1, 1.5), st.integers(0, 10**6), st.floats(0.5, 0.97))
def test_who_controls_the_solutions_moves_no_number_beyond_its_bound(found, step, times, strength, seed, level):
    driven(found, step, step * times, strength, seed, level)


def test_and_comes_as_far_as_the_bound(found):
    """So that the bound is what holds him."""
    adopted, move = driven(found, 0.03, 0.05, 0.5, 1, 0.9, count=60)
    assert adopted >= 2
    assert move > 0.95 * 0.05


@settings(LIGHT, max_examples=12)
@given(st.lists(st.tuples(st.floats(allow_nan=True, width=64), st.integers(0, 3)), min_size=1, max_size=20))
def test_whatever_is_offered_no_number_leaves_its_box_and_nan_never_enters(found, values):
    """Solutions of any size, or noise with any number in it."""
    noise = noise_of(20, 3)
    with ls.Adaptation(found.card, fewest=2.0, every=1, gain=0.0) as adaptation:
        for (value, where), one in zip(values, noise.split(1), strict=False):
            one, end = one.clone(), exact(Mixture(), one)
            if where == 0:
                end = end + value
            elif where == 1:
                end[0, 2] = value
            elif where == 2:
                one[0, 1] = value
            else:
                end = torch.full_like(end, value)
            adaptation.observe(networked(Mixture()), one, end)
        told = adaptation.status()
        assert told.next_move <= told.bound
        counters = told.counters
        assert counters.used + sum(counters.refused.values()) == counters.samples == min(len(values), 20)
        assert math.isfinite(told.effective)
