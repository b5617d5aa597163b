"""What the peers share that learn by backprop: a table that is learnt, and the descent of GS and of S4S.

A student is a table whose weights are functions of what is learnt. It starts as a classical solver, the anchor. Every
step takes one batch of the calibration samples through all network calls and back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.peer_task import OutOfBudget, Task
from benchmarks.peers.anchor import Anchor, Levels, Solvers, batches, strongest
from benchmarks.peers.common import plain, rmse, rolled, split, table_of, unrolled
from longstride.table import SolverTable

__all__ = ["BATCH", "Descent", "DescentStudent", "Student", "descend", "falling"]

#: Samples of a step of the descent.
BATCH = 16
#: Solvers that the descent may start from.
SOLVERS: Solvers = (("ddim", {}), ("dpmpp_2m", {}), ("dpmpp_3m", {}), ("unipc", {"order": 3}))
#: Validations at most.
CHECKS = 25


class Student(ABC):
    """A table that is learnt, level by level.

    Args:
        task: The task.
        anchor: The solver to start as.
    """

    #: Name of the table.
    name: ClassVar[str]

    def __init__(self, task: Task, anchor: Anchor) -> None:
        self.task, self.levels = task, Levels(anchor.sigmas)
        self.noise, self.target = plain(task.noise), plain(task.target)

    @abstractmethod
    def form(self) -> tuple[Tensor, Tensor, Tensor]:
        """``a``, ``b`` and the told ``log sigma``; differentiable."""

    def loss(self, x: Tensor, part: slice) -> Tensor:
        """Mean squared error of the last states from ``x``, for the calibration samples in ``part``."""
        return (unrolled(self.task, x, *self.form(), part) - self.target[part]).square().mean()

    def table(self) -> SolverTable:
        """The student as it is."""
        with torch.no_grad():
            a, b, logs = (value.numpy() for value in self.form())
        sigmas = np.exp(logs)
        sigmas[0], sigmas[-1] = self.task.sigma_max, self.task.sigma_min
        return table_of(self.name, a, b, sigmas, self.task.schedule.frame_alpha(sigmas))


class DescentStudent(Student):
    """A student of :func:`descend`."""

    @abstractmethod
    def step(self, part: slice, done: int, total: int) -> None:
        """Step ``done`` of ``total``, from 1, on the samples in ``part``."""

    def kept(self) -> SolverTable:
        """The table that is validated."""
        return self.table()


@dataclass(frozen=True)
class Descent:
    """What a descent found.

    Attributes:
        table: The checkpoint of least error on held-out samples; the anchor's table counts.
        anchor: Where the descent started.
        tried: Error of every anchor that was tried.
        iterations: Steps.
        error: RMSE on the held-out samples.
    """

    table: SolverTable
    anchor: Anchor
    tried: dict[str, float]
    iterations: int
    error: float


def falling(done: int, total: int) -> float:
    """Cosine schedule from 1 to 0 at step ``done`` of ``total``, from 1."""
    return 0.5 * (1 + math.cos(math.pi * (done - 1) / total))


def descend(task: Task, begin: Callable[[Task, Anchor], DescentStudent], most: int) -> Descent:
    """Learn a table from the best of four classical solvers on four grids.

    Args:
        task: The task; a small budget shortens the schedule.
        begin: Makes the student.
        most: Iterations at most.
    """
    fit, held = split(task)
    meter = task.meter
    anchor, tried = strongest(task, held, SOLVERS, None if meter.budget is None else (meter.budget - meter.calls) // 10)
    student, best, least, done = begin(task, anchor), anchor.table(), anchor.error, 0
    following = batches(fit, BATCH, task.seed)
    iterations = most
    if meter.budget is not None:
        cost, check = 2 * task.nfe * min(BATCH, fit.stop - fit.start), task.nfe * (held.stop - held.start)
        iterations = min(iterations, max(1, (meter.budget - meter.calls - CHECKS * check) // cost))
    every = max(1, iterations // (CHECKS - 1))
    try:
        for done in range(1, iterations + 1):
            student.step(following(), done, iterations)
            if done % every == 0 or done == iterations:
                table = student.kept()
                error = rmse(rolled(task, student.noise[held], table, held), student.target[held])
                if error < least:
                    best, least = table, error
    except OutOfBudget:
        pass
    return Descent(best, anchor, tried, done, least)
