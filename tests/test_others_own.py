"""What pipelines read of the inside of diffusers' schedulers: served if it is a fact, or refused with the reason."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import pytest
import torch

import longstride as ls
from longstride.integrations.diffusers import LongstrideScheduler

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize("name", ["betas", "alphas", "final_alpha_cumprod"])
def test_tables_are_those_of_the_process(name: str) -> None:
    theirs = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **STABLE_DIFFUSION)
    ours = LongstrideScheduler.from_config(theirs.config, solver="ddim")
    assert torch.equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_the_scale_of_the_input_is_that_of_the_preconditioning(sigma_data: float) -> None:
    """Cosmos 1 scales its pictures by it, which have a level of their own."""
    theirs = diffusers.EDMEulerScheduler(sigma_data=sigma_data)
    ours = LongstrideScheduler.from_config(theirs.config, solver="ddim")
    sigmas = torch.tensor([0.001, 0.3, 80.0])
    torch.testing.assert_close(ours._get_conditioning_c_in(sigmas), theirs._get_conditioning_c_in(sigmas))
    ours.set_timesteps(4)
    first = float(ours.sigmas[0])
    scaled = ours.scale_model_input(torch.ones(1), ours.timesteps[0])
    torch.testing.assert_close(scaled, torch.tensor([ours._get_conditioning_c_in(first)]))


@pytest.mark.parametrize(
    ("scheduler", "name", "why"),
    [
        (diffusers.DPMSolverMultistepScheduler(), "model_outputs", "history of its own solver"),
        (diffusers.UniPCMultistepScheduler(), "lower_order_nums", "history of its own solver"),
        (diffusers.DDIMScheduler(clip_sample=False), "_get_variance", "draws none"),
        (diffusers.FlowMatchEulerDiscreteScheduler(), "betas", "does not have"),
    ],
)
def test_the_inside_of_a_solver_is_refused_and_not_there(scheduler: Any, name: str, why: str) -> None:
    ours = LongstrideScheduler.from_config(scheduler.config, solver="dpmpp_2m")
    assert not hasattr(ours, name)
    with pytest.raises(ls.InputError, match=f"reads {name} .*{why}.*keep the pipeline's own scheduler"):
        getattr(ours, name)


def test_what_nobody_has_is_not_there() -> None:
    ours = LongstrideScheduler()
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = ours.colour
    assert not hasattr(copy.deepcopy(ours), "_get_conditioning_c_out")
    with pytest.raises(ls.InputError, match="belongs to EDM's preconditioning"):
        ours._get_conditioning_c_in(1.0)
    with pytest.raises(ls.InputError, match="counts the scheduler's steps itself"):
        ours._step_index -= 1  # as Cosmos 1 does
