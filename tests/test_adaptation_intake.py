"""What is refused before it counts, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import Mixture
from toy_fits import exact, networked, noise_of

import longstride as ls
from longstride.adaptation.intake import per_sample, refusals


def white(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1,), (6,), (3, 32, 32), (4, 16, 8, 8), (2, 3000)])
def test_honest_noise_is_not_refused(shape):
    noise = white(2000 if np.prod(shape) < 5000 else 200, *shape)
    assert set(refusals(20 * noise, 20.0, noise + 1)) == {None}


HOSTILE = {
    "constant": lambda x: torch.ones_like(x),
    "zero": lambda x: torch.zeros_like(x),
    "one row repeated": lambda x: x[:, :, :1].expand_as(x),
    "smooth": lambda x: (x + x.roll(1, -1)) / 2**0.5,
    "off its centre": lambda x: 0.6 + 0.8 * x,
    "checkerboard": lambda x: (x - x.roll(1, -2)) / 2**0.5,
    "too large": lambda x: 1.3 * x,
    "too small": lambda x: 0.7 * x,
    "nan": lambda x: torch.where(x == x.amax((1, 2, 3), keepdim=True), torch.nan, x),
    "infinite": lambda x: torch.where(x == x.amax((1, 2, 3), keepdim=True), torch.inf, x),
    "huge": lambda x: 1e30 * x,
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_what_is_no_noise_is_refused(name):
    noise = white(16, 1, 32, 32)
    found = refusals(20 * HOSTILE[name](noise), 20.0, noise)
    assert None not in found


def test_the_reason_is_told():
    noise = white(1, 1, 32, 32)
    reasons = {name: refusals(HOSTILE[name](noise), 1.0, noise)[0] for name in HOSTILE}
    wanted = {"constant": "constant", "zero": "constant", "too large": "scale", "smooth": "not_white"}
    assert {name: reasons[name] for name in wanted} == wanted
    assert reasons["nan"] == reasons["infinite"] == "non_finite"
    assert refusals(noise, 1.0, torch.ones_like(noise)) == ["constant"]
    assert refusals(noise, 1.0, torch.nan * noise) == ["non_finite"]


def test_flags_are_for_all_or_one_by_one():
    assert per_sample(None, 2) == [False, False]
    assert per_sample(True, 2) == [True, True]
    assert per_sample(torch.tensor([True, False]), 2) == [True, False]
    with pytest.raises(ls.InputError, match="expected one flag, or 3"):
        per_sample(np.array([True, False]), 3)


def test_what_is_refused_costs_nothing_and_counts_for_nothing(found):
    noise, calls = noise_of(6, 8), []

    def network(x, sigma):
        calls.append(len(x))
        return Mixture()(x, sigma)

    with ls.Adaptation(found.card, samples=9) as adaptation:
        bad = torch.stack([noise[0] * torch.nan, noise[1] * 9, torch.full_like(noise[2], 10.0), noise[3], noise[4]])
        ends = exact(Mixture(), noise)[:5]
        flags = torch.tensor([False, False, False, True, False])
        ends[4] = torch.inf
        seen = adaptation.observe(network, bad, ends, flagged=flags)
        assert seen.refused == ("non_finite", "scale", "constant", "flagged", "non_finite")
        assert (seen.used, seen.calls, calls) == (0, 0, [])
        told = adaptation.status()
        assert (told.effective, told.counters.samples, told.counters.used) == (0, 5, 0)
        assert told.counters.refused["flagged"] == 1
        assert adaptation.observe(network, noise[5:], exact(Mixture(), noise[5:])).used == 1
        assert len(calls) > 0


def test_a_repeated_sample_counts_once(found):
    noise = noise_of(3, 8)
    ends = exact(Mixture(), noise)
    with ls.Adaptation(found.card, samples=3) as adaptation, ls.Adaptation(found.card) as once:
        once.observe(networked(Mixture()), noise[:1], ends[:1])
        for _ in range(5):
            seen = adaptation.observe(networked(Mixture()), noise[:1], ends[:1])
        twice = adaptation.observe(networked(Mixture()), noise[[0, 1, 1]], ends[[0, 1, 1]])
        assert seen.refused == ("repeated",)
        assert (twice.used, twice.refused) == (1, ("repeated", "repeated"))
        assert adaptation.status().counters.refused["repeated"] == 6
        assert once.status().effective == 1
        assert adaptation.status().counters.used == 2


def test_of_a_request_so_many_samples_are_used_as_are_asked_for(found):
    noise = noise_of(8, 8)
    with ls.Adaptation(found.card, samples=3) as adaptation:
        seen = adaptation.observe(networked(Mixture()), noise, exact(Mixture(), noise))
        assert (seen.used, seen.refused) == (3, ())
        counters = adaptation.status().counters
        assert (counters.samples, counters.used, counters.over) == (8, 3, 5)


def test_the_price_is_what_is_called(found):
    noise, network = noise_of(2, 8), networked(Mixture())
    with ls.Adaptation(found.card) as adaptation:
        seen = adaptation.observe(network, noise[:1], exact(Mixture(), noise[:1]))
        # A run; weights of row k, with K - k calls each; levels and columns of state k likewise.
        assert adaptation.price == 4 + (1 * 3 + 2 * 2 + 3 * 1) + (3 + 2 + 1) + (3 + 2 + 1)
        assert seen.calls == network.calls == adaptation.price == adaptation.status().counters.calls


def test_a_network_that_overflows_is_refused(found):
    noise, ends = noise_of(1, 8), exact(Mixture(), noise_of(1, 8))
    with ls.Adaptation(found.card) as adaptation:
        seen = adaptation.observe(lambda x, sigma: torch.full_like(x, torch.nan), noise, ends)
        assert (seen.used, seen.refused) == (0, ("non_finite",))
        assert adaptation.status().effective == 0


def test_what_does_not_fit_is_told(found):
    with ls.Adaptation(found.card) as adaptation:
        with pytest.raises(ls.InputError, match="noise has shape"):
            adaptation.observe(Mixture(), noise_of(2), noise_of(1))
        with pytest.raises(ls.InputError, match="floating-point tensor"):
            adaptation.observe(Mixture(), torch.ones(2, 6, dtype=torch.int64), torch.ones(2, 6))
        guided = ls.as_denoiser(
            lambda x, t, c: x, ls.Schedule.edm(0.05, 10.0), condition={"c": torch.ones(1)},
            uncondition={"c": torch.zeros(1)}, guidance=2.0,
        )  # fmt: skip
        with pytest.raises(ls.InputError, match="for guidance None, and the network has 2"):
            adaptation.observe(guided, noise_of(1), noise_of(1))
