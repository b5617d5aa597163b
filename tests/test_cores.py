"""Cores are one sampler in every process, at every scale of the data, and are exact where theory is."""

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import longstride as ls
from longstride.cores import choice
from longstride.cores.core import UNIT, Core
from longstride.families import alpha_of_ratio


@st.composite
def cores(draw):
    nfe = draw(st.integers(2, 7))
    gaps = draw(npst.arrays(np.float64, nfe, elements=st.floats(0.2, 1.5)))
    levels = 80 * np.exp(-np.cumsum(gaps[:-1]))
    weights = draw(npst.arrays(np.float64, (nfe, nfe), elements=st.floats(-3, 3)))
    return Core(80.0, levels, np.tril(weights, -1))


def mixture_of(std):
    """The exact denoiser of two points with blurs, on the scale where alpha is 1."""

    def denoise(x, sigma):
        total, blur = sigma**2 + (0.3 * std) ** 2, (0.3 * std) ** 2
        right = torch.sigmoid(2 * std * x / total)
        mean = std * (2 * right - 1)
        return mean + blur / total * (x - mean)

    return denoise


@given(cores(), st.floats(0.1, 5.0), st.sampled_from(["ve", "vp", "flow"]), st.booleans())
def test_a_core_is_exact_on_one_value_in_every_process(core, std, family, far) -> None:
    start = np.inf if far and family != "ve" else 90.0 * std / UNIT
    end = 0.2 * core.levels[-1] * std / UNIT
    for last in (0.0, end):
        table = core.table(data_std=std, start=start, end=last, family=family)
        assert table.exact
        assert table.defect <= 1e-12
        assert np.allclose(table.alphas[1:], alpha_of_ratio(family, table.sigmas[1:] / table.alphas[1:]))


@given(cores(), st.floats(0.2, 4.0), st.sampled_from(["vp", "flow"]))
def test_the_process_does_not_matter(core, std, family) -> None:
    """Divided by alpha, the states of every process are those of the scale where alpha is 1."""
    start, denoise = 85.0 * std / UNIT, mixture_of(std)
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    plain = core.table(data_std=std, start=start)
    there = core.table(data_std=std, start=start, family=family)
    scaled = {float(s): float(a) for a, s in zip(there.alphas, there.sigmas, strict=True)}

    def framed(x, sigma):
        return denoise(x / scaled[sigma], sigma / scaled[sigma])

    want = ls.sample(denoise, noise * plain.sigmas[0], plain)
    assert torch.allclose(ls.sample(framed, noise * there.sigmas[0], there), want, rtol=1e-9, atol=1e-9 * std)


@given(cores(), st.floats(0.2, 4.0))
def test_the_scale_of_the_data_scales_the_samples(core, std) -> None:
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    one, other = core.table(data_std=UNIT, start=80.0), core.table(data_std=std, start=80.0 * std / UNIT)
    want = ls.sample(mixture_of(UNIT), noise * 80.0, one) * std / UNIT
    assert torch.allclose(ls.sample(mixture_of(std), noise * other.sigmas[0], other), want, rtol=1e-9, atol=1e-9)


@given(cores(), st.floats(-3, 3))
def test_a_mean_moves_along(core, mean) -> None:
    """Data that are moved by a mean give samples that are moved by it, from a start that knows the mean."""
    noise, denoise = torch.linspace(-2, 2, 9, dtype=torch.float64), mixture_of(UNIT)
    table = core.table(data_std=UNIT, start=80.0)
    moved = ls.sample(lambda x, s: denoise(x - mean, s) + mean, 80 * noise + mean, table)
    assert torch.allclose(moved, ls.sample(denoise, 80 * noise, table) + mean, rtol=1e-9, atol=1e-9)


def test_a_start_at_infinity_is_the_limit_of_far_starts() -> None:
    core = choice.chosen_core(5, np.inf, 1.0)
    far = core.table(data_std=1.0, start=1e7, family="flow")
    limit = core.table(data_std=1.0, start=np.inf, family="flow")
    assert np.allclose(far.b, limit.b, atol=1e-5)
    assert np.allclose(far.a, limit.a, atol=1e-5)


@pytest.mark.parametrize("nfe", choice.calls())
def test_between_two_cores_numbers_are_between(nfe) -> None:
    for start, guidance in ((np.inf, 1.0), (14.6, 1.0), (40.0, 2.0), (np.inf, 5.0), (14.6, 7.5), (160.0, 100.0)):
        core = choice.chosen_core(nfe, start, guidance)
        assert core.nfe == nfe
        assert (np.diff(core.levels) < 0).all()
    near, far = (choice.chosen_core(nfe, start, 1.0) for start in (14.6, np.inf))
    middle = choice.chosen_core(nfe, float(np.sqrt(near.start * far.start)) / UNIT, 1.0)
    assert np.allclose(2 * middle.weights, near.weights + far.weights)
    assert np.allclose(middle.levels**2, near.levels * far.levels)


def test_impossible_requests_are_refused() -> None:
    core = choice.chosen_core(4, np.inf, 1.0)
    with pytest.raises(ls.InputError, match="do not enclose the levels"):
        core.table(data_std=1.0, start=0.1)
    with pytest.raises(ls.InputError, match="data_std must be a positive number"):
        core.table(data_std=0.0, start=80.0)
    with pytest.raises(ls.InputError, match="network calls, got 1: build 'unipc'"):
        choice.chosen_core(1, np.inf, 1.0)
    with pytest.raises(ls.InputError, match="start at sigma / alpha of at least"):
        choice.chosen_core(4, 1.0, 1.0)
    with pytest.raises(ls.InputError, match="guidance must be a finite number"):
        choice.chosen_core(4, np.inf, float("nan"))
    with pytest.raises(ls.InputError, match="falling levels"):
        Core(80.0, np.array([90.0]), np.zeros((2, 2)))
    with pytest.raises(ls.InputError, match="0 from the last output on"):
        Core(80.0, np.array([9.0]), np.ones((2, 2)))
