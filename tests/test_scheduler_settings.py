"""Settings of a scheduler: diffusers' own scheduler of the solver is asked what they mean, and only once."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import longstride as ls
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.run_levels import LevelRequest, levels_of
from longstride.integrations.scheduler_settings import SchedulerSettings

DDIM, MULTISTEP = diffusers.DDIMScheduler, diffusers.DPMSolverMultistepScheduler


def settings_of(solver: str = "dpmpp_2m", **config: Any) -> SchedulerSettings:
    return SchedulerSettings.of(LongstrideScheduler(solver=solver, **config).config)


@pytest.mark.parametrize("asked", [{"num_inference_steps": 5}, {"timesteps": [900, 400]}, {"sigmas": [9.0, 2.0]}])
def test_diffusers_scheduler_is_built_once_per_setup(asked: dict[str, Any], monkeypatch) -> None:
    ours, built = LongstrideScheduler(), []
    init = MULTISTEP.__init__

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        built.append(self)
        init(self, *args, **kwargs)

    counted.__signature__ = inspect.signature(init)  # type: ignore[attr-defined]
    monkeypatch.setattr(MULTISTEP, "__init__", counted)
    ours.set_timesteps(**asked)
    assert len(built) == 1
    ours.set_timesteps(**asked)  # the setup is kept
    assert len(built) == 1


def test_settings_do_not_change() -> None:
    settings = settings_of()
    assert settings.own_scheduler is settings.own_scheduler
    assert settings.schedule is settings.schedule
    with pytest.raises(FrozenInstanceError):
        settings.solver = "unipc"  # type: ignore[misc]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_settings_are_copied_with_what_they_know(way: Any) -> None:
    settings = settings_of(beta_schedule="scaled_linear")
    levels = levels_of(settings, LevelRequest(5))
    other = way(settings)
    assert (other.solver, other.process, dict(other.config)) == (settings.solver, "vp", dict(settings.config))
    assert other.own_scheduler is not settings.own_scheduler
    assert np.array_equal(levels_of(other, LevelRequest(5)).sigmas, levels.sigmas)


def test_another_solvers_settings_have_its_own_defaults() -> None:
    """DDIM's class spaces its times otherwise than DPM-Solver's; what was said stays."""
    settings = settings_of(beta_schedule="scaled_linear")
    other = settings.as_solver("ddim")
    assert type(settings.own_scheduler) is MULTISTEP
    assert type(other.own_scheduler) is DDIM
    assert settings.own_scheduler.config.timestep_spacing == MULTISTEP().config.timestep_spacing
    assert other.own_scheduler.config.timestep_spacing == DDIM().config.timestep_spacing
    assert other.own_scheduler.config.beta_schedule == "scaled_linear"


@pytest.mark.parametrize(
    ("kind", "process", "prediction"),
    [
        (diffusers.DDPMScheduler, "vp", "epsilon"),
        (diffusers.FlowMatchEulerDiscreteScheduler, "flow", "flow_prediction"),
        (diffusers.EDMEulerScheduler, "edm", "epsilon"),
    ],
)
def test_process_and_prediction_are_read_from_the_configuration(kind: Any, process: str, prediction: str) -> None:
    settings = SchedulerSettings.of(LongstrideScheduler.from_config(kind().config).config)
    assert (settings.process, settings.prediction) == (process, prediction)
    times = levels_of(settings, LevelRequest(4)).times
    alphas, sigmas = settings.noise_levels(times)
    np.testing.assert_allclose(settings.times_of(sigmas / np.maximum(alphas, 1e-12)), times, rtol=1e-6, atol=1e-6)


def test_the_setup_that_was_decided_is_public() -> None:
    ours = LongstrideScheduler(solver="unipc", clip_sample=True)
    with pytest.raises(ls.InputError, match="set_timesteps must be called"):
        _ = ours.setup
    ours.set_timesteps(4)
    assert (ours.setup.plan.calls, ours.setup.levels.steps, ours.setup.calibrated) == (4, 4, False)
    assert ours.setup.settings.solver == "unipc"
    assert torch.equal(ours.setup.timesteps, ours.timesteps)
    assert ours.threshold is None  # diffusers' class of UniPC does not know clip_sample
    assert LongstrideScheduler(solver="ddim", clip_sample=True).threshold is not None
