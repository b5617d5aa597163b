"""Noise of image-to-image: the level of the call that the run begins with, on every device."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from scheduler_runs import noise, run
from tiny_pipelines import make_pipeline
from torch import Tensor

import longstride as ls
from longstride.integrations.diffusers import LongstrideScheduler

DDIM, MULTISTEP = diffusers.DDIMScheduler, diffusers.DPMSolverMultistepScheduler
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def added(scheduler: Any, time: Tensor) -> float:
    return float(scheduler.add_noise(torch.zeros(1, 1), torch.ones(1, 1), time))


@pytest.mark.parametrize(
    ("config", "steps"), [(STABLE_DIFFUSION, 100), ({"beta_schedule": "squaredcos_cap_v2"}, 20)], ids=["sd", "cosine"]
)
def test_equal_times_have_the_level_of_the_call_that_comes(config: dict[str, Any], steps: int) -> None:
    """Karras levels lie closer than whole times. Before a run the pipeline tells its call; within one it is counted."""
    theirs = MULTISTEP(use_karras_sigmas=True, **config)
    ours = LongstrideScheduler.from_config(theirs.config, solver="dpmpp_2m")
    theirs.set_timesteps(steps)
    ours.set_timesteps(steps)
    assert len(set(ours.timesteps.tolist())) < steps
    for call in range(steps):
        for scheduler in (theirs, ours):
            scheduler.set_begin_index(call)
        time = ours.timesteps[call : call + 1]
        assert added(ours, time) == pytest.approx(added(theirs, time), rel=1e-4)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(steps)
        scheduler.set_begin_index(0)
    x = {scheduler: noise(1, 1) for scheduler in (theirs, ours)}
    for call, time in enumerate(ours.timesteps[:-1]):
        for scheduler in (theirs, ours):
            x[scheduler] = scheduler.step(torch.tanh(x[scheduler]), time, x[scheduler]).prev_sample
        following = ours.timesteps[call + 1 : call + 2]  # as inpainting noises its picture for the next call
        assert added(ours, following) == pytest.approx(added(theirs, following), rel=1e-4)


def test_a_time_of_no_call_has_the_level_of_the_schedule() -> None:
    theirs = DDIM(**STABLE_DIFFUSION)
    ours = LongstrideScheduler.from_config(theirs.config, solver="ddim")
    ours.set_timesteps(7)
    ours.set_begin_index(3)
    times = torch.tensor([10, 123, 999])
    one, none = torch.ones(3, 1), torch.zeros(3, 1)
    torch.testing.assert_close(ours.add_noise(one, none, times), theirs.add_noise(one, none, times))
    with pytest.raises(ls.InputError, match="the schedule has times from 0 to 999, got 1000"):
        ours.add_noise(one, none, torch.tensor([1000]))


class _OnMac(torch.Tensor):
    """A tensor of a device that has no float64."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.double or any(value is torch.float64 for value in (*args[1:], *kwargs.values())):
            raise TypeError("this device has no float64")
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **kwargs)
        return out.as_subclass(cls) if isinstance(out, torch.Tensor) else out


@pytest.mark.parametrize(
    "config", [DDIM(**STABLE_DIFFUSION).config, diffusers.FlowMatchEulerDiscreteScheduler().config]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_device_without_float64(config: Any, dtype: torch.dtype) -> None:
    ours = LongstrideScheduler.from_config(config, solver="ddim")
    ours.set_timesteps(8)
    x, eps = noise(2, 4).to(dtype), noise(2, 4, seed=1).to(dtype)
    expected = ours.add_noise(x, eps, ours.timesteps[2:4])
    found = ours.add_noise(*(one.as_subclass(_OnMac) for one in (x, eps, ours.timesteps[2:4])))
    torch.testing.assert_close(found.as_subclass(torch.Tensor), expected)
    scaled = ours.scale_noise(*(one.as_subclass(_OnMac) for one in (x, ours.timesteps[2:4], eps)))
    torch.testing.assert_close(scaled.as_subclass(torch.Tensor), expected)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "unipc"])
@pytest.mark.parametrize(("strength", "steps"), [(0.75, 1), (0.2, 4), (0.0, 8)])
def test_image_to_image_of_no_steps(tmp_path: Path, solver: str, strength: float, steps: int) -> None:
    """strength x steps below 1: diffusers' scheduler makes no step, and neither does ours."""
    pipe = make_pipeline("img2img", tmp_path)
    config = pipe.scheduler.config
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    asked = {"prompt": "a", "image": picture, "strength": strength, "num_inference_steps": steps}
    found = []
    for scheduler in (MULTISTEP.from_config(config), LongstrideScheduler.from_config(config, solver=solver)):
        pipe.scheduler = scheduler
        found.append(pipe(**asked, output_type="latent", generator=torch.Generator().manual_seed(1)).images)
    torch.testing.assert_close(found[1], found[0])


def test_a_run_of_no_steps_makes_none() -> None:
    ours = LongstrideScheduler()
    ours.set_timesteps(4)
    ours.set_begin_index(4)
    assert len(ours.timesteps[4:]) == 0
    with pytest.raises(ls.InputError, match="begins after its last call"):
        ours.step(noise(), ours.timesteps[0], noise())
    with pytest.raises(ls.InputError, match="from 0 to 3, got 5"):
        ours.set_begin_index(5)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun"])
def test_copies_keep_their_setups(way: Any, solver: str) -> None:
    """A copy in the middle of a run, or of all that a scheduler holds, as pipelines make them for further streams."""
    ours = LongstrideScheduler.from_config(MULTISTEP(**STABLE_DIFFUSION).config, solver=solver)
    ours.config.use_karras_sigmas = True
    ours.set_timesteps(5)
    expected = run(ours)
    other, parts = way(ours), way(ours.__dict__)
    assert set(parts) == set(ours.__dict__)
    other.set_timesteps(5)
    assert other.setup.plan.table.distance(ours.setup.plan.table) == 0
    torch.testing.assert_close(run(other), expected, rtol=0, atol=0)


def test_a_scheduler_of_discrete_times_tells_their_products() -> None:
    """Self-attention guidance reads them."""
    theirs = diffusers.DDIMScheduler(beta_schedule="scaled_linear")
    assert torch.equal(LongstrideScheduler.from_config(theirs.config).alphas_cumprod, theirs.alphas_cumprod)
    assert not hasattr(
        LongstrideScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler().config), "alphas_cumprod"
    )
