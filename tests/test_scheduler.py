"""The diffusers scheduler by itself: the same steps as diffusers' own classes, and as our sampling loop."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tiny_models import tiny_unet
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import longstride as ls
from longstride.guard import Guard
from longstride.guard.statistics import names
from longstride.integrations.diffusers import LongstrideScheduler

pytestmark = [
    pytest.mark.filterwarnings("ignore:`algorithm_type:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*algorithm_type dpmsolver is deprecated:FutureWarning"),
]

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
MULTISTEP, SINGLESTEP = diffusers.DPMSolverMultistepScheduler, diffusers.DPMSolverSinglestepScheduler
UNIPC, DEIS = diffusers.UniPCMultistepScheduler, diffusers.DEISMultistepScheduler
DDIM, PNDM, EULER = diffusers.DDIMScheduler, diffusers.PNDMScheduler, diffusers.EulerDiscreteScheduler
HEUN, FLOW = diffusers.HeunDiscreteScheduler, diffusers.FlowMatchEulerDiscreteScheduler


def network(x: Tensor, t: Any) -> Tensor:
    """Smooth, nonlinear, and different at every time."""
    time = torch.as_tensor(t, dtype=torch.float32)
    return (torch.tanh(1.3 * x + 0.1 * torch.sin(time / 100)) * 0.9 + 0.05 * x).to(x.dtype)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*(shape or (3, 4, 8, 8)), generator=torch.Generator().manual_seed(seed))


def run(scheduler: Any, x: Tensor, times: Any = None) -> Tensor:
    for t in scheduler.timesteps if times is None else times:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(seen, t), t, x).prev_sample
    return x


def assert_same_runs(theirs: Any, ours: LongstrideScheduler, start: Tensor, tolerance: float = 3e-6) -> None:
    """Equal times, and equal samples from states that stand for the same noise."""
    assert ours.timesteps.dtype == theirs.timesteps.dtype
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    divided = isinstance(theirs, (EULER, HEUN))  # these divide states by alpha
    scale = (1 + float(ours.sigmas[0]) ** 2) ** 0.5 if divided else 1.0
    expected, found = run(theirs, start * scale), run(ours, start)
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


# Parity

CASES = [
    ("dpmpp_2m", MULTISTEP, {}),
    ("dpmpp_2m", MULTISTEP, {"use_karras_sigmas": True}),
    ("dpmpp_2m", MULTISTEP, {"use_lu_lambdas": True}),
    ("dpmpp_2m", MULTISTEP, {"use_exponential_sigmas": True}),
    ("dpmpp_2m", MULTISTEP, {"timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"}),
    ("dpmpp_2m", MULTISTEP, {"euler_at_final": True, "steps_offset": 1, "timestep_spacing": "leading"}),
    ("dpmpp_2m", MULTISTEP, {"solver_type": "heun", "lower_order_final": False}),
    ("dpmpp_2m", MULTISTEP, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    ("dpmpp_2m", MULTISTEP, {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}),
    ("dpmpp_2m", MULTISTEP, {"thresholding": True, "sample_max_value": 1.5}),
    ("dpmpp_3m", MULTISTEP, {"solver_order": 3}),
    ("dpm_solver_2m", MULTISTEP, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    ("dpmpp_2s", SINGLESTEP, {}),
    ("dpm_solver_3", SINGLESTEP, {"algorithm_type": "dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"}),
    ("unipc", UNIPC, {}),
    ("unipc", UNIPC, {"solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
    ("unipc", UNIPC, {"prediction_type": "sample", "use_karras_sigmas": True}),
    ("deis", DEIS, {}),
    ("ddim", DDIM, {"clip_sample": False}),
    ("ddim", DDIM, {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    ("ddim", DDIM, {"clip_sample": False, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
    ("ddim", EULER, {}),
    ("ddim", EULER, {"use_karras_sigmas": True, "timestep_spacing": "leading", "steps_offset": 1}),
    ("pndm", PNDM, {"skip_prk_steps": True, "steps_offset": 1}),
    ("heun", HEUN, {}),
    ("heun", HEUN, {"use_karras_sigmas": True, "timestep_spacing": "trailing"}),
]


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize(("solver", "kind", "config"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_step_is_that_of_diffusers(solver: str, kind: Any, config: dict[str, Any], steps: int) -> None:
    theirs = kind(**{**STABLE_DIFFUSION, **config})
    ours = LongstrideScheduler.from_config(theirs.config, solver=solver)
    theirs.set_timesteps(steps)
    ours.set_timesteps(steps)
    assert_same_runs(theirs, ours, noise())


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"shift_terminal": 0.02}, {"use_karras_sigmas": True}])
def test_flows(options: dict[str, Any]) -> None:
    theirs = FLOW(**options)
    ours = LongstrideScheduler.from_config(theirs.config, solver="ddim")
    theirs.set_timesteps(6)
    ours.set_timesteps(6)
    assert ours.process == "flow"
    assert_same_runs(theirs, ours, noise())


def test_flows_of_heun() -> None:
    """Its class sets the levels of Euler's, and reads no last call at sigma 0."""
    theirs = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    ours = LongstrideScheduler.from_config(FLOW(shift=3.0).config, solver="heun")
    theirs.set_timesteps(6)
    ours.set_timesteps(6)
    assert_same_runs(theirs, ours, noise())


def test_flows_with_a_shift_by_resolution() -> None:
    """As Flux asks for its levels: sigmas and mu."""
    theirs = FLOW(use_dynamic_shifting=True)
    ours = LongstrideScheduler.from_config(theirs.config, solver="ddim")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 6, 6), mu=0.9)
    assert_same_runs(theirs, ours, noise())
    assert ours.config.max_image_seq_len == theirs.config.max_image_seq_len == 4096
    with pytest.raises(ls.InputError, match="pass mu="):
        ours.set_timesteps(6)


@pytest.mark.parametrize(("solver", "kind"), [("dpmpp_2m", MULTISTEP), ("unipc", UNIPC)])
def test_flows_of_multistep_schedulers(solver: str, kind: Any) -> None:
    theirs = kind(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    ours = LongstrideScheduler.from_config(theirs.config, solver=solver)
    theirs.set_timesteps(6)
    ours.set_timesteps(6)
    assert_same_runs(theirs, ours, noise())


@pytest.mark.parametrize(
    ("solver", "kind"),
    [("ddim", diffusers.EDMEulerScheduler), ("dpmpp_2m", diffusers.EDMDPMSolverMultistepScheduler)],
)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm(solver: str, kind: Any, prediction: str) -> None:
    theirs = kind(prediction_type=prediction)
    ours = LongstrideScheduler.from_config(theirs.config, solver=solver)
    theirs.set_timesteps(6)
    ours.set_timesteps(6)
    assert ours.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma))
    start = noise() * ours.init_noise_sigma
    expected, found = run(theirs, start), run(ours, start)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6 * float(expected.abs().max()))


def test_flows_of_deis_end_at_their_end() -> None:
    """diffusers' class repeats its last level, so its last call makes no step; ours goes on to sigma 0."""
    theirs = DEIS(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    ours = LongstrideScheduler.from_config(theirs.config, solver="deis")
    theirs.set_timesteps(6)
    ours.set_timesteps(6)
    assert theirs.sigmas[-1] == theirs.sigmas[-2] > 0.3
    assert ours.sigmas[-1] == 0
    torch.testing.assert_close(ours.sigmas[:-1].float(), theirs.sigmas[:-1])


def test_multistep_solvers_follow_their_paper_on_flows() -> None:
    """diffusers has no such class for FlowMatch's levels: the reference is our own loop."""
    ours = LongstrideScheduler.from_config(FLOW(shift=3.0).config, solver="dpmpp_2m")
    ours.set_timesteps(6)
    levels = ours.sigmas.numpy()
    table = ls.build("dpmpp_2m", levels, alphas=1 - levels)
    times = dict(zip(levels.tolist(), (*ours.timesteps.tolist(), 0.0), strict=True))
    expected = ls.sample(lambda x, s: x - s * network(x, times[s]), noise(), table)
    torch.testing.assert_close(run(ours, noise()), expected, rtol=1e-5, atol=1e-5)


def test_a_step_of_no_length_is_replaced_by_one_to_the_end() -> None:
    """``leading`` without offset and with ``set_alpha_to_one=False`` ends where its last call is."""
    ours = LongstrideScheduler.from_config(DDIM(set_alpha_to_one=False).config, solver="ddim")
    ours.set_timesteps(5)
    assert len(ours.timesteps) == 5
    assert ours.sigmas[-1] == 0


# What pipelines and diffusers' own tests expect


def test_a_configuration_comes_back(tmp_path) -> None:
    ours = LongstrideScheduler.from_config(PNDM(steps_offset=1, **STABLE_DIFFUSION).config, solver="unipc")
    ours.save_pretrained(tmp_path)
    again = LongstrideScheduler.from_pretrained(tmp_path)
    told = {key: value for key, value in ours.config.items() if not key.startswith("_")}
    assert {key: again.config[key] for key in told} == told
    for scheduler in (ours, again):
        scheduler.set_timesteps(5)
    torch.testing.assert_close(run(again, noise()), run(ours, noise()), rtol=0, atol=0)


def test_it_goes_back_to_the_scheduler_that_it_came_from() -> None:
    theirs = MULTISTEP(use_karras_sigmas=True, solver_order=3, **STABLE_DIFFUSION)
    back = MULTISTEP.from_config(LongstrideScheduler.from_config(theirs.config).config)
    assert {key: back.config[key] for key in STABLE_DIFFUSION} == STABLE_DIFFUSION
    assert (back.config.use_karras_sigmas, back.config.solver_order) == (True, 3)
    assert MULTISTEP in LongstrideScheduler.from_config(theirs.config).compatibles


def test_settings_that_are_not_said_are_those_of_the_solvers_own_class() -> None:
    """DDIM's class spaces its times otherwise than DPM-Solver's."""
    config = DDIM(**STABLE_DIFFUSION).config
    for solver, kind in (("ddim", DDIM), ("dpmpp_2m", MULTISTEP)):
        ours, theirs = LongstrideScheduler.from_config(config, solver=solver), kind.from_config(config)
        assert ours.config.timestep_spacing == theirs.config.timestep_spacing
        again = LongstrideScheduler.from_config(ours.config, solver="ddim")
        assert again.config.timestep_spacing == DDIM().config.timestep_spacing


def test_trained_betas() -> None:
    betas = np.linspace(0.001, 0.03, 50).tolist()
    ours = LongstrideScheduler(trained_betas=betas, num_train_timesteps=50, solver="ddim")
    theirs = DDIM(trained_betas=betas, num_train_timesteps=50, clip_sample=False)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
    assert_same_runs(theirs, ours, noise())
    assert len(ours) == 50


def test_shapes_tuples_and_what_is_read_before_a_run() -> None:
    ours = LongstrideScheduler()
    assert len(ours) == 1000
    assert ours.timesteps[:2].tolist() == [999, 998]
    assert (ours.num_inference_steps, ours.step_index, ours.begin_index, ours.order) == (None, None, None, 1)
    ours.set_timesteps(4)
    x = noise(2, 3, 4, 4)
    (first,) = ours.step(network(x, 0), ours.timesteps[0], x, return_dict=False)
    assert first.shape == x.shape
    assert ours.step_index == 1
    assert ours.num_inference_steps == 4
    heun = LongstrideScheduler(solver="heun")
    heun.set_timesteps(4)
    assert (heun.order, len(heun.timesteps)) == (2, 7)


@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_noise_is_added_as_diffusers_does(kind: str) -> None:
    clean, eps, times = noise(seed=1), noise(seed=2), torch.tensor([10, 400, 999])
    if kind == "vp":
        theirs = diffusers.DDPMScheduler(**STABLE_DIFFUSION)
        ours = LongstrideScheduler.from_config(theirs.config)
        expected = theirs.add_noise(clean, eps, times)
        torch.testing.assert_close(ours.add_noise(clean, eps, times), expected)
    else:
        theirs, ours = FLOW(shift=3.0), LongstrideScheduler.from_config(FLOW(shift=3.0).config)
        theirs.set_timesteps(6)
        ours.set_timesteps(6)
        times = theirs.timesteps[[0, 2, 5]]
        torch.testing.assert_close(ours.scale_noise(clean, times, eps), theirs.scale_noise(clean, times, eps))
    ours.set_timesteps(6)
    start = ours.timesteps[2]
    assert ours.add_noise(clean, eps, start.reshape(1)).shape == clean.shape


def test_custom_times_and_levels() -> None:
    theirs = MULTISTEP(**STABLE_DIFFUSION)
    ours = LongstrideScheduler.from_config(theirs.config)
    given = [999, 650, 300, 80, 10]
    theirs.set_timesteps(timesteps=given)
    ours.set_timesteps(timesteps=given)
    assert_same_runs(theirs, ours, noise())
    schedule = ls.Schedule.from_diffusers(theirs)
    levels = [*schedule.ratio(given).tolist(), 0.0]
    for solver in ls.SOLVERS:
        ours = LongstrideScheduler.from_config(theirs.config, solver=solver)
        ours.set_timesteps(sigmas=levels)
        assert torch.isfinite(run(ours, noise())).all()
        assert ours.sigmas[0] == pytest.approx(levels[0], rel=1e-12)
    ours = LongstrideScheduler.from_config(theirs.config)
    ours.set_timesteps(sigmas=levels)
    assert ours.timesteps.tolist() == pytest.approx(given, abs=1e-3)
    with pytest.raises(ls.InputError, match="must fall"):
        ours.set_timesteps(timesteps=[10, 500])
    with pytest.raises(ls.InputError, match="not both"):
        ours.set_timesteps(timesteps=given, sigmas=levels)
    with pytest.raises(ls.InputError, match="needs num_inference_steps"):
        ours.set_timesteps()
    with pytest.raises(ls.InputError, match="at least 1"):
        ours.set_timesteps(0)


# One run


@pytest.mark.parametrize("solver", ls.SOLVERS)
def test_a_run_is_that_of_our_loop(solver: str) -> None:
    ours = LongstrideScheduler(solver=solver, **STABLE_DIFFUSION)
    ours.set_timesteps(6)
    table = ours.setup.plan.table
    told = iter(zip(ours.timesteps, table.alphas.tolist(), strict=False))

    def denoiser(x: Tensor, sigma: float) -> Tensor:
        time, alpha = next(told)
        return (x - sigma * network(x, time)) / alpha

    expected = ls.sample(denoiser, noise(), table)
    torch.testing.assert_close(run(ours, noise()), expected, rtol=1e-5, atol=1e-5)


def test_nothing_is_left_of_the_run_before() -> None:
    ours = LongstrideScheduler(solver="unipc")
    ours.set_timesteps(5)
    whole = run(ours, noise())
    ours.set_timesteps(5)
    run(ours, noise(seed=7), ours.timesteps[:3])  # given up half-way
    ours.set_timesteps(5)
    torch.testing.assert_close(run(ours, noise()), whole, rtol=0, atol=0)
    with pytest.raises(ls.InputError, match="all 5 calls of this run are made: call set_timesteps"):
        ours.step(noise(), ours.timesteps[0], noise())
    ours.set_timesteps(5)
    ours.step(noise(), ours.timesteps[0], noise())
    with pytest.raises(ls.InputError, match=r"had shape \(3, 4, 8, 8\) and now has \(2, 4, 8, 8\)"):
        ours.step(noise(2, 4, 8, 8), ours.timesteps[1], noise(2, 4, 8, 8))


def test_a_state_that_was_changed_is_gone_on_from() -> None:
    """Inpainting puts known pixels back after every step: a table in normal form must see them too."""
    plain = LongstrideScheduler(solver="dpmpp_2m")
    for scheduler in (plain,):
        scheduler.set_timesteps(4)
    theirs = MULTISTEP()
    theirs.set_timesteps(4)
    found = expected = noise()
    for t in theirs.timesteps:
        found = plain.step(network(found, t), t, found).prev_sample
        expected = theirs.step(network(expected, t), t, expected).prev_sample
        found, expected = found.clone(), expected.clone()
        found[..., :4], expected[..., :4] = 0.3, 0.3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents(dtype: torch.dtype) -> None:
    """States are summed in float32 between the calls, so only the network's rounding is left."""
    exact, half = LongstrideScheduler(solver="unipc"), LongstrideScheduler(solver="unipc")
    exact.set_timesteps(10)
    half.set_timesteps(10)
    expected, found = run(exact, noise()), run(half, noise().to(dtype))
    assert found.dtype == dtype
    eps = torch.finfo(dtype).eps
    assert float((found.float() - expected).abs().max()) < 40 * eps * float(expected.abs().max())


def test_added_noise_is_refused() -> None:
    ours = LongstrideScheduler()
    ours.set_timesteps(3)
    with pytest.raises(ls.InputError, match="eta must be 0, got 0.5"):
        ours.step(noise(), ours.timesteps[0], noise(), eta=0.5)
    with pytest.raises(ls.InputError, match="unknown solver 'dpm'"):
        LongstrideScheduler(solver="dpm")
    with pytest.raises(ls.InputError, match="set_timesteps must be called"):
        LongstrideScheduler().step(noise(), 0, noise())
    with pytest.raises(ls.InputError, match="alpha = 0"):
        LongstrideScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", solver="ddim").set_timesteps(4)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "ipndm", "deis", "ddim", "heun", "dpmpp_2s"])
def test_a_run_from_the_middle_is_the_solver_on_the_rest(solver: str) -> None:
    ours = LongstrideScheduler(solver=solver, **STABLE_DIFFUSION)
    ours.set_timesteps(10)
    begin = 4 * ours.order
    rest = ours.timesteps[begin:]
    levels = ours.sigmas.numpy()[:: ours.order]
    for way in ("told", "by its time"):
        ours.set_timesteps(10)
        if way == "told":
            ours.set_begin_index(begin)
        found = run(ours, noise(), rest)
        assert ours.step_index == len(ours.timesteps)
        if solver != "heun":
            fresh = LongstrideScheduler.from_config(ours.config)
            fresh.set_timesteps(sigmas=levels[4:-1])
            torch.testing.assert_close(found, run(fresh, noise(), rest), rtol=1e-5, atol=1e-5)


def test_solvers_with_a_start_go_on_without_it() -> None:
    """The extra calls of PNDM's start belong to the beginning of a run."""
    ours = LongstrideScheduler(solver="pndm", skip_prk_steps=True)
    ours.set_timesteps(6)
    assert len(ours.timesteps) == 7
    ours.set_begin_index(3)
    run(ours, noise(), ours.timesteps[3:])
    assert ours.step_index == 7
    with pytest.raises(ls.InputError, match="from 0 to 6, got 7"):
        ours.set_begin_index(7)


@pytest.mark.parametrize(("solver", "begin"), [("pndm", 1), ("heun", 3)])
def test_a_run_from_a_call_that_ends_a_step_asks_twice_there(solver: str, begin: int) -> None:
    """Image-to-image pipelines begin between PNDM's two calls at one level if ``strength`` leaves out one step."""
    ours = LongstrideScheduler(solver=solver, skip_prk_steps=True, **STABLE_DIFFUSION)
    ours.set_timesteps(6)
    assert ours.timesteps[begin] == ours.timesteps[begin + 1]
    found = []
    for first in (begin, begin + 1):
        ours.set_timesteps(6)
        ours.set_begin_index(first)
        found.append(run(ours, noise(), ours.timesteps[first:]))
        assert ours.step_index == len(ours.timesteps)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("begin", [1, 2, 5])
def test_half_a_step_is_no_beginning(begin: int) -> None:
    """PNDM's Runge–Kutta steps call the network at levels between those of the run."""
    ours = LongstrideScheduler(solver="pndm")
    ours.set_timesteps(5)
    ours.set_begin_index(begin)
    with pytest.raises(ls.InputError, match=f"call {begin} .from 0., inside a step of pndm.* calls 0, 4, 8, 12, 13:"):
        ours.step(noise(), ours.timesteps[begin], noise())


# Threads, copies, devices


def test_threads_that_share_a_scheduler_do_not_meet() -> None:
    """200 requests from 8 threads, each the very bits of its single-threaded twin."""
    ours = LongstrideScheduler(solver="unipc")
    barrier = threading.Barrier(8)

    def request(seed: int) -> Tensor:
        if seed < 8:
            barrier.wait()
        steps = 4 + seed % 3
        ours.set_timesteps(steps)
        assert len(ours.timesteps) == steps
        return run(ours, noise(seed=seed))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(request, range(200)))
    barrier = threading.Barrier(1)
    for seed, result in enumerate(found):
        assert torch.equal(result, request(seed))


def test_a_scheduler_that_was_prepared_elsewhere_runs_here() -> None:
    ours = LongstrideScheduler()
    ours.set_timesteps(4)
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(lambda: run(ours, noise())).result()
    torch.testing.assert_close(run(ours, noise()), there, rtol=0, atol=0)


def test_a_pickle_holds_no_run() -> None:
    ours = LongstrideScheduler(solver="unipc")
    ours.set_timesteps(4)
    expected = run(ours, noise())
    ours.set_timesteps(4)
    ours.step(noise(), ours.timesteps[0], noise())
    other = pickle.loads(pickle.dumps(ours))
    assert other.step_index is None
    torch.testing.assert_close(run(other, noise()), expected, rtol=0, atol=0)
    assert ours.step_index == 1


class _Reads(TorchDispatchMode):
    """Counts what would wait for a device: values of tensors that Python asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device() -> None:
    ours = LongstrideScheduler(solver="unipc")
    ours.set_timesteps(5)
    x = noise()
    for n, t in enumerate(ours.timesteps):
        output = network(x, t)
        with _Reads() as reads:
            x = ours.step(output, t, x).prev_sample
        assert reads.count == (1 if n == 0 else 0)  # where the run begins is looked up once
    ours.set_timesteps(5)
    ours.set_begin_index(0)
    with _Reads() as reads:
        ours.step(output, ours.timesteps[0], x)
    assert reads.count == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "heun"])
def test_a_step_can_be_compiled_whole(solver: str) -> None:
    """As that of diffusers' multistep class can: without a graph break, and with the results of the plain one."""
    ours = LongstrideScheduler(solver=solver)

    def step(output: Tensor, t: Tensor, x: Tensor) -> Tensor:
        return ours.step(output, t, x, return_dict=False)[0]

    def whole(step: Any) -> Tensor:
        ours.set_timesteps(4)
        ours.set_begin_index(0)
        x = noise()
        for n, t in enumerate(ours.timesteps):
            x = step(network(x, t), t, x)
            assert ours.step_index == n + 1
        return x

    expected = whole(step)
    torch._dynamo.reset()
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(compiled), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(whole(compiled), expected, rtol=1e-6, atol=1e-6)


# Cards


@pytest.fixture(scope="module")
def calibrated() -> tuple[Any, ls.Denoiser, Any]:
    """A tiny network, its denoiser, and cards at 3 and 4 calls that are kept whatever the gate says."""
    unet = tiny_unet(classes=None)
    theirs = DDIM(clip_sample=False, timestep_spacing="trailing", **STABLE_DIFFUSION)
    schedule = ls.Schedule.from_diffusers(theirs)
    denoiser = ls.as_denoiser(unet, schedule, "noise")
    cards = []
    for nfe in (3, 4):
        sigmas = ls.grid("uniform", nfe, schedule=schedule, final="sigma_min")
        table = ls.build("ipndm", sigmas, schedule=schedule)
        start = sigmas[0] * noise(24, 1, 8, 8)
        result = ls.calibrate(denoiser, start, table, held_out=12, reference_steps=16, scouts=0, iterations=1)
        cards.append(result.card)
    return theirs, denoiser, cards


def test_a_card_in_a_scheduler_is_the_card_in_our_loop(calibrated, tmp_path) -> None:
    theirs, denoiser, cards = calibrated
    cards[1].save(tmp_path / "card.json")
    ours = LongstrideScheduler.from_card(tmp_path / "card.json", theirs.config, strict=True)
    ours.set_timesteps(4)
    table, start = cards[1].table, noise(5, 1, 8, 8)
    alpha = float(1 / np.hypot(1, table.sigmas[0]))
    expected = ls.sample(denoiser, start / alpha, table)
    x = start
    for t in ours.timesteps:
        x = ours.step(denoiser.model(x, t.expand(5))[0], t, x).prev_sample
    last = float(1 / np.hypot(1, table.sigmas[-1]))
    torch.testing.assert_close(x, expected * last, rtol=1e-4, atol=1e-4)

    ours.save_pretrained(tmp_path / "scheduler")
    assert {file.name for file in (tmp_path / "scheduler").iterdir()} == {
        "scheduler_config.json", "longstride_card.json"
    }  # fmt: skip
    again = LongstrideScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert again.card == cards[1]
    again.set_timesteps(4)
    torch.testing.assert_close(again.timesteps, ours.timesteps)


def test_a_card_for_another_run_says_so_once(calibrated) -> None:
    theirs, _, cards = calibrated
    ours = LongstrideScheduler.from_card(cards[0], theirs.config, solver="dpmpp_2m")
    classical = LongstrideScheduler.from_config(theirs.config, solver="dpmpp_2m")
    with pytest.warns(UserWarning, match="this card is for network calls 3, not 6; dpmpp_2m runs in its place"):
        ours.set_timesteps(6)
    ours.set_timesteps(6)  # and not a second time
    classical.set_timesteps(6)
    torch.testing.assert_close(run(ours, noise()), run(classical, noise()), rtol=0, atol=0)
    strict = LongstrideScheduler.from_card(cards[0], theirs.config, strict=True)
    with pytest.raises(ls.CardError, match="network calls 3, not 6; without strict"):
        strict.set_timesteps(6)
    with pytest.raises(ls.CardError, match="sets levels of its own"):
        strict.set_timesteps(timesteps=[900, 500, 100])


def test_a_card_that_is_better_with_its_guard_alone_is_not_run_without_it(calibrated) -> None:
    theirs, _, cards = calibrated
    count = len(names(cards[0].nfe))
    guard = Guard((0.0,) * count, (1.0,) * count, (0.0,) * count, 0.0, threshold=1.0, share=0.5, needed=True)
    scheduler = LongstrideScheduler.from_card(
        cards[0].model_copy(update={"guard": guard}), theirs.config, solver="dpmpp_2m"
    )
    with pytest.warns(UserWarning, match="better than its base only with its guard.*; dpmpp_2m runs in its place"):
        scheduler.set_timesteps(cards[0].nfe)
    guided = LongstrideScheduler.from_card(cards[0], theirs.config, strict=True, guidance_scale=7.5)
    with pytest.raises(ls.CardError, match="for guidance None, not 7.5"):
        guided.set_timesteps(3)
    other = LongstrideScheduler.from_card(cards[0], FLOW().config, strict=True)
    with pytest.raises(ls.InputError, match="of a flow are not"):
        other.set_timesteps(3)
    shifted = LongstrideScheduler.from_card(cards[0], theirs.config, strict=True, timestep_spacing="leading")
    with pytest.raises(ls.CardError, match="starts at noise level 14.6"):
        shifted.set_timesteps(3)


def test_a_card_does_not_begin_in_the_middle(calibrated) -> None:
    theirs, _, cards = calibrated
    ours = LongstrideScheduler.from_card(cards[1], theirs.config, solver="ddim")
    ours.set_timesteps(4)
    ours.set_begin_index(2)
    with pytest.warns(UserWarning, match="whole runs, not for one that begins with call 3; ddim runs"):
        found = run(ours, noise(), ours.timesteps[2:])
    levels = ours.sigmas.numpy()[2:]
    alphas = 1 / np.hypot(1, levels)
    told = iter(ours.timesteps[2:])
    table = ls.build("ddim", levels * alphas, alphas=alphas)
    expected = ls.sample(
        lambda x, s: (x - s * network(x, next(told))) / float(alphas[np.isclose(levels * alphas, s)][0]), noise(), table
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_rows_of_a_card_are_chained_and_moved_to_the_scale_of_the_pipeline(calibrated) -> None:
    _, _, cards = calibrated
    table = cards[1].table
    own = 1 / np.hypot(1, table.sigmas)
    moved = table.rescaled(own)
    assert moved.alphas == pytest.approx(own)
    back = moved.rescaled(1 / own)
    assert back.distance(table) < 1e-12
    chained = moved.chained()
    assert chained.distance(moved) < 1e-12
    assert all(set(row.states) == {k} for k, row in enumerate(chained.rows))
    falls = pairwise(chained.sigmas.tolist())
    assert all(a > b for a, b in falls)


# What others' schedulers, pipelines and servers do


def test_steps_of_one_call_but_for_the_start_count_as_one() -> None:
    """Pipelines multiply where they begin by ``order``; PNDM's says 1."""
    for solver in ("pndm", "spndm"):
        ours = LongstrideScheduler(solver=solver, skip_prk_steps=True)
        ours.set_timesteps(6)
        assert ours.order == 1
    heun = LongstrideScheduler(solver="heun")
    for steps in (1, 2, 6):
        heun.set_timesteps(steps)
        assert heun.order == (2 if steps > 1 else 1)


@pytest.mark.parametrize(
    "config",
    [
        diffusers.IPNDMScheduler().config,
        diffusers.SCMScheduler().config,
        diffusers.ScoreSdeVeScheduler().config,
        diffusers.KarrasVeScheduler().config,
        diffusers.CMStochasticIterativeScheduler().config,
    ],
)
def test_processes_that_are_not_known_are_refused(config: Any) -> None:
    with pytest.raises(ls.InputError, match="does not know the process"):
        LongstrideScheduler.from_config(config)


def test_a_time_of_no_call_is_no_beginning() -> None:
    ours = LongstrideScheduler.from_config(MULTISTEP(**STABLE_DIFFUSION).config)
    ours.set_timesteps(sigmas=[14.0, 9.0, 6.0, 2.0, 0.5])
    ours.step(noise(), ours.timesteps[3], noise())  # in float32, and not a whole number
    assert ours.step_index == 4
    ours.set_timesteps(5)
    with pytest.raises(ls.InputError, match="time 123 is none of this run's"):
        ours.step(noise(), 123, noise())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_states_that_are_written_into_are_gone_on_from(dtype: torch.dtype) -> None:
    found = []
    for copied in (False, True):
        ours, x = LongstrideScheduler(), noise().to(dtype)
        ours.set_timesteps(4)
        for t in ours.timesteps:
            x = ours.step(network(x, t), t, x).prev_sample
            x = x.clone() if copied else x
            x[..., :4] = 0.3
        found.append(x)
    assert torch.equal(*found)


def test_what_nobody_has_set_is_not_saved(tmp_path) -> None:
    """So that every class that the saved settings are given to has its own defaults, in memory and from a file."""
    ours = LongstrideScheduler.from_config(DDIM(**STABLE_DIFFUSION).config, solver="unipc")
    ours.save_pretrained(tmp_path)
    again = LongstrideScheduler.from_pretrained(tmp_path)
    for kind in (MULTISTEP, SINGLESTEP, UNIPC, DEIS, DDIM, PNDM):
        first, second = kind.from_config(ours.config), kind.from_config(again.config)
        for scheduler in (first, second):
            scheduler.set_timesteps(5)
        assert first.timesteps.tolist() == second.timesteps.tolist()
        assert first.config.beta_start == second.config.beta_start == 0.00085


def test_karras_levels_between_ends_that_another_class_has_left() -> None:
    theirs = MULTISTEP.from_config(EULER(use_karras_sigmas=True, sigma_min=0.1, sigma_max=10.0).config)
    ours = LongstrideScheduler.from_config(EULER(use_karras_sigmas=True, sigma_min=0.1, sigma_max=10.0).config)
    theirs.set_timesteps(6)
    ours.set_timesteps(6)
    assert_same_runs(theirs, ours, noise())


def test_bad_arguments_are_named() -> None:
    ours = LongstrideScheduler()
    assert len(ours.sigmas) == 1000
    for wrong in (5.0, "5", 0):
        with pytest.raises(ls.InputError, match="num_inference_steps must be a whole number"):
            ours.set_timesteps(wrong)
    with pytest.raises(ls.InputError, match="sigmas must hold at least one number"):
        ours.set_timesteps(sigmas=[])
    ours.set_timesteps(4)
    with pytest.raises(ls.InputError, match="begin_index must be a whole number"):
        ours.set_begin_index(None)
    with pytest.raises(ls.InputError, match="takes no per_token_timesteps: a row of a table goes from one level"):
        ours.step(noise(), ours.timesteps[0], noise(), per_token_timesteps=noise())
    with pytest.raises(ls.InputError, match="returned shape"):
        ours.step(noise(1, 4, 8, 8), ours.timesteps[0], noise())


def test_a_learned_variance_is_cut() -> None:
    both, plain = LongstrideScheduler(), LongstrideScheduler()
    for scheduler in (both, plain):
        scheduler.set_timesteps(3)
    output = noise(3, 8, 8, 8)
    found = both.step(output, both.timesteps[0], noise()).prev_sample
    torch.testing.assert_close(found, plain.step(output[:, :4], plain.timesteps[0], noise()).prev_sample)


def test_a_thread_that_follows_another_begins_with_every_run() -> None:
    ours = LongstrideScheduler()
    with ThreadPoolExecutor(1) as worker:
        for steps in (4, 4, 3):
            ours.set_timesteps(steps)
            there = worker.submit(lambda: run(ours, noise())).result()
            ours.set_timesteps(steps)
            assert torch.equal(there, run(ours, noise()))
        ours.set_timesteps(4)
        worker.submit(lambda: run(ours, noise(), ours.timesteps[:2])).result()  # given up
        ours.set_timesteps(4)
        assert torch.equal(worker.submit(lambda: run(ours, noise())).result(), run(ours, noise()))


def test_the_solver_beside_a_card_does_not_keep_it_from_running(calibrated) -> None:
    _, _, cards = calibrated
    made_with = LongstrideScheduler.from_config(DDIM(**STABLE_DIFFUSION).config, solver="dpmpp_2m")
    config = {name: value for name, value in made_with.config.items() if not name.startswith("_")}
    card = cards[1].model_copy(update={"scheduler": config})  # its first level is that of dpmpp_2m's class
    beside = DDIM(**STABLE_DIFFUSION).config
    for solver in ("dpmpp_2m", "ddim", "ipndm"):
        ours = LongstrideScheduler.from_card(card, beside, solver=solver, strict=True)
        ours.set_timesteps(4)
        assert ours.setup.calibrated
    back = LongstrideScheduler.from_config(ours.config, solver="unipc")
    assert (back.card, back.config.card, back.config.strict) == (None, None, False)
    with pytest.raises(ls.CardError, match="was calibrated with beta_start 0.00085"):
        LongstrideScheduler.from_card(card, DDIM().config, strict=True).set_timesteps(4)
