"""What a run tells of its samples, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, Point, in_frame

import longstride as ls
from longstride.guard import Recorder
from longstride.guard.statistics import names

SIGMAS = ls.grid("karras", 5, sigma_min=0.05, sigma_max=10.0, final="sigma_min")
TABLE = ls.build("ddim", SIGMAS)


def noise_of(*shape, sigma=10.0):
    return sigma * torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def recorded(denoiser, noise, table=TABLE):
    recorder = Recorder(table)
    ls.sample(denoiser, noise, table, callback=recorder)
    return dict(zip(names(table.nfe), recorder.read().T, strict=True))


def log_rms(x):
    return x.flatten(1).square().mean(1).sqrt().log().numpy()


def test_names_and_their_number():
    assert names(1) == ["state 0", "prediction 0", "noise 0", "mean 0", "peak 0"]
    assert names(3)[-7:] == [f"{kind} 2" for kind in ("state", "prediction", "noise", "mean", "peak", "change", "turn")]
    assert len(names(8)) == 5 * 8 + 7 + 6


def test_on_a_single_point_the_implied_noise_is_the_noise_at_every_call():
    """x = c + sigma eps stays so under an exact solver; D is c, and never changes."""
    x = 0.7 + noise_of(6, 1, 4, 4)
    found = recorded(Point(0.7), x)
    for k in range(5):
        np.testing.assert_allclose(found[f"noise {k}"], log_rms((x - 0.7) / 10.0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(found[f"prediction {k}"], math.log(0.7), atol=1e-12)
        np.testing.assert_allclose(found[f"mean {k}"], 1.0, atol=1e-12)
        np.testing.assert_allclose(found[f"peak {k}"], 0.0, atol=1e-12)
        if k:
            np.testing.assert_allclose(found[f"change {k}"], math.log(1e-12), atol=1e-12)


@pytest.mark.parametrize("family", ["ve", "flow"])
def test_on_gaussian_data_all_are_functions_of_the_first_state(family):
    """D = g x with a gain by level: all states are multiples of the first, and all changes lie along it."""
    problem, x = Gaussian(mean=0.0, std=0.86), noise_of(5, 12, sigma=0.9)
    sigmas = [0.9, 0.6, 0.3, 0.1]
    alphas = [1 - s if family == "flow" else 1.0 for s in sigmas]
    schedule = ls.Schedule.flow() if family == "flow" else None
    table = ls.build("ddim", np.array(sigmas), schedule=schedule)
    found = recorded(in_frame(problem, family), x, table)
    factor, before = 1.0, None
    for k, (alpha, sigma) in enumerate(zip(alphas[:-1], sigmas[:-1], strict=True)):
        gain = alpha * 0.86**2 / (alpha**2 * 0.86**2 + sigma**2)
        known = {"state": factor, "prediction": gain * factor, "noise": (1 - alpha * gain) * factor / sigma}
        if before is not None:
            known["change"] = abs(gain * factor - before)
        for kind, multiple in known.items():
            np.testing.assert_allclose(found[f"{kind} {k}"], log_rms(x) + math.log(multiple), rtol=0, atol=1e-10)
        before = gain * factor
        step = (1 - alpha * gain) / sigma
        factor *= alphas[k + 1] * gain + sigmas[k + 1] * step
    np.testing.assert_allclose(np.abs(found["turn 2"]), 1.0, atol=1e-10)
    peak = log_rms(x.square()) * 2 - 4 * log_rms(x)
    np.testing.assert_allclose(found["peak 1"], peak, atol=1e-10)
    np.testing.assert_allclose(found["mean 1"], (x.mean(1) / x.square().mean(1).sqrt()).numpy(), atol=1e-10)


def test_a_sample_has_the_same_statistics_in_any_batch():
    x = noise_of(7, 30)
    whole, alone = recorded(Mixture(), x), recorded(Mixture(), x[4:5])
    for name, values in alone.items():
        np.testing.assert_allclose(values, whole[name][4:5], rtol=1e-12, atol=1e-12)


def test_half_precision_is_summed_in_float32():
    x = torch.full((2, 60_000), 10.0, dtype=torch.float16)  # the sum of squares overflows float16
    found = recorded(lambda x, sigma: torch.full_like(x, 4.0), x)
    np.testing.assert_allclose(found["state 0"], math.log(10), rtol=1e-6)
    np.testing.assert_allclose(found["prediction 3"], math.log(4), rtol=1e-6)


def test_of_large_states_a_part_tells_nearly_the_same():
    x = noise_of(2, 4, 128, 128).float()
    few, all_of = recorded(Gaussian(0.0, 1.0), x), log_rms(x)
    np.testing.assert_allclose(few["state 0"], all_of, rtol=0, atol=0.1)
    assert few["state 0"].tolist() != all_of.tolist()
    same = recorded(Gaussian(0.0, 1.0), torch.full_like(x, 3.0))
    np.testing.assert_allclose(same["state 0"], math.log(3), rtol=1e-6)


def test_nothing_waits_for_the_device_before_the_end():
    """Tensors without memory cannot be read; they can be recorded."""
    recorder, x = Recorder(TABLE), torch.empty(3, 8, device="meta")
    for k in range(TABLE.nfe):
        recorder(k, TABLE.levels[k], x, x)
    with pytest.raises(NotImplementedError):
        recorder.read()


def test_what_is_not_finite_is_nan_in_its_own_sample():
    x = noise_of(3, 8)

    def broken(x, sigma):
        out = Gaussian()(x, sigma)
        out[1, 2] = float("inf") if sigma < 1 else out[1, 2]
        return out

    recorder = Recorder(TABLE)
    with pytest.raises(ls.NonFiniteError):
        ls.sample(broken, x, TABLE, callback=recorder)
    bad = ~np.isfinite(recorder.read())
    assert bad[1].any()
    assert not bad[[0, 2]].any()


def test_a_run_that_has_not_ended_has_no_statistics():
    recorder = Recorder(TABLE)
    recorder(0, 10.0, noise_of(2, 3), noise_of(2, 3))
    with pytest.raises(ls.InputError, match="expected the 5 network calls of a whole run, got 1"):
        recorder.read()


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_the_first_statistics_are_those_of_the_first_calls(calls):
    """Also if the run goes on after they were read."""
    x, recorder, run = noise_of(6, 8), Recorder(TABLE), ls.sampler.Run(noise_of(6, 8), TABLE)
    run.go(calls, Mixture(), recorder)
    early = recorder.read(calls)
    with pytest.raises(ls.InputError, match=f"expected the 5 network calls so far, got {calls}"):
        recorder.read(5)
    run.finish(Mixture(), recorder)
    whole = recorder.read()
    assert early.shape == (6, len(names(calls)))
    np.testing.assert_allclose(early, whole[:, : len(names(calls))], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(np.stack(list(recorded(Mixture(), x).values()), 1).shape, whole.shape)


def test_a_recorder_serves_several_runs():
    recorder = Recorder(TABLE)
    for n in (4, 2):
        ls.sample(Mixture(), noise_of(n, 3), TABLE, callback=recorder)
        assert recorder.read().shape == (n, len(names(5)))
