"""Derivatives by a few directions per level: exact where directions suffice, and as many calls as they say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, in_frame
from test_gauss_newton import ends_by_hand
from toy_fits import SIGMAS, exact, newton_of, rmse
from toy_fits import noise_of as toy_noise

import longstride as ls
from longstride.calibration.endpoint import low_rank
from longstride.calibration.endpoint.jacobian import calls_of_jacobian
from longstride.calibration.endpoint.low_rank import LowRank
from longstride.calibration.endpoint.prior import Prior, Ridge
from longstride.calibration.endpoint.settings import GaussNewtonSettings
from longstride.calibration.loss import Loss
from longstride.calibration.prefix_runs import PrefixRuns
from longstride.network import as_network
from longstride.parameters import Parameters

noise_of = partial(toy_noise, size=5)
FLOW = np.array([1.0, 0.8, 0.5, 0.2, 0.05])


class Counted:
    """A denoiser that notes how many samples every call had, and answers in one buffer for each size."""

    def __init__(self, denoiser):
        self.denoiser, self.sizes, self.buffers = denoiser, [], {}

    def __call__(self, x, sigma):
        self.sizes.append(len(x))
        found = self.denoiser(x, sigma)
        return self.buffers.setdefault(len(x), torch.empty_like(found)).copy_(found)


@pytest.fixture
def small(monkeypatch):
    """Steps at which difference quotients are derivatives, in float64."""
    monkeypatch.setattr(low_rank, "_STEP", 1e-6)


def columns(denoiser, x, table, parameters, rank, spread=None, batch_size=None):
    """Derivatives of the last states, ``(p, b, F)``; zeros where a number cannot move."""
    steps = np.full(len(parameters), 1e-6)
    runs = PrefixRuns(as_network(denoiser), x, table)
    how = LowRank(rank, Ridge.of(table, parameters, 0.0).spread if spread is None else spread)
    ends = iter(how.ends(runs, parameters, steps, batch_size))
    return torch.stack([(next(ends) - runs.end) / 1e-6 if may else 0 * x for may in parameters.free(table)])


@pytest.mark.parametrize("solver", ["ddim", "ipndm", "unipc"])
@pytest.mark.parametrize("rank", [5, 50])
def test_as_many_directions_as_entries_give_the_jacobian(solver, rank, small):
    """The derivative by hand, of weights, levels and the first state's weights."""
    problem, x, parameters = Mixture(), noise_of(6), Parameters(4, column=True)
    table = parameters.prepared(ls.build(solver, SIGMAS))
    zero = torch.zeros(len(parameters), dtype=torch.float64)
    wanted = torch.autograd.functional.jacobian(lambda t: ends_by_hand(problem, table, parameters, t, x), zero)
    found = columns(problem, x, table, parameters, rank)
    torch.testing.assert_close(found, wanted.permute(2, 0, 1), rtol=0, atol=2e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("window", [None, 1, 2])
@pytest.mark.parametrize("base", ["ve", "flow", "two calls per step"])
def test_every_recurrence_and_process_is_differentiated(base, window, small):
    """By difference quotients of whole runs, one number at a time."""
    table, family = {
        "ve": (ls.build("ipndm", SIGMAS), "ve"),
        "flow": (ls.build("dpmpp_2m", FLOW, alphas=1 - FLOW), "flow"),
        "two calls per step": (ls.build("heun", ls.grid("karras", 3, sigma_min=0.05, sigma_max=10.0)), "ve"),
    }[base]
    parameters = Parameters(table.nfe, column=True, window=window)
    denoiser, table = in_frame(Mixture(), family), parameters.prepared(table)
    x = float(table.sigmas[0]) * torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = columns(denoiser, x, table, parameters, 5)
    for unit, column in zip(np.eye(len(parameters)), found, strict=True):
        ways = [ls.sample(denoiser, x, parameters.moved(table, sign * 1e-5 * unit)) for sign in (1, -1)]
        quotient = (ways[0] - ways[1]) / 2e-5
        torch.testing.assert_close(column, quotient, rtol=1e-4, atol=1e-5 * max(1.0, float(quotient.abs().max())))


def test_one_direction_is_exact_if_the_network_stretches_all_alike(small):
    """Isotropic Gaussian data: what the direction leaves over is stretched as it is."""
    problem, x, parameters = Gaussian(mean=0.3), noise_of(6), Parameters(4, column=True)
    table = parameters.prepared(ls.build("ipndm", SIGMAS))
    exactly = columns(problem, x, table, parameters, 5)
    torch.testing.assert_close(columns(problem, x, table, parameters, 1), exactly, rtol=1e-5, atol=1e-6)


def test_more_directions_are_closer(small):
    """The error of all columns falls to nothing where directions span the samples."""
    problem, x, parameters = Mixture(), noise_of(40), Parameters(4, column=True)
    table = parameters.prepared(ls.build("ddim", SIGMAS))
    exactly = columns(problem, x, table, parameters, 5)
    missing = [float((columns(problem, x, table, parameters, rank) - exactly).norm()) for rank in (1, 2, 3, 4, 5)]
    assert missing == sorted(missing, reverse=True)
    assert missing[3] < missing[0] / 5
    assert missing[4] == 0


def test_directions_are_those_of_changes_that_are_likely(small):
    """If one number alone may change, one direction gives its column. Any root of one covariance is as good."""
    problem, x, parameters = Mixture(), noise_of(6), Parameters(4)
    table = parameters.prepared(ls.build("ipndm", SIGMAS))
    exactly = columns(problem, x, table, parameters, 5)
    first = next(n for n, one in enumerate(parameters.all) if (one.kind, one.k) == ("weight", 1))
    alone = columns(problem, x, table, parameters, 1, np.eye(len(parameters))[[first]])
    torch.testing.assert_close(alone[first], exactly[first], rtol=1e-4, atol=1e-6)
    root = np.random.default_rng(0).normal(size=(30, len(parameters)))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(30, 30)))[0]
    ways = [columns(problem, x, table, parameters, 2, spread) for spread in (root, turn @ root)]
    torch.testing.assert_close(ways[0], ways[1], rtol=1e-4, atol=1e-5)  # quotients of either sign


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("rank", [1, 2, 4, 50])
def test_calls_are_as_announced_and_no_batch_is_larger(rank, window):
    problem, x = Counted(Mixture()), noise_of(3)
    parameters = Parameters(4, column=True, window=window)
    table = parameters.prepared(ls.build("ddim", SIGMAS))
    found, count = [], calls_of_jacobian(parameters, rank)
    for batch_size in (None, 6, 100):
        problem.sizes.clear()
        found.append(columns(problem, x, table, parameters, rank, batch_size=batch_size))
        assert sum(problem.sizes) <= 3 * count
        assert max(problem.sizes) <= max(3, batch_size or 3)
        torch.testing.assert_close(found[-1], found[0], rtol=1e-6, atol=1e-6)
        if window is None:  # in its own recurrence the first state may have no weight, which cannot move
            assert sum(problem.sizes) == 3 * count


def test_few_directions_cost_as_many_calls_per_level():
    """K calls, r for each inner level, where so many numbers move, and one for every level that is free."""
    parameters = Parameters(8, column=True)
    assert calls_of_jacobian(parameters, 4) == 8 + 7 + 2 + 6 * 4
    assert calls_of_jacobian(parameters, 10**6) == calls_of_jacobian(parameters) == 148
    assert calls_of_jacobian(Parameters(16, column=True), 5) < calls_of_jacobian(Parameters(16, column=True)) / 8


def test_a_network_that_answers_by_its_step_is_asked_at_that_step(small):
    """One state at a time, with the levels of the table that is differentiated."""
    problem, x, parameters = Mixture(), noise_of(3), Parameters(4)
    table = parameters.prepared(ls.build("ddim", SIGMAS))

    @dataclass
    class Positional(Counted):
        step: int = -1
        positional = True

        def __init__(self, denoiser, step=-1):
            super().__init__(denoiser)
            self.step = step

        def at(self, course, k):
            other = Positional(self.denoiser, k)
            other.buffers = self.buffers
            assert len(course.sigmas) >= 4
            return other

        def __call__(self, x, sigma):
            assert len(x) == 3
            return super().__call__(x, sigma) * (1 + 0.1 * self.step)

    network = as_network(Mixture())
    positional = Positional(problem)
    for name in ("select", "repeat", "schedule", "guidance", "condition", "cost"):
        setattr(positional, name, getattr(network, name))
    runs = PrefixRuns(positional, x, table)
    how = LowRank(5, np.eye(len(parameters)))
    ends = how.ends(runs, parameters, np.full(len(parameters), 1e-6), 100)
    for unit, end in zip(np.eye(len(parameters)), ends, strict=True):
        moved = ls.sample(positional, x, parameters.moved(table, 1e-6 * unit))
        torch.testing.assert_close(end, moved, rtol=0, atol=1e-10)


def test_samples_do_not_depend_on_each_other():
    """A sample whose outputs are all 0 is finite, and leaves the others as they are."""
    x, parameters = noise_of(4), Parameters(4)
    x[1] = 0
    table = parameters.prepared(ls.build("ddim", SIGMAS))

    def denoiser(y, sigma):
        return Gaussian(mean=0.0)(y, sigma)

    together = columns(denoiser, x, table, parameters, 2)
    assert torch.isfinite(together).all()
    for n in range(4):
        alone = columns(denoiser, x[n : n + 1], table, parameters, 2)
        torch.testing.assert_close(together[:, n : n + 1], alone, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rank", [2, 4])
def test_fits_by_a_few_directions_gain_nearly_as_much(rank):
    """Two steps from the universal table, or a classical one, on fresh noise: over half of what exact steps gain."""
    problem, schedule = Mixture(), ls.Schedule.edm(0.05, 10.0)
    for table in (ls.build("ddim", SIGMAS), ls.universal(4, schedule=schedule, data_std=0.9, final="sigma_min")):
        parameters, found = Parameters(4, column=True), []
        for way in (None, rank):
            newton = newton_of(problem, noise_of(48), held_out=16, parameters=parameters, rank=way)
            found.append(newton.fit(table, 2, prior=Prior.of(table, parameters, 0.1)).table)
        before, exactly, few = (rmse(problem, one, noise_of(400, 1)) for one in (table, *found))
        assert exactly < before
        assert before / few > (before / exactly) ** 0.5


def test_equations_of_several_units_are_those_of_one():
    problem, x, table = Mixture(), noise_of(40), Parameters(4, column=True).prepared(ls.build("ddim", SIGMAS))
    few, found = LowRank(2, Ridge.of(table, Parameters(4, column=True), 0.0).spread), []
    for unit in (40, 7):
        newton = newton_of(problem, x, exact(problem, x), held_out=8, unit=unit)
        found.append(newton.equations(table, Loss(1e-2), newton.fitted, few))
    np.testing.assert_allclose(found[0].gram, found[1].gram, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found[0].moment, found[1].moment, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rank", [0, -1, 2.5, float("nan"), True, "5"])
def test_a_rank_is_a_whole_number_of_at_least_one(rank):
    with pytest.raises(ls.InputError, match=f"expected a whole rank of at least 1, or None .*, got {rank!r}"):
        GaussNewtonSettings(rank=rank)


def test_a_rank_above_what_can_be_used_takes_no_more_memory():
    x, parameters = noise_of(2), Parameters(4)
    table = parameters.prepared(ls.build("ddim", SIGMAS))
    vectors = low_rank._Linear(
        LowRank(10**9, np.eye(len(parameters))), PrefixRuns(as_network(Mixture()), x, table), parameters, np.ones(13), 1
    ).vectors
    assert vectors.gram.shape == (2, 22, 22)  # 1 + 2 K, and 1, 4 and 8 numbers that change states 1, 2 and 3


@pytest.mark.parametrize("entries", [1, 7, 10**6])
def test_inner_products_do_not_depend_on_how_much_is_held_at_once(entries, monkeypatch):
    monkeypatch.setattr(low_rank, "_ENTRIES", entries)
    tensors = [torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in range(4)]
    vectors = low_rank._Vectors(3, 6)
    assert [vectors.add(one) for one in tensors] == [0, 1, 2, 3]
    flat = torch.stack(tensors, 1).flatten(2)
    wanted = np.zeros((3, 6, 6))
    wanted[:, :4, :4] = (flat @ flat.mT).numpy()
    np.testing.assert_allclose(vectors.gram, wanted, rtol=1e-12)
    weights = np.zeros((3, 6))
    weights[:, :4] = np.random.default_rng(0).normal(size=(3, 4))
    wanted = torch.einsum("bv,bvxy->bxy", torch.from_numpy(weights[:, :4]), torch.stack(tensors, 1))
    torch.testing.assert_close(vectors.sum(weights), wanted)
