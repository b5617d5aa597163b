"""Of several whole fits the one is used that ends near its target and in what the network takes for data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, alpha_of, in_frame

import longstride as ls
from longstride.calibration.endpoint.select import DETAIL, best_whole_fit, detail_level, details
from longstride.calibration.reference.solve import Reference
from longstride.calibration.samples import Samples
from longstride.network import as_network

INFINITE = float("inf")
#: Modes far apart against their widths: halfway between them is no data.
MODES = Mixture(weights=(0.5, 0.5), means=(-1.0, 1.0), stds=(0.05, 0.05))
#: Levels of the only call of tables whose ends are given.
LEVELS = {"blurred": 4.0, "switched": 5.0, "noisy": 6.0, "broken": 7.0, "two": 8.0, "all": 9.0}


def samples_of(count=40, size=25, seed=0):
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (count, 1), generator=generator).double() * 2 - 1
    return signs + 0.05 * torch.randn(count, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("family", ["ve", "vp", "flow"])
def test_the_detail_of_a_gaussian_is_its_closed_form(family):
    """n(x) = s (x - mean), with s = sigma² / (alpha² std² + sigma²): what a Wiener filter takes away."""
    problem, x = Gaussian(), samples_of()
    sigma, table = 0.2, ls.build("ddim", [0.9, 0.4, 0.1], alphas=[alpha_of(family, s) for s in (0.9, 0.4, 0.1)])
    alpha = alpha_of(family, sigma)
    found = details(x, as_network(in_frame(problem, family)), table, (alpha, sigma))
    share = sigma**2 / (alpha**2 * problem.std**2 + sigma**2)
    torch.testing.assert_close(found, share * (x - problem.mean), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["ve", "vp", "flow"])
def test_the_level_is_a_part_of_the_standard_deviation(family):
    sigmas = {"ve": [40.0, 2.0, 0.01], "vp": [0.999, 0.7, 0.01], "flow": [1.0, 0.5, 0.0]}[family]
    schedule = {"ve": ls.Schedule.edm(0.01, 40.0), "vp": None, "flow": None}[family]
    alphas = [alpha_of(family, sigma) for sigma in sigmas]
    table = ls.build("ddim", np.array(sigmas), alphas=np.array(alphas)) if schedule is None else None
    table = ls.build("ddim", np.array(sigmas), schedule=schedule) if table is None else table
    x = samples_of()
    alpha, sigma = detail_level(table, x, 0.01)
    assert sigma / alpha == pytest.approx(DETAIL * float(x.std()), rel=1e-12)
    assert alpha == pytest.approx(alpha_of(family, sigma), rel=1e-12)
    faint, strong = (detail_level(table, factor * x, 0.01) for factor in (1e-6, 1e6))
    assert faint[1] / faint[0] == pytest.approx(0.01)
    assert strong[1] / strong[0] == pytest.approx(min(sigmas[0] / max(alphas[0], 1e-4), 1e4))


class Given:
    """A network that ends tables of one call where it is told, and is the mixture's at the level of detail."""

    def __init__(self, ends):
        self.ends, self.calls = ends, []

    def __call__(self, x, sigma):
        self.calls.append(sigma)
        name = next((name for name, level in LEVELS.items() if level == sigma), None)
        return MODES(x, sigma) if name is None else self.ends[name][: len(x)]


def whole_fits(names, before=None):
    target = samples_of()
    held = target[8:]
    switched = held.clone()
    switched[::8] *= -1  # 4 of 32 end in the other mode, as good as any sample there
    blurred = held - 0.7 * held.sign()  # all end on the way to the mean
    generator = torch.Generator().manual_seed(1)
    noisy = held + 0.1 * torch.randn(held.shape, generator=generator, dtype=torch.float64)
    unit = torch.randn(held.shape, generator=generator, dtype=torch.float64).sign()
    first = (torch.arange(32) < 2)[:, None]
    ends = {"blurred": blurred, "switched": switched, "noisy": noisy, "broken": held * INFINITE}
    ends |= {"two": held + unit * torch.where(first, 0.01, 0.12), "all": held + unit * torch.where(first, 2.5, 0.09)}
    network = Given(ends)
    tables = {name: ls.build("ddim", np.array([LEVELS[name], 0.0])) for name in names}
    noise, ends = torch.zeros(40, 25, dtype=torch.float64), tables[names[0]]
    samples = Samples.of(network, noise, ends, held_out=32, sigma_floor=0.01, unit=40)
    samples = replace(samples, reference=Reference(target, 0.0, 1))
    return *best_whole_fit(samples, tables, before=before), network


def test_of_equal_errors_the_one_that_looks_like_data_is_used():
    """Both have an error of 0.7; the mean of two modes is no data, the other mode is."""
    best, found, _ = whole_fits(["blurred", "switched"])
    assert found["blurred"].rmse == pytest.approx(found["switched"].rmse, rel=0.02)
    assert found["switched"].detail < 0.1 * found["blurred"].detail
    assert best == "switched"
    assert found["switched"].score == 1.0 < found["blurred"].score
    assert whole_fits(["switched", "blurred"])[0] == "switched"


def test_detail_sees_noise_that_an_error_hardly_sees():
    best, found, _ = whole_fits(["noisy", "switched"])
    assert found["noisy"].rmse == pytest.approx(0.1, rel=0.1)
    assert found["noisy"].detail > 0.8 * found["noisy"].rmse
    assert found["switched"].detail < found["noisy"].detail
    assert best == min(found, key=lambda name: found[name].score)


def test_what_the_gate_would_refuse_is_not_chosen():
    """Unless all would be; and what overflows never is."""
    best, found, _ = whole_fits(["noisy", "switched"], before=np.full(32, 0.5**2))
    assert best == "noisy"
    assert found["switched"].rmse > 0.5
    assert whole_fits(["switched", "blurred"], before=np.full(32, 0.1**2))[0] == "switched"
    best, found, _ = whole_fits(["broken", "blurred"])
    assert best == "blurred"
    assert set(found) == {"blurred"}


def test_a_whole_fit_that_is_not_surely_better_than_the_base_comes_last():
    """Of lower error than the base on two samples alone, it wins by its score, and the gate would refuse it."""
    best, found, _ = whole_fits(["two", "all"])
    assert best == "two"
    assert found["two"].rmse < found["all"].rmse
    base = np.where(np.arange(32) < 2, 3.0**2, 0.1**2)
    assert found["all"].rmse < np.sqrt(base.mean())
    assert whole_fits(["two", "all"], before=base)[0] == "all"


def test_one_alone_is_not_measured():
    best, found, network = whole_fits(["blurred"])
    assert (best, found, network.calls) == ("blurred", {}, [])
