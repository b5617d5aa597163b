"""A diffusers scheduler that runs any table: every classical solver, and every calibrated one.

    pipe.scheduler = LongstrideScheduler.from_config(pipe.scheduler.config, solver="dpmpp_2m")
    pipe.scheduler = LongstrideScheduler.from_card("card.json", pipe.scheduler.config)

The pipeline is none the wiser: the scheduler's settings mean what they mean to diffusers' own scheduler of that solver,
whose levels it visits. One ``step`` belongs to one network call; a solver of several calls per step repeats its times,
as diffusers' Heun does.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerOutput
from numpy.typing import NDArray
from torch import Tensor

from longstride.book import CardBook, load_any
from longstride.card import CARD_FILE, Card
from longstride.denoiser import Clamp, DynamicThreshold
from longstride.errors import CardError, InputError, unknown
from longstride.integrations.cards import plan_of_card
from longstride.integrations.levels import (
    PROCESSES,
    Levels,
    Process,
    check_known,
    has_class,
    kind_of,
    levels_of,
    process_of,
    reference_of,
    schedule_of,
    settings_of,
    takes_clip,
)
from longstride.integrations.plan import SINGLE, Plan, after, classical_plan, continued
from longstride.integrations.stepper import Setup, Stepper
from longstride.solvers import SOLVERS
from longstride.table import SolverTable

__all__ = ["LongstrideScheduler"]

#: Settings that belong to a card.
_OF_CARDS = ("card", "strict", "guidance_scale")
#: Setups that are kept: a server is asked for the same few numbers of steps again and again.
_MOST_SETUPS = 32
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")


class LongstrideScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
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

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int | None = None,
        beta_start: float | None = None,
        beta_end: float | None = None,
        beta_schedule: str | None = None,
        trained_betas: Sequence[float] | None = None,
        prediction_type: str | None = None,
        solver: str = "dpmpp_2m",
        solver_options: dict[str, Any] | None = None,
        strict: bool = False,
        process: str | None = None,
        levels: str | None = None,
        card: str | None = None,
        solver_order: int | None = None,
        solver_type: str | None = None,
        lower_order_final: bool | None = None,
        euler_at_final: bool | None = None,
        predict_x0: bool | None = None,
        skip_prk_steps: bool | None = None,
        thresholding: bool | None = None,
        dynamic_thresholding_ratio: float | None = None,
        sample_max_value: float | None = None,
        clip_sample: bool | None = None,
        clip_sample_range: float | None = None,
        timestep_spacing: str | None = None,
        steps_offset: int | None = None,
        set_alpha_to_one: bool | None = None,
        final_sigmas_type: str | None = None,
        rescale_betas_zero_snr: bool | None = None,
        lambda_min_clipped: float | None = None,
        use_karras_sigmas: bool | None = None,
        use_exponential_sigmas: bool | None = None,
        use_beta_sigmas: bool | None = None,
        use_lu_lambdas: bool | None = None,
        use_flow_sigmas: bool | None = None,
        flow_shift: float | None = None,
        shift: float | None = None,
        shift_terminal: float | None = None,
        use_dynamic_shifting: bool | None = None,
        time_shift_type: str | None = None,
        base_shift: float | None = None,
        max_shift: float | None = None,
        base_image_seq_len: int | None = None,
        max_image_seq_len: int | None = None,
        invert_sigmas: bool | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sigma_data: float | None = None,
        sigma_schedule: str | None = None,
        rho: float | None = None,
        guidance_scale: float | None = None,
    ) -> None:
        if solver not in SOLVERS:
            raise unknown("solver", solver, SOLVERS)
        if process is not None and process not in PROCESSES:
            raise unknown("process", process, PROCESSES)
        self._card: Card | CardBook | None = None
        self.register_to_config(process=process or process_of(self.config))
        self.register_to_config(**settings_of(self.config, solver, self.process))
        self._stepper = Stepper(self._begin)
        self._setups: dict[Any, Setup] = {}
        self._told: set[str] = set()

    # Making one

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler with the settings of another, such as ``pipe.scheduler.config``.

        Args:
            config: Of any diffusers scheduler.
            return_unused_kwargs: As in diffusers.
            **kwargs: Settings in place of those of ``config``: ``solver="unipc"``.
        """
        if isinstance(config, Mapping):
            if not (config.get("process") or kwargs.get("process")):
                check_known(config)
            solver = kwargs.get("solver") or config.get("solver") or "dpmpp_2m"
            # A card belongs to the scheduler that it was given to, and levels that were chosen for a solver to that.
            kwargs = {**dict.fromkeys(("card", "guidance_scale"), None), "strict": False, **kwargs}
            if config.get("levels") == "EulerDiscreteScheduler" and has_class(solver):
                kwargs.setdefault("levels", None)
            read = {"process": process_of(config), "levels": kind_of(config, solver)}
            kwargs = {**{name: value for name, value in read.items() if config.get(name) is None}, **kwargs}
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    @classmethod
    def from_card(cls, card: str | Path | Card | CardBook, config: Any = None, **kwargs: Any) -> LongstrideScheduler:
        """A scheduler that runs a calibrated sampler.

        Args:
            card: A card, a book of cards, or the path of one.
            config: Of the pipeline's own scheduler, ``pipe.scheduler.config``: says what the network predicts and how
                pictures get their noise. Default: the one in the card, where it was calibrated on a pipeline.
            **kwargs: Settings in place of those of ``config``, such as ``strict=True``.

        Raises:
            CardError: the file is no card.
            InputError: there is no ``config``, neither here nor in the card.
        """
        loaded = card if isinstance(card, (Card, CardBook)) else load_any(card)
        known = loaded.scheduler if isinstance(loaded, Card) else None
        if config is None and known is None:
            raise InputError(
                "this card does not hold the settings of a scheduler: pass those of the pipeline, pipe.scheduler.config"
            )
        config = known if config is None else config
        made: LongstrideScheduler = cls.from_config(config, **{**kwargs, "card": CARD_FILE})
        made._card = loaded
        return made

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any = None, subfolder: str | None = None, **kwargs: Any
    ) -> Any:
        """Read ``scheduler_config.json`` and, where it names one, the card beside it; arguments as in diffusers."""
        made = super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
        scheduler = made[0] if isinstance(made, tuple) else made
        told = cls.load_config(pretrained_model_name_or_path, subfolder=subfolder, **_hub_options(kwargs))
        if told.get("card"):
            place = _beside(pretrained_model_name_or_path, subfolder, told["card"], kwargs)
            scheduler.register_to_config(**{name: told[name] for name in _OF_CARDS if name in told})
            scheduler._card = load_any(place)
        return made

    def to_json_string(self) -> str:
        """The configuration without what nobody has set: each class has defaults of its own."""
        told = json.loads(super().to_json_string())
        kept = ("solver", "process", "card", "_class_name", "_diffusers_version")
        unset = set(self.config.get("_use_default_values", ())) - set(kept)
        told = {name: value for name, value in told.items() if value is not None and name not in unset}
        return json.dumps(told, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write ``scheduler_config.json`` and the card beside it; arguments as in diffusers."""
        if self._card is not None:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self._card.save(Path(save_directory) / CARD_FILE)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    # What pipelines read

    @property
    def process(self) -> Process:
        """Scale of the pipeline's states."""
        chosen: Process = self.config.process
        return chosen

    @property
    def card(self) -> Card | CardBook | None:
        """The card or book, or None."""
        return self._card

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
            # Flow pipelines pass the levels that their scheduler would choose by itself.
            usual = np.linspace(1, 1 / levels.steps, levels.steps)
            near = process == "flow" and sigmas is not None and len(sigmas) == levels.steps
            own = custom and not (near and timesteps is None and np.allclose(np.asarray(sigmas), usual, atol=1e-3))
            made_with = (getattr(self._card, "scheduler", None) or {}).get("solver", solver)
            # The classes of two solvers may begin at different levels.
            said = {name: value for name, value in config.items() if name not in config.get("_use_default_values", ())}
            then = levels if made_with == solver or custom else levels_of(said, made_with, process, count, mu=mu)
            plan = self._calibrated(None if own else levels.steps, then)
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
        alphas, sigmas = (self._level_of(times, part).to(original_samples) for part in ("alphas", "sigmas"))
        shape = (-1, *(1,) * (original_samples.ndim - 1))
        return alphas.reshape(shape) * original_samples + sigmas.reshape(shape) * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """:meth:`add_noise` under the name that flow pipelines use."""
        return self.add_noise(sample, noise, timestep)

    def _level_of(self, times: NDArray[np.float64], part: str) -> Tensor:
        """Alpha or sigma, on the pipeline's scale, at network times."""
        setup = self._stepper.known
        schedule = schedule_of(self.config, self.config.solver, self.process) if setup is None else setup.schedule
        if self.process == "edm":
            found = np.ones_like(times) if part == "alphas" else np.exp(4 * times)
        else:
            found = np.asarray(getattr(schedule, part.rstrip("s"))(times))
        if setup is not None:  # levels may have been set apart from the times that are told, as by rounding
            told, own = setup.timesteps.double().cpu().numpy(), getattr(setup.plan.table, part)
            for n, time in enumerate(times):
                same = np.flatnonzero(told == time)
                found[n] = own[same[-1]] if len(same) else found[n]
        return torch.from_numpy(found)


def _beside(place: Any, subfolder: str | None, name: str, options: Mapping[str, Any]) -> Path:
    """The card of a saved scheduler: a file of its folder, or of its repository on the hub."""
    local = Path(place) / (subfolder or "") / name
    if Path(place).is_dir():
        return local
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(str(place), name, subfolder=subfolder, **_hub_options(options)))


def _hub_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("cache_dir", "revision", "token", "local_files_only") if key in options}
