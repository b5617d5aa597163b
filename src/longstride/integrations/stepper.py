"""One run per thread: what a pipeline set, and where it stands."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longstride.denoiser import combined
from longstride.errors import InputError
from longstride.integrations.levels import Levels, noise_levels
from longstride.integrations.plan import Plan
from longstride.sampler import Run
from longstride.schedule import Schedule
from longstride.table import SolverTable

__all__ = ["Setup", "Stepper"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Setup:
    """What ``set_timesteps`` decided.

    Attributes:
        plan: Of whole runs.
        levels: Of its steps.
        schedule: The process.
        timesteps: What the network is told at every call, shape ``(K,)``.
        calibrated: Whether the plan is a card's.
    """

    plan: Plan
    levels: Levels
    schedule: Schedule
    timesteps: Tensor
    calibrated: bool

    def noise_levels(self, times: Array) -> tuple[Array, Array]:
        """Alpha and sigma at network times ``(B,)``: those of the run where it tells them, or else the schedule's."""
        alphas, sigmas = noise_levels(self.schedule, self.plan.process, times)
        told = self.timesteps.double().cpu().numpy()
        for n, time in enumerate(times):  # a run's levels may be off the schedule's, as by rounding
            same = np.flatnonzero(told == time)
            if len(same):
                alphas[n], sigmas[n] = self.plan.table.alphas[same[-1]], self.plan.table.sigmas[same[-1]]
        return alphas, sigmas


class _State:
    """Where a run stands.

    Attributes:
        setup: What it follows.
        run: The run, or None before its first step.
        begin: Call that the next run begins with, where the pipeline has said so.
        offset: Calls of the plan before the first of the run.
        given: The state that was returned last.
        version: Its version then; -1 where tensors do not tell.
        followed: How often had been prepared when a run began that follows another thread.
    """

    def __init__(self) -> None:
        self.setup: Setup | None = None
        self.run: Run | None = None
        self.begin: int | None = None
        self.offset = 0
        self.given: Tensor | None = None
        self.version = -1
        self.followed = 0

    def give(self, x: Tensor) -> Tensor:
        """Remember what is returned."""
        untold = torch.compiler.is_compiling() or x.is_inference()  # neither tells versions
        self.given, self.version = x, -1 if untold else x._version
        return x

    def unchanged(self, x: Tensor) -> bool:
        """Whether ``x`` is what was returned last, and nobody has written into it."""
        return x is self.given and self.version >= 0 and x._version == self.version

    def reset(self, setup: Setup) -> None:
        """Follow ``setup``, from its beginning."""
        self.setup, self.run, self.begin, self.offset, self.given = setup, None, None, 0, None

    @property
    def index(self) -> int | None:
        """Index of the next call, or None before the first."""
        return None if self.run is None else self.offset + self.run.k


class _Local(threading.local):
    """A state per thread."""

    def __init__(self) -> None:
        self.state = _State()


class Stepper:
    """Runs plans, each thread its own.

    A thread that has set nothing follows what was set last, so that a scheduler may be prepared in one thread and used
    in others. A step that torch.compile has compiled cannot see threads, and shares one state.

    Args:
        begin: Makes the table of a run, from the setup, the call that it begins with, and the shape of its state.
    """

    def __init__(self, begin: Callable[[Setup, int, torch.Size], SolverTable]) -> None:
        self.begin = begin
        self.latest: Setup | None = None
        self.prepared = 0
        self._threads, self._compiled = _Local(), _State()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_threads", "_compiled")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._threads, self._compiled = _Local(), _State()

    @property
    def local(self) -> _State:
        """The state of this thread."""
        return self._compiled if torch.compiler.is_compiling() else self._threads.state

    @property
    def known(self) -> Setup | None:
        """What this thread follows, or None where nothing was set."""
        return self.local.setup or self.latest

    @property
    def setup(self) -> Setup:
        """What this thread follows.

        Raises:
            InputError: nothing was set.
        """
        if self.known is None:
            raise InputError("set_timesteps must be called before this")
        return self.known

    def prepare(self, setup: Setup) -> None:
        """Follow ``setup`` from now on, and forget the run of this thread."""
        _ = setup.plan.table.levels, setup.plan.table.last_reader  # before a compiler looks: they are made under a lock
        self.latest = setup
        self.prepared += 1
        for state in (self.local, self._compiled):
            state.reset(setup)

    def begin_with(self, call: int) -> None:
        """Let the next run begin with a call.

        Raises:
            InputError: there is no such call.
        """
        if self.known is not None and not 0 <= call < self.setup.plan.calls:
            raise InputError(f"begin_index must be a call from 0 to {self.setup.plan.calls - 1}, got {call}")
        self.local.begin = self._compiled.begin = call

    @property
    def index(self) -> int | None:
        """Index of the next call, or None before the first."""
        return self._compiled.index if self.local.index is None else self.local.index

    def first(self, timestep: Any) -> int:
        """The call that a run begins with: what was said, or else the first at the time ``timestep``."""
        if self.local.begin is not None:
            return self.local.begin
        if timestep is None:
            return 0
        plan = self.setup.plan
        time = float(timestep)
        found: list[int] = np.flatnonzero(np.isclose(plan.times, time, rtol=1e-5, atol=1e-4)).tolist()
        if not found:
            raise InputError(f"time {time:g} is none of this run's: take it from timesteps, or call set_begin_index")
        # A solver of several calls per step tells a time twice: once within a step, and once where the next begins.
        return next((call for call in found if call in plan.table.grid), found[0])

    def step(
        self, output: Tensor, timestep: Any, sample: Tensor, threshold: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        """One row.

        Args:
            output: What the network returned, shape ``(B, *)``.
            timestep: Says where a run begins; later steps are counted.
            sample: The state that the network saw, in the same shape; it may have been changed since the last step.
            threshold: Applied to the clean prediction, or None.

        Raises:
            InputError: a state of another shape, or a step after the last.
        """
        local, setup = self.local, self.setup
        if local.setup is None and local.followed != self.prepared:
            local.run, local.followed = None, self.prepared  # another thread has begun with another run
        run = local.run
        if run is None:
            call = self.first(timestep)
            run = local.run = Run(sample, self.begin(setup, call, sample.shape))
            local.offset = call
        elif run.k == run.table.nfe:
            raise InputError(f"all {setup.plan.calls} calls of this run are made: call set_timesteps for another")
        elif sample.dtype == run.history.dtype or not local.unchanged(sample):
            run.replace(sample)
        if output.ndim > 1 and output.shape[1] == 2 * sample.shape[1]:
            output = output[:, : sample.shape[1]]  # a learned variance comes behind the prediction
        if output.shape != sample.shape:
            raise InputError(f"the network returned shape {tuple(output.shape)} for a state of {tuple(sample.shape)}")
        clean = combined(sample, output, setup.plan.clean[local.offset + run.k])
        run.see(clean if threshold is None else threshold(clean))
        run.advance()
        return local.give(run.x)
