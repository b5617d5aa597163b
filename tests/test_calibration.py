"""Calibration: exact where theory gives the answer, never worse than its base, linear in cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture

import longstride as ls
from longstride.calibration import normal_equations
from longstride.calibration.acceptance.gate import gate
from longstride.calibration.normal_equations import NormalEquations
from longstride.calibration.reference.solve import errors, in_batches, refine
from longstride.calibration.rowwise.directions import differences, increments, split
from longstride.calibration.rowwise.iia import PUBLISHED, IIASettings, calibrate_iia, fine_table
from longstride.calibration.samples import Batches

SIGMAS = ls.grid("karras", 5, sigma_min=0.05, sigma_max=10.0, final="sigma_min")


def noise_of(count: int, seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return SIGMAS[0] * torch.randn(count, *(shape or (6,)), generator=generator, dtype=torch.float64)


# Normal equations


@pytest.mark.parametrize("entries", [7, 40, 1000])
def test_streamed_batches_solve_the_same_least_squares_problem(entries, monkeypatch):
    monkeypatch.setattr(normal_equations, "_ENTRIES", entries)  # held in float64 at once; a batch has 35 to 115
    rng = np.random.default_rng(0)
    vectors, target = rng.normal(size=(3, 40, 5)), rng.normal(size=(40, 5))
    streamed = NormalEquations(3)
    for part in (slice(0, 7), slice(7, 30), slice(30, 40)):
        streamed.add([torch.from_numpy(v[part]) for v in vectors], torch.from_numpy(target[part]))
    expected, squares, *_ = np.linalg.lstsq(vectors.reshape(3, -1).T, target.ravel(), rcond=None)
    np.testing.assert_allclose(streamed.solve(0.0), expected, rtol=1e-12)
    assert streamed.mse(expected) == pytest.approx(squares[0] / 200, rel=1e-12)
    assert streamed.mse(np.zeros(3)) == pytest.approx((target**2).mean(), rel=1e-12)


def test_moved_equations_are_those_of_the_residual_that_is_left():
    rng = np.random.default_rng(1)
    vectors, target, beta = rng.normal(size=(3, 40)), rng.normal(size=40), rng.normal(size=3)
    equations, left = NormalEquations(3), NormalEquations(3)
    equations.add([torch.from_numpy(v) for v in vectors], torch.from_numpy(target))
    left.add([torch.from_numpy(v) for v in vectors], torch.from_numpy(target - beta @ vectors))
    np.testing.assert_allclose(equations.moved(beta).pack(), left.pack(), rtol=1e-11)
    # A ridge where nothing is away is the one of solve; one beyond all bounds goes where nothing is away.
    np.testing.assert_allclose(equations.pulled(0.5, np.zeros(3)).solve(0.0), equations.solve(0.5), rtol=1e-11)
    np.testing.assert_allclose(equations.pulled(1e12, beta).solve(0.0), -beta, rtol=1e-9)


def test_the_ridge_pulls_towards_the_base_at_any_scale():
    direction, target = torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0])
    for scale in (1e-3, 1.0, 1e3):
        equations = NormalEquations(1)
        equations.add([direction * scale], target)
        assert equations.solve(1.0)[0] * scale == pytest.approx(1.0)  # half of the least-squares answer 2


def test_repeated_and_empty_directions_are_harmless():
    v, empty, target = torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor([2.0, 4.0])
    equations = NormalEquations(3)
    equations.add([v, v, empty], target)
    np.testing.assert_allclose(equations.solve(0.0), [1.0, 1.0, 0.0], atol=1e-12)


def test_packed_equations_may_be_summed():
    rng = np.random.default_rng(1)
    vectors, target = torch.tensor(rng.normal(size=(3, 40))), torch.tensor(rng.normal(size=40))
    whole, packed = NormalEquations(3), np.zeros(3 * 3 + 3 + 2)
    whole.add(list(vectors), target)
    for part in (slice(0, 7), slice(7, 40)):
        equations = NormalEquations(3)
        equations.add([v[part] for v in vectors], target[part])
        packed += equations.pack()
    summed = NormalEquations.unpack(packed, 3)
    np.testing.assert_allclose(summed.solve(0.0), whole.solve(0.0), rtol=1e-12)
    assert summed.count == 40
    assert summed.mse(np.ones(3)) == pytest.approx(whole.mse(np.ones(3)), rel=1e-12)


# Fine solutions


def test_refined_levels_stop_at_the_floor():
    table = ls.build("ddim", [10.0, 1.0, 0.0])
    inner = refine(table, 1, 2, 3, floor=0.1).sigmas
    assert inner[0] == 1.0
    assert inner[-2:].tolist() == [0.1, 0.0]
    assert refine(table, 1, 2, 5, floor=1.0).sigmas.tolist() == [1.0, 0.0]
    whole = refine(table, 0, 1, 4, floor=0.1).sigmas
    assert (whole[0], whole[-1], len(whole)) == (10.0, 1.0, 5)


@pytest.mark.parametrize("family", ["ve", "flow"])
def test_the_reference_is_the_exact_solution(family):
    problem = Gaussian()
    if family == "ve":
        table, x, denoiser, start = ls.build("ddim", SIGMAS), noise_of(8, 1), problem, (1.0, SIGMAS[0])
    else:
        sigmas = np.array([1.0, 0.6, 0.2])
        table, x, start = ls.build("ddim", sigmas, alphas=1 - sigmas), noise_of(8, 1) / SIGMAS[0], (0.0, 1.0)
        denoiser = lambda x, sigma: problem(x, sigma, 1 - sigma)  # noqa: E731
    reference = ls.solve_reference(denoiser, x, table, steps=128)
    exact = problem.solution(x, start, (float(table.alphas[-1]), float(table.sigmas[-1])))
    error = errors(reference.samples, exact).rmse
    assert error < 1e-4
    assert error < reference.error < 100 * error + 1e-4


# IIA


def fit(denoiser, noise, table, held_out, settings):
    return calibrate_iia(Batches(denoiser, noise, held_out), table, settings, "fitted", floor=float(table.sigmas[-1]))


def value(row, states, outputs):
    return sum(w * states[i] for i, w in row.states.items()) + sum(w * outputs[j] for j, w in row.outputs.items())


def test_differences_are_those_of_the_most_recent_gradients():
    ddim, spndm = ls.build("ddim", SIGMAS), ls.build("spndm", SIGMAS)
    assert list(differences(ddim, 1, 1)) == ["noise(0)"]
    assert list(differences(ddim, 3, 1)) == ["data(2) - data(1)", "noise(2) - noise(1)"]
    assert len(differences(ddim, 3, 5)) == 4
    # S-PNDM's first step ends at state 2 and has two gradients; its stage serves no later step.
    assert list(differences(spndm, 2, 1)) == ["data(1) - data(0)", "noise(1) - noise(0)"]
    assert list(differences(spndm, 3, 1)) == ["data(2) - data(0)", "noise(2) - noise(0)"]


def test_increments_and_split_of_heun_are_those_of_the_paper():
    """The gradient of a step is (d + d') / 2; its two parts are x - D and D - D~; Euler's last step has x - D alone."""
    sigmas = np.append(SIGMAS, 0.0)
    table = ls.build("heun", sigmas)
    assert table.nfe == 11
    rng = np.random.default_rng(2)
    x, d = rng.normal(size=(12, 4)), rng.normal(size=(12, 4))

    def mean_gradient(start):
        here = (x[start] - d[start]) / table.sigmas[start]
        ahead = (x[start + 1] - d[start + 1]) / table.sigmas[start + 1]
        return (here + ahead) / 2

    # x of a stage is Euler's in the formula, so it must be here.
    for start in range(0, 10, 2):
        width = table.sigmas[start + 1] - table.sigmas[start]
        x[start + 1] = x[start] + width * (x[start] - d[start]) / table.sigmas[start]
    found = increments(table, 6, 1)
    assert list(found) == ["gradient(4 -> 6)", "gradient(2 -> 4)"]
    for row, start in zip(found.values(), (4, 2), strict=True):
        np.testing.assert_allclose(value(row, x, d), mean_gradient(start), rtol=1e-12)
    parts = split(table, 6, 1)
    assert list(parts) == ["noise(4)", "data(4) - data(5)", "noise(2)", "data(2) - data(3)"]
    np.testing.assert_allclose(value(parts["noise(4)"], x, d), (x[4] - d[4]) / table.sigmas[4], rtol=1e-12)
    np.testing.assert_allclose(value(parts["data(2) - data(3)"], x, d), d[2] - d[3], rtol=1e-12)
    # Both parts span the increment: (x - D) / sigma_i + (D - D~) / (2 sigma_{i+1}).
    spanned = value(parts["noise(4)"], x, d) + value(parts["data(4) - data(5)"], x, d) / (2 * table.sigmas[5])
    np.testing.assert_allclose(spanned, mean_gradient(4), rtol=1e-12)
    # First step, predictor, last step.
    assert list(split(table, 2, 3)) == ["noise(0)", "data(0) - data(1)"]
    assert list(split(table, 5, 0)) == ["noise(4)"]
    assert list(split(table, 11, 0)) == ["noise(10)"]
    assert list(increments(table, 2, 3)) == ["gradient(0 -> 2)"]


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
    known, unknown = (fine_table(table, 1, settings, 0.01, s) for s in (schedule, None))
    assert known.distance(ls.build("deis", known.sigmas, schedule=schedule, order=2)) < 1e-14
    assert known.distance(unknown) > 1e-4


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
        batches = Batches(Mixture(), noise_of(8, 3), 4)
        settings = IIASettings("split", substeps=6, stages=stages)
        _, rows = calibrate_iia(batches, table, settings, "fitted", floor=0.05)
        spent.append(batches.calls)
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

            batches = Batches(counted, noise_of(6, 8), 3)
            calibrate_iia(batches, table, IIASettings(substeps=10), "fitted", floor=0.05)
            assert sum(calls) == batches.calls
            assert sum(calls) <= 6 * (11 * table.nfe - steps)
            if base != "spndm":  # the fine S-PNDM spends one call of its budget on its own first step
                assert sum(calls) == 6 * (11 * table.nfe - steps)


def test_what_held_out_noise_contradicts_is_refused():
    """The fitted and the held-out half of the batch come from different worlds; no row may be changed."""
    x = noise_of(16, 9)
    x[:8, 0], x[8:, 0] = 50.0, -50.0

    def two_worlds(x, sigma):
        sign = torch.sign(x[:, :1])
        return Gaussian(mean=0.0, std=1.0)(x, sigma) * torch.where(sign > 0, 1.0, -1.0)

    table = ls.build("ddim", SIGMAS)
    result = ls.calibrate(two_worlds, x, table, method="iia")
    refused = [row for row in result.rows if not row.accepted]
    contradicted = [row for row in refused if row.row not in result.end.given_back]
    assert contradicted
    assert all(row.held_out_error > row.held_out_base_error for row in contradicted)
    assert all(row.error < row.base_error for row in contradicted)
    for row in refused:
        assert result.table.rows[row.row - 1] == table.rows[row.row - 1]


def test_a_table_that_is_worse_at_the_end_falls_back_to_its_base():
    """A reference that is the base's own result cannot be improved on."""
    table, x = ls.build("ddim", SIGMAS), noise_of(16, 10)
    own = ls.Reference(ls.sample(Mixture(), x[8:], table), 0.0, 5)
    result = ls.calibrate(Mixture(), x, table, reference=own, method="iia")
    assert not result.end.accepted
    assert result.table.distance(table) == 0.0
    assert not result.card.end.accepted


def test_a_row_that_makes_whole_trajectories_worse_is_given_back():
    """Of two rewritten rows the spoiled one is found, and the good one stays."""
    problem = Gaussian(mean=0.0)
    table, x = ls.build("ddim", SIGMAS), noise_of(8, 14)
    good, _ = fit(problem, x, table, 4, IIASettings(substeps=200))
    spoiled = replace(good, rows=(good.rows[0], good.rows[1] * 1.5, *good.rows[2:]))
    reference = ls.solve_reference(problem, x, table)
    settled, report = gate(Batches(problem, torch.cat([x[:1], x]), 8), table, spoiled, reference)
    assert 2 in report.given_back
    assert 1 not in report.given_back
    assert settled.rows[1] == table.rows[1]
    assert report.accepted
    assert report.calibrated.rmse < report.base.rmse


def test_the_same_noise_gives_the_same_card_and_batches_do_not_matter():
    table = ls.build("ddim", SIGMAS)
    first, again = (ls.calibrate(Mixture(), noise_of(12, 11), table, method="iia").card.dumps() for _ in range(2))
    assert first == again
    whole = ls.calibrate(Mixture(), noise_of(12, 11), table, method="iia").table
    assert whole.distance(ls.calibrate(Mixture(), noise_of(12, 11), table, batch_size=5, method="iia").table) < 1e-9


def test_guided_calibration_counts_both_calls():
    schedule = ls.Schedule.edm(0.05, 10.0)

    def network(x, t, shift):
        return Gaussian(std=0.5)(x - shift.view(-1, 1), float(t[0])) + shift.view(-1, 1)

    denoiser = ls.as_denoiser(
        network,
        schedule,
        "data",
        condition={"shift": torch.linspace(-1, 1, 8).double()},
        uncondition={"shift": torch.zeros(1).double()},
        guidance=3.0,
    )
    result = ls.calibrate(denoiser, noise_of(8, 12), ls.build("ddim", SIGMAS), substeps=4, batch_size=3, method="iia")
    assert result.fit_calls == 2 * 4
    assert result.end.calibrated.rmse < result.end.base.rmse


def test_batches_cut_per_sample_conditions():
    schedule = ls.Schedule.edm(0.05, 10.0)
    denoiser = ls.as_denoiser(
        lambda x, t, c: x * 0 + c.view(-1, 1), schedule, "data", condition={"c": torch.arange(7.0)}
    )
    out = in_batches(denoiser, 3)(torch.zeros(7, 2), 1.0)
    assert out[:, 0].tolist() == list(range(7))


def test_errors_name_what_was_wrong():
    table, x = ls.build("ddim", SIGMAS), noise_of(8, 13)
    with pytest.raises(ls.InputError, match="unknown family of directions 'differences of'"):
        ls.calibrate(Mixture(), x, table, directions="differences of", method="iia")
    with pytest.raises(ls.InputError, match="did you mean 'iia'"):
        ls.calibrate(Mixture(), x, table, method="iaa")
    with pytest.raises(ls.InputError, match="unexpected keyword argument 'substep'"):
        ls.calibrate(Mixture(), x, table, substep=3, method="iia")
    with pytest.raises(ls.InputError, match="unknown fine solver 'bogus'"):
        ls.calibrate(Mixture(), x, table, fine="bogus", method="iia")
    with pytest.raises(ls.InputError, match="of 8 samples 8 cannot be held out"):
        ls.calibrate(Mixture(), x, table, held_out=8, method="iia")
    with pytest.raises(ls.InputError, match="substeps >= 1"):
        ls.calibrate(Mixture(), x, table, substeps=0, method="iia")
    with pytest.raises(ls.InputError, match="holds 3 samples, but the 4 held-out are needed"):
        ls.calibrate(Mixture(), x, table, reference=ls.Reference(x[:3], 0.0, 1), method="iia")
    with pytest.raises(ls.InputError, match="does not start from the 4 held-out samples"):
        ls.calibrate(Mixture(), x, table, reference=ls.solve_reference(Mixture(), x[:4], table, steps=4), method="iia")
    with pytest.raises(ls.NonFiniteError, match=r"call 2 \(sigma = "):
        ls.calibrate(lambda x, s: x / 2 if s > 5 else x * float("nan"), x, table, substeps=1, method="iia")
