"""Runs that share calls end where plain runs end, and make exactly the calls that they do not share."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, in_frame

import longstride as ls
from longstride.calibration.prefix_runs import PrefixRuns, finish_together, first_difference
from longstride.network import as_network
from longstride.parameters import Parameters
from longstride.sampler import Run

FLOW = np.array([1.0, 0.8, 0.5, 0.2, 0.05])
BASES = {
    "ve": (ls.build("ipndm", ls.grid("karras", 5, sigma_min=0.05, sigma_max=10.0)), "ve"),
    "flow from alpha 0": (ls.build("dpmpp_2m", FLOW, alphas=1 - FLOW), "flow"),
    "two calls per step": (ls.build("heun", ls.grid("karras", 3, sigma_min=0.05, sigma_max=10.0)), "ve"),
}


class Counted:
    """A denoiser that notes how many samples every call had."""

    def __init__(self, denoiser):
        self.denoiser, self.sizes = denoiser, []

    def __call__(self, x, sigma):
        self.sizes.append(len(x))
        return self.denoiser(x, sigma)


def noise_of(table, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return float(table.sigmas[0]) * torch.randn(count, 4, generator=generator, dtype=torch.float64)


def one_by_one(base, parameters, size=0.05):
    """Every free number moved by itself, and all of them together."""
    table = parameters.prepared(base)
    free = parameters.free(table)
    moves = [*(size * np.eye(len(parameters)))[free], size * np.random.default_rng(0).normal(size=len(parameters))]
    return table, [one for one, may in zip(parameters.all, free, strict=True) if may], moves


@pytest.mark.parametrize("window", [None, 1, 2])
@pytest.mark.parametrize("base", list(BASES))
def test_a_change_of_state_k_costs_the_calls_from_k_on(base, window):
    table, family = BASES[base]
    parameters = Parameters(table.nfe, column=True, window=window)
    table, moved, moves = one_by_one(table, parameters)
    denoiser, x = Counted(in_frame(Mixture(), family)), noise_of(table)
    shared = PrefixRuns(as_network(denoiser), x, table)
    assert denoiser.sizes == [3] * table.nfe
    for one, move in zip(moved, moves, strict=False):
        denoiser.sizes.clear()
        other = parameters.moved(table, move)
        assert first_difference(other, table) == one.k
        shared.ends([other])
        assert denoiser.sizes == [3] * (table.nfe - one.k)
    denoiser.sizes.clear()
    shared.ends([table, table])
    assert denoiser.sizes == []


@pytest.mark.parametrize("batch_size", [None, 2, 7, 1000])
@pytest.mark.parametrize("base", list(BASES))
def test_ends_are_those_of_plain_runs(base, batch_size):
    table, family = BASES[base]
    parameters = Parameters(table.nfe, column=True)
    table, _, moves = one_by_one(table, parameters)
    denoiser, x = in_frame(Mixture(), family), noise_of(table)
    tables = [parameters.moved(table, move) for move in moves]
    shared = PrefixRuns(as_network(denoiser), x, table)
    ends = shared.ends(tables, batch_size)
    torch.testing.assert_close(shared.end, ls.sample(denoiser, x, table), rtol=0, atol=0)
    assert len(ends) == len(tables)
    for end, other in zip(ends, tables, strict=True):
        torch.testing.assert_close(end, ls.sample(denoiser, x, other), rtol=1e-12, atol=1e-12)
    apart = max(float((end - shared.end).abs().max()) for end in ends)
    assert apart > 1e-3  # the tables do differ


def test_many_runs_fill_a_batch_and_none_is_larger():
    """Runs at the same level are stacked as far as the batch allows; those at a level of their own are not."""
    base, _ = BASES["ve"]
    parameters = Parameters(base.nfe)
    table, moved, moves = one_by_one(base, parameters)
    denoiser, x = Counted(Mixture()), noise_of(base)
    shared = PrefixRuns(as_network(denoiser), x, table)
    tables = [parameters.moved(table, move) for move in moves[:-1]]
    for batch_size, together in ((None, 1), (3, 1), (8, 2), (100, 33)):
        denoiser.sizes.clear()
        shared.ends(tables, batch_size)
        assert sum(denoiser.sizes) == 3 * sum(table.nfe - one.k for one in moved)
        fewest = 0
        for k in range(1, table.nfe):
            here = sum(one.k <= k for one in moved)
            alone = sum(one.kind == "level" and one.k == k for one in moved)
            fewest += -(-(here - alone) // together) + alone
        assert len(denoiser.sizes) == fewest
        assert max(denoiser.sizes) <= max(batch_size or 3, 3)


@pytest.mark.parametrize("batch_size", [None, 9])
def test_a_run_that_has_ended_is_let_go(batch_size, monkeypatch):
    """Its last state is kept and nothing else, and of runs on their way only what their own rows still read."""
    base, _ = BASES["ve"]
    parameters = Parameters(base.nfe, column=True)
    table, _, moves = one_by_one(base, parameters)
    seen, ended, fork, advance = [], [], Run.fork, Run.advance

    def denoiser(x, sigma):
        assert sum(ref() is not None for ref in seen) <= (batch_size or 3) // 3
        return Mixture()(x, sigma)

    shared = PrefixRuns(as_network(denoiser), noise_of(base), table)

    def watched(self, table):
        run = fork(self, table)
        seen.append(weakref.ref(run))
        return run

    def seen_out(self, row=None):
        advance(self, row)
        if self.k == self.table.nfe:
            ended.append(len(self.history.outputs))

    monkeypatch.setattr(Run, "fork", watched)
    monkeypatch.setattr(Run, "advance", seen_out)
    shared.ends([parameters.moved(table, move) for move in moves], batch_size)
    assert len(seen) == len(moves)
    assert ended == [0] * len(moves)
    assert all(ref() is None for ref in seen)


def test_tables_with_other_levels_are_called_at_their_own():
    """Nothing but the first level need be shared: whole classical solvers on other grids come out too."""
    base, _ = BASES["ve"]
    x, told = noise_of(base), []

    def denoiser(x, sigma):
        told.append(sigma)
        return Mixture()(x, sigma)

    others = [
        ls.build(solver, ls.grid(name, 5, sigma_min=0.05, sigma_max=10.0))
        for solver in ("ddim", "dpmpp_2m", "unipc")
        for name in ("log_snr", "karras")
    ]
    shared = PrefixRuns(as_network(denoiser), x, base)
    told.clear()
    ends = shared.ends(others, 100)
    for end, other in zip(ends, others, strict=True):
        assert set(other.sigmas[1:-1].tolist()) <= set(told)
        torch.testing.assert_close(end, ls.sample(Mixture(), x, other), rtol=1e-12, atol=1e-12)
    assert told.count(float(base.sigmas[0])) == 0  # the first call is known to all


def guided(labels, guidance):
    """Gaussians whose mean depends on the label of the sample; unguided labels are 0."""

    def network(x, t, class_labels, shift):
        mean = class_labels.to(x).view(-1, 1) + shift.view(-1, 1)
        return Gaussian(mean=0.0)(x - mean, float(t[0])) + mean

    return ls.as_denoiser(
        network,
        ls.Schedule.edm(0.05, 10.0),
        "data",
        condition={"class_labels": labels, "shift": torch.tensor([0.25], dtype=torch.float64)},
        uncondition={"class_labels": torch.zeros(1, dtype=labels.dtype)},
        guidance=guidance,
    )


@pytest.mark.parametrize("guidance", [None, 4.0])
def test_every_sample_keeps_its_condition_when_runs_are_stacked(guidance):
    base, _ = BASES["ve"]
    parameters = Parameters(base.nfe)
    table, moved, moves = one_by_one(base, parameters)
    labels = torch.tensor([-2, 0, 5])
    denoiser, x = guided(labels, guidance), noise_of(base)
    tables = [parameters.moved(table, move) for move in moves]
    shared = PrefixRuns(as_network(denoiser), x, table)
    before = denoiser.calls
    ends = shared.ends(tables, batch_size=9)
    made = denoiser.calls - before
    for end, other in zip(ends, tables, strict=True):
        torch.testing.assert_close(end, ls.sample(denoiser, x, other), rtol=1e-12, atol=1e-12)
        for n in range(3):
            alone = ls.sample(guided(labels[n : n + 1], guidance), x[n : n + 1], other)
            torch.testing.assert_close(end[n : n + 1], alone, rtol=1e-9, atol=1e-9)
    together = table.nfe - 1  # of the last table, where everything moved
    assert made == 3 * denoiser.cost * (sum(table.nfe - one.k for one in moved) + together)


def test_a_single_sample_is_stacked_too():
    """A condition of one entry is not repeated, and holds for all runs."""
    base, _ = BASES["ve"]
    parameters = Parameters(base.nfe)
    table, _, moves = one_by_one(base, parameters)
    denoiser, x = guided(torch.tensor([3]), 2.0), noise_of(base, count=1)
    tables = [parameters.moved(table, move) for move in moves]
    for end, other in zip(PrefixRuns(as_network(denoiser), x, table).ends(tables, 64), tables, strict=True):
        torch.testing.assert_close(end, ls.sample(denoiser, x, other), rtol=1e-12, atol=1e-12)


def test_a_single_sample_s_condition_holds_for_every_run_of_a_stack():
    """Also for a network that looks at its conditions one by one, as a pipeline does."""
    seen = []

    def network(x, t, label):
        seen.append((len(x), len(label)))
        return torch.stack([one * (0.1 + 0.2 * int(n)) for one, n in zip(x, label, strict=True)])

    base, _ = BASES["ve"]
    parameters = Parameters(base.nfe)
    table, _, moves = one_by_one(base, parameters)
    schedule = ls.Schedule.edm(0.01, float(base.sigmas[0]))
    denoiser = ls.as_denoiser(network, schedule, "data", condition={"label": torch.tensor([3])})
    x, tables = noise_of(base, count=1), [parameters.moved(table, move) for move in moves]
    for end, other in zip(PrefixRuns(as_network(denoiser), x, table).ends(tables, 64), tables, strict=True):
        torch.testing.assert_close(end, ls.sample(denoiser, x, other), rtol=1e-12, atol=1e-12)
    assert max(count for count, _ in seen) > 1
    assert all(count == labels for count, labels in seen)


def test_half_precision_runs_share_what_plain_ones_compute():
    """The dtype that the network sees is that of the noise, and sums are kept in float32, as in a plain run."""
    base, _ = BASES["ve"]
    parameters = Parameters(base.nfe)
    table, _, moves = one_by_one(base, parameters)
    x = noise_of(base).bfloat16()
    tables = [parameters.moved(table, move) for move in moves]
    for end, other in zip(PrefixRuns(as_network(Mixture()), x, table).ends(tables), tables, strict=True):
        assert end.dtype == torch.bfloat16
        assert torch.equal(end, ls.sample(Mixture(), x, other))


def test_a_network_of_another_shape_is_refused():
    base, _ = BASES["ve"]
    with pytest.raises(ls.InputError, match=r"returned shape \(3, 2\) for a state of shape \(3, 4\) at call 1 of 5"):
        PrefixRuns(as_network(lambda x, sigma: x[:, :2]), noise_of(base), base)


def test_runs_of_any_tables_finish_together_where_they_end_alone():
    """Those at one level make one call, wherever they stand."""
    base, _ = BASES["ve"]
    x, denoiser = noise_of(base), Counted(Mixture())
    tables = [ls.build(solver, base.sigmas) for solver in ("ddim", "ipndm", "unipc")]
    runs = [Run(x, table) for table in tables]
    runs[1].see(Mixture()(runs[1].x, runs[1].sigma))
    runs[1].advance()
    finish_together(as_network(denoiser), runs)
    for run, table in zip(runs, tables, strict=True):
        assert run.k == base.nfe
        torch.testing.assert_close(run.x, ls.sample(Mixture(), x, table), rtol=1e-12, atol=1e-12)
    assert denoiser.sizes == [6] + [9] * (base.nfe - 1)
    finish_together(as_network(denoiser), [])
    assert len(denoiser.sizes) == base.nfe
