"""Calibration: exact where theory gives the answer, never worse than its base, linear in cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture

import longstride as ls
from longstride.calibration.gate import gate
from longstride.calibration.iia import IIASettings, calibrate_iia, directions
from longstride.calibration.normal_equations import NormalEquations
from longstride.calibration.reference import errors, in_batches, refine

SIGMAS = ls.grid("karras", 5, sigma_min=0.05, sigma_max=10.0, final="sigma_min")


def noise_of(count: int, seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return SIGMAS[0] * torch.randn(count, *(shape or (6,)), generator=generator, dtype=torch.float64)


# Normal equations


def test_streamed_batches_solve_the_same_least_squares_problem():
    rng = np.random.default_rng(0)
    vectors, target = rng.normal(size=(3, 40, 5)), rng.normal(size=(40, 5))
    streamed = NormalEquations(3)
    for part in (slice(0, 7), slice(7, 30), slice(30, 40)):
        streamed.add([torch.from_numpy(v[part]) for v in vectors], torch.from_numpy(target[part]))
    expected, squares, *_ = np.linalg.lstsq(vectors.reshape(3, -1).T, target.ravel(), rcond=None)
    np.testing.assert_allclose(streamed.solve(0.0), expected, rtol=1e-12)
    assert streamed.mse(expected) == pytest.approx(squares[0] / 200, rel=1e-12)
    assert streamed.mse(np.zeros(3)) == pytest.approx((target**2).mean(), rel=1e-12)


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


def _worker(rank: int, port: int, queue: torch.multiprocessing.SimpleQueue) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    equations = NormalEquations(2)
    data = torch.arange(12, dtype=torch.float64).reshape(3, 4)[:, 2 * rank : 2 * rank + 2]
    equations.add([data[0], data[1] ** 2], data[2])
    equations.all_reduce()
    if rank == 0:
        queue.put((equations.solve(0.0).tolist(), equations.count))
    torch.distributed.destroy_process_group()


def test_two_processes_solve_what_one_solves():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    workers = [context.Process(target=_worker, args=(rank, port, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    beta, count = queue.get()
    for worker in workers:
        worker.join()
    alone = NormalEquations(2)
    data = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    alone.add([data[0], data[1] ** 2], data[2])
    np.testing.assert_allclose(beta, alone.solve(0.0), rtol=1e-12)
    assert count == 4


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


def test_directions_are_differences_of_the_most_recent_gradients():
    ddim, spndm = ls.build("ddim", SIGMAS), ls.build("spndm", SIGMAS)
    assert list(directions(ddim, 1, 1)) == ["noise(0)"]
    assert list(directions(ddim, 3, 1)) == ["data(2) - data(1)", "noise(2) - noise(1)"]
    assert len(directions(ddim, 3, 5)) == 4
    # S-PNDM's first step ends at state 2 and has two gradients; its stage serves no later step.
    assert list(directions(spndm, 2, 1)) == ["data(1) - data(0)", "noise(1) - noise(0)"]
    assert list(directions(spndm, 3, 1)) == ["data(2) - data(0)", "noise(2) - noise(0)"]


def test_one_fine_step_of_the_base_itself_changes_nothing():
    """With M = 1 and DDIM as base and fine solver every coefficient is exactly 0."""
    table = ls.build("ddim", SIGMAS)
    result = ls.calibrate(Mixture(), noise_of(8, 2), table, substeps=1)
    assert [c for row in result.rows for c in row.coefficients] == [0.0] * 9
    assert result.table.distance(table) == 0.0


def test_a_linear_problem_is_solved_exactly():
    """For centred Gaussian data all gradients are multiples of the state, so one coefficient per step suffices."""
    problem = Gaussian(mean=0.0)
    table, settings = ls.build("ddim", SIGMAS), IIASettings(substeps=400, ridge=0.0)
    fitted, rows = calibrate_iia(problem, noise_of(8, 3), table, 4, settings)
    x = noise_of(16, 4)
    exact = problem.solution(x, (1.0, SIGMAS[0]), (1.0, SIGMAS[-1]))
    before, after = (errors(ls.sample(problem, x, t), exact).rmse for t in (table, fitted))
    assert max(row.error for row in rows) < 1e-9  # the fine solution is met to rounding
    assert after < 0.01 * before  # what is left is the fine solution's own first-order error


@pytest.mark.parametrize("base", ["ddim", "spndm", "ipndm"])
def test_the_fit_never_rises_and_its_residual_is_orthogonal_to_the_directions(base):
    table = ls.build(base, SIGMAS)
    settings = IIASettings(r=2, substeps=6, ridge=0.0)
    fitted, rows = calibrate_iia(Mixture(), noise_of(32, 5), table, 16, settings)
    assert len(rows) == len(table.grid) - 1
    assert all(row.error <= row.base_error * (1 + 1e-12) for row in rows)
    assert any(row.error < 0.9 * row.base_error for row in rows)
    # The last step again, from the state that the calibrated rows lead to.
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    end = ls.sample(Mixture(), noise_of(32, 5), fitted, callback=lambda k, s, x, d: seen.update({k: (x, d)}))
    start, last = table.step_of_row(table.nfe), table.nfe
    fine = ls.build(base, refine(table, start, last, 6 if base != "spndm" else 5, SIGMAS[-1]).sigmas)
    residual = (ls.sample(Mixture(), seen[start][0], fine) - end)[:16]
    for row in directions(table, last, 2).values():
        v = sum(w * seen[i][0] for i, w in row.states.items()) + sum(w * seen[j][1] for j, w in row.outputs.items())
        assert float((residual * v[:16]).sum()) == pytest.approx(0.0, abs=1e-8 * float(residual.norm() * v[:16].norm()))


@pytest.mark.parametrize("steps", [5, 8])
@pytest.mark.parametrize("base", ["ddim", "spndm", "ipndm"])
def test_calibrated_solvers_beat_their_base_on_fresh_noise(base, steps):
    sigmas = ls.grid("karras", steps, sigma_min=0.05, sigma_max=10.0, final="sigma_min")
    table = ls.build(base, sigmas)
    result = ls.calibrate(Mixture(), noise_of(256, 6), table)
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
    for base in ("ddim", "spndm", "ipndm"):
        for steps in (4, 8):
            sigmas = ls.grid("karras", steps, sigma_min=0.05, sigma_max=10.0, final="sigma_min")
            calls = []

            def counted(x, sigma, calls=calls):
                calls.append(len(x))
                return Mixture()(x, sigma)

            calibrate_iia(counted, noise_of(6, 8), ls.build(base, sigmas), 3, IIASettings(substeps=10))
            assert sum(calls) <= 11 * 6 * steps
            if base != "spndm":
                assert sum(calls) == 11 * 6 * steps


def test_what_held_out_noise_contradicts_is_refused():
    """The fitted and the held-out half of the batch come from different worlds; no row may be changed."""
    x = noise_of(16, 9)
    x[:8, 0], x[8:, 0] = 50.0, -50.0

    def two_worlds(x, sigma):
        sign = torch.sign(x[:, :1])
        return Gaussian(mean=0.0, std=1.0)(x, sigma) * torch.where(sign > 0, 1.0, -1.0)

    table = ls.build("ddim", SIGMAS)
    result = ls.calibrate(two_worlds, x, table)
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
    result = ls.calibrate(Mixture(), x, table, reference=own)
    assert not result.end.accepted
    assert result.table.distance(table) == 0.0
    assert not result.card.end.accepted


def test_a_row_that_makes_whole_trajectories_worse_is_given_back():
    """Of two rewritten rows the spoiled one is found, and the good one stays."""
    problem = Gaussian(mean=0.0)
    table, x = ls.build("ddim", SIGMAS), noise_of(8, 14)
    good, _ = calibrate_iia(problem, x, table, 4, IIASettings(substeps=200))
    spoiled = replace(good, rows=(good.rows[0], good.rows[1] * 1.5, *good.rows[2:]))
    reference = ls.solve_reference(problem, x, table)
    settled, report = gate(problem, x, table, spoiled, reference)
    assert 2 in report.given_back
    assert 1 not in report.given_back
    assert settled.rows[1] == table.rows[1]
    assert report.accepted
    assert report.calibrated.rmse < report.base.rmse


def test_the_same_noise_gives_the_same_card_and_batches_do_not_matter():
    table = ls.build("ddim", SIGMAS)
    first, again = (ls.calibrate(Mixture(), noise_of(12, 11), table).card.dumps() for _ in range(2))
    assert first == again
    whole = ls.calibrate(Mixture(), noise_of(12, 11), table).table
    assert whole.distance(ls.calibrate(Mixture(), noise_of(12, 11), table, batch_size=5).table) < 1e-9


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
    result = ls.calibrate(denoiser, noise_of(8, 12), ls.build("ddim", SIGMAS), substeps=4, batch_size=3)
    assert result.fit_calls == 2 * 5
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
    with pytest.raises(ls.InputError, match="not for 'unipc'"):
        ls.calibrate(Mixture(), x, ls.build("unipc", SIGMAS))
    with pytest.raises(ls.InputError, match="did you mean 'iia'"):
        ls.calibrate(Mixture(), x, table, method="iaa")
    with pytest.raises(ls.InputError, match="unexpected keyword argument 'substep'"):
        ls.calibrate(Mixture(), x, table, substep=3)
    with pytest.raises(ls.InputError, match="unknown fine solver 'bogus'"):
        ls.calibrate(Mixture(), x, table, fine="bogus")
    with pytest.raises(ls.InputError, match="of 8 samples 8 cannot be held out"):
        ls.calibrate(Mixture(), x, table, held_out=8)
    with pytest.raises(ls.InputError, match="substeps >= 1"):
        ls.calibrate(Mixture(), x, table, substeps=0)
    with pytest.raises(ls.InputError, match="holds 3 samples, but 4 are held out"):
        ls.calibrate(Mixture(), x, table, reference=ls.Reference(x[:3], 0.0, 1))
    with pytest.raises(ls.NonFiniteError, match=r"call 2 \(sigma = "):
        ls.calibrate(lambda x, s: x / 2 if s > 5 else x * float("nan"), x, table, substeps=1)
