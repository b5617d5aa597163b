"""Configurations: the class they belong to, what of them somebody has said, and what was assigned since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from scheduler_runs import difference

import longstride as ls
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.origins import READABLE, named

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW, UNIPC = diffusers.FlowMatchEulerDiscreteScheduler, diffusers.UniPCMultistepScheduler
MULTISTEP, DEIS = diffusers.DPMSolverMultistepScheduler, diffusers.DEISMultistepScheduler
DDIM, EULER, EDM = diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler, diffusers.EDMEulerScheduler


def made(name: str) -> Any:
    """A scheduler of diffusers with its own defaults, or None if it has none or needs another package."""
    try:
        return getattr(diffusers, name)()
    except (ImportError, TypeError):
        return None


SCHEDULERS = {
    name: scheduler
    for name in sorted(dir(diffusers))
    if name.endswith("Scheduler") and (scheduler := made(name)) is not None
}
#: What every class is read as. A class that is not here must be refused.
PROCESSES = {
    **dict.fromkeys(READABLE, "vp"),
    **dict.fromkeys(("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"), "edm"),
    **dict.fromkeys(("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"), "flow"),
}
#: Two classes that have the same settings and are not of one kind.
ALIKE = ("FlowMatchHeunDiscreteScheduler", "FlowMapEulerDiscreteScheduler")
AMBIGUOUS = "FlowMapEulerDiscreteScheduler's .*two times.* or FlowMatchHeunDiscreteScheduler's: .* does not name"


def test_there_is_something_to_walk_through() -> None:
    assert len(SCHEDULERS) > 35
    assert {"LCMScheduler", "TCDScheduler", "UnCLIPScheduler", "FlowMatchLCMScheduler"} <= set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_class_is_read_as_what_it_is_or_refused(name: str, tmp_path: Path) -> None:
    """In memory, where the configuration does not tell its class, and from a file, where it does."""
    scheduler = made(name)
    if name in ALIKE:
        with pytest.raises(ls.InputError, match=f"{AMBIGUOUS} its class; pass process=.flow. if it is FlowMatchHeun"):
            LongstrideScheduler.from_config(scheduler.config)
        assert LongstrideScheduler.from_config(scheduler.config, process="flow").process == "flow"
    elif name not in PROCESSES:
        with pytest.raises(ls.InputError, match=f"does not know the process of .*{name}.*pass process="):
            LongstrideScheduler.from_config(scheduler.config)
    else:
        assert LongstrideScheduler.from_config(scheduler.config).process == PROCESSES[name]
    scheduler.save_pretrained(tmp_path)
    if name not in PROCESSES:
        with pytest.raises(ls.InputError, match=f"does not know the process of {name}.*pass process="):
            LongstrideScheduler.from_pretrained(tmp_path)
    else:
        assert LongstrideScheduler.from_pretrained(tmp_path).process == PROCESSES[name]


@pytest.mark.parametrize("name", ALIKE)
def test_a_scheduler_itself_tells_its_class(name: str) -> None:
    theirs = getattr(diffusers, name)(shift=3.0)
    theirs.config.shift = 5.0
    config = named(theirs)
    if name in PROCESSES:
        ours = LongstrideScheduler.from_config(config, solver="heun")
        assert ours.process == "flow"
        assert ours.config.shift == 5.0
    else:
        with pytest.raises(ls.InputError, match=f"does not know the process of {name}: .*two times"):
            LongstrideScheduler.from_config(config)


def test_a_copy_of_a_configuration_is_read_as_the_configuration() -> None:
    for name in ("DDIMInverseScheduler", "UnCLIPScheduler"):
        with pytest.raises(ls.InputError, match=f"does not know the process of .*{name}"):
            LongstrideScheduler.from_config(dict(made(name).config))
    said = {"num_train_timesteps": 1000, "shift": 3.0}  # by hand; a copy of Heun's or of a flow map's looks the same
    with pytest.warns(UserWarning, match="may be FlowMapEuler.* read as FlowMatchHeun.*; process=.flow. says so"):
        assert LongstrideScheduler.from_config(said).process == "flow"


class _Custom(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """A scheduler that somebody has written beside their pipeline, from settings that others have, too."""

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000, shift: float = 1.0, policy: str = "mine") -> None:
        pass


def test_what_nobody_knows_is_refused() -> None:
    with pytest.raises(ls.InputError, match="process of schedulers with policy; pass process="):
        LongstrideScheduler.from_config(_Custom().config)
    assert LongstrideScheduler.from_config(_Custom().config, process="flow").process == "flow"
    by_file = {"_class_name": "FlowUniPCOfSomebody", "shift": 3.0, "use_dynamic_shifting": False}
    with pytest.raises(ls.InputError, match="process of FlowUniPCOfSomebody"):
        LongstrideScheduler.from_config(by_file)
    with pytest.raises(ls.InputError, match="original_inference_steps.*such as LCMScheduler"):
        LongstrideScheduler.from_config({"beta_schedule": "linear", "original_inference_steps": 50})
    with pytest.raises(ls.InputError, match="cannot tell the process"):
        LongstrideScheduler.from_config({"num_train_timesteps": 1000})


def test_some_settings_written_by_hand_are_read() -> None:
    assert LongstrideScheduler.from_config({"shift": 3.0}).process == "flow"
    assert LongstrideScheduler.from_config({"beta_schedule": "scaled_linear"}).process == "vp"
    mixed = MULTISTEP.from_config(EULER(use_karras_sigmas=True, sigma_max=9.0, **STABLE_DIFFUSION).config)
    assert LongstrideScheduler.from_config(mixed.config).process == "vp"


def test_a_flow_that_adds_noise_is_warned_of() -> None:
    theirs = FLOW(stochastic_sampling=True, shift=2.0)
    with pytest.warns(UserWarning, match="stochastic_sampling adds fresh noise"):
        ours = LongstrideScheduler.from_config(theirs.config, solver="ddim")
    assert difference(FLOW(shift=2.0), ours, num_inference_steps=5) < 1e-6
    assert ours.config.stochastic_sampling  # Stable Audio 3 reads it


# In memory and from a file


@pytest.mark.parametrize("name", [name for name in READABLE if name in SCHEDULERS])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc", "heun", "ipndm", "dpmpp_2s"])
def test_a_scheduler_in_memory_and_from_a_file_are_one_sampler(name: str, solver: str, tmp_path: Path) -> None:
    theirs = made(name)
    first = LongstrideScheduler.from_config(named(theirs), solver=solver)
    theirs.save_pretrained(tmp_path / "theirs")
    first.save_pretrained(tmp_path / "ours")
    loaded = type(theirs).from_pretrained(tmp_path / "theirs")
    others = (
        LongstrideScheduler.from_pretrained(tmp_path / "theirs", solver=solver),
        LongstrideScheduler.from_config(loaded.config, solver=solver),
        LongstrideScheduler.from_pretrained(tmp_path / "ours"),
        LongstrideScheduler.from_config(first.config),
    )
    first.set_timesteps(6)
    told = {key: value for key, value in first.config.items() if not key.startswith("_")}
    for other in others:
        other.set_timesteps(6)
        assert torch.equal(other.timesteps, first.timesteps)
        assert other.setup.plan.table.distance(first.setup.plan.table) == 0
        assert (type(other.threshold), other.init_noise_sigma) == (type(first.threshold), first.init_noise_sigma)
        assert {key: value for key, value in other.config.items() if not key.startswith("_")} == told


def test_a_setting_that_was_said_is_kept_even_if_it_is_the_default_of_its_class() -> None:
    theirs = diffusers.DDIMScheduler(timestep_spacing="leading", steps_offset=1, clip_sample=False)
    ours = LongstrideScheduler.from_config(theirs.config, solver="dpmpp_2m")
    own = diffusers.DPMSolverMultistepScheduler.from_config(theirs.config)
    for scheduler in (ours, own):
        scheduler.set_timesteps(3)
    assert ours.timesteps.tolist() == own.timesteps.tolist() == [751, 501, 251]


def test_what_a_network_was_trained_with_is_a_fact_and_not_a_default() -> None:
    """Heun's class has Stable Diffusion's betas by default, and DDIM's class clamps its predictions."""
    assert LongstrideScheduler.from_config(diffusers.HeunDiscreteScheduler().config).config.beta_start == 0.00085
    assert LongstrideScheduler.from_config(DDIM().config, solver="ddim").threshold is not None
    assert LongstrideScheduler.from_config(DDIM(clip_sample=False).config, solver="ddim").threshold is None
    assert LongstrideScheduler(solver="ddim").threshold is None


# Assigned


@pytest.mark.parametrize(
    ("theirs", "solver", "assigned"),
    [
        (lambda: UNIPC(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0), "unipc", assigned)
        for assigned in (
            {"flow_shift": 8.0},
            {"use_karras_sigmas": True},
            {"num_train_timesteps": 500},
            {"shift_terminal": 0.1},
        )
    ]
    + [
        (lambda: MULTISTEP(**STABLE_DIFFUSION), "dpmpp_2m", assigned)
        for assigned in (
            {"use_karras_sigmas": True},
            {"timestep_spacing": "trailing", "steps_offset": 1},
            {"use_lu_lambdas": True},
            {"final_sigmas_type": "sigma_min"},
            {"solver_type": "heun", "lower_order_final": False},
            {"euler_at_final": True},
            {"prediction_type": "v_prediction"},
            {"thresholding": True},
            {"lambda_min_clipped": -3.0},
            {"beta_start": 0.01, "beta_schedule": "linear", "rescale_betas_zero_snr": True},  # read once
        )
    ]
    + [
        (lambda: DDIM(clip_sample=False, **STABLE_DIFFUSION), "ddim", {"timestep_spacing": "trailing"}),
        (lambda: DDIM(clip_sample=False, **STABLE_DIFFUSION), "ddim", {"prediction_type": "v_prediction"}),
        (lambda: DDIM(clip_sample=False, **STABLE_DIFFUSION), "ddim", {"beta_end": 0.02, "set_alpha_to_one": False}),
        (lambda: FLOW(), "ddim", {"shift": 3.0}),  # read once
        (lambda: FLOW(), "ddim", {"shift_terminal": 0.1}),
        (lambda: FLOW(), "ddim", {"invert_sigmas": True}),
        (lambda: FLOW(), "ddim", {"num_train_timesteps": 500}),
        (lambda: EDM(), "ddim", {"sigma_max": 40.0, "sigma_data": 1.0, "prediction_type": "v_prediction"}),
        (lambda: DEIS(**STABLE_DIFFUSION), "deis", {"solver_order": 1, "timestep_spacing": "trailing"}),
    ],
)
def test_an_assigned_setting_does_what_it_does_in_diffusers(theirs: Any, solver: str, assigned: dict[str, Any]) -> None:
    """Some classes read a setting once, when they are made, and others whenever they are used."""
    reference = theirs()
    ours = LongstrideScheduler.from_config(reference.config, solver=solver)
    ours.set_timesteps(10)  # what was set up before is not used again
    before = ours.setup
    for name, value in assigned.items():
        setattr(reference.config, name, value)
        setattr(ours.config, name, value)
    assert difference(reference, ours, num_inference_steps=10) < 3e-6
    assert ours.setup is not before
    ours.set_timesteps(10)
    assert ours.setup.settings.config[next(iter(assigned))] == next(iter(assigned.values()))


def test_an_assigned_setting_goes_with_the_configuration() -> None:
    theirs = UNIPC(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    theirs.config.flow_shift = 8.0
    ours = LongstrideScheduler.from_config(theirs.config, solver="unipc")
    assert difference(theirs, ours, num_inference_steps=5) < 1e-6


def test_pictures_are_clamped_from_the_moment_that_it_is_said() -> None:
    ours = LongstrideScheduler.from_config(DDIM(clip_sample=False).config, solver="ddim")
    ours.set_timesteps(4)
    assert ours.threshold is None
    ours.config.clip_sample = True
    ours.set_timesteps(4)
    assert ours.threshold is not None
