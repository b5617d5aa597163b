"""IIA: exact where theory gives the answer, never worse than its base on its own samples, linear in cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture
from toy_fits import noise_of

import longstride as ls
from longstride.calibration.reference.solve import errors, refine
from longstride.calibration.rowwise.directions import differences
from longstride.calibration.rowwise.iia import PUBLISHED, IIASettings, calibrate_iia, fine_step
from longstride.calibration.samples import Samples

SIGMAS = ls.grid("karras", 5, sigma_min=0.05, sigma_max=10.0, final="sigma_min")


def fit(denoiser, noise, table, held_out, settings):
    return calibrate_iia(Samples.of(denoiser, noise, table, held_out=held_out), table, settings, "fitted")


def value(row, states, outputs):
    return sum(w * states[i] for i, w in row.states.items()) + sum(w * outputs[j] for j, w in row.outputs.items())


@pytest.mark.parametrize("base", ["ddim", "heun", "dpm_solver_2", "dpm_solver_3", "dpmpp_2s"])
@pytest.mark.parametrize("family", ["differences", "increments", "split"])
def test_one_fine_step_of_a_one_step_base_changes_nothing(base, family):
    """The target is then the base row itself, so every coefficient is exactly 0."""
    _, rows = fit(Mixture(), noise_of(8, 2), ls.build(base, SIGMAS), 4, IIASettings(family, r=2, substeps=1))
    assert len(rows) == 5
    assert max(abs(c) for row in rows for c in row.coefficients) < 1e-9


def test_fine_steps_use_the_network_s_own_time():
    """DEIS interpolates in network time, so its fine solution must know the schedule that its base was built with."""
    schedule = ls.Schedule.vp()
    table = ls.build("deis", ls.grid("uniform", 3, schedule=schedule, final="sigma_min"), schedule=schedule, order=2)
    settings = IIASettings(substeps=6)
    known, unknown = (fine_step(table, 1, settings, 0.01, s) for s in (schedule, None))
    assert known.distance(ls.build("deis", known.sigmas, schedule=schedule, order=2)) < 1e-14
    assert known.distance(unknown) > 1e-4


def test_a_base_that_is_no_classical_solver_needs_one_for_its_fine_steps():
    base = replace(ls.build("ddim", SIGMAS), name="mine")
    samples = Samples.of(never, noise_of(8), base, held_out=4)
    with pytest.raises(ls.InputError, match="mine is no classical solver, which fine steps need: say fine='ddim'"):
        calibrate_iia(samples, base, IIASettings(), "fitted")
    tables, settings = (base, ls.build("ddim", SIGMAS)), IIASettings(fine="ddim")
    mine, ddim = (fit(Mixture(), noise_of(8), table, 4, settings)[1] for table in tables)
    assert mine == ddim


def never(x, sigma):
    raise AssertionError("the network was called")


@pytest.mark.parametrize("base", ["heun", "dpmpp_2m", "dpm_solver_2m", "dpmpp_2s", "dpmpp_3m", "unipc", "deis"])
def test_every_solver_takes_every_family(base):
    """Nothing is written per solver: each family lowers each base's distance to its own fine solution."""
    table = ls.build(base, ls.grid("karras", 4, sigma_min=0.05, sigma_max=10.0, final="sigma_min"))
    for family in ("differences", "increments", "split"):
        _, rows = fit(Mixture(), noise_of(32, 5), table, 16, IIASettings(family, fine="ddim", substeps=40))
        assert all(row.error <= row.base_error * (1 + 1e-12) for row in rows)
        assert any(row.error < 0.9 * row.base_error for row in rows)


def test_two_coefficients_per_gradient_fit_at_least_as_well_as_one():
    """The paper's lemma: what one coefficient reaches, two reach too; and so does a longer look back."""
    table, errors_of = ls.build("heun", SIGMAS), {}
    for family in ("increments", "split"):
        for r in (0, 1, 2):
            settings = IIASettings(family, r=r, substeps=8, ridge=0.0, trajectory="base")
            _, rows = fit(Mixture(), noise_of(32, 5), table, 16, settings)
            errors_of[family, r] = np.array([row.error for row in rows])
    for r in (0, 1, 2):
        assert np.all(errors_of["split", r] <= errors_of["increments", r] * (1 + 1e-9))
    for family in ("increments", "split"):
        assert np.all(errors_of[family, 1] <= errors_of[family, 0] * (1 + 1e-9))
        assert np.all(errors_of[family, 2] <= errors_of[family, 1] * (1 + 1e-9))
    assert np.any(errors_of["split", 0] < 0.9 * errors_of["increments", 0])


def test_stages_are_fitted_where_that_is_asked():
    """Heun's predictor and corrector have one target, so fitting both costs no further call."""
    table, spent = ls.build("heun", SIGMAS), []
    for stages in (False, True):
        samples = Samples.of(Mixture(), noise_of(8, 3), table, held_out=4)
        settings = IIASettings("split", substeps=6, stages=stages)
        _, rows = calibrate_iia(samples, table, settings, "fitted")
        spent.append(samples.ledger.calls)
        assert [row.row for row in rows] == (list(range(1, 11)) if stages else [2, 4, 6, 8, 10])
    assert spent[0] == spent[1] == 8 * 5 * (2 + 12 - 1)


def test_rows_can_be_fitted_along_the_base():
    """The first step is the same either way; later ones are fitted elsewhere."""
    table = ls.build("ddim", SIGMAS)
    along = {t: fit(Mixture(), noise_of(16, 3), table, 8, IIASettings(trajectory=t))[1] for t in ("calibrated", "base")}
    first, last = ([along[t][n].coefficients for t in along] for n in (0, -1))
    assert first[0] == first[1]
    assert last[0] != last[1]


@pytest.mark.parametrize("method", list(PUBLISHED))
def test_published_methods_are_settings_of_one_function(method):
    base = PUBLISHED[method].bases[-1]
    table = ls.build(base, SIGMAS)
    result = ls.calibrate(Mixture(), noise_of(16, 6), table, method=method, substeps=4)
    same = ls.calibrate(
        Mixture(), noise_of(16, 6), table, **{**vars(PUBLISHED[method].settings), "substeps": 4}, method="iia"
    )
    assert result.table.distance(same.table) == 0.0
    assert result.table.name == ("iia_dpmpp_2s" if method == "iia_dpm_solver" else method)
    assert result.card.method == method
    with pytest.raises(ls.InputError, match="not for 'unipc'; method 'iia' takes any"):
        ls.calibrate(Mixture(), noise_of(8, 6), ls.build("unipc", SIGMAS), method=method)


def test_one_fine_step_of_the_base_itself_changes_nothing():
    """With M = 1 and DDIM as base and fine solver every coefficient is exactly 0."""
    table = ls.build("ddim", SIGMAS)
    result = ls.calibrate(Mixture(), noise_of(8, 2), table, substeps=1, method="iia")
    assert [c for row in result.rows for c in row.coefficients] == [0.0] * 9
    assert result.table.distance(table) == 0.0


def test_a_linear_problem_is_solved_exactly():
    """For centred Gaussian data all gradients are multiples of the state, so one coefficient per step suffices."""
    problem = Gaussian(mean=0.0)
    table, settings = ls.build("ddim", SIGMAS), IIASettings(substeps=400, ridge=0.0)
    fitted, rows = fit(problem, noise_of(8, 3), table, 4, settings)
    x = noise_of(16, 4)
    exact = problem.solution(x, (1.0, SIGMAS[0]), (1.0, SIGMAS[-1]))
    before, after = (errors(ls.sample(problem, x, t), exact).rmse for t in (table, fitted))
    assert max(row.error for row in rows) < 1e-9  # the fine solution is met to rounding
    assert after < 0.01 * before  # what is left is the fine solution's own first-order error


@pytest.mark.parametrize("base", ["ddim", "spndm", "ipndm"])
def test_the_fit_never_rises_and_its_residual_is_orthogonal_to_the_directions(base):
    table = ls.build(base, SIGMAS)
    settings = IIASettings(r=2, substeps=6, ridge=0.0)
    fitted, rows = fit(Mixture(), noise_of(32, 5), table, 16, settings)
    assert len(rows) == len(table.grid) - 1
    assert all(row.error <= row.base_error * (1 + 1e-12) for row in rows)
    assert any(row.error < 0.9 * row.base_error for row in rows)
    # The last step again, from the state that the calibrated rows lead to.
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    end = ls.sample(Mixture(), noise_of(32, 5), fitted, callback=lambda k, s, x, d: seen.update({k: (x, d)}))
    start, last = table.step_of_row(table.nfe), table.nfe
    fine = ls.build(base, refine(table, start, last, 6 if base != "spndm" else 5, SIGMAS[-1]).sigmas)
    residual = (ls.sample(Mixture(), seen[start][0], fine) - end)[:16]
    states, outputs = ({k: pair[n] for k, pair in seen.items()} for n in (0, 1))
    for row in differences(table, last, 2).values():
        v = value(row, states, outputs)
        assert float((residual * v[:16]).sum()) == pytest.approx(0.0, abs=1e-8 * float(residual.norm() * v[:16].norm()))


@pytest.mark.parametrize("steps", [5, 8])
@pytest.mark.parametrize("base", ["ddim", "spndm", "ipndm"])
def test_calibrated_solvers_beat_their_base_on_fresh_noise(base, steps):
    sigmas = ls.grid("karras", steps, sigma_min=0.05, sigma_max=10.0, final="sigma_min")
    table = ls.build(base, sigmas)
    result = ls.calibrate(Mixture(), noise_of(256, 6), table, method="iia")
    x = noise_of(512, 7)
    exact = ls.solve_reference(Mixture(), x, table, steps=256).samples
    before, after = (errors(ls.sample(Mixture(), x, t), exact) for t in (table, result.table))
    if result.end.accepted:
        assert after.rmse < before.rmse
        assert after.median < before.median
    else:  # local fits cannot improve every solver; the gate then keeps the base
        assert base == "ipndm"
        assert result.table.distance(table) == 0.0


def test_cost_is_linear_and_within_the_bound():
    """A step of s calls spends s on the state that inference sees and less than s M on its target."""
    for base in ("ddim", "spndm", "ipndm", "dpmpp_2m", "heun", "dpm_solver_3"):
        for steps in (4, 8):
            sigmas = ls.grid("karras", steps, sigma_min=0.05, sigma_max=10.0, final="sigma_min")
            table, calls = ls.build(base, sigmas), []

            def counted(x, sigma, calls=calls):
                calls.append(len(x))
                return Mixture()(x, sigma)

            samples = Samples.of(counted, noise_of(6, 8), table, held_out=3)
            calibrate_iia(samples, table, IIASettings(substeps=10), "fitted")
            assert sum(calls) == samples.ledger.calls
            assert sum(calls) <= 6 * (11 * table.nfe - steps)
            if base != "spndm":  # the fine S-PNDM spends one call of its budget on its own first step
                assert sum(calls) == 6 * (11 * table.nfe - steps)
