"""The contracts of what calibration is made from: every method, every start and every residual keeps them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, Point
from toy_fits import SCHEDULE, SIGMAS, noise_of

import longstride as ls
from examples.residuals import edges, gradients, moments
from longstride.calibration.endpoint.cost import most_calls
from longstride.calibration.method import configured, described
from longstride.calibration.methods import DEFAULT, METHODS, method_of
from longstride.calibration.reference.solve import errors
from longstride.calibration.starts.classical import CLASSICAL

SAMPLES, HELD_OUT = 40, 20


def two_worlds(x, sigma):
    """Data whose sign is that of the first entry: what some samples ask for, others contradict."""
    return Gaussian(mean=0.0, std=1.0)(x, sigma) * torch.sign(x[:, :1])


PROBLEMS = {"mixture": Mixture(), "gaussian": Gaussian(), "point": Point(), "two worlds": two_worlds}


def base_of(method):
    """The usual base of a method."""
    return ls.build((METHODS[method].solvers or ("ddim",))[0], SIGMAS)


class Counted:
    """A network that counts its calls, in samples."""

    def __init__(self, problem):
        self.problem, self.calls = problem, 0

    def __call__(self, x, sigma):
        self.calls += len(x)
        return self.problem(x, sigma)


def check(result, denoiser, x, given=None):
    """No harm: an accepted table is no worse on held-out samples, and what is not accepted is the base itself."""
    base, held = result.card.base_table, x[-result.end.samples :]
    target = ls.solve_reference(denoiser, held, base, steps=64).samples
    before, after = (errors(ls.sample(denoiser, held, table), target).rmse for table in (base, result.table))
    assert after <= (1 + 1e-9) * before
    assert result.end.base.rmse == pytest.approx(before, rel=1e-6, abs=1e-9)
    if result.end.accepted:
        assert result.end.calibrated.rmse == pytest.approx(after, rel=1e-6, abs=1e-9)
        assert result.end.reason == ""
    else:
        assert result.table.distance(base) == 0.0
        assert result.end.reason
    assert result.table.nfe == base.nfe
    assert result.table.sigmas[[0, -1]].tolist() == base.sigmas[[0, -1]].tolist()
    if given is not None:
        assert base.nfe == given.nfe


# Methods


@pytest.mark.parametrize("problem", list(PROBLEMS))
@pytest.mark.parametrize("method", list(METHODS))
def test_a_method_is_accepted_or_keeps_its_base(method, problem):
    denoiser, x = Counted(PROBLEMS[problem]), noise_of(SAMPLES)
    result = ls.calibrate(denoiser, x, base_of(method), method=method, held_out=HELD_OUT)
    assert result.card.calls == result.calls == denoiser.calls
    assert 0 < result.fit_calls * SAMPLES * (len(base_of(method).grid) - 1) <= result.calls + 1e-6
    check(result, PROBLEMS[problem], x, base_of(method))
    for row in result.rows:
        assert row.accepted == (result.table.rows[row.row - 1] != result.card.base_table.rows[row.row - 1])


@pytest.mark.parametrize("method", list(METHODS))
def test_a_method_improves_on_its_base_where_it_can(method):
    """DDIM and Heun are far off on a Gaussian; its end is affine in the noise, as that of every table is."""
    result = ls.calibrate(Gaussian(), noise_of(SAMPLES), base_of(method), method=method, held_out=HELD_OUT)
    assert result.end.accepted
    assert result.end.calibrated.rmse < 0.9 * result.end.base.rmse


@pytest.mark.parametrize("method", list(METHODS))
def test_a_card_says_what_a_method_did_and_comes_back(method, tmp_path):
    result = ls.calibrate(Mixture(), noise_of(SAMPLES), base_of(method), method=method, held_out=HELD_OUT, seed=3)
    result.card.save(tmp_path / "card.json")
    card = ls.load_card(tmp_path / "card.json")
    assert card == result.card
    assert card.table.distance(result.table) == 0.0
    assert card.method == METHODS[method].name == method
    own = described(METHODS[method].settings)
    assert card.settings == {**own, "samples": SAMPLES, "held_out": HELD_OUT, "seed": 3}
    assert (card.end, tuple(card.steps), card.search) == (result.end, result.rows, result.search)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_method_gives_the_same_by_name_by_itself_and_in_any_batches(method):
    """Batches change the network's rounding alone, which a fit that is not linear makes larger."""
    x, base = noise_of(SAMPLES), base_of(method)
    by_name = ls.calibrate(Mixture(), x, base, method=method, held_out=HELD_OUT)
    by_itself = ls.calibrate(Mixture(), x, base, method=METHODS[method], held_out=HELD_OUT)
    assert by_itself.card.dumps() == by_name.card.dumps()
    for batch_size in (3, 16):
        parts = ls.calibrate(Mixture(), x, base, method=method, held_out=HELD_OUT, batch_size=batch_size)
        assert parts.table.distance(by_name.table) < 1e-5
        assert parts.calls == by_name.calls


@pytest.mark.parametrize("method", list(METHODS))
def test_a_method_knows_itself(method):
    one = METHODS[method]
    assert method_of(method) is method_of(one) is one
    assert one.label
    assert is_dataclass(one.settings)
    assert fields(one.settings)
    with pytest.raises(FrozenInstanceError):
        setattr(one.settings, fields(one.settings)[0].name, None)
    for nfe in (1, 4, 6, 7, 20):
        fitted, held_out = one.counts(nfe)
        assert min(fitted, held_out) >= 8
    assert one.unit(one.settings) >= 1
    assert configured(one, None, {}) == one.settings
    with pytest.raises(ls.InputError, match=f"method '{method}': got an unexpected keyword argument 'colour'"):
        configured(one, None, {"colour": 1})
    if one.solvers:
        with pytest.raises(ls.InputError, match="method 'iia' takes any"):
            configured(one, "unipc", {})


@pytest.mark.parametrize("method", list(METHODS))
def test_what_a_method_announces_is_what_it_costs_at_most(method):
    """In words, in which the number counts guided calls twice."""
    one, base = METHODS[method], base_of(method)
    said = one.cost(base.nfe, SAMPLES - HELD_OUT, HELD_OUT, one.settings, 1)
    if not said:
        assert method == "global"
        return
    number, twice = (
        int("".join(c for c in text.split(" network calls")[0] if c.isdigit()))
        for text in (said, one.cost(base.nfe, SAMPLES - HELD_OUT, HELD_OUT, one.settings, 2))
    )
    assert twice == 2 * number
    result = ls.calibrate(Mixture(), noise_of(SAMPLES), base, method=method, held_out=HELD_OUT)
    spent = result.calls if one.whole else result.fit_calls * SAMPLES * (len(base.grid) - 1)
    assert spent <= number
    if one.whole:
        assert number == most_calls(base.nfe, SAMPLES - HELD_OUT, HELD_OUT, one.settings)


def test_the_default_is_a_method_and_others_are_told_from_it():
    assert METHODS[DEFAULT].whole
    assert METHODS[DEFAULT].many
    assert all(name == one.name for name, one in METHODS.items())
    with pytest.raises(ls.InputError, match="unknown method 'iaa': did you mean 'iia'"):
        method_of("iaa")


# Starts


@pytest.mark.parametrize("start", list(CLASSICAL))
def test_a_start_makes_one_call_per_step_and_may_be_fitted(start):
    """Beside any other start, and by itself."""
    one = CLASSICAL[start]
    sigmas = ls.grid("karras", 5, schedule=SCHEDULE, final="sigma_min")
    table = ls.build(one.solver, sigmas, **one.options)
    assert (one.name, one.start, bool(one.label)) == (start, True, True)
    assert table.nfe == ls.steps_for_nfe(one.solver, 5, **one.options) == 5
    assert table.exact
    x = noise_of(SAMPLES)
    result = ls.calibrate(Mixture(), x, table, held_out=HELD_OUT, scouts=0)
    assert result.search.base == result.search.start == "given"
    check(result, Mixture(), x, table)
    everywhere = ls.calibrate(Mixture(), x, table, held_out=HELD_OUT, scouts=1, iterations=1)
    assert f"{start}@karras" in everywhere.search.classical


# Residuals


@pytest.mark.parametrize("residual", [edges, gradients, moments])
def test_features_are_of_each_sample_alone(residual):
    """Finite, differentiable almost everywhere, and the same in any batch."""
    x = torch.randn(5, 2, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = residual(x)
    assert found.ndim == 2
    assert len(found) == 5
    assert found.isfinite().all()
    for n in range(5):
        torch.testing.assert_close(residual(x[n : n + 1])[0], found[n], rtol=1e-12, atol=1e-12)
    leaf = x.clone().requires_grad_()
    residual(leaf).square().sum().backward()
    assert leaf.grad.isfinite().all()
    assert leaf.grad.abs().max() > 0
    assert not torch.allclose(residual(x.flip(3)), found)


@pytest.mark.parametrize("residual", [edges, gradients, moments])
def test_a_residual_is_fitted_and_does_no_harm(residual, tmp_path):
    x = noise_of(32, size=144).view(32, 1, 12, 12)
    result = ls.calibrate(Mixture(), x, ls.build("ddim", SIGMAS), residual=residual, scouts=1, iterations=2)
    check(result, Mixture(), x)
    assert result.end.accepted
    assert result.card.settings["residual"] == residual.__name__
    result.card.save(tmp_path / "card.json")
    assert ls.load_card(tmp_path / "card.json") == result.card
    plain = ls.calibrate(Mixture(), x, ls.build("ddim", SIGMAS), scouts=1, iterations=2)
    assert result.table.distance(plain.table) > 0  # it is heard
    assert np.isfinite(result.table.b).all()
