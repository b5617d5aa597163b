"""k-diffusion's call: its own samplers are met, cards of every process run in its frame, and others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy_stand_in
import numpy as np
import pytest
import torch
from problems import Mixture
from torch import Tensor

import longstride as ls
from longstride.guard import Guard
from longstride.guard.statistics import names
from longstride.integrations.k_diffusion import is_flow, sample_longstride, sigmas_of

SIGMAS = ls.grid("karras", 4, sigma_min=0.05, sigma_max=20.0)
FLOW = np.array([1.0, 0.9, 0.6, 0.3, 0.0])


def noise(count: int, seed: int = 0, scale: float = 20.0) -> Tensor:
    return scale * torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def card() -> ls.Card:
    return ls.calibrate(Mixture(), noise(32), ls.build("ddim", SIGMAS), method="iia").card


def of_flow(x: Tensor, sigma: float) -> Tensor:
    """The mixture's clean prediction for ``x = (1 - sigma) x_0 + sigma eps``."""
    if sigma == 1:
        return Mixture()(1e9 * x, 1e9)
    return Mixture()(x / (1 - sigma), sigma / (1 - sigma))


@pytest.fixture(scope="module")
def flow_card() -> ls.Card:
    table = ls.build("dpmpp_2m", FLOW, alphas=1 - FLOW)
    return ls.calibrate(of_flow, noise(32, scale=1.0), table, method="iia").card


def guard_of(card: ls.Card, *, needed: bool) -> Guard:
    """A guard that flags nothing."""
    count = len(names(card.nfe))
    return Guard((0.0,) * count, (1.0,) * count, (0.0,) * count, 0.0, threshold=1.0, share=0.5, needed=needed)


def model(x: Tensor, sigma: Tensor, scale: float = 1.0) -> Tensor:
    """As k-diffusion wraps networks: a level per sample."""
    assert sigma.shape == x.shape[:1]
    return scale * Mixture()(x, float(sigma[0]))


def flow_model(x: Tensor, sigma: Tensor) -> Tensor:
    return of_flow(x, float(sigma[0]))


# k-diffusion's own samplers


def k_diffusion_dpmpp_2m(model: Any, x: Tensor, sigmas: Tensor, alphas: Tensor | None = None) -> Tensor:
    """DPM-Solver++(2M) as its authors state it, in k-diffusion's variables: sigma = exp(-t), alpha = 1."""
    before, alphas = None, torch.ones_like(sigmas) if alphas is None else alphas
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones([len(x)]))
        t, following = (alphas[i] / sigmas[i]).log(), (alphas[i + 1] / sigmas[i + 1]).log()
        h = following - t
        if before is None or sigmas[i + 1] == 0:
            mixed = denoised
        else:
            r = (t - (alphas[i - 1] / sigmas[i - 1]).log()) / h
            mixed = (1 + 1 / (2 * r)) * denoised - before / (2 * r)
        x = sigmas[i + 1] / sigmas[i] * x - alphas[i + 1] * (-h).expm1() * mixed
        before = denoised
    return x


def k_diffusion_heun(model: Any, x: Tensor, sigmas: Tensor, told: list[dict[str, Any]]) -> Tensor:
    """Heun's method as EDM states it; one call back per step, after its first network call."""
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i].expand(len(x)))
        told.append({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        slope, dt = (x - denoised) / sigmas[i], sigmas[i + 1] - sigmas[i]
        if sigmas[i + 1] > 0:
            there = x + slope * dt
            slope = (slope + (there - model(there, sigmas[i + 1].expand(len(x)))) / sigmas[i + 1]) / 2
        x = x + slope * dt
    return x


def test_it_is_called_as_k_diffusions_samplers_are() -> None:
    sigmas = torch.from_numpy(ls.grid("karras", 6, sigma_min=0.05, sigma_max=20.0, final="zero"))
    seen: list[dict[str, Any]] = []
    options = {"lower_order_final": False}
    found = sample_longstride(model, noise(5), sigmas, {"scale": 0.9}, seen.append, True, **options)
    expected = k_diffusion_dpmpp_2m(lambda x, s: model(x, s, 0.9), noise(5), sigmas)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert [told["i"] for told in seen] == [0, 1, 2, 3, 4, 5]
    assert all(float(told["sigma"]) == pytest.approx(float(s)) for told, s in zip(seen, sigmas, strict=False))
    torch.testing.assert_close(seen[2]["denoised"], model(seen[2]["x"], sigmas[2].expand(5), 0.9))
    assert set(seen[0]) == {"x", "i", "sigma", "sigma_hat", "denoised"}


def test_the_callback_is_told_what_k_diffusions_heun_tells() -> None:
    sigmas = torch.from_numpy(ls.grid("karras", 5, sigma_min=0.05, sigma_max=20.0, final="zero"))
    seen: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    found = sample_longstride(model, noise(5), sigmas, None, seen.append, True, solver="heun")
    torch.testing.assert_close(found, k_diffusion_heun(model, noise(5), sigmas, theirs), rtol=1e-9, atol=1e-9)
    assert [told["i"] for told in seen] == [told["i"] for told in theirs] == [0, 1, 2, 3, 4]
    for ours, right in zip(seen, theirs, strict=True):
        for key in ("x", "sigma", "sigma_hat", "denoised"):
            torch.testing.assert_close(ours[key], right[key], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ls.SOLVERS)
def test_the_callback_counts_steps(solver: str) -> None:
    sigmas, seen = torch.tensor([14.6, 8.0, 4.0, 2.0, 1.0, 0.4, 0.0]), list[int]()
    sample_longstride(model, noise(2), sigmas, None, lambda told: seen.append(told["i"]), True, solver=solver)
    assert seen == [0, 1, 2, 3, 4, 5]


class OnMac(Tensor):
    """A tensor of a device that has no float64."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.double or any(a is torch.float64 for a in (*args[1:], *kwargs.values())):
            raise TypeError("this device has no float64")
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **kwargs)
        return out.as_subclass(cls) if isinstance(out, Tensor) else out


@pytest.mark.parametrize("solver", ls.SOLVERS)
def test_nothing_asks_a_device_for_float64(solver: str, card: ls.Card) -> None:
    sigmas, x = sigmas_of(card), noise(3).float()
    for options in ({}, {"card": card}):
        expected = sample_longstride(model, x, sigmas, disable=True, solver=solver, **options)
        there = (one.clone().as_subclass(OnMac) for one in (x, sigmas))
        found = sample_longstride(model, *there, callback=lambda told: None, disable=True, solver=solver, **options)
        assert isinstance(found, OnMac)
        assert torch.equal(found.as_subclass(Tensor), expected)


# Cards


def test_a_card_is_run_on_its_own_levels(card: ls.Card, tmp_path: Path) -> None:
    card.save(tmp_path / "card.json")
    expected = ls.sample(Mixture(), noise(5), card.table)
    found = sample_longstride(model, noise(5), sigmas_of(card), disable=True, card=tmp_path / "card.json")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert sigmas_of(card).dtype == torch.float32
    more = torch.from_numpy(ls.grid("karras", 7, sigma_min=0.05, sigma_max=20.0))
    with pytest.warns(UserWarning, match="for network calls 4, not 7; dpmpp_2m runs in its place"):
        found = sample_longstride(model, noise(5), more, disable=True, card=card)
    torch.testing.assert_close(found, sample_longstride(model, noise(5), more, disable=True), rtol=0, atol=0)
    with pytest.raises(ls.CardError, match="for network calls 4, not 7; without strict"):
        sample_longstride(model, noise(5), more, disable=True, card=card, strict=True)
    with pytest.raises(ls.CardError, match="starts at noise level 20, not at 10"):
        sample_longstride(model, noise(5), torch.from_numpy(SIGMAS) / 2, disable=True, card=card, strict=True)


def test_a_card_that_is_better_with_its_guard_alone_is_not_run_without_it(card: ls.Card) -> None:
    needed = card.model_copy(update={"guard": guard_of(card, needed=True)})
    free = card.model_copy(update={"guard": guard_of(card, needed=False)})
    levels = sigmas_of(card)
    with pytest.raises(ls.CardError, match="better than its base only with its guard"):
        sample_longstride(model, noise(5), levels, disable=True, card=needed, strict=True)
    ends = [sample_longstride(model, noise(5), levels, disable=True, card=one) for one in (free, card)]
    assert torch.equal(*ends)


def test_a_card_of_several_calls_per_step_has_a_level_per_step() -> None:
    table = ls.build("heun", SIGMAS)
    card = ls.calibrate(Mixture(), noise(32), table, method="iia").card
    assert (card.nfe, len(sigmas_of(card))) == (7, 5)
    seen: list[int] = []
    told = {"callback": lambda told: seen.append(told["i"]), "disable": True, "card": card}
    found = sample_longstride(model, noise(5), sigmas_of(card), **told)
    torch.testing.assert_close(found, ls.sample(Mixture(), noise(5), card.table), rtol=1e-6, atol=1e-6)
    assert seen == [0, 1, 2, 3]


def test_the_shape_of_states_is_checked() -> None:
    info = ls.ModelInfo(shape=(6,))
    card = ls.calibrate(Mixture(), noise(32), ls.build("ddim", SIGMAS), method="iia", model=info).card
    sigmas, wide = sigmas_of(card), noise(4).reshape(2, 12)
    sample_longstride(model, noise(4), sigmas, disable=True, card=card, strict=True)
    with pytest.warns(UserWarning, match=r"for states of shape \(6,\), not \(12,\); ddim runs in its place"):
        found = sample_longstride(model, wide, sigmas, disable=True, card=card, solver="ddim")
    assert torch.equal(found, sample_longstride(model, wide, sigmas, disable=True, solver="ddim"))
    with pytest.raises(ls.CardError, match=r"for states of shape \(6,\), not \(12,\)"):
        sample_longstride(model, wide, sigmas, disable=True, card=card, strict=True)


# Flows


def test_a_card_of_a_flow_runs_on_a_flows_own_scale(flow_card: ls.Card) -> None:
    expected = ls.sample(of_flow, noise(5, scale=1.0), flow_card.table)
    sigmas = sigmas_of(flow_card)
    torch.testing.assert_close(sigmas, torch.tensor(FLOW, dtype=torch.float32))
    for flow in (None, True):
        found = sample_longstride(flow_model, noise(5, scale=1.0), sigmas, disable=True, card=flow_card, flow=flow)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_solvers_know_a_flow() -> None:
    """DPM-Solver++(2M) in log((1 - sigma) / sigma), as ComfyUI counts for flows; the first level is not pure noise."""
    sigmas = torch.tensor([0.98, 0.9, 0.75, 0.5, 0.2, 0.0], dtype=torch.float64)
    expected = k_diffusion_dpmpp_2m(flow_model, noise(5, scale=1.0), sigmas, 1 - sigmas)
    options = {"disable": True, "lower_order_final": False}
    found = sample_longstride(flow_model, noise(5, scale=1.0), sigmas, flow=True, **options)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_solver_beside_a_card_of_a_flow_knows_the_flow(flow_card: ls.Card) -> None:
    sigmas = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    with pytest.warns(UserWarning, match="for network calls 4, not 2; unipc runs in its place"):
        found = sample_longstride(flow_model, noise(5, scale=1.0), sigmas, disable=True, card=flow_card, solver="unipc")
    expected = ls.sample(of_flow, noise(5, scale=1.0), ls.build("unipc", sigmas.numpy(), alphas=1 - sigmas.numpy()))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_cards_of_flows_and_of_other_networks_are_not_mixed(card: ls.Card, flow_card: ls.Card) -> None:
    x, high, low = noise(3), torch.from_numpy(SIGMAS), torch.from_numpy(FLOW)
    for strict in (False, True):
        told = {"disable": True, "strict": strict}
        with pytest.raises(ls.InputError, match="card is for a flow, but these levels begin at 20, above 1"):
            sample_longstride(model, x, high, card=flow_card, **told)
        with pytest.raises(ls.InputError, match="card is for a flow, but this model is none"):
            sample_longstride(model, x, low, card=flow_card, flow=False, **told)
        with pytest.raises(ls.InputError, match="levels begin at 1, as a flow's do, but this card is for another kind"):
            sample_longstride(flow_model, x, low, card=card, **told)
        for levels in (low, high):
            with pytest.raises(ls.InputError, match="model is a flow, but this card is for another kind of network"):
                sample_longstride(flow_model, x, levels, card=card, flow=True, **told)
    with pytest.warns(UserWarning, match="starts at noise level 20, not at 1; dpmpp_2m runs in its place"):
        sample_longstride(model, x, low, card=card, flow=False, disable=True)


@pytest.mark.parametrize(
    ("sampling", "expected"), [(comfy_stand_in.ScaledSampling(), False), (comfy_stand_in.FlowSampling(), True)]
)
def test_the_model_says_whether_it_is_a_flow(sampling: Any, expected: bool) -> None:
    class Wrapped:
        def __init__(self, inner: Any) -> None:
            self.inner_model = inner

    network = comfy_stand_in.Model(lambda x, s, c: x, sampling)
    assert is_flow(Wrapped(Wrapped(network))) is is_flow(network) is expected
    assert is_flow(model) is None
    sampling = comfy_stand_in.FlowSampling()
    sampling.noise_scaling = lambda sigma, noise, latent, max_denoise=False: sigma**2 * noise + sigma**2 * latent
    with pytest.raises(ls.InputError, match=r"keeps 0.25 of a picture at level 0.5"):
        is_flow(comfy_stand_in.Model(lambda x, s, c: x, sampling))


# Zero terminal SNR


def preserving(x: Tensor, sigma: float) -> Tensor:
    """The mixture's clean prediction for states with alpha² + sigma² = 1; pure noise has ComfyUI's level."""
    if sigma == 1:
        return Mixture()(4518.77 * x, 4518.77)
    alpha = (1 - sigma**2) ** 0.5
    return Mixture()(x / alpha, sigma / alpha)


def test_a_card_of_zero_terminal_snr_runs_from_a_very_high_level() -> None:
    """ComfyUI's level of pure noise, 4518.8, stands for infinity; the states are divided by alpha on the way."""
    sigmas = np.array([1.0, 0.99, 0.9, 0.5, 0.0])
    table = ls.build("dpmpp_2m", sigmas, alphas=np.sqrt(1 - sigmas**2))
    card = ls.calibrate(preserving, noise(32, scale=1.0), table, method="iia").card
    levels = sigmas_of(card)
    assert float(levels[0]) == pytest.approx(4518.77, abs=0.01)
    torch.testing.assert_close(levels[1:], torch.tensor(sigmas[1:] / np.sqrt(1 - sigmas[1:] ** 2)).float())
    x = noise(5, scale=1.0)
    found = sample_longstride(model, x * (1 + float(levels[0]) ** 2) ** 0.5, levels, disable=True, card=card)
    torch.testing.assert_close(found, ls.sample(preserving, x, card.table), rtol=1e-6, atol=1e-6)
    with pytest.raises(ls.CardError, match="starts at pure noise, not at 14.6"):
        sample_longstride(model, x, torch.tensor([14.6, 3, 1, 0.5, 0]), disable=True, card=card, strict=True)


def test_a_card_of_one_step_is_of_the_models_kind() -> None:
    """From pure noise to a picture in one step both scales are the same."""
    table = ls.build("ddim", [1.0, 0.0], alphas=[0.0, 1.0])
    card = ls.calibrate(of_flow, noise(32, scale=1.0), table, method="iia").card
    x = noise(3, scale=1.0)
    found = sample_longstride(flow_model, x, torch.tensor([1.0, 0.0]), disable=True, card=card)
    torch.testing.assert_close(found, ls.sample(of_flow, x, card.table), rtol=1e-9, atol=1e-9)
    levels = torch.tensor([4518.77, 0.0])
    found = sample_longstride(model, 4518.77 * x, levels, disable=True, card=card, flow=False)
    torch.testing.assert_close(found, ls.sample(preserving, x, card.table), rtol=1e-6, atol=1e-6)
