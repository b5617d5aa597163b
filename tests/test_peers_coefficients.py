"""The peers that give a solver new coefficients, on problems that can be written down."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture
from torch import Tensor

import longstride as ls
from benchmarks.peer_task import Found, Meter, Peer, Task
from benchmarks.peers import dpm_solver_v3, gs, pas, s4s
from benchmarks.peers.anchor import Anchor, Levels, batches, grids, normal_form
from benchmarks.peers.common import rmse, table_of, unrolled
from longstride.calibration.reference.trajectory import solve_dense
from longstride.table import SolverTable

PEERS = {"gs": gs, "s4s": s4s, "pas": pas, "dpm_solver_v3": dpm_solver_v3}
CALLS = 4
MIXTURE = Mixture()
#: The last one ends at alpha = 0, and so keeps its own scale.
SCHEDULES = [
    ls.Schedule.edm(0.01, 20.0),
    ls.Schedule.vp(),
    ls.Schedule.flow(),
    ls.Schedule.vp(np.linspace(0.99, 0.0, 40)),
]


def denoiser_of(problem: Callable[..., Tensor], schedule: ls.Schedule) -> ls.Denoiser:
    """A problem as a network that takes times."""

    def network(x: Tensor, t: Tensor) -> Tensor:  # on the process's own scale
        time = float(t[0])
        return problem(x, float(schedule.sigma(time)), float(schedule.alpha(time)))

    return ls.as_denoiser(network, schedule, "data")


def task_of(
    problem: Callable[..., Tensor], schedule: ls.Schedule | None = None, budget: int | None = None, count: int = 16
) -> Task:
    """A small task in which every pixel is the problem by itself."""
    schedule = schedule or ls.Schedule.edm(0.01, 20.0)
    denoiser = denoiser_of(problem, schedule)
    base = ls.build("ddim", ls.grid("karras", CALLS, schedule=schedule, final="sigma_min"), schedule=schedule)
    noise = float(base.sigmas[0]) * torch.randn(count, 2, 8, generator=torch.Generator().manual_seed(1))
    return Task(denoiser, schedule, CALLS, noise, solve_dense(denoiser, noise, base), base, Meter(budget))


def evaluate(task: Task, sampler: object, count: int = 64) -> float:
    """RMSE on other noise, and that exactly the calls of the task were spent."""
    noise = task.sigma_max * torch.randn(count, 2, 8, generator=torch.Generator().manual_seed(2))
    target = solve_dense(task.denoiser, noise, task.base).end
    before = task.denoiser.calls
    samples = (
        ls.sample(task.denoiser, noise, sampler) if isinstance(sampler, SolverTable) else sampler(task.denoiser, noise)
    )
    assert task.denoiser.calls - before == count * task.nfe
    return rmse(samples, target)


def classical(task: Task) -> float:
    """The least error of DDIM on the usual grids, which every peer has to beat."""
    tables = [ls.build("ddim", levels, schedule=task.schedule) for levels in grids_of(task)]
    return min(evaluate(task, table) for table in tables)


def grids_of(task: Task) -> list[np.ndarray]:
    """The usual grids between the task's ends."""
    return list(grids(task).values())


def check_ends(task: Task, found: Found) -> None:
    """A sampler has the task's calls and its two ends."""
    sigmas = found.sampler.sigmas
    assert len(sigmas) == task.nfe + 1
    assert sigmas[0] == task.sigma_max
    assert sigmas[-1] == task.sigma_min
    assert max(sigmas) <= task.sigma_max
    assert min(sigmas) >= task.sigma_min


@pytest.mark.parametrize("name", list(PEERS))
def test_better_than_its_base_on_other_noise(name: str) -> None:
    task = task_of(MIXTURE, budget=6_000)
    found = PEERS[name].find(task)
    check_ends(task, found)
    assert evaluate(task, found.sampler) < 0.85 * classical(task)


@pytest.mark.parametrize("name", list(PEERS))
def test_on_the_scale_of_a_flow(name: str) -> None:
    """Alpha is not 1 here, and 0 at the start."""
    task = task_of(MIXTURE, ls.Schedule.flow(), budget=4_000)
    found = PEERS[name].find(task)
    check_ends(task, found)
    assert evaluate(task, found.sampler) < classical(task)


@pytest.mark.parametrize("name", list(PEERS))
@pytest.mark.parametrize("budget", [0, 40, 700, 1_900])
def test_budget_is_kept(name: str, budget: int) -> None:
    task = task_of(MIXTURE, budget=budget)
    found = PEERS[name].find(task)
    assert task.meter.calls <= budget
    check_ends(task, found)
    assert np.isfinite(evaluate(task, found.sampler))


@pytest.mark.parametrize("name", list(PEERS))
def test_same_seed_same_sampler(name: str) -> None:
    find: Peer = PEERS[name].find
    first, second = (find(task_of(MIXTURE, budget=1_200)).sampler for _ in range(2))
    if isinstance(first, SolverTable):
        assert first.distance(second) == 0
    else:
        assert first == second


def test_constants() -> None:
    for module in PEERS.values():
        assert isinstance(module.LABEL, str)
        assert isinstance(module.BACKPROP, bool)
    assert gs.PUBLISHED_ITERATIONS == 10_000


def test_anchor_is_the_solver_itself() -> None:
    """Without corrections GS and S4S are the classical solver that they start from."""
    task = task_of(MIXTURE)
    for solver, options in (("ddim", {}), ("unipc", {"order": 3}), ("ipndm", {})):
        anchor = Anchor(solver, options, np.array(task.base.sigmas), task.schedule)
        for learnt in (gs.Student(task, anchor), s4s.Student(task, anchor)):
            assert learnt.table().distance(anchor.table()) < 1e-9


@pytest.mark.parametrize(
    ("problem", "tolerance"),
    [
        (lambda x, sigma, alpha: 0.5 * torch.tanh(x), 1e-3),  # told levels do not matter
        (MIXTURE, 0.1),  # by the told level the network's gradient is itself a one-sided quotient
    ],
)
def test_gradients_agree_with_difference_quotients(problem: Callable[..., Tensor], tolerance: float) -> None:
    """Of the levels, through the anchor's weights, the normal form and the network; and of the corrections."""
    task = task_of(problem)
    task.noise = task.noise.double()
    target = task.target.double()
    anchor = Anchor("unipc", {"order": 2}, np.array(task.base.sigmas), task.schedule)
    solver = gs.Student(task, anchor)
    part = slice(0, 16)

    def loss() -> Tensor:
        a, b, logs = solver.form()
        return (unrolled(task, task.noise.clone(), a, b, logs, part) - target.clone()).square().mean()

    loss().backward()
    for parameter, index, relative in (
        (solver.levels.theta, 1, tolerance),
        (solver.levels.theta, 3, tolerance),
        (solver.levels.xi, 0, tolerance),
        (solver.by_state, (2, 0), 1e-4),
        (solver.by_output, (3, 1), 1e-4),
    ):
        step = 1e-4
        with torch.no_grad():
            parameter[index] += step
            above = loss()
            parameter[index] -= 2 * step
            below = loss()
            parameter[index] += step
        expected = float((above - below) / (2 * step))
        assert float(parameter.grad[index]) == pytest.approx(expected, rel=relative, abs=1e-6)


def test_levels_fall_and_keep_their_ends() -> None:
    levels = Levels(np.array([20.0, 3.0, 1.0, 0.01]))
    assert levels.logs().exp().tolist() == pytest.approx([20.0, 3.0, 1.0, 0.01])
    with torch.no_grad():
        levels.theta += torch.tensor([3.0, -2.0, 5.0])
        levels.xi += torch.tensor([50.0, -50.0])
    assert (levels.logs().diff() < 0).all()
    told = levels.told(levels.logs())
    assert told.exp().tolist() == pytest.approx([20.0, 20.0, 0.01, 0.01])


def test_normal_form_is_the_recurrence() -> None:
    rng = torch.Generator().manual_seed(3)
    states, outputs = (torch.randn(4, 3, dtype=torch.float64, generator=rng) for _ in range(2))
    a, b = normal_form(states, outputs)
    x, d = [torch.tensor(0.7, dtype=torch.float64)], [0.3, -1.1, 2.0]
    for k in range(1, 4):
        x.append(sum(states[k, j] * x[j] + outputs[k, j] * d[j] for j in range(k)))
        assert float(a[k] * 0.7 + b[k] @ torch.tensor(d, dtype=torch.float64)) == pytest.approx(float(x[k]))


def test_batches_stay_within_their_part() -> None:
    following = batches(slice(2, 13), 4, seed=0)
    seen = [following() for _ in range(50)]
    assert all(s.stop - s.start == 4 and s.start >= 2 and s.stop <= 13 for s in seen)
    assert {i for s in seen for i in range(s.start, s.stop)} == set(range(2, 13))


def test_statistics_of_a_gaussian() -> None:
    """There l is 1 minus the posterior gain, and N has one direction whose growth s tells."""
    problem = Gaussian(mean=0.5, std=0.8)
    statistics = dpm_solver_v3.measure(task_of(problem))
    sigmas = np.exp(-statistics.lambdas)
    gain = problem.std**2 / (problem.std**2 + sigmas**2)
    assert statistics.l == pytest.approx(1 - gain, abs=2e-3)
    # N = -(1 - gain) mean, so s = d log(1 - gain) / d lambda = -2 gain
    inner = np.flatnonzero(gain < 0.95)[1:]  # beyond, N is hardly more than the error of the trace
    assert statistics.s[inner] == pytest.approx(-2 * gain[inner], abs=0.1)


def test_dpm_solver_v3_is_exact_on_gaussian_data() -> None:
    """Even of order 1 and with 4 calls, where the best classical solver is far off."""
    task = task_of(Gaussian(mean=0.5, std=0.8))
    table = dpm_solver_v3.build(dpm_solver_v3.measure(task), np.array(task.base.sigmas), task.schedule, 1, False)
    assert evaluate(task, table) < 0.01 < 0.1 * evaluate(task, task.base)


@pytest.mark.parametrize(("rates", "solver"), [((1.0, 0.0), "dpmpp_2m"), ((0.0, -1.0), "dpm_solver_2m")])
def test_dpm_solver_v3_contains_its_predecessors(rates: tuple[float, float], solver: str) -> None:
    """With l = 1, s = 0 it is DPM-Solver++, with l = 0, s = -1 DPM-Solver."""
    task = task_of(MIXTURE)
    linear, growth = (np.full(CALLS + 1, rate) for rate in rates)
    statistics = dpm_solver_v3.Statistics(-np.log(task.base.sigmas), linear, growth)
    table = dpm_solver_v3.build(statistics, np.array(task.base.sigmas), task.schedule, 2, False)
    expected = ls.build(solver, task.base.sigmas, schedule=task.schedule, variant="heun")
    assert table.distance(expected) < 1e-4 * float(np.abs(expected.b).max())


def test_pas_basis_is_orthonormal_and_starts_with_the_direction() -> None:
    sampler = pas.CorrectedSampler(ls.Schedule.edm(0.01, 20.0), "ddim", (20.0, 5.0, 1.0, 0.1, 0.01), {})
    rng = torch.Generator().manual_seed(4)
    run = pas.Run(sampler, 20 * torch.randn(3, 2, 8, dtype=torch.float64, generator=rng))
    for calls in (1, 2, 3, 4):
        run.see(torch.randn(3, 2, 8, dtype=torch.float64, generator=rng))
        basis = run.basis().flatten(2) / run.directions[-1].flatten(1).norm(dim=1)[:, None, None]
        size = min(calls + 1, pas.BASIS)
        assert torch.allclose(basis @ basis.mT, torch.eye(4).double().mul(torch.arange(4) < size), atol=1e-8)
        unit = run.directions[-1].flatten(1)
        assert torch.allclose(basis[:, 0], unit / unit.norm(dim=1, keepdim=True))
        run.advance()


#: iPNDM of velocities, which PAS takes where states keep their own scale, is another solver than iPNDM of noise.
PAS_BASES = [("ddim", one) for one in SCHEDULES] + [("ipndm", one) for one in SCHEDULES if one.scaled]


@pytest.mark.parametrize(("solver", "schedule"), PAS_BASES)
def test_pas_without_corrections_is_its_base(solver: str, schedule: ls.Schedule) -> None:
    task = task_of(MIXTURE, schedule)
    sampler = pas.CorrectedSampler(schedule, solver, tuple(task.base.sigmas.tolist()), {})
    table = ls.build(solver, task.base.sigmas, schedule=schedule)
    plain = ls.sample(task.denoiser, task.noise, table)
    assert rmse(sampler(task.denoiser, task.noise), plain) < 1e-5 * task.sigma_max


def test_table_of_reads_below_the_diagonal() -> None:
    table = table_of("x", [1.0, 0.5, 0.1], np.arange(6.0).reshape(3, 2), [2.0, 1.0, 0.2])
    assert table.a.tolist() == [1.0, 0.5, 0.1]
    assert table.b.tolist() == [[0.0, 0.0], [2.0, 0.0], [4.0, 5.0]]
