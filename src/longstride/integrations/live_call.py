"""One call of a pipeline, in a thread of its own, that is held inside its loop."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from longstride.errors import InputError, NonFiniteError
from longstride.integrations.channel import Asked, Leave, Told
from longstride.integrations.probe import Probe

__all__ = ["Call"]

#: Seconds that a call may take to leave its loop.
_PATIENCE = 60.0


class _Over(Exception):
    """The call of a pipeline has ended by itself."""


class Call:
    """One call of a pipeline that is held inside its loop.

    Args:
        pipeline: A copy of the pipeline, whose scheduler is the probe.
        probe: The probe, connected.
        options: Arguments of the call.

    Attributes:
        probe: As above.
        thread: Thread of the call.
        told: What the run tells the network.
        output: The last prediction, as the pipeline has made it, shape ``(B, *)``.
        state: The state that it is for, shape ``(B, *)``.

    Raises:
        InputError: the pipeline did not come to the step that it was asked for. Errors of the pipeline itself are
            raised as they are.
    """

    def __init__(self, pipeline: Any, probe: Probe, options: Mapping[str, Any]) -> None:
        assert probe.channel is not None
        self.probe, self.channel = probe, probe.channel
        casts = [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]

        def run() -> None:
            try:
                with ExitStack() as stack:  # a thread begins without the caller's autocast, and on the first GPU
                    if gpu is not None:
                        torch.cuda.set_device(gpu)
                    for kind, dtype in casts:
                        stack.enter_context(torch.autocast(kind, dtype))
                    self.channel.begin()
                    pipeline(**options)
                self._end_with(_Over())
            except Leave:
                pass
            except BaseException as error:
                self._end_with(error)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        asked = self.channel.asked
        try:
            self.output, self.state = self._wait()
            self._check(asked)
        except BaseException:
            self.end()
            raise

    def _end_with(self, found: BaseException) -> None:
        self.channel.answers.pause()
        self.channel.out.put(found)

    @property
    def told(self) -> Told | None:
        """What the run tells the network; None: what the scheduler's own levels tell."""
        return self.probe.told

    @property
    def position(self) -> int:
        """Number of the step that can be asked for next."""
        return self.channel.position + 1

    def ask(self, asked: Asked) -> tuple[Tensor, Tensor]:
        """The prediction for a question, and its state.

        Args:
            asked: The question; its step is :attr:`position` or a later step.

        Raises:
            InputError: the pipeline ended its call, or changes its states. Errors of the pipeline itself are raised as
                they are.
            NonFiniteError: the states are not finite.
        """
        self.channel.back.put(asked)
        self.output, self.state = self._wait()
        self._check(asked)
        return self.output, self.state

    def _check(self, asked: Asked) -> None:
        """Make sure that the pipeline has the state of the question, or a finite first state of its own.

        Raises:
            NonFiniteError: the state is not finite.
            InputError: the pipeline has changed the state.
        """
        wanted = asked.x
        if wanted is None and asked.k:
            return  # nothing was put there
        if wanted is None:
            whole = bool(torch.isfinite(self.state).all())
        elif self.state.shape == wanted.shape and torch.equal(self.state, wanted.to(self.state)):
            return
        else:
            whole = bool(torch.isfinite(wanted).all())
        if not whole:
            raise NonFiniteError(
                f"the states of this pipeline are not finite at step {asked.k + 1} (NaN or infinity): its networks "
                "return such numbers, as half precision does where they are large, or what it makes of its pictures "
                "and prompts has some; look at the latents of an ordinary call, and try float32"
            )
        if wanted is not None:
            raise InputError(
                "something changes the states between the steps of this pipeline, a callback or a mask: take it "
                "away for the calibration"
            )

    def _wait(self) -> tuple[Tensor, Tensor]:
        """The next prediction and its state, each of shape ``(B, *)``.

        Raises:
            InputError: the pipeline ended its call. Errors of the pipeline itself are raised as they are.
        """
        found = self.channel.out.get()
        if isinstance(found, _Over):
            raise InputError(
                "the pipeline left its loop by itself: a pipeline cannot be calibrated if it is interrupted, if it "
                "ends its runs early, or if it does not call its scheduler in a loop over its times"
            )
        if isinstance(found, BaseException):
            raise found
        output, state = found
        return output, state

    def end(self) -> None:
        """Let the pipeline leave its loop, and wait for its thread."""
        self.channel.back.put(None)
        self.thread.join(_PATIENCE)
