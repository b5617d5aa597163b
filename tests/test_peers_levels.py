"""The peers that choose levels, or move along a classical solver, on problems that can be written down."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture
from torch import Tensor

import longstride as ls
from benchmarks.peer_task import Meter, Task
from benchmarks.peers import ays, dc_solver, dmn, gits, ld3
from benchmarks.peers.anchor import Anchor
from benchmarks.peers.common import grid_of, ratio_range, rmse, rolled, split, table_of, unrolled
from longstride.calibration.reference.trajectory import solve_dense
from longstride.nodes import Nodes
from longstride.table_builder import TableBuilder

PEERS = {"gits": gits, "dmn": dmn, "ays": ays, "ld3": ld3, "dc_solver": dc_solver}
BASES = {"gits": "ipndm", "dmn": "unipc", "ays": "dpmpp_2m", "ld3": "unipc", "dc_solver": "unipc"}
#: The last two start at alpha = 0 and keep their own scale.
SCHEDULES = {
    "edm": ls.Schedule.edm(0.01, 20.0),
    "vp": ls.Schedule.vp_continuous(),
    "flow": ls.Schedule.flow(),
    "zero_snr": ls.Schedule.vp(np.linspace(0.99, 0.0, 40)),
}
CALLS = 5


@pytest.fixture(autouse=True)
def _shorter(monkeypatch):
    """Searches long enough to find something on problems this small."""
    monkeypatch.setattr(ld3, "PUBLISHED_ITERATIONS", 20)
    monkeypatch.setattr(ld3, "LOOK", 5)
    monkeypatch.setattr(dmn, "TRIALS", 400)


def task_of(
    schedule: ls.Schedule, problem=None, budget: int | None = None, calls: int = CALLS, count: int = 16
) -> Task:
    """A task in which every pixel is the problem by itself."""
    exact = problem or Mixture()

    def network(x: Tensor, t: Tensor) -> Tensor:
        time = float(t[0])
        return exact(x, float(schedule.sigma(time)), float(schedule.alpha(time)))

    denoiser = ls.as_denoiser(network, schedule, "data")
    levels = ls.grid("uniform", calls, schedule=schedule, final="sigma_min")
    base = ls.build("ddim", levels, schedule=schedule)
    noise = noise_of(base, count, 1)
    return Task(denoiser, schedule, calls, noise, solve_dense(denoiser, noise, base), base, Meter(budget))


def noise_of(base: ls.SolverTable, count: int, seed: int) -> Tensor:
    return float(base.sigmas[0]) * torch.randn(count, 2, 6, generator=torch.Generator().manual_seed(seed))


def held_out(task: Task, table: ls.SolverTable) -> float:
    noise = noise_of(task.base, 64, 2)
    return rmse(ls.sample(task.denoiser, noise, table), solve_dense(task.denoiser, noise, task.base).end)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", PEERS)
def test_sampler_has_the_calls_and_the_ends_of_the_task(name, schedule):
    task = task_of(SCHEDULES[schedule], calls=4)
    before = task.denoiser.calls
    found = PEERS[name].find(task)
    table = found.sampler
    assert table.nfe == task.nfe == len(table.sigmas) - 1
    assert table.sigmas[0] == task.sigma_max
    assert table.sigmas[-1] == task.sigma_min
    assert np.all(np.diff(table.a) < 0)  # the levels of the states fall; LD3 may tell the network others
    assert np.all(np.diff(table.sigmas) < 0) or name == "ld3"
    assert math.isfinite(held_out(task, table))
    if not PEERS[name].BACKPROP:
        assert task.meter.backward == 0
        spent = task.denoiser.calls - before - 64 * (task.nfe + len(task.solution.outputs))
        assert task.meter.forward == spent
    else:
        assert task.meter.backward > 0


@pytest.mark.parametrize("name", PEERS)
def test_error_is_below_the_base_solver_on_the_uniform_grid(name):
    # Deviations from a straight line say little of trajectories with as few dimensions as here, between levels as
    # high as those of the VP schedule.
    task = task_of(SCHEDULES["edm" if name == "gits" else "vp"])
    options = {"order": 3} if BASES[name] == "unipc" else {}
    base = ls.build(BASES[name], task.base.sigmas, schedule=task.schedule, **options)
    assert held_out(task, PEERS[name].find(task).sampler) < held_out(task, base)


@pytest.mark.parametrize("budget", [0, 70, 700, 3000])
@pytest.mark.parametrize("name", PEERS)
def test_budget_is_kept(name, budget):
    task = task_of(SCHEDULES["vp"], budget=budget)
    table = PEERS[name].find(task).sampler
    assert task.meter.calls <= budget
    assert table.nfe == task.nfe
    assert (table.sigmas[0], table.sigmas[-1]) == (task.sigma_max, task.sigma_min)


@pytest.mark.parametrize("name", ["ays", "ld3"])
def test_search_can_be_repeated(name):
    tables = [PEERS[name].find(task_of(SCHEDULES["vp"], budget=2500)).sampler for _ in range(2)]
    assert tables[0].distance(tables[1]) == 0


# What they share


def test_table_of_returns_a_table_to_itself():
    table = ls.build("unipc", ls.grid("karras", 5, schedule=SCHEDULES["edm"], final="sigma_min"), order=3)
    assert table_of("again", table.a, table.b, table.sigmas).distance(table) < 1e-15


def test_unrolled_is_the_sampler_and_counts():
    task = task_of(SCHEDULES["edm"])
    table, part = ls.build("unipc", task.base.sigmas, order=3), slice(2, 7)
    x = task.noise[part].clone().requires_grad_(True)
    levels = torch.from_numpy(np.log(table.sigmas))
    end = unrolled(task, x, torch.from_numpy(table.a.copy()), torch.from_numpy(table.b.copy()), levels, part)
    torch.testing.assert_close(end.detach(), rolled(task, task.noise[part], table, part), rtol=1e-4, atol=1e-4)
    end.sum().backward()
    assert (task.meter.forward, task.meter.backward) == (50, 25)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_grid_of_keeps_the_ends(schedule):
    task = task_of(SCHEDULES[schedule])
    ratios = np.geomspace(*ratio_range(task), 7)
    levels = grid_of(task, ratios)
    assert (levels[0], levels[-1]) == (task.sigma_max, task.sigma_min)
    np.testing.assert_allclose(task.schedule.frame_ratio(levels[1:]), ratios[1:], rtol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_split_leaves_samples_on_both_sides(count):
    task = task_of(SCHEDULES["edm"], count=count)
    fit, held = split(task)
    assert len(task.noise[fit]) > 0
    assert len(task.noise[held]) > 0
    assert count == 1 or fit.stop == held.start


# GITS


@pytest.mark.parametrize("gamma", [1.0, 1.15])
def test_gits_path_is_the_best_of_all(gamma):
    cost = np.triu(np.random.default_rng(0).random((8, 8)), 1)
    cost[cost == 0] = np.inf

    def total(path):
        return sum(gamma**k * cost[i, j] for k, (i, j) in enumerate(itertools.pairwise(path)))

    best = min(((0, *inner, 7) for inner in itertools.combinations(range(1, 7), 2)), key=total)
    assert tuple(gits.best_path(cost, 3, gamma)) == best


def test_gits_costs_are_zero_where_trajectories_are_straight():
    """On data that are nearly a point every trajectory is straight, and one step is as good as many."""
    task = task_of(SCHEDULES["edm"], Gaussian(0.5, 1e-4))
    cost = gits.costs(task, gits.candidates(task))
    assert np.max(np.abs(cost[np.isfinite(cost)])) < 1e-3
    assert np.all(np.isinf(cost[np.tril_indices(len(cost))]))


# DMN


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_dmn_weights_integrate_polynomials(degree):
    """A middle step with three outputs integrates e^lambda times any quadratic."""
    lambdas = np.array([-3.0, -2.2, -1.0, 0.3, 1.1, 2.0])
    i = 2
    fine = np.linspace(lambdas[i], lambdas[i + 1], 20001)
    values = np.exp(fine - lambdas[-1]) * fine**degree
    exact = float(np.sum((values[1:] + values[:-1]) / 2) * (fine[1] - fine[0]))
    assert dmn.weights(lambdas)[i] @ lambdas[:-1] ** degree == pytest.approx(exact, rel=1e-6)


def test_dmn_weights_sum_to_what_is_exact_on_a_point():
    lambdas = np.array([-3.0, -2.2, -1.0, 0.3, 1.1, 2.0])
    assert dmn.weights(lambdas).sum() == pytest.approx(1 - math.exp(lambdas[0] - lambdas[-1]), rel=1e-12)


@pytest.mark.parametrize("steps", [5, 10])
def test_dmn_lowers_its_bound_between_fixed_ends(steps):
    ends = (-3.0, 4.0)
    lambdas = dmn.optimise(ends, steps, np.random.default_rng(0))
    assert (lambdas[0], lambdas[-1], len(lambdas)) == (*ends, steps + 1)
    assert np.all(np.diff(lambdas) > 0)
    assert dmn.bound(lambdas) < dmn.bound(np.linspace(*ends, steps + 1))


def test_dmn_with_first_order_steps_is_even_in_lambda():
    """Two steps are both of first order, and their bound is least when they are alike (p = 1)."""
    np.testing.assert_allclose(dmn.optimise((-3.0, 4.0), 2, np.random.default_rng(0)), [-3.0, 0.5, 4.0], atol=1e-2)


def test_dmn_spends_nothing():
    task = task_of(SCHEDULES["edm"], budget=0)
    dmn.find(task)
    assert task.meter.calls == 0


# AYS-like


def test_ays_distances_are_those_of_a_gaussian():
    """With data N(0, c²): E (D_t - D_s)² = c⁴ (s² - t²) / ((c² + s²) (c² + t²)) per pixel."""
    std = 0.86
    task = task_of(SCHEDULES["edm"], Gaussian(0.0, std), count=512)
    ratios = np.geomspace(*ratio_range(task), 9)
    pairs, used = ays.distances(task, ratios, None)
    s, t = ratios[:, None] ** 2, ratios[None] ** 2
    exact = 12 * std**4 * np.abs(s - t) / ((std**2 + s) * (std**2 + t))
    assert used == 512
    np.testing.assert_allclose(pairs, exact, rtol=0.1, atol=1e-4)


def test_ays_cost_of_a_step_is_the_integral():
    ratios = np.geomspace(10.0, 0.1, 2001)
    s, t = ratios[:, None] ** 2, ratios[None] ** 2
    cost = ays.segment_costs(np.abs(s - t), ratios)
    i, j = 400, 1600
    exact = (ratios[i] ** 2 / ratios[j] ** 2 - 1) / 2 - math.log(ratios[i] / ratios[j])
    assert cost[i, j] == pytest.approx(exact, rel=1e-3)


def test_ays_sweeps_never_raise_the_bound():
    rng = np.random.default_rng(0)
    cost = np.cumsum(rng.random((40, 40)), 1)
    cost[np.tril_indices(40)] = np.inf
    places = np.array([0, 3, 9, 30, 39])
    for _ in range(5):
        moved = ays.swept(cost, places)
        assert np.all(np.diff(moved) > 0)
        assert ays.bound(cost, moved) <= ays.bound(cost, places)
        places = moved


def test_ays_levels_that_share_a_place_are_parted():
    task = task_of(SCHEDULES["edm"])
    ratios = np.geomspace(*ratio_range(task), 9)
    places = ays.snapped(task, np.array([20.0, 0.012, 0.0115, 0.011, 0.01]), ratios)
    assert places.tolist() == [0, 5, 6, 7, 8]


# LD3


def test_ld3_starts_as_its_solver_and_learns():
    task = task_of(SCHEDULES["vp"])
    anchor = Anchor("unipc", {"order": 3}, np.array(task.base.sigmas), task.schedule)
    student, part = ld3.Student(task, anchor), slice(0, 8)
    assert student.table().distance(anchor.table()) < 1e-10
    before = student.error(student.table(), part)
    for _ in range(15):
        student.learn(part, 0.5)
    assert student.error(student.table(), part) < before


def test_ld3_keeps_the_noise_in_its_ball():
    task = task_of(SCHEDULES["edm"])
    anchor = Anchor("dpmpp_2m", {}, np.array(task.base.sigmas), task.schedule)
    student, part = ld3.Student(task, anchor), slice(0, 4)
    far = student.projected(student.noise[part] + 100 * torch.ones(4, 2, 6), part)
    distance = (far - student.noise[part]).flatten(1).norm(dim=1) / task.sigma_max
    torch.testing.assert_close(distance, torch.full((4,), student.radius), rtol=1e-5, atol=0)
    near = student.noise[part] * (1 + 1e-4)
    torch.testing.assert_close(student.projected(near, part), near)


def test_ld3_gradient_is_that_of_its_table():
    """By central differences, in a problem that the network's own level does not enter (data of a point)."""
    task = task_of(SCHEDULES["edm"], Gaussian(0.5, 0.3))
    anchor = Anchor(
        "unipc", {"order": 3}, ls.grid("karras", CALLS, schedule=task.schedule, final="sigma_min"), task.schedule
    )
    student = ld3.Student(task, anchor)
    theta = student.levels.theta

    def end() -> Tensor:
        a, b, told = student.form()
        return a @ torch.arange(1.0, 7.0, dtype=torch.float64) + b.sin().sum() + told.cos().sum()

    (found,) = torch.autograd.grad(end(), theta)
    for k in range(CALLS):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                theta[k] += step
                values.append(float(end()))
                theta[k] -= step
        assert float(found[k]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-6)


# DC-Solver


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dc_solver_without_compensation_is_unipc(schedule):
    task = task_of(SCHEDULES[schedule])
    nodes = Nodes.of(task.base.sigmas, schedule=task.schedule)
    table = dc_solver.dc_table(nodes, [1.0] * CALLS, dc_solver.times(task, nodes))
    assert table.distance(ls.build("unipc", task.base.sigmas, schedule=task.schedule, order=3)) < 1e-12


def test_dc_solver_moves_outputs_along_their_polynomial():
    """Through three outputs that are a quadratic of the variable, the moved one is the quadratic at the new place."""
    builder = TableBuilder(Nodes.of([8.0, 4.0, 2.0, 1.0]))
    variable, ratio = np.array([0.0, 1.0, 2.5, 3.0]), 1.7
    row = dc_solver.compensated([builder.data(j) for j in range(3)], variable, ratio)
    at = ratio * variable[2] + (1 - ratio) * variable[1]
    moved = sum(weight * (2 - 3 * variable[j] + variable[j] ** 2) for j, weight in row.outputs.items())
    assert moved == pytest.approx(2 - 3 * at + at**2, rel=1e-12)


def test_dc_solver_compensation_keeps_what_is_exact():
    nodes = Nodes.of(np.geomspace(10.0, 0.1, 6))
    table = dc_solver.dc_table(nodes, [1.0, 0.7, 1.4, 1.1, 2.0], np.arange(6.0))
    assert table.exact
    assert table.defect < 1e-12


def test_dc_solver_error_falls_at_every_step():
    task = task_of(SCHEDULES["vp"])
    found = dc_solver.find(task)
    tried = found.about["tried"]
    fitted = rmse(rolled(task, task.noise, found.sampler, slice(0, 16)), task.target)
    assert fitted < min(tried.values())
    assert found.about["searched"] == CALLS - 1


def test_golden_section_finds_the_minimum():
    found = dc_solver.golden(lambda r: (r - 1.234) ** 2, dc_solver.TRIALS, 30)
    assert found == pytest.approx(1.234, abs=1e-4)
