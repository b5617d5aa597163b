"""Sampling with a guard: flagged samples are the base's, bit for bit, and all others the table's."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
from longstride.guard.statistics import names


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
    assert denoiser.calls == found.calls * 64 == 4 * 64 + 3 * int(found.flagged.sum())  # the base's first call is known
    assert (found.scores > card.guard.threshold).tolist() == found.flagged.tolist()


@pytest.mark.parametrize("look", [1, 2, 3])
def test_a_guard_that_looks_early_stops_what_it_flags(look):
    """All others go on as if they were alone; the calls are counted to the one."""
    x, unlucky, seen = noise_of(64, 2), unlucky_of(64), []
    recorder = Recorder(TABLE)
    ls.sample(network(unlucky), x, TABLE, callback=recorder)
    early = recorder.read()[:, : len(names(look))]
    guard = fit_guard(early, np.where(early[:, 0] > np.quantile(early[:, 0], 0.8), 2.0, -1.0), 0.1)
    denoiser, guard = network(unlucky), replace(guard, calls=look)
    found = ls.sample_guarded(denoiser, x, Carded(guard), callback=lambda k, s, x, d: seen.append((k, len(x))))
    flagged = found.flagged
    assert 3 <= flagged.sum() <= 10
    np.testing.assert_allclose(found.scores, guard.scores(early), rtol=1e-10)
    on = 64 - int(flagged.sum())
    assert seen == [(k, 64 if k < look else on) for k in range(4)]
    assert denoiser.calls == found.calls * 64 == look * 64 + (4 - look) * on + 3 * int(flagged.sum())
    plain, base = ls.sample(network(unlucky), x, TABLE), ls.sample(network(unlucky), x, BASE)
    torch.testing.assert_close(found.samples[flagged], base[flagged], rtol=0, atol=0)
    torch.testing.assert_close(found.samples[~flagged], plain[~flagged], rtol=0, atol=0)


def test_a_guard_may_flag_everything(card):
    x = noise_of(4)
    found = ls.sample_guarded(network(unlucky_of(4)), x, Carded(replace(card.guard, threshold=-9.0)))
    assert found.flagged.all()
    torch.testing.assert_close(found.samples, ls.sample(network(unlucky_of(4)), x, BASE), rtol=0, atol=0)


def test_the_first_output_is_not_taken_from_another_level(card):
    """A base that starts elsewhere makes all its calls."""
    other = ls.build("ddim", np.array([9.0, *BASE.levels[1:]]))
    x, denoiser = noise_of(4), network(unlucky_of(4))
    found = ls.sample_guarded(denoiser, x, Carded(replace(card.guard, threshold=-9.0), base_table=other))
    assert denoiser.calls == 4 * (4 + 4) == found.calls * 4
    torch.testing.assert_close(found.samples, ls.sample(network(unlucky_of(4)), x, other), rtol=0, atol=0)


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
