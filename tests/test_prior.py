"""What is known of other networks' tables: the covariance that is shipped, and a pull by it that balances the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Mixture
from toy_fits import SIGMAS, newton_of, noise_of

import longstride as ls
from longstride.calibration.endpoint.last_row import Terms
from longstride.calibration.endpoint.prior import Prior, Ridge
from longstride.calibration.loss import Loss
from longstride.calibration.normal_equations import NormalEquations, Pull
from longstride.cores import choice
from longstride.families import Family, alpha_of_ratio
from longstride.parameters import Parameters
from longstride.solvers.universal import neighbours

SCHEDULES: dict[Family, ls.Schedule] = {"ve": ls.Schedule.edm(), "vp": ls.Schedule.vp(), "flow": ls.Schedule.flow()}
CALLS = sorted(choice._moves())


def universal(nfe: int, family: Family = "ve", **options: object) -> ls.SolverTable:
    return ls.universal(nfe, schedule=SCHEDULES[family], data_std=0.5, **options)


def test_networks_were_compared_at_all_calls_of_universal_tables():
    assert choice.calls() == CALLS
    for nfe in CALLS:
        names = set(choice._moves()[nfe])
        assert {"wine", "wine@7.5", "garments_flow", "digits", "digits@3"} <= names
        assert ("hsc32" in names) == (nfe in choice.calls(dark=True))


@pytest.mark.parametrize("nfe", CALLS)
def test_the_covariance_is_that_of_networks_and_a_tenth_of_their_variances(nfe):
    moves = np.array(list(choice._moves()[nfe].values()))
    rows, second = choice.spread(nfe), moves.T @ moves / len(moves)
    np.testing.assert_allclose(rows.T @ rows, second + 0.1 * np.diag(np.diag(second)), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("family", list(SCHEDULES))
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_neighbours_are_as_far_as_networks(family, final):
    """Levels move by the same factors in every process, and weights are those of the core times alpha."""
    table, step = universal(5, family, final=final), 1e-3
    moves = choice.spread(5)
    found = neighbours(table, step)
    assert len(found) == len(moves)
    ratios = np.log(table.sigmas[1:-1] / table.alphas[1:-1])
    for one, move in zip(found, moves, strict=True):
        assert one.defect <= 1e-12
        moved = np.log(one.sigmas[1:-1] / one.alphas[1:-1])
        np.testing.assert_allclose(moved - ratios, step * move[-4:], atol=1e-12)
        weight = one.b[3, 1] / one.alphas[3] - table.b[3, 1] / table.alphas[3]  # row 3: entries 1 and 2 of three
        assert weight == pytest.approx(step * move[2], abs=1e-12)


@pytest.mark.parametrize("family", ["vp", "flow"])
@pytest.mark.parametrize("window", [None, 2])
def test_the_prior_is_the_same_in_every_process(family, window):
    """Weights of row k are alpha_k times those of the scale where alpha is 1; a window leaves the others anywhere."""
    start = 80.0  # the same first level, so that all tables are one sampler in other frames
    ends = np.array([start, *np.geomspace(10, 0.1, 4), 0.02])
    parameters = Parameters(5, column=True, window=window)
    plain = ls.build("longstride", ends, data_std=0.5)
    alphas = alpha_of_ratio(family, ends)
    there = ls.build("longstride", alphas * ends, alphas=alphas, data_std=0.5)
    # Free numbers there, by those where alpha is 1: of a table that differs in all, by central differences.
    values, columns, step = parameters.values(parameters.prepared(plain)), [], 1e-5
    for unit in np.eye(len(parameters)):
        ways = []
        for sign in (step, -step):
            moved = parameters.with_values(parameters.prepared(plain), values + sign * unit)
            ways.append(parameters.values(moved.rescaled(alpha_of_ratio(family, moved.sigmas))))
        columns.append((ways[0] - ways[1]) / (2 * step))
    change = np.stack(columns, 1)
    mine, theirs = Prior.of(plain, parameters, 1.0), Prior.of(there, parameters, 1.0)
    assert mine is not None
    assert theirs is not None
    may = np.abs(np.diag(change)) > 0  # in its own recurrence the last row weighs the state before, not the first state
    assert may.all() == (window is None)
    pulled, wanted = ((change.T @ theirs.precision @ change), mine.precision)
    block = np.ix_(may, may)
    np.testing.assert_allclose(pulled[block], wanted[block], rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(theirs.center, parameters.values(parameters.prepared(there)))


@pytest.mark.parametrize("family", list(SCHEDULES))
def test_the_spread_is_a_root_of_the_covariance(family):
    prior = Prior.of(universal(5, family), Parameters(5, column=True), 0.2)
    assert prior is not None
    np.testing.assert_allclose(prior.spread.T @ prior.spread @ prior.precision, 0.2 * np.eye(24), atol=1e-6)


def test_without_a_prior_neighbouring_outputs_change_together():
    """Every change keeps the sum of a row's weights, but that of its first weight."""
    parameters = Parameters(4, column=True, window=2)
    table = ls.build("ddim", SIGMAS)
    ridge = Ridge.of(table, parameters, 1e-3)
    kinds = [one.kind for one in parameters.all]
    first = [one.j == max(0, one.k - 2) for one in parameters.all]
    sums = ridge.spread[:, [kind == "weight" for kind in kinds]].sum(1)
    wanted = [float(kind == "weight" and start) for kind, start in zip(kinds, first, strict=True)]
    assert sums.tolist() == wanted
    assert np.linalg.matrix_rank(ridge.spread) == len(parameters)
    pull = ridge.on(ridge.center + 1, 0.5)
    assert pull.ridge == 1e-3
    np.testing.assert_allclose(pull.away, 1.0, rtol=1e-12)


def test_only_universal_tables_have_neighbours():
    assert neighbours(ls.build("ddim", SIGMAS), 0.1) == []
    assert Prior.of(ls.build("ddim", SIGMAS), Parameters(4), 1.0) is None
    assert Prior.of(universal(4), Parameters(4), 0.0) is None
    assert neighbours(replace(universal(4), name="another"), 0.1) == []
    moved = Parameters(4).moved(universal(4).unrolled(), np.full(len(Parameters(4)), 1e-3))
    assert (moved.name, moved.options) == ("longstride", universal(4).options)
    assert neighbours(moved, 0.1) == []


def test_a_pull_is_a_quadratic_in_the_objective():
    """The minimiser of |e - V b|² + eps |diag(G)^1/2 (a + b)|² + b' P b + 2 h' b, and parts of it while others stay."""
    rng = np.random.default_rng(0)
    vectors, target = rng.normal(size=(4, 30)), rng.normal(size=30)
    root, away, h = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4)
    pull = Pull(0.3, away, root @ root.T, h)
    equations = NormalEquations(4)
    equations.add([torch.from_numpy(v) for v in vectors], torch.from_numpy(target))
    found = equations.pulled(pull).solve(0.0)
    gram = vectors @ vectors.T
    slope = gram @ found - vectors @ target + 0.3 * np.diag(gram) * (away + found) + root @ root.T @ found + h
    np.testing.assert_allclose(slope, 0, atol=1e-11)
    # At the minimum nothing pulls on, and a step of some unknowns stays at it.
    moved = equations.moved(found)
    np.testing.assert_allclose(moved.pulled(pull.after(found)).solve(0.0), 0, atol=1e-11)
    some = np.array([True, False, True, False])
    part = NormalEquations(2)
    part.gram, part.moment = moved.gram[np.ix_(some, some)], moved.moment[some]
    np.testing.assert_allclose(part.pulled(pull.after(found).of(some)).solve(0.0), 0, atol=1e-11)


@pytest.mark.parametrize("strength", [1e-3, 1.0, 10.0])
def test_a_last_row_balances_the_prior_and_the_samples(strength):
    """Sum of w <v, r> over samples = noise * precision (values - centre), in the free weights of the last row."""
    parameters = Parameters(4, column=True)
    newton = newton_of(Mixture(), noise_of(24), held_out=8, parameters=parameters)
    table, other = (parameters.prepared(ls.build(name, SIGMAS)) for name in ("ddim", "ipndm"))
    rng = np.random.default_rng(1)
    root = rng.normal(size=(len(parameters), len(parameters)))
    precision = strength * (root @ root.T + np.eye(len(parameters)))
    prior = Prior(parameters.values(other), precision, np.linalg.inv(np.linalg.cholesky(precision)))
    before = newton.last_rows(table, newton.fitted)
    noise = float(before.squared.mean())
    solved = newton.solved(table, Loss(), prior)
    terms = Terms.of(solved, parameters)
    at, was = terms.weights(solved), terms.weights(table)
    places = [n for n in terms.numbers(parameters) if n is not None]
    assert [parameters.all[n].k for n in places] == [4] * len(terms)
    slopes = np.array([1 / was[0], 1, 1, 1, 1])
    away = parameters.values(table) - prior.center
    away[places] += slopes * (at - was)  # the logarithm of the first state's weight is taken as linear in it
    pulled = slopes * (noise * prior.precision @ away)[places]
    moment = newton.last_rows(solved, newton.fitted).moment.sum(0)
    np.testing.assert_allclose(moment, pulled, atol=1e-6 * max(1.0, strength) * np.abs(before.moment.sum(0)).max())


def test_the_estimate_is_that_of_bayes():
    """Linear residuals with noise n, theta of the covariance, kappa 1: errors have the covariance of the posterior."""
    rng = np.random.default_rng(2)
    root, vectors, n = rng.normal(size=(3, 3)), rng.normal(size=(3, 5)), 0.7
    covariance, draws = root @ root.T, 20_000
    prior = Prior(np.zeros(3), np.linalg.inv(covariance), root.T)
    theta = rng.normal(size=(draws, 3)) @ root.T
    seen = theta @ vectors + np.sqrt(n) * rng.normal(size=(draws, 5))
    equations = NormalEquations(3)
    equations.gram = vectors @ vectors.T
    errors = np.empty((draws, 3))
    for k in range(draws):
        equations.moment = vectors @ seen[k]
        errors[k] = equations.pulled(prior.on(np.zeros(3), n)).solve(0.0) - theta[k]
    posterior = np.linalg.inv(equations.gram / n + np.linalg.inv(covariance))
    np.testing.assert_allclose(errors.T @ errors / draws, posterior, atol=4 * posterior.max() / np.sqrt(draws / 2))


def test_a_calibration_of_a_universal_table_takes_the_prior():
    """Stronger, it keeps the table nearer to the universal one, in the measure of the covariance."""
    table, problem, parameters = universal(5, final="sigma_min"), Mixture(), Parameters(5, column=True)
    noise = 80 * torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = Prior.of(table, parameters, 1.0)
    assert prior is not None

    def distance(strength):
        asked = {"scouts": 0, "universal": False, "iterations": 2, "scout_samples": 4, "confidence": 0.5}
        made = ls.calibrate(
            problem, noise, table, held_out=8, reference_steps=40, monitor=0, prior=strength, margin=1e9, **asked
        )
        assert made.end.accepted
        away = parameters.values(parameters.prepared(made.table)) - prior.center
        return float(away @ prior.precision @ away)

    found = [distance(strength) for strength in (0.0, 0.1, 1e3)]
    assert found[0] > 2 * found[1] > 4 * found[2] > 0
