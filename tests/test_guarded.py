"""Sampling with a guard: flagged samples are the base's, bit for bit, and all others the table's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from problems import Mixture
from toy_fits import exact, noise_of
from toy_guards import BASE, TABLE, network, unlucky_of

import longstride as ls
from longstride.calibration.reference.solve import squared_errors
from longstride.guard import Guard, Recorder
from longstride.guard.score import fit_guard, log_ratios


@dataclass(frozen=True)
class Carded:
    """What sampling needs of a card."""

    guard: Guard | None
    table: ls.SolverTable = TABLE
    base_table: ls.SolverTable = BASE


def errors(x, samples):
    return squared_errors(samples, exact(Mixture(), x))


@pytest.fixture(scope="module")
def card():
    x, unlucky = noise_of(256), unlucky_of(256)
    recorder = Recorder(TABLE)
    after = errors(x, ls.sample(network(unlucky), x, TABLE, callback=recorder))
    before = errors(x, ls.sample(network(unlucky), x, BASE))
    return Carded(fit_guard(recorder.read(), log_ratios(after, before), 0.05))


def test_a_rare_catastrophe_is_found_and_undone(card):
    x, unlucky = noise_of(640, 1), unlucky_of(640)
    found = ls.sample_guarded(network(unlucky), x, card)
    assert found.flagged[unlucky].all()
    assert found.flagged.float().mean() < 0.08
    plain, base = ls.sample(network(unlucky), x, TABLE), ls.sample(network(unlucky), x, BASE)
    assert errors(x, plain).max() > 20 * errors(x, base).max()
    assert errors(x, found.samples).mean() < errors(x, base).mean()
    # Each entry by itself goes through this network: the size of the batch changes no bit.
    torch.testing.assert_close(found.samples[found.flagged], base[found.flagged], rtol=0, atol=0)
    torch.testing.assert_close(found.samples[~found.flagged], plain[~found.flagged], rtol=0, atol=0)


def test_the_calls_that_are_told_are_made(card):
    x, unlucky = noise_of(64, 2), unlucky_of(64)
    denoiser = network(unlucky)
    found = ls.sample_guarded(denoiser, x, card)
    assert denoiser.calls == found.calls * 64 == 4 * (64 + int(found.flagged.sum()))
    assert (found.scores > card.guard.threshold).tolist() == found.flagged.tolist()


def test_a_card_may_stand_where_a_table_may(card):
    x, unlucky = noise_of(64, 3), unlucky_of(64)
    seen = []
    found = ls.sample(network(unlucky), x, card, callback=lambda k, *rest: seen.append(k))
    torch.testing.assert_close(found, ls.sample_guarded(network(unlucky), x, card).samples, rtol=0, atol=0)
    assert seen == [0, 1, 2, 3]
    plain = ls.sample_guarded(network(unlucky), x, Carded(None))
    torch.testing.assert_close(plain.samples, ls.sample(network(unlucky), x, TABLE), rtol=0, atol=0)
    assert (plain.calls, plain.flagged.any().item()) == (4.0, False)


def test_samples_with_nan_fall_back_at_once(card):
    x = noise_of(8, 4)

    def broken(x, sigma):
        out = Mixture()(x, sigma)
        return out.where((torch.arange(len(x)) != 3)[:, None] | (sigma in BASE.levels), torch.nan)

    found = ls.sample_guarded(broken, x, card)
    assert found.flagged[3]
    torch.testing.assert_close(found.samples[3], ls.sample(Mixture(), x, BASE)[3], rtol=0, atol=0)
    with pytest.raises(ls.NonFiniteError):
        ls.sample_guarded(lambda x, sigma: torch.full_like(x, torch.nan), x, card)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_samples_keep_the_dtype_of_the_noise(card, dtype):
    assert ls.sample(Mixture(), noise_of(4).to(dtype), card).dtype == dtype


@pytest.mark.parametrize("noise", [torch.ones(4, 2, dtype=torch.int64), torch.tensor(1.0), torch.ones(0, 2), [1.0]])
def test_noise_that_is_no_batch(card, noise):
    with pytest.raises(ls.InputError, match=r"noise must be a floating-point tensor \(B, ...\) for a card"):
        ls.sample(Mixture(), noise, card)


def test_what_is_for_a_table_alone(card):
    x = noise_of(4)
    with pytest.raises(ls.InputError, match=r"pass card.table in place of the card"):
        ls.sample(Mixture(), x, card, first=x)


def test_a_guard_of_another_number_of_calls_is_refused(card):
    other = Guard(**{**vars(card.guard), "centre": (0.0,), "scale": (1.0,), "weights": (1.0,)})
    with pytest.raises(ls.InputError, match=r"expected statistics \(B, 1\)"):
        ls.sample(Mixture(), noise_of(4), Carded(other))
    assert np.isfinite(card.guard.threshold)
