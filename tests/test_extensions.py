"""What CONTRIBUTING says it takes to add something is all that it takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, Point
from toy_fits import FIRST, SCHEDULE, SIGMAS, exact, noise_of

import longstride as ls
from longstride.calibration import Method
from longstride.calibration.acceptance.gate import gate
from longstride.calibration.method import Fitted
from longstride.calibration.methods import METHODS
from longstride.calibration.starts.classical import classical_tables
from longstride.solvers import SOLVERS, Solver

# A method


@dataclass(frozen=True)
class Shrinkage:
    """Settings of the method below.

    Attributes:
        least: Least factor.
    """

    least: float = 0.0

    def __post_init__(self) -> None:
        if self.least > 1:
            raise ls.InputError(f"least must be at most 1, got {self.least}")


@dataclass(frozen=True)
class LastStep:
    """The outputs of the last row times one factor, by least squares on the fitted samples."""

    name: str = "last_step"
    label: str = "last step"
    settings: Shrinkage = field(default_factory=Shrinkage)
    solvers: tuple[str, ...] = ()
    whole: bool = True
    many: bool = False

    def counts(self, nfe):
        return 16, 16

    def unit(self, settings):
        return 4

    def cost(self, nfe, fitted, held_out, settings, per_call):
        return f"at most {fitted * nfe * per_call} network calls in samples"

    def fit(self, samples, table, settings, starts, progress):
        outputs = replace(table.rows[-1], states={}).outputs

        def products(batch):
            seen = []
            with torch.inference_mode():
                end = ls.sample(batch.network, batch.noise, table, callback=lambda k, s, x, d: seen.append(d))
                moved = sum(weight * seen[j] for j, weight in outputs.items())
                rest = samples.targets(batch) - end + moved
            both = torch.stack([(moved * rest).flatten(1).sum(1), moved.square().flatten(1).sum(1)], 1)
            return [part.sum(0) for part in batch.split(both.numpy())]

        found = np.sum(samples.map("products", samples.units.fitted, products, lambda b: (2,)), axis=0)
        factor = max(float(found[0] / found[1]), settings.least)
        row = replace(table.rows[-1], outputs={j: factor * weight for j, weight in outputs.items()})
        progress(1, 1)
        return Fitted(replace(table, name=self.name, rows=(*table.rows[:-1], row), exact=False), table)

    def judge(self, samples, found, settings):
        return gate(samples, found.base, found.table)


def wrong_at_the_end(factor):
    """DDIM whose last outputs are weighed by a wrong factor."""
    base = ls.build("ddim", SIGMAS).unrolled()
    last = base.rows[-1]
    row = replace(last, outputs={j: factor * weight for j, weight in last.outputs.items()})
    return replace(base, rows=(*base.rows[:-1], row), exact=False)


def test_a_method_of_one_s_own_needs_no_line(tmp_path):
    """On data that are one point, DDIM is exact: the factor that was put in comes out."""
    method: Method = LastStep()
    table, seen = wrong_at_the_end(1.25), []
    result = ls.calibrate(
        Point(), noise_of(32), table, method=method, journal=tmp_path, progress=lambda *said: seen.append(said)
    )
    assert result.end.accepted
    np.testing.assert_allclose(result.table.b[-1], table.b[-1] / 1.25, rtol=1e-9)
    assert result.end.calibrated.rmse < 1e-6 < 1e-2 < result.end.base.rmse
    assert (result.card.method, result.card.settings["least"]) == ("last_step", 0.0)
    assert seen == [(1, 2, "fitting"), (1, 1, "checking")]
    again = ls.calibrate(Point(), noise_of(32), table, method=method, journal=tmp_path)
    assert again.card.dumps() == result.card.dumps()
    bounded = ls.calibrate(Point(), noise_of(32), table, method=method, least=1.0)
    assert bounded.table.distance(table) == 0.0  # the factor is 0.8, which was not allowed


def test_a_method_with_a_line_is_known_by_its_name(monkeypatch):
    monkeypatch.setitem(METHODS, "last_step", LastStep())
    x, table = noise_of(32), wrong_at_the_end(0.8)
    assert ls.calibrate(Mixture(), x, table, method="last_step").card.method == "last_step"
    with pytest.raises(ls.InputError, match="least must be at most 1, got 2"):
        ls.calibrate(Mixture(), x, table, method="last_step", least=2)
    with pytest.raises(ls.InputError, match="method 'last_step': got an unexpected keyword argument 'most'"):
        ls.calibrate(Mixture(), x, table, method="last_step", most=2)
    with pytest.raises(ls.InputError, match="did you mean 'last_step'"):
        ls.calibrate(Mixture(), x, table, method="last_steps")
    with pytest.raises(ls.InputError, match="method 'last_step' starts from its table alone"):
        ls.calibrate(Mixture(), x, table, method="last_step", starts={"mine": table})


# A residual


def test_a_function_is_a_residual():
    """One that sees the first entry alone, strongly: there the fit is better, for what it gives up elsewhere."""

    def first_entry(samples):
        return 1e3 * samples[:, :1]

    def mixed(x, sigma):
        """A mixture whose first entry is another one than the rest."""
        other = Mixture(weights=(0.5, 0.5), means=(-2.0, 1.0), stds=(0.3, 0.4))(x[:, :1], sigma)
        return torch.cat([other, Mixture()(x[:, 1:], sigma)], 1)

    x, table = noise_of(96), ls.build("ddim", SIGMAS)
    target = ls.solve_reference(mixed, x, table)
    fits = [
        ls.calibrate(mixed, x, table, reference=target, scouts=0, margin=10.0, robust=0, iterations=12, **options)
        for options in ({}, {"residual": first_entry})
    ]
    ends = [ls.sample(mixed, x[:48], fit.table) - target.samples[:48] for fit in fits]
    plain, told = (end.square().mean(0) for end in ends)
    assert all(fit.end.accepted for fit in fits)
    assert told[0] < plain[0]
    assert told[1:].mean() > plain[1:].mean()
    assert [fit.card.settings["residual"] for fit in fits] == ["pixels", "first_entry"]


# A solver


def adams_2(nodes, first=1.0):
    """Adams and Bashforth's second-order rule in sigma, for even steps; the first step is Euler's.

    Args:
        nodes: Levels, alpha = 1.
        first: Share of the first step that is taken.
    """
    if not np.all(nodes.alphas == 1):
        raise ls.InputError("adams_2 is for alpha = 1")
    rows = []

    def slope(j):
        return (ls.Row({j: 1.0}) - ls.Row({}, {j: 1.0})) / float(nodes.sigmas[j])

    for k in range(1, len(nodes.sigmas)):
        step = float(nodes.sigmas[k] - nodes.sigmas[k - 1])
        mean = 1.5 * slope(k - 1) - 0.5 * slope(k - 2) if k > 1 else first * slope(0)
        rows.append(ls.Row({k - 1: 1.0}) + step * mean)
    grid = tuple(range(len(nodes.sigmas)))
    return ls.SolverTable(
        "adams_2", nodes.alphas, nodes.sigmas, tuple(rows), grid, {"first": first}, exact=first == 1.0
    )


@pytest.fixture
def registered(monkeypatch):
    one = Solver(adams_2, "Adams, order 2", starts={"adams_2": {}})
    monkeypatch.setitem(SOLVERS, "adams_2", one)
    return one


def test_a_solver_needs_one_entry(registered):
    """It is built by name, its options are checked, its calls are counted, and it is of second order."""
    errors = []
    for steps in (64, 128, 256):
        table = ls.build("adams_2", np.linspace(10.0, 1.0, steps + 1))
        x = noise_of(50)
        end = Gaussian().solution(x, FIRST, (1.0, 1.0))
        errors.append(float((ls.sample(Gaussian(), x, table) - end).square().mean().sqrt()))
        assert table.nfe == steps
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 2, atol=0.15)
    assert ls.steps_for_nfe("adams_2", 7) == 7
    with pytest.raises(ls.InputError, match="solver 'adams_2': got an unexpected keyword argument 'order'"):
        ls.build("adams_2", SIGMAS, order=3)
    with pytest.raises(ls.InputError, match="did you mean 'adams_2'"):
        ls.build("adams_3", SIGMAS)


@pytest.mark.parametrize("method", ["iia", "global", "gauss_newton"])
def test_a_new_solver_is_calibrated_as_any_other(registered, method):
    """Its rows are rewritten by the fine solutions that it makes itself, by those of others, or as a start."""
    table, x = ls.build("adams_2", SIGMAS), noise_of(64)
    options = {"scouts": 0} if method == "gauss_newton" else {}
    result = ls.calibrate(Gaussian(), x, table, method=method, **options)
    assert result.end.accepted
    assert result.card.base.name == "adams_2"
    fresh = noise_of(64, 1)
    before, after = (
        (ls.sample(Gaussian(), fresh, one) - exact(Gaussian(), fresh)).square().mean() for one in (table, result.table)
    )
    assert after < before


def test_the_forms_of_a_new_solver_are_starts(registered):
    like = ls.build("ddim", SIGMAS)
    found = classical_tables(like, SCHEDULE, 0.05, solvers=registered.variants("adams_2"))
    assert {name.partition("@")[0] for name in found} == {"adams_2"}
    assert {name.partition("@")[2] for name in found} >= {"karras", "log_snr", "uniform"}
    assert all(table.nfe == 4 and table.exact for table in found.values())
    assert found["adams_2@karras"].distance(ls.build("adams_2", SIGMAS)) < 1e-12
