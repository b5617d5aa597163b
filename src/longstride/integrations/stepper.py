"""Where the runs of a scheduler stand: one run per thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor

from longstride.errors import InputError
from longstride.guard import Recorder
from longstride.integrations.setups import Setup
from longstride.predictions import combined
from longstride.sampler import Run
from longstride.table import SolverTable

__all__ = ["Begin", "Stepper"]


class _Standing:
    """Where one run stands.

    Attributes:
        setup: Setup that the run follows, or None if this thread has set nothing.
        run: The run, or None before its first step.
        begin: Call that the next run begins with, or None if the pipeline has not said it.
        offset: Calls of the plan before the first call of the run.
        end: Call before which the pipeline will stop, or None if it has not said it.
        given: State that the last step returned.
        version: Version of ``given`` when it was returned; -1 if the tensor does not tell its version.
        followed: Value of :attr:`Stepper.prepared` at the start of a run that follows another thread's setup.
        recorder: Records the run, or None.
        verdict: What came of the records of a run that has ended, or None.
    """

    def __init__(self) -> None:
        self.setup: Setup | None = None
        self.run: Run | None = None
        self.begin: int | None = None
        self.offset = 0
        self.end: int | None = None
        self.given: Tensor | None = None
        self.version = -1
        self.followed = 0
        self.recorder: Recorder | None = None
        self.verdict: Any = None

    def give(self, x: Tensor) -> Tensor:
        """Remember a state that is returned, ``(B, *)``, and return it."""
        untold = torch.compiler.is_compiling() or x.is_inference()  # neither tells versions
        self.given, self.version = x, -1 if untold else x._version
        return x

    def unchanged(self, x: Tensor) -> bool:
        """Whether ``x`` is the state that was returned last, and nobody has written into it."""
        return x is self.given and self.version >= 0 and x._version == self.version

    def reset(self, setup: Setup) -> None:
        """Follow ``setup`` from its beginning."""
        self.setup, self.run, self.begin, self.offset, self.given = setup, None, None, 0, None
        self.end = self.recorder = self.verdict = None

    @property
    def index(self) -> int | None:
        """Index of the next call, or None before the first."""
        return None if self.run is None else self.offset + self.run.k

    def copied(self) -> _Standing:
        """The same standing, to be continued by itself; tensors are shared, because rows write into none."""
        other = copy(self)
        other.run = None if self.run is None else self.run.fork(self.run.table)
        other.recorder = None  # runs that part ways have no records
        return other


class _Local(threading.local):
    """One standing per thread.

    Args:
        saved: Where threads begin, or None for the beginning of all.
    """

    def __init__(self, saved: _Local | None = None) -> None:
        self.standing: _Standing = _Standing() if saved is None else saved.standing.copied()


#: The begin of a run: its table, from the setup, the call that the run begins with, and the shape of its state.
Begin = Callable[[Setup, int, torch.Size], SolverTable]


#: Makes the recorder of a run, or None; and judges the records of a run with its last state.
Records = tuple[Callable[[Setup, SolverTable], Recorder | None], Callable[[Setup, Recorder, Tensor], Any]]


class Stepper:
    """Runs plans; every thread has a run of its own.

    A thread that has set nothing follows the setup that was set last. So a scheduler may be prepared in one thread and
    used in others. A step that torch.compile has compiled cannot see threads, so all threads share one compiled run.

    A deep copy is a saved place: it holds the run of the thread that made it, and :meth:`resumed` goes on from there as
    often as one likes. A pickle holds no run.

    Attributes:
        latest: Setup that was set last, or None.
        prepared: How many times a setup was set.
        saved: Whether this is a saved place, which stays as it is.
    """

    def __init__(self) -> None:
        self.latest: Setup | None = None
        self.prepared = 0
        self.saved = False
        self._threads, self._compiled = _Local(), _Standing()

    def __deepcopy__(self, memo: dict[int, Any]) -> Stepper:
        other = copy(self)
        other.saved = True
        other._threads.standing, other._compiled = self._threads.standing.copied(), self._compiled.copied()
        return other

    def resumed(self) -> Stepper:
        """A stepper that goes on from this saved place."""
        other = copy(self)
        other.saved = False
        mine = self._threads.standing
        if mine.setup is None and mine.run is None:  # perhaps another thread has saved a run here
            other._threads = _Local(self._threads)
        else:
            other._threads.standing = mine.copied()
        other._compiled = self._compiled.copied()
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_threads", "_compiled")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._threads, self._compiled = _Local(), _Standing()

    @property
    def _here(self) -> _Standing:
        """The standing of this thread."""
        return self._compiled if torch.compiler.is_compiling() else self._threads.standing

    @property
    def known(self) -> Setup | None:
        """Setup that this thread follows, or None if nothing was set."""
        return self._here.setup or self.latest

    @property
    def setup(self) -> Setup:
        """Setup that this thread follows.

        Raises:
            InputError: nothing was set.
        """
        if self.known is None:
            raise InputError("set_timesteps must be called before this")
        return self.known

    def prepare(self, setup: Setup) -> None:
        """Follow ``setup`` from now on, and forget the run of this thread."""
        self.latest = setup
        self.prepared += 1
        for standing in (self._here, self._compiled):
            standing.reset(setup)

    @property
    def verdict(self) -> Any:
        """What came of the records of this thread's last run; None if it has none, or has not ended."""
        return self._here.verdict

    def begin_with(self, call: int) -> None:
        """Let the next run begin with a call.

        Args:
            call: Index of the call, from 0.

        Raises:
            InputError: there is no such call. The end of the last step is the beginning of a run of no steps, as
                image-to-image pipelines make it if ``strength`` leaves none.
        """
        if self.known is not None and not (0 <= call < self.setup.plan.calls or call == self.setup.end):
            raise InputError(f"begin_index must be a call from 0 to {self.setup.plan.calls - 1}, got {call}")
        self._here.begin = self._compiled.begin = call

    @property
    def begin_index(self) -> int | None:
        """Call that the next run begins with, or None if the pipeline has not said it."""
        return self._here.begin

    def end_before(self, call: int) -> None:
        """Remember that the pipeline goes through its times up to a call, and not further."""
        self._here.end = self._compiled.end = call

    @property
    def end(self) -> int | None:
        """Call before which the pipeline will stop, or None if it has not said it."""
        return self._here.end

    @property
    def index(self) -> int | None:
        """Index of the next call, or None before the first."""
        return self._compiled.index if self._here.index is None else self._here.index

    def first(self, timestep: Any) -> int:
        """The call that a run begins with: the call that was said, or else the first call at a time.

        Args:
            timestep: Network time, or None for the first call of all.

        Raises:
            InputError: no call is at that time, or nothing was set.
        """
        if self._here.begin is not None:
            return self._here.begin
        if timestep is None:
            return 0
        plan, time = self.setup.plan, float(timestep)
        found = self.setup.calls_at(time)
        if not found:
            raise InputError(f"time {time:g} is none of this run's: take it from timesteps, or call set_begin_index")
        # A solver of several calls per step tells a time twice: within one step, and at the start of the next.
        return next((call for call in found if call in plan.table.grid), found[0])

    def step(
        self,
        output: Tensor,
        timestep: Any,
        sample: Tensor,
        threshold: Callable[[Tensor], Tensor] | None,
        begin: Begin,
        records: Records | None = None,
        *,
        shown: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Run one row of the table.

        Args:
            output: What the network returned, shape ``(B, *)``. A learned variance may double its channels.
            timestep: Network time of the first step of a run; later steps are counted.
            sample: State that the network saw, shape ``(B, *)``. It may have been changed since the last step.
            threshold: Applied to the clean prediction, or None; it makes a new tensor.
            begin: Makes the table of a run.
            records: Makes the recorder of a run, and judges what it has recorded; None: no run is recorded.
            shown: Whether the pipeline gets the clean prediction, and so may write into it.

        Returns:
            The next state in the dtype of ``sample`` and the clean prediction, each of shape ``(B, *)``.

        Raises:
            InputError: nothing was set, a state has another shape, or all calls are made.
        """
        here, setup = self._here, self.setup
        if here.setup is None and here.followed != self.prepared:
            here.run, here.followed = None, self.prepared  # another thread has set something since
        run = here.run
        if run is None:
            call = self.first(timestep)
            run = here.run = Run(sample, begin(setup, call, sample.shape))
            here.offset, here.verdict = call, None
            here.recorder = None if records is None else records[0](setup, run.table)
        elif run.k == run.table.nfe:
            raise InputError(f"all {setup.plan.calls} calls of this run are made: call set_timesteps for another")
        elif sample.dtype == run.history.dtype or not here.unchanged(sample):
            run.replace(sample)
        if output.ndim > 1 and output.shape[1] == 2 * sample.shape[1]:
            output = output[:, : sample.shape[1]]  # a learned variance comes behind the prediction
        if output.shape != sample.shape:
            raise InputError(
                f"the network returned shape {tuple(output.shape)} for a state of {tuple(sample.shape)}: expected the "
                "shape of the state"
            )
        weights = setup.plan.clean[here.offset + run.k]
        clean = combined(sample, output, weights)
        fresh = weights != (0, 1) or clean.dtype != output.dtype or threshold is not None
        clean = clean if threshold is None else threshold(clean)
        run.see(clean, fresh=fresh and not shown)
        if here.recorder is not None:
            here.recorder(run.k, run.sigma, sample, clean)
        run.advance()
        if here.recorder is not None and records is not None and run.k == run.table.nfe:
            recorder, here.recorder = here.recorder, None
            here.verdict = records[1](setup, recorder, run.x)
        return here.give(run.x), clean
