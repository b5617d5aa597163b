"""Questions to a pipeline's call, and its answers, between two threads."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from longstride.arrays import Array
from longstride.errors import InputError

__all__ = ["COPIED", "Answered", "Asked", "Channel", "Leave", "Told"]

#: Why a pipeline that copies its scheduler is refused.
COPIED = (
    "this pipeline copies its scheduler and steps the copy: calibration sees one run of one state alone, so this "
    "pipeline cannot be calibrated"
)


class Leave(BaseException):
    """The call of a pipeline is to end; no error, so that no pipeline catches it as such."""


@dataclass(frozen=True, eq=False)
class Told:
    """What the network of a pipeline is told in a run of K calls.

    Attributes:
        times: Network times, shape ``(K,)``.
        ratios: ``sigma / alpha`` of every state, sigma itself for flows, shape ``(K + 1,)``.
    """

    times: Array
    ratios: Array

    @property
    def calls(self) -> int:
        """Network calls K."""
        return len(self.times)

    def same(self, other: Told | None) -> bool:
        """Whether the other run is told the same."""
        return self is other or (
            other is not None and np.array_equal(self.times, other.times) and np.array_equal(self.ratios, other.ratios)
        )


@dataclass(frozen=True, eq=False)
class Asked:
    """A question to a call.

    Attributes:
        x: State as the pipeline has it, shape ``(B, *)``; None for the pipeline's own first state.
        k: Number of the step.
        time: Network time; None if the step has its own.
        answered: Whether the networks are answered at this step, too: the state alone is of interest.
    """

    x: Tensor | None
    k: int
    time: Tensor | None = None
    answered: bool = False


class Answered(Protocol):
    """What acts on the components of a pipeline while its call goes on; see :mod:`.answered`."""

    looping: bool
    answering: bool

    def resume(self) -> None: ...
    def pause(self) -> None: ...
    def take(self) -> tuple[Any, ...]: ...


class Channel:
    """Between the thread of a pipeline's call and the thread that asks.

    Args:
        asked: The first question.
        answers: What acts on the components meanwhile.

    Attributes:
        out: From the pipeline: a prediction and a state, each of shape ``(B, *)``, or the error that ended the call.
        back: To the pipeline: the next question, or None to end the call.
        position: Number of the step that the pipeline comes to next.
        patterns: What was called in every step so far.
    """

    def __init__(self, asked: Asked, answers: Answered) -> None:
        self.out: queue.Queue[Any] = queue.Queue()
        self.back: queue.Queue[Asked | None] = queue.Queue()
        self.asked, self.answers = asked, answers
        self.position = 0
        self.patterns: list[tuple[Any, ...]] = []

    def __copy__(self) -> Channel:
        raise InputError(COPIED)

    def __deepcopy__(self, memo: Any) -> Channel:
        raise InputError(COPIED)

    def begin(self) -> None:
        """Let the components be watched; called in the thread of the call."""
        self._go_on()

    def _go_on(self) -> None:
        self.answers.looping = self.position > 0
        self.answers.answering = self.position < self.asked.k or self.asked.answered
        self.answers.resume()

    def step(self, output: Tensor, sample: Tensor) -> Asked | None:
        """Hand a prediction out if it was asked for.

        Args:
            output: What the pipeline has made of the network's outputs, shape ``(B, *)``.
            sample: The state, shape ``(B, *)``.

        Returns:
            The question of the next step, or None if that step is not asked for.

        Raises:
            Leave: the call is to end.
        """
        self.answers.pause()
        self.patterns.append(self.answers.take())
        if self.position == self.asked.k:
            self.out.put((output, sample))
            asked = self.back.get()
            if asked is None:
                raise Leave
            self.asked = asked
        self.position += 1
        self._go_on()
        return self.asked if self.position == self.asked.k else None
