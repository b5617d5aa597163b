"""A diffusers scheduler that runs any table: every classical solver, and every calibrated one.

    pipe.scheduler = LongstrideScheduler.from_config(pipe.scheduler.config, solver="dpmpp_2m")
    pipe.scheduler = LongstrideScheduler.from_card("card.json", pipe.scheduler.config)

The pipeline is none the wiser. The scheduler's settings mean what they mean to diffusers' own scheduler of that solver,
and its levels are the same. One ``step`` belongs to one network call. A solver of several calls per step repeats its
times, as diffusers' Heun does.
"""

from __future__ import annotations

import operator
import threading
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import SchedulerMixin  # noqa: F401  a pipeline that is loaded looks for it in its scheduler's module
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from longstride.errors import CardError, InputError
from longstride.integrations.cards import plan_of_card
from longstride.integrations.facts import Facts
from longstride.integrations.guidance_seen import GuidanceWatch
from longstride.integrations.noise_process import PRECONDITIONED, SCALED
from longstride.integrations.noising import Noising
from longstride.integrations.origins import READABLE
from longstride.integrations.others_own import OthersOwn
from longstride.integrations.plan import Plan, classical_plan
from longstride.integrations.recorded import Recorded
from longstride.integrations.run_levels import LevelRequest, Levels, levels_of
from longstride.integrations.saved import ConfiguredScheduler
from longstride.integrations.scheduler_settings import SchedulerSettings
from longstride.integrations.setups import Setup
from longstride.integrations.stepper import Stepper
from longstride.table import SolverTable

__all__ = ["LongstrideScheduler"]

#: Setups that are kept: a server is asked for the same few numbers of steps again and again.
_MOST_SETUPS = 32
#: Why ``step`` does not take arguments of other schedulers.
_UNTAKEN = {
    "per_token_timesteps": "a row of a table goes from one level to another, and not every token to a level of its own",
    "variance_noise": "this sampler adds no noise",
}
#: Threads that share a copy of a scheduler go on from it together.
_RESUMING = threading.Lock()


class LongstrideScheduler(Recorded, Noising, Facts, OthersOwn, ConfiguredScheduler):
    """Any longstride table as a diffusers scheduler; see the module.

    A setting that is None means what it means to diffusers' own scheduler of the solver.

    Args:
        solver: Name of the classical solver, one of :data:`longstride.SOLVERS`. Beside a card it runs if the card does
            not apply.
        solver_options: Its options, as for :func:`longstride.build`; they win over the settings below.
        strict: Whether a card that does not apply is an error. Otherwise the classical solver runs, with one warning.
        process: ``"vp"``, ``"flow"`` or ``"edm"``: scale of the pipeline's states. :meth:`from_config` reads it from
            the configuration.
        levels: Name of the diffusers scheduler whose levels are visited; default: diffusers' own scheduler of the
            solver.
        guidance_scale: Guidance scale of the pipeline. It checks a card, and chooses one from a book.
        num_train_timesteps: As in diffusers, like all other settings.

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

    _compatibles: ClassVar[list[str]] = list(READABLE)

    def _settle(self) -> None:
        self._runs = Stepper()
        self._setups: dict[Any, Setup] = {}
        self._told: set[str] = set()
        self._watch: GuidanceWatch | None = None

    @property
    def _stepper(self) -> Stepper:
        """The runs. A saved place is left as it is: a panorama goes on from one place with several views."""
        if self._runs.saved:
            with _RESUMING:
                if self._runs.saved:
                    self._runs = self._runs.resumed()
        return self._runs

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin with call ``begin_index``, counted from 0, as image-to-image pipelines do.

        Raises:
            InputError: there is no such call.
        """
        try:
            call = operator.index(begin_index)
        except TypeError as error:
            raise InputError(f"begin_index must be a whole number, got {begin_index!r}") from error
        self._stepper.begin_with(call)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Choose the levels of the next run, and forget the last run of this thread.

        Args:
            num_inference_steps: Steps; with a card or book the network calls that it is for.
            device: Device of ``timesteps``.
            timesteps: Network times of the steps, in place of a number.
            sigmas: Levels in place of a number, see :class:`~longstride.integrations.run_levels.LevelRequest`.
            mu: Dynamic shift of flow models.

        Raises:
            CardError: ``strict``, and the card does not apply.
            InputError: the solver cannot use the levels, or the card is for another kind of network.
        """
        request = LevelRequest.of(num_inference_steps, timesteps, sigmas, mu)
        key = (
            request,
            str(device),
            self._role,
            repr(sorted(vars(self.config).items())),
        )  # assigned settings are attributes
        setup = self._setups.get(key)
        if setup is None:
            setup = self._setup_of(request, device)
            if len(self._setups) >= _MOST_SETUPS:
                self._setups.clear()
            self._setups[key] = setup
        if self._watch is not None:
            self._watch.arm()
        self._stepper.prepare(setup)

    def _setup_of(self, request: LevelRequest, device: str | torch.device | None) -> Setup:
        """The card's plan if it applies, or else the classical solver's."""
        settings = SchedulerSettings.of(self.config)
        levels = levels_of(settings, request)
        settings = settings.with_clock(levels.clock)
        calibrated = self._calibrated(settings, request, levels)
        plan = classical_plan(settings, levels) if calibrated is None else calibrated
        threshold = settings.threshold(calibrated=self._card is not None)
        return Setup.of(plan, levels, calibrated is not None, device, threshold, request)

    def _calibrated(self, settings: SchedulerSettings, request: LevelRequest, levels: Levels) -> Plan | None:
        """The card's plan, or None if there is no card or the card is for another run."""
        if self._card is None:
            return None
        try:
            plan = plan_of_card(self._card, settings, request, levels, self._role)
        except CardError as error:
            self._refuse(str(error))
            return None
        if plan.note and plan.note not in self._told:
            self._told.add(plan.note)
            warnings.warn(f"note: {plan.note}", stacklevel=4)
        return plan

    def _refuse(self, why: str) -> None:
        """Say that the card is for another run: :class:`CardError` if ``strict``, else one warning."""
        if self.config.strict:
            raise CardError(f"{why}; without strict, {self.config.solver} would run in its place")
        if why not in self._told:
            self._told.add(why)
            warnings.warn(f"{why}; {self.config.solver} runs in its place", stacklevel=4)

    def watch(self, guidance: GuidanceWatch) -> None:
        """Compare the guidance of every run's first step with the guidance that the card was made with."""
        self._watch = guidance

    def _begin(self, setup: Setup, call: int, shape: torch.Size) -> SolverTable:
        """The table of a run: the plan's, or the classical solver's if the plan is for other runs."""
        if call >= setup.plan.calls:
            raise InputError("this run begins after its last call: there is no step to make")
        why = setup.mismatch(call, shape, self._stepper.end)
        if why is None and setup.calibrated and self._watch is not None:
            why = self._watch.why
        if why is not None:
            self._refuse(why)
        elif not call:
            return setup.plan.table
        return setup.classical_table(call)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network is given for a state: the state itself, or scaled by EDM's preconditioning.

        Args:
            sample: The state, shape ``(B, *)``.
            timestep: Network time of the first call of a run; later calls are counted.

        Returns:
            The network's input, shape ``(B, *)``.
        """
        if self.process not in SCALED:
            return sample
        index = self._stepper.index
        return sample * self.setup.plan.input_scale[self._stepper.first(timestep) if index is None else index]

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        generator: Any = None,
        return_dict: bool = True,
        **others: Any,
    ) -> DDIMSchedulerOutput | tuple[Tensor, ...]:
        """Run one row of the table.

        Args:
            model_output: What the network returned for ``sample``, shape ``(B, *)``.
            timestep: Network time of the first step of a run; later steps are counted.
            sample: The state, shape ``(B, *)``. If it was changed since the last step, as inpainting does, the run
                goes on from the change.
            eta: 0; tables are deterministic.
            generator: Unused.
            return_dict: Whether to return an object with ``prev_sample`` and ``pred_original_sample``, or a tuple.
            **others: Arguments of other schedulers; None or False.

        Returns:
            The next state, shape ``(B, *)``, in the dtype of ``sample``, and the clean prediction.

        Raises:
            CardError: ``strict``, and the card is not for this run.
            InputError: ``eta`` above 0, a state of another shape, or a step after the last.
        """
        if eta:
            raise InputError(f"this sampler is deterministic, eta must be 0, got {eta}")
        for name in [name for name, value in others.items() if value is not None and value is not False]:
            why = _UNTAKEN.get(name, "this scheduler has nothing for it, so leave it out")
            raise InputError(f"step takes no {name}: {why}")
        if self._watch is not None and self._stepper.index is None and not torch.compiler.is_compiling():
            self._watch.compare(model_output)
        # Pipelines of EDM's class read the clean prediction from the tuple; others unpack one state.
        shown = return_dict or self.process in PRECONDITIONED
        records = (self._recorder, self._judge)
        state, clean = self._stepper.step(
            model_output, timestep, sample, self.threshold, self._begin, records, shown=shown
        )
        if return_dict:
            return DDIMSchedulerOutput(prev_sample=state, pred_original_sample=clean)
        return (state, clean) if shown else (state,)
