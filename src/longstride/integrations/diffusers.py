"""A diffusers scheduler that runs any table: every classical solver, and every calibrated one.

    pipe.scheduler = LongstrideScheduler.from_config(pipe.scheduler.config, solver="dpmpp_2m")
    pipe.scheduler = LongstrideScheduler.from_card("card.json", pipe.scheduler.config)

The pipeline is none the wiser: the scheduler's settings mean what they mean to diffusers' own scheduler of that solver,
whose levels it visits. One ``step`` belongs to one network call; a solver of several calls per step repeats its times,
as diffusers' Heun does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import SchedulerMixin  # noqa: F401  a pipeline that is loaded looks for it where its scheduler is
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerOutput
from torch import Tensor

from longstride.denoiser import Clamp, DynamicThreshold
from longstride.errors import CardError, InputError
from longstride.integrations.cards import asked_of_card, plan_of_card
from longstride.integrations.levels import Levels, levels_of, noise_levels
from longstride.integrations.plan import SINGLE, Plan, after, classical_plan, continued
from longstride.integrations.reference import reference_of, schedule_of, takes_clip
from longstride.integrations.saved import ConfiguredScheduler
from longstride.integrations.stepper import Setup, Stepper
from longstride.table import SolverTable

__all__ = ["LongstrideScheduler"]

#: Setups that are kept: a server is asked for the same few numbers of steps again and again.
_MOST_SETUPS = 32
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")


class LongstrideScheduler(ConfiguredScheduler):
    """Any longstride table as a diffusers scheduler; see the module.

    Settings that are None mean what they mean to diffusers' own scheduler of the solver.

    Args:
        solver: Name of the classical solver, one of :data:`longstride.SOLVERS`; beside a card what runs where the card
            does not apply.
        solver_options: Its options, as for :func:`longstride.build`; they win over the settings below.
        strict: Whether a card that does not apply is an error; otherwise the classical solver runs, with one warning.
        process: ``"vp"``, ``"flow"`` or ``"edm"``: scale of the pipeline's states; :meth:`from_config` reads it from
            the configuration.
        levels: Name of the diffusers scheduler whose levels are visited; default: its own scheduler of the solver.
        guidance_scale: Of the pipeline, where a card or book is to be checked or chosen by it.
        num_train_timesteps: And all others: as in diffusers.

    Raises:
        InputError: an unknown solver or process.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> theirs = DDIMScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing")
        >>> scheduler = LongstrideScheduler.from_config(theirs.config, solver="unipc")
        >>> scheduler.set_timesteps(5)
        >>> scheduler.timesteps.tolist()
        [999, 799, 599, 399, 199]
    """

    _compatibles: ClassVar[list[str]] = [
        *(one.name for one in KarrasDiffusionSchedulers),
        *_FLOW,
        *_EDM,
        "DDPMScheduler",
    ]

    def _settle(self) -> None:
        self._stepper = Stepper(self._begin)
        self._setups: dict[Any, Setup] = {}
        self._told: set[str] = set()

    # What pipelines read

    @property
    def order(self) -> int:
        """Most network calls per step."""
        return 1 if self._stepper.known is None else self._stepper.setup.plan.order

    @property
    def init_noise_sigma(self) -> float:
        """What standard normal noise is multiplied by to start with."""
        if self.process != "edm":
            return 1.0
        highest = float(reference_of(self.config, "ddim", "edm").config.sigma_max)
        return float((highest**2 + 1) ** 0.5)  # as diffusers' EDM schedulers

    @property
    def timesteps(self) -> Tensor:
        """What the network is told at every call, shape ``(K,)``."""
        return torch.arange(len(self) - 1, -1, -1) if self._stepper.known is None else self._stepper.setup.timesteps

    @property
    def sigmas(self) -> Tensor:
        """``sigma / alpha`` of every state, sigma itself for flows; float64, shape ``(K + 1,)``, on the CPU."""
        if self._stepper.known is None:
            schedule = schedule_of(self.config, self.config.solver, self.process)
            low, high = schedule.t_range
            times = np.linspace(high, low, len(self))
            return torch.from_numpy(schedule.sigma(times) if self.process == "flow" else schedule.ratio(times))
        return torch.from_numpy(self._stepper.setup.plan.ratios.copy())

    @property
    def num_inference_steps(self) -> int | None:
        """Steps that were set, or None."""
        return None if self._stepper.known is None else self._stepper.setup.levels.steps

    @property
    def step_index(self) -> int | None:
        """Index of the next call, or None before the first."""
        return self._stepper.index

    @property
    def begin_index(self) -> int | None:
        """Call that the run begins with, where a pipeline has said so."""
        return self._stepper.local.begin

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin with a later call, as image-to-image pipelines do.

        Raises:
            InputError: there is no such call.
        """
        if not isinstance(begin_index, int):
            raise InputError(f"begin_index must be a whole number, got {begin_index!r}")
        self._stepper.begin_with(begin_index)

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps or 1000)

    # A run

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Choose the levels of the next run, and forget the last one of this thread.

        Args:
            num_inference_steps: Steps; with a card or book the network calls that it is for.
            device: Where ``timesteps`` go.
            timesteps: Network times of the steps, in place of a number.
            sigmas: Levels in place of a number, see :func:`~longstride.integrations.levels.levels_of`.
            mu: Dynamic shift of flow models.

        Raises:
            InputError: levels that the solver cannot use; or, where ``strict``, a card that does not apply.
        """
        times, given = (None if one is None else tuple(map(float, one)) for one in (timesteps, sigmas))
        key = (num_inference_steps, times, given, mu, str(device), repr(sorted(self.config.items())))
        setup = self._setups.get(key)
        if setup is None:
            setup = self._setup_of(num_inference_steps, device, times, given, mu)
            if len(self._setups) >= _MOST_SETUPS:
                self._setups.clear()
            self._setups[key] = setup
        _ = self._threshold
        self._stepper.prepare(setup)

    def _setup_of(
        self,
        steps: int | None,
        device: str | torch.device | None,
        timesteps: Sequence[float] | None,
        sigmas: Sequence[float] | None,
        mu: float | None,
    ) -> Setup:
        config, solver, process = self.config, self.config.solver, self.process
        custom = timesteps is not None or sigmas is not None
        count = None if custom else steps
        levels = levels_of(config, solver, process, count, timesteps=timesteps, sigmas=sigmas, mu=mu)
        schedule = schedule_of(config, solver, process)
        plan = None
        if self._card is not None:
            nfe, then = asked_of_card(self._card, levels, config, process, count, timesteps, sigmas, mu)
            plan = self._calibrated(nfe, then)
        calibrated = plan is not None
        if plan is None:
            plan = classical_plan(solver, levels, schedule, config, config.solver_options or {}, process)
        told = torch.from_numpy(plan.times).to(torch.int64 if plan.whole else torch.float32).to(device)
        return Setup(plan, levels, schedule, told, calibrated)

    def _calibrated(self, nfe: int | None, levels: Levels) -> Plan | None:
        """The card's plan, or None where it is for another run."""
        assert self._card is not None
        try:
            return plan_of_card(self._card, nfe, levels, self.config.guidance_scale, self.config, self.process)
        except CardError as error:
            self._refuse(str(error))
            return None

    def _refuse(self, why: str) -> None:
        """A card that is for another run: an error where ``strict``, else one warning.

        Raises:
            CardError: ``strict``.
        """
        if self.config.strict:
            raise CardError(f"{why}; without strict, {self.config.solver} would run in its place")
        if why not in self._told:
            self._told.add(why)
            warnings.warn(f"{why}; {self.config.solver} runs in its place", stacklevel=4)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network is given for a state; the state itself, but for EDM's preconditioning."""
        if self.process != "edm":
            return sample
        index = self._stepper.index
        return sample * self._stepper.setup.plan.input_scale[self._stepper.first(timestep) if index is None else index]

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        generator: Any = None,
        return_dict: bool = True,
        **others: Any,
    ) -> SchedulerOutput | tuple[Tensor]:
        """One row of the table.

        Args:
            model_output: What the network returned for ``sample``, shape ``(B, *)``.
            timestep: Where the first step of a run begins, if it is not the first; later steps are counted.
            sample: The state, in the shape of ``model_output``; where it was changed since the last step, as
                inpainting does, the run goes on from the change.
            eta: 0; tables are deterministic.
            generator: Unused.
            return_dict: Whether to return a :class:`SchedulerOutput` or a tuple.
            **others: Of other schedulers; None or False.

        Returns:
            The next state, in the dtype of ``sample``.

        Raises:
            InputError: ``eta`` above 0, a state of another shape, or a step after the last.
        """
        if eta:
            raise InputError(f"this sampler is deterministic, eta must be 0, got {eta}")
        for name in [name for name, value in others.items() if value is not None and value is not False]:
            raise InputError(f"step takes no {name}: this scheduler has nothing for it")
        result = self._stepper.step(model_output, timestep, sample, self._threshold)
        return SchedulerOutput(prev_sample=result) if return_dict else (result,)

    @cached_property
    def _threshold(self) -> Callable[[Tensor], Tensor] | None:
        """What is done to clean predictions, or None."""
        config = self.config
        if config.thresholding:
            return DynamicThreshold(config.dynamic_thresholding_ratio or 0.995, config.sample_max_value or 1.0)
        # diffusers' classes of the exponential solvers do not know the setting; a card was calibrated with it.
        if config.clip_sample and (self._card is not None or takes_clip(config.solver)):
            return Clamp(float(config.clip_sample_range or 1.0))
        return None

    def _begin(self, setup: Setup, call: int, shape: torch.Size) -> SolverTable:
        """What a run does that begins with a call: the plan, or where that is for other runs the classical solver."""
        if setup.calibrated:
            card, size = setup.plan.shape, tuple(shape[1:])
            if call:
                self._refuse(f"this card is for whole runs, not for one that begins with call {call + 1}")
            elif card is None or card == size:
                return setup.plan.table
            else:
                self._refuse(f"this card is for states of shape {card}, not {size}")
        elif not call:
            return setup.plan.table
        solver, left = continued(self.config.solver), setup.plan.calls - call
        if setup.calibrated and solver not in SINGLE:
            solver = "dpmpp_2m"  # the pipeline makes one call per level of the card
        levels = setup.plan.as_levels().after(after(setup.plan, call))
        options = self.config.solver_options or {}
        plan = classical_plan(solver, levels, setup.schedule, self.config, options, self.process)
        if plan.calls != left:
            raise InputError(
                f"{solver} makes {plan.calls} calls from here, the pipeline {left}: begin with a call that is a "
                f"multiple of {setup.plan.order}"
            )
        return plan.table

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha x + sigma noise`` at the levels of some times.

        Args:
            original_samples: Pictures or latents, shape ``(B, *)``.
            noise: Standard normal, in the same shape.
            timesteps: Network times, shape ``(B,)`` or ``()``; between those that were set, the schedule's own.
        """
        times = torch.as_tensor(timesteps).flatten().double().cpu().numpy()
        known = self._stepper.known
        if known is None:
            found = noise_levels(schedule_of(self.config, self.config.solver, self.process), self.process, times)
        else:
            found = known.noise_levels(times)
        alphas, sigmas = (torch.from_numpy(level).to(original_samples) for level in found)
        shape = (-1, *(1,) * (original_samples.ndim - 1))
        return alphas.reshape(shape) * original_samples + sigmas.reshape(shape) * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """:meth:`add_noise` under the name that flow pipelines use."""
        return self.add_noise(sample, noise, timestep)
