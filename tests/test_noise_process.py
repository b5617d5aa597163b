"""Processes: scale of the states, clock and weights are those of diffusers' own class, in whole runs."""

from __future__ import annotations

import importlib
import math
import sys
import types
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from scheduler_runs import difference, network, noise, run
from torch import Tensor

import longstride as ls
from longstride.integrations.clocks import Clocked
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.scheduler_settings import SchedulerSettings

DDIM, EULER, FLOW = diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler, diffusers.FlowMatchEulerDiscreteScheduler
MULTISTEP, UNIPC = diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler
COGVIDEO = diffusers.CogVideoXDDIMScheduler
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
#: Stable Video Diffusion's configuration.
VIDEO = {
    **STABLE_DIFFUSION,
    "prediction_type": "v_prediction",
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
#: Stable Audio's configuration.
AUDIO = {
    "_class_name": "CosineDPMSolverMultistepScheduler",
    "sigma_min": 0.3,
    "sigma_max": 500,
    "sigma_data": 1.0,
    "sigma_schedule": "exponential",
    "prediction_type": "v_prediction",
    "solver_order": 2,
    "final_sigmas_type": "zero",
}


def cosmos() -> Any:
    """The scheduler of Cosmos 2, as its pipeline leaves it."""
    scheduler = FLOW(use_karras_sigmas=True)
    scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002, sigma_data=1.0, final_sigmas_type="sigma_min")
    return scheduler


ZERO = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
PROCESSES = {
    "vp": MULTISTEP(**STABLE_DIFFUSION).config,
    "zero_snr": DDIM(**ZERO, clip_sample=False, **STABLE_DIFFUSION).config,
    "cogvideo": COGVIDEO(prediction_type="v_prediction", clip_sample=False, rescale_betas_zero_snr=True).config,
    "video": EULER(**VIDEO).config,
    "flow": FLOW(shift=3.0).config,
    "mochi": FLOW(invert_sigmas=True).config,
    "wan": UNIPC(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0).config,
    "edm": diffusers.EDMEulerScheduler().config,
    "edm_v": diffusers.EDMEulerScheduler(prediction_type="v_prediction", sigma_data=1.0).config,
    "audio": AUDIO,
    "cosmos": cosmos().config,
    "upscaler": EULER(prediction_type="sample", **STABLE_DIFFUSION).config,
}


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("kind", [COGVIDEO, diffusers.CogVideoXDPMScheduler])
def test_shifted_signal_to_noise(kind: Any, zero: bool, spacing: str) -> None:
    """CogVideoX and CogView3+; the class of DPM adds noise, so its configuration runs in the class of DDIM."""
    config = {"timestep_spacing": spacing, "prediction_type": "v_prediction"}
    config = kind(rescale_betas_zero_snr=zero, **config).config
    ours = LongstrideScheduler.from_config(config, solver="ddim")
    assert ours.threshold is None  # its class has clip_sample, and does not read it
    assert difference(COGVIDEO.from_config(config), ours, num_inference_steps=10) < 1e-6


@pytest.mark.parametrize("solver", ls.SOLVERS)
@pytest.mark.parametrize("scale", [None, 3.0])
@pytest.mark.parametrize("zero", [False, True])
def test_every_solver_knows_the_table_of_the_process(solver: str, scale: float | None, zero: bool) -> None:
    """Diffusers' classes of DEIS and of single steps do not know zero terminal SNR, and none but one the shift."""
    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": zero, **STABLE_DIFFUSION}
    kind = DDIM if scale is None else COGVIDEO
    theirs = kind(**config, **({} if scale is None else {"snr_shift_scale": scale}))
    ours = LongstrideScheduler.from_config(theirs.config, solver=solver)
    ours.set_timesteps(6)
    times = torch.tensor([0, 200, 700, 990])
    one, none = torch.ones(4, 1), torch.zeros(4, 1)
    torch.testing.assert_close(ours.add_noise(one, none, times), theirs.add_noise(one, none, times), rtol=1e-5, atol=0)
    ratios = ((1 - theirs.alphas_cumprod) / theirs.alphas_cumprod).double().sqrt().numpy()
    levels = ours.setup.levels
    np.testing.assert_allclose(levels.ratios[1:-1], np.interp(levels.times[1:], range(1000), ratios), rtol=1e-4)


@pytest.mark.parametrize(
    ("theirs", "asked"),
    [
        (EULER(**VIDEO), {"num_inference_steps": 8}),
        (
            EULER(**{**VIDEO, "use_karras_sigmas": False, "sigma_min": None, "sigma_max": None}),
            {"num_inference_steps": 8},
        ),
        (EULER(**VIDEO), {"sigmas": [700.0, 50.0, 8.0, 1.0, 0.1, 0.0]}),
        (EULER(prediction_type="sample", **STABLE_DIFFUSION), {"num_inference_steps": 8}),
        (EULER(prediction_type="sample", timestep_spacing="leading", **STABLE_DIFFUSION), {"num_inference_steps": 8}),
        (FLOW(invert_sigmas=True), {"sigmas": np.array([1.0, 0.9, 0.7, 0.3])}),
        (FLOW(invert_sigmas=True, shift=3.0), {"num_inference_steps": 5}),
        (diffusers.EDMEulerScheduler(prediction_type="v_prediction", sigma_data=1.0), {"num_inference_steps": 8}),
    ],
    ids=["video", "video_plain", "video_sigmas", "euler_states", "euler_leading", "mochi", "mochi_own", "edm"],
)
def test_every_step_is_that_of_diffusers(theirs: Any, asked: dict[str, Any]) -> None:
    ours = LongstrideScheduler.from_config(theirs.config, solver="ddim")
    assert difference(theirs, ours, **asked) < 3e-6
    if theirs.config.get("invert_sigmas"):
        torch.testing.assert_close(ours.sigmas.float(), theirs.sigmas, rtol=0, atol=1e-6)


def test_a_flow_on_the_levels_of_edm() -> None:
    """Cosmos 2 turns its network's output into noise; diffusers' class subtracts it along levels up to 80."""
    theirs, ours = cosmos(), LongstrideScheduler.from_config(cosmos().config, solver="ddim")
    assert ours.process == "ve"
    ramp = torch.linspace(0, 1, 6, dtype=torch.float64)
    assert difference(theirs, ours, sigmas=ramp) < 3e-6
    torch.testing.assert_close(ours.sigmas.float(), theirs.sigmas)


def test_the_clock_of_stable_audio(monkeypatch) -> None:
    """Diffusers' class is asked for its clock, its input and its clean prediction, with a stand-in for torchsde."""
    for name in ("torchsde", "diffusers.schedulers.scheduling_dpmsolver_sde"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))
    module = importlib.import_module("diffusers.schedulers.scheduling_cosine_dpmsolver_multistep")
    theirs = module.CosineDPMSolverMultistepScheduler()
    ours = LongstrideScheduler.from_config(theirs.config, solver="dpmpp_2m")
    assert ours.process == "edm_atan"
    theirs.set_timesteps(6)
    ours.set_timesteps(6)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    torch.testing.assert_close(ours.sigmas.float(), theirs.sigmas)
    assert ours.init_noise_sigma == pytest.approx(theirs.init_noise_sigma)
    x = noise() * ours.init_noise_sigma
    for t, sigma in zip(ours.timesteps, theirs.sigmas, strict=False):
        seen = ours.scale_model_input(x, t)
        torch.testing.assert_close(seen, theirs.precondition_inputs(x, sigma))
        output = network(seen, t)
        found = ours.step(output, t, x)
        expected = theirs.precondition_outputs(x, output, sigma)
        torch.testing.assert_close(found.pred_original_sample, expected, rtol=1e-4, atol=1e-4)
        x = found.prev_sample


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_the_denoiser_of_a_pipeline_is_what_its_scheduler_runs(name: str, solver: str) -> None:
    """The function that is calibrated, in the loop of longstride, and the scheduler in a pipeline: one result."""
    ours = LongstrideScheduler.from_config(PROCESSES[name], solver=solver)
    ours.set_timesteps(6)
    settings, levels = ours.setup.settings, ours.setup.levels
    scales = dict(zip(ours.setup.plan.times.tolist(), ours.setup.plan.input_scale, strict=True))

    def pipeline(x: Tensor, times: Tensor) -> Tensor:
        told = min(scales, key=lambda time: abs(time - float(times[0])))
        assert abs(told - float(times[0])) <= (1.0 if levels.whole else 1e-4 * max(1.0, abs(told)))
        return network(scales[told] * x, told)

    denoiser = settings.denoiser(pipeline)
    options = settings.solver_options(solver, levels.nodes)
    table = settings.base_table(levels, solver, **options)
    start = noise() * ours.init_noise_sigma / settings.frame_alpha(levels)
    alpha = float(levels.alphas[-1]) if settings.schedule.scaled else 1.0
    expected = alpha * ls.sample(denoiser, start, table)
    torch.testing.assert_close(run(ours), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", PROCESSES)
def test_times_and_levels_agree(name: str) -> None:
    ours = LongstrideScheduler.from_config(PROCESSES[name], solver="ddim")
    ours.set_timesteps(5)
    process, levels = ours.setup.settings.noise_process, ours.setup.levels
    told = process.times_of(levels.ratios[:-1])
    low, high = sorted(process.schedule.t_range)
    np.testing.assert_allclose(told, levels.times, rtol=0, atol=2e-3 * (high - low))
    alphas, sigmas = process.noise_levels(told)
    finite = np.isfinite(levels.ratios[:-1]) & (levels.ratios[:-1] < 4000)
    np.testing.assert_allclose(alphas[finite], levels.alphas[:-1][finite], rtol=1e-5)
    np.testing.assert_allclose(sigmas[finite], levels.sigmas[:-1][finite], rtol=1e-5)
    for wrong in (low - 2.0, high + 2.0, math.nan):
        with pytest.raises(ls.InputError, match="the schedule has times from"):
            process.noise_levels([wrong])


def test_a_clean_prediction_comes_back() -> None:
    """As from DDIM's class, and as the second of a pair from EDM's, which Cosmos 1 reads."""
    theirs = DDIM(clip_sample=False, **STABLE_DIFFUSION)
    ours = LongstrideScheduler.from_config(theirs.config, solver="ddim")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(4)
    t, x = ours.timesteps[0], noise()
    expected, found = (one.step(network(x, t), t, x) for one in (theirs, ours))
    torch.testing.assert_close(found.pred_original_sample, expected.pred_original_sample)
    edm = diffusers.EDMEulerScheduler()
    ours = LongstrideScheduler.from_config(edm.config, solver="ddim")
    for scheduler in (edm, ours):
        scheduler.set_timesteps(4)
    t, x = ours.timesteps[0], noise() * ours.init_noise_sigma
    pairs = [one.step(network(one.scale_model_input(x, t), t), t, x, return_dict=False) for one in (edm, ours)]
    for expected, found in zip(*pairs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_pipelines_that_count_steps_themselves_are_told() -> None:
    """Cosmos 1 takes back a step, to read the clean prediction of each side of guidance."""
    ours = LongstrideScheduler()
    with pytest.raises(ls.InputError, match="counts the scheduler's steps itself"):
        ours._step_index -= 1  # as its pipeline does


def test_a_repeated_level_is_calibrated_as_it_is_run() -> None:
    ours = LongstrideScheduler.from_config(FLOW().config, solver="ddim")
    ours.set_timesteps(sigmas=[0.9, 0.5, 0.5, 0.2])
    table = ours.setup.settings.base_table(ours.setup.levels)
    assert table.distance(ours.setup.plan.table) < 1e-15
    assert table.nfe == 4


def test_what_a_network_predicts_is_checked() -> None:
    with pytest.raises(ls.InputError, match="unknown prediction type 'trigflow'"):
        LongstrideScheduler(prediction_type="trigflow").set_timesteps(4)
    with pytest.raises(ls.InputError, match="with EDM's preconditioning 'sample'"):
        LongstrideScheduler(process="edm", prediction_type="sample").set_timesteps(4)
    clipped = SchedulerSettings.of(LongstrideScheduler.from_config(FLOW().config).config)
    with pytest.raises(ls.InputError, match="thresholding is for pixels"):
        clipped.denoiser(network, threshold=ls.denoiser.DynamicThreshold())


def test_the_last_level_of_a_logarithmic_clock_has_the_time_of_the_least_level() -> None:
    """No network is called at level 0, and a card keeps numbers alone."""
    clock = Clocked("ve", "log", 0.002, 80.0)
    assert float(clock.time_of_ratio(0.0)) == float(clock.time_of_ratio(0.002)) == 0.25 * math.log(0.002)
