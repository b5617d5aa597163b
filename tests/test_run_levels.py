"""Levels of a run's own: what ``set_timesteps`` is given means what it means to diffusers, on every solver."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from scheduler_runs import difference, noise, run

import longstride as ls
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.solvers import CLASSICAL_SOLVERS

# Diffusers' classes say how they lower the order of their own steps, which nobody takes here.
pytestmark = pytest.mark.filterwarnings("ignore:.*algorithm_type dpmsolver is deprecated:FutureWarning")

FLOW, UNIPC = diffusers.FlowMatchEulerDiscreteScheduler, diffusers.UniPCMultistepScheduler
MULTISTEP, SINGLESTEP = diffusers.DPMSolverMultistepScheduler, diffusers.DPMSolverSinglestepScheduler
DEIS, DDIM, EULER = diffusers.DEISMultistepScheduler, diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler
SHIFTED = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
#: Solvers that start with several calls at one level, which a few levels do not have.
STARTED = ("spndm", "pndm")


def shifted(sigma: Any, shift: float) -> Any:
    level = np.asarray(sigma)
    return shift * level / (1 + (shift - 1) * level)


# Flow matching


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"shift": 3.0},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"use_dynamic_shifting": True, "shift_terminal": 0.1},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"num_train_timesteps": 1},
        {"invert_sigmas": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "asked",
    [
        {"sigmas": [1.0, 0.75, 0.5, 0.25]},
        {"sigmas": np.float32([1, 0.5])},
        {"sigmas": torch.tensor([1.0, 0.5], dtype=torch.float64)},
        {"sigmas": [1.0, 0.5, 0.5, 0.2]},
        {"sigmas": [1.0, 0.5, 0.0]},
        {"sigmas": [0.5]},
        {"timesteps": [1.0, 0.75, 0.5]},
        {"timesteps": [1.0, 0.6, 0.2], "sigmas": [1.0, 0.6, 0.2]},
        {"timesteps": [0.8, 0.4], "sigmas": [0.9, 0.5]},
        {"num_inference_steps": np.int64(3)},
        {"num_inference_steps": torch.tensor(3)},
        {"num_inference_steps": 1},
    ],
    ids=str,
)
def test_flow_matching(config: dict[str, Any], asked: dict[str, Any]) -> None:
    last = 0.0 in np.asarray(asked.get("sigmas", [1.0]))
    if config.get("use_exponential_sigmas") and last:
        pytest.skip("diffusers takes the logarithm of 0")
    if "shift_terminal" in config and asked.get("num_inference_steps") == 1:
        pytest.skip("diffusers divides 0 by 0; see the test of one step")
    times, train = asked.get("timesteps"), config.get("num_train_timesteps", 1000)
    asked = asked if times is None else {**asked, "timesteps": [train * time for time in times]}
    asked = {**asked, "mu": 0.8} if config.get("use_dynamic_shifting") else asked
    theirs = FLOW(**config)
    assert difference(theirs, LongstrideScheduler.from_config(theirs.config, solver="ddim"), **asked) < 1e-6


@pytest.mark.parametrize("asked", [{"num_inference_steps": 1}, {"sigmas": np.linspace(1, 1, 1)}])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc"])
def test_one_step_has_nothing_to_stretch(asked: dict[str, Any], solver: str) -> None:
    """diffusers' class divides 0 by 0 there."""
    config = FLOW(shift_terminal=0.02, use_dynamic_shifting=True).config
    ours = LongstrideScheduler.from_config(config, solver=solver)
    ours.set_timesteps(**asked, mu=0.8)
    assert ours.sigmas.tolist() == [1.0, 0.0]
    assert ours.timesteps.tolist() == [1000.0]
    ours.set_timesteps(3, mu=0.8)
    assert float(ours.sigmas[-2]) == pytest.approx(0.02)  # the setting stays


def test_times_beside_shifted_levels_make_a_clock() -> None:
    """CogView4 tells its network times before the shift. So do stages between its levels, exactly."""
    ours = LongstrideScheduler.from_config(FLOW(use_dynamic_shifting=True).config, solver="dpmpp_2s")
    given = np.array([1.0, 0.8, 0.6, 0.4, 0.2])
    ours.set_timesteps(sigmas=given, timesteps=np.round(1000 * given), mu=0.8)
    told, levels = ours.setup.plan.times, ours.sigmas.numpy()[:-1]
    np.testing.assert_allclose(levels[[0, 1, 3]], shifted(given[[0, 1, 3]], math.exp(0.8)), atol=1e-6)
    np.testing.assert_allclose(shifted(told / 1000, math.exp(0.8)), levels, atol=1e-5)
    process = ours.setup.settings.noise_process
    between = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(process.noise_levels(1000 * between)[1], shifted(between, math.exp(0.8)), atol=1e-5)


def test_any_pairs_of_times_and_levels_make_a_clock() -> None:
    ours = LongstrideScheduler.from_config(FLOW().config, solver="ddim")
    ours.set_timesteps(sigmas=[0.9, 0.5, 0.2], timesteps=[800, 300, 100])
    process = ours.setup.settings.noise_process
    np.testing.assert_allclose(process.times_of([9.0, 1.0, 0.25]), [800, 300, 100])
    np.testing.assert_allclose(process.noise_levels([300, 200])[1], [0.5, 0.35])
    ours.set_timesteps(4)
    np.testing.assert_allclose(ours.setup.settings.times_of([1.0]), [500])  # it was the clock of one run


# Flows of the multistep classes


@pytest.mark.parametrize(
    ("kind", "solver", "config", "asked"),
    [
        (UNIPC, "unipc", {}, {"sigmas": [0.99, 0.75, 0.5, 0.25]}),
        (UNIPC, "unipc", {}, {"sigmas": [1.0, 0.5]}),
        (UNIPC, "unipc", {"use_dynamic_shifting": True}, {"num_inference_steps": 5, "mu": 0.8}),
        (UNIPC, "unipc", {"use_dynamic_shifting": True, "shift_terminal": 0.02}, {"sigmas": [0.9, 0.5], "mu": 0.8}),
        (UNIPC, "unipc", {"use_karras_sigmas": True, "sigma_max": 80.0, "sigma_min": 0.01}, {"num_inference_steps": 5}),
        (MULTISTEP, "dpmpp_2m", {"use_dynamic_shifting": True}, {"num_inference_steps": 5, "mu": 0.8}),
        (MULTISTEP, "dpmpp_2m", {"use_dynamic_shifting": True}, {"num_inference_steps": 5}),
    ],
)
def test_flows_of_multistep_classes(kind: Any, solver: str, config: dict[str, Any], asked: dict[str, Any]) -> None:
    theirs = kind(**SHIFTED, **config)
    asked = {name: np.array(value) if name == "sigmas" else value for name, value in asked.items()}
    assert difference(theirs, LongstrideScheduler.from_config(theirs.config, solver=solver), **asked) < 1e-6


@pytest.mark.parametrize("kind", [UNIPC, MULTISTEP, DEIS, SINGLESTEP])
@pytest.mark.parametrize("solver", ls.SOLVERS)
def test_what_a_class_does_not_take_means_the_obvious(kind: Any, solver: str) -> None:
    """``sigmas`` are shifted, as in UniPC's class; ``timesteps`` are what the network is told."""
    ours = LongstrideScheduler.from_config(kind(**SHIFTED).config, solver=solver)
    given = [0.95, 0.9, 0.8, 0.7, 0.6, 0.4, 0.2]
    ours.set_timesteps(sigmas=given)
    levels = ours.setup.levels
    np.testing.assert_allclose(levels.sigmas, [*shifted(given, 3.0), 0.0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(levels.times, 1000 * levels.sigmas[:-1], rtol=0, atol=1.0)
    assert run(ours).isfinite().all()
    ours.set_timesteps(timesteps=[1000 * sigma for sigma in given])
    assert ours.setup.levels.times.tolist() == pytest.approx([1000 * sigma for sigma in given])
    np.testing.assert_allclose(ours.setup.levels.sigmas, [*given, 0.0], rtol=1e-12)
    assert run(ours).isfinite().all()


def test_a_shift_by_resolution_of_given_levels() -> None:
    ours = LongstrideScheduler.from_config(MULTISTEP(**SHIFTED, use_dynamic_shifting=True).config)
    ours.set_timesteps(sigmas=[0.9, 0.5], mu=0.8)
    np.testing.assert_allclose(ours.sigmas, [*shifted([0.9, 0.5], math.exp(0.8)), 0.0], rtol=1e-12)
    ours.set_timesteps(sigmas=[0.9, 0.5])  # without mu, flow_shift holds, as in diffusers
    np.testing.assert_allclose(ours.sigmas, [*shifted([0.9, 0.5], 3.0), 0.0], rtol=1e-12)


# Every process


@pytest.mark.parametrize("solver", [name for name in CLASSICAL_SOLVERS if name not in STARTED])
@pytest.mark.parametrize(
    ("config", "levels", "times"),
    [
        (FLOW(shift=3.0).config, [0.9, 0.5], [900, 500]),
        (UNIPC(**SHIFTED).config, [0.9, 0.5], [900, 500]),
        (MULTISTEP().config, [9.0, 1.0], [900, 500]),
        (MULTISTEP(use_karras_sigmas=True).config, [9.0, 1.0], [900, 500]),
        (diffusers.EDMEulerScheduler().config, [9.0, 1.0], [1.0, 0.1]),
    ],
    ids=["flow_match", "flow_unipc", "vp", "karras", "edm"],
)
def test_few_levels_repeated_levels_and_levels_that_end_at_0(config: Any, solver: str, levels: Any, times: Any) -> None:
    high, low = levels
    ours = LongstrideScheduler.from_config(config, solver=solver)
    for asked in (
        {"sigmas": [high]},
        {"timesteps": times[:1]},
        {"sigmas": [high, low, 0.0]},
        {"sigmas": [high, low, low, low / 2]},
        {"timesteps": [*times, times[1]]},
    ):
        ours.set_timesteps(**asked)
        own = 0.01 if solver == "deis" and ours.process == "vp" and 0.0 not in asked.get("sigmas", []) else 0.0
        assert float(ours.sigmas[-1]) == pytest.approx(own, rel=1e-3)  # DEIS's class ends at the least level
        assert run(ours).isfinite().all()
    ours.set_timesteps(sigmas=[high, low, low, low / 2])
    repeated = run(ours)
    ours.set_timesteps(sigmas=[high, low, low / 2])
    torch.testing.assert_close(repeated, run(ours))  # a step of no length changes nothing


def test_a_run_from_a_repeated_level() -> None:
    """Both calls at a level go on alike, and the plan has calls for both."""
    ours = LongstrideScheduler.from_config(FLOW().config, solver="dpmpp_2m")
    found = []
    for call in (1, 2):
        ours.set_timesteps(sigmas=[0.9, 0.5, 0.5, 0.2])
        ours.set_begin_index(call)
        x = noise()
        for t in ours.timesteps[call:]:
            x = ours.step(torch.tanh(x), t, x).prev_sample
        found.append(x)
        assert ours.step_index == 4
    torch.testing.assert_close(*found)


def test_edm_takes_positions_in_its_own_levels() -> None:
    theirs = diffusers.EDMEulerScheduler()
    ours = LongstrideScheduler.from_config(theirs.config, solver="ddim")
    ramp = torch.linspace(0, 1, 5, dtype=torch.float64) ** 2
    theirs.set_timesteps(5, sigmas=ramp)
    ours.set_timesteps(sigmas=ramp)
    torch.testing.assert_close(ours.sigmas.float(), theirs.sigmas)


def test_levels_that_are_one_too_many() -> None:
    """Euler's class interpolates to one level more than it has times, and never comes to the last."""
    theirs = EULER(interpolation_type="log_linear")
    ours = LongstrideScheduler.from_config(theirs.config, solver="ddim")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(6)
    assert len(theirs.sigmas) == len(ours.sigmas) + 1
    torch.testing.assert_close(ours.sigmas.float(), theirs.sigmas[:-1], rtol=1e-5, atol=1e-6)


# Refusals


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (MULTISTEP().config, [1000.0, math.nan, -1.0]),
        (FLOW().config, [1000.5, math.nan, -1.0, math.inf]),
        (UNIPC(**SHIFTED).config, [1000.5, math.nan, -1.0]),
        (diffusers.EDMEulerScheduler().config, [math.log(81) / 4, math.nan, math.log(0.001) / 4]),
        (FLOW(num_train_timesteps=1).config, [1.5, -0.1]),
    ],
    ids=["vp", "flow_match", "flow_unipc", "edm", "one"],
)
def test_times_outside_of_the_schedule_are_refused(config: Any, wrong: list[float]) -> None:
    ours = LongstrideScheduler.from_config(config)
    for time in wrong:
        with pytest.raises(ls.InputError, match="the schedule has times from|must be finite"):
            ours.set_timesteps(timesteps=[time])


@pytest.mark.parametrize(
    ("config", "asked", "message"),
    [
        (FLOW().config, {"sigmas": [0.5, 0.9]}, "must fall"),
        (FLOW().config, {"sigmas": [0.5, -0.1]}, "must fall"),
        (FLOW().config, {"sigmas": [0.5, math.nan]}, "sigmas must be finite"),
        (FLOW().config, {"sigmas": [0.9, 0.5], "timesteps": [900]}, "refuses sigmas=, timesteps=: .*same length"),
        (FLOW(use_dynamic_shifting=True).config, {"sigmas": [0.9]}, "pass mu="),
        (MULTISTEP(**SHIFTED).config, {"num_inference_steps": 4, "mu": 0.8}, "mu= needs use_dynamic_shifting"),
        (MULTISTEP(**SHIFTED).config, {"sigmas": [0.9], "timesteps": [900]}, "not both"),
        (MULTISTEP().config, {"num_inference_steps": 4, "mu": 0.8}, "mu= shifts the levels of flows"),
        (MULTISTEP().config, {"num_inference_steps": 2.5}, "must be a whole number of at least 1, got 2.5"),
        (DDIM().config, {"num_inference_steps": 2000}, "DDIMScheduler of diffusers refuses 2000 steps"),
        (FLOW().config, {"sigmas": [0.0]}, "must fall"),
    ],
)
def test_what_cannot_be_set_is_said(config: Any, asked: dict[str, Any], message: str) -> None:
    ours = LongstrideScheduler.from_config(config, solver="ddim" if config.get("clip_sample") else "dpmpp_2m")
    with pytest.raises(ls.InputError, match=message):
        ours.set_timesteps(**asked)
