r"""One table for many networks: a joint fit by Gauss–Newton on the free numbers of a core.

Network m has squared errors e of its samples, and :math:`c_m^2`, the median error of its best classical solver at the
same number of calls. With Charbonnier's :math:`\rho(t) = 2(\sqrt{1 + t} - 1)`,

.. math:: L_m = \frac{\mathrm{mean}_i\, \rho(e_i / c_m^2) + \delta}{\text{the same of the best classical solver}},
          \qquad F = \Big(\mathrm{mean}_m L_m^q\Big)^{1/q}.

So L is 1 for a network on which the table is no better than the best classical solver, and q > 1 makes the worst
networks count most. Errors that nobody sees count little: c is at least a hundredth of the data's standard deviation,
and delta is 0.2. A step solves the normal equations of all networks, each with the weight :math:`L_m^{q-1}`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.networks.solved import Solved
from longstride.arrays import Array
from longstride.calibration.loss import Loss
from longstride.calibration.prefix_runs import PrefixRuns
from longstride.calibration.reference.solve import squared_errors
from longstride.cores.core import Core
from longstride.errors import LongstrideError

__all__ = ["Goal", "Joint"]

#: Steps of the difference quotients of a weight and of the logarithm of a level.
_WEIGHT, _LEVEL = 2e-3, 1e-2
#: Least c over the standard deviation of the data, and delta of the module.
_UNSEEN, _DELTA = 0.01, 0.2
#: Entries of one network call, at the most: a few small networks gain by large batches.
_TOGETHER = 256
#: A fit ends after so many steps in a row that gain less than this.
_PATIENCE, _LEAST_GAIN = 2, 0.99
#: Largest change of the logarithm of a level in one step, as a part of the distance to its neighbours.
_PART = 0.45


@dataclass(frozen=True)
class Goal:
    """What counts for one network.

    Attributes:
        solved: Its samples.
        c2: Its median squared error with the best classical solver, or more.
        par: The mean loss of that solver, plus delta.
        count: The first samples that count.
        part: Scale of its levels, over the data's standard deviation.
        robust: Charbonnier's loss of errors in units of c².
    """

    solved: Solved
    c2: float
    par: float
    count: int
    part: float
    robust: Loss

    @staticmethod
    def of(solved: Solved, nfe: int, count: int, part: float = 1.0, robust: float = 1.0) -> Goal:
        """The goal at a number of calls, on the first samples, with a robust loss from ``robust`` times c² on."""
        loss = Loss(robust)
        errors = [e[:count] for e in solved.classical(nfe).values() if np.isfinite(e).all()]
        c2 = max(min(float(np.median(e)) for e in errors), (_UNSEEN * solved.data_std) ** 2)
        return Goal(solved, c2, min(float(loss.value(e / c2).mean()) for e in errors) + _DELTA, count, part, loss)

    def loss(self, core: Core) -> float:
        """L of a core."""
        squared = self.solved.squared(self.solved.core(core, self.part), self.count)
        return (float(self.robust.value(squared / self.c2).mean()) + _DELTA) / self.par

    @torch.inference_mode()
    def equations(self, core: Core, numbers: Array, steps: Array) -> tuple[Array, Array, float]:
        """Normal matrix and moment of the loss at a core, and the loss."""
        solved, p = self.solved, len(numbers)
        gram, moment, total = np.zeros((p, p)), np.zeros(p), _DELTA
        count = self.count
        moved = [
            solved.core(Core.of(numbers + h * unit, core.nfe, core.start), self.part)
            for h, unit in zip(steps, np.eye(p), strict=False)
        ]
        for begin in range(0, count, 16):
            few = slice(begin, min(begin + 16, count))
            runs = PrefixRuns(solved.denoiser.select(few), solved.noise[few], solved.core(core, self.part))
            ends = runs.ends(moved, _TOGETHER)
            squared = squared_errors(runs.end, solved.target[few]) / self.c2
            weight = self.robust.root_weight(torch.tensor(squared)).float()[:, None]
            size = np.sqrt(self.c2 * runs.end[0].numel() * count)
            here = runs.end.flatten(1)
            left = (weight * (solved.target[few].flatten(1) - here)).flatten().double() / size
            columns = [
                (weight * (end.flatten(1) - here)).flatten() / (size * h) for end, h in zip(ends, steps, strict=False)
            ]
            jacobian = torch.stack(columns, 1).double()
            gram += (jacobian.T @ jacobian).numpy()
            moment += (jacobian.T @ left).numpy()
            total += float(self.robust.value(squared).sum()) / count
        return gram / self.par, moment / self.par, total / self.par


class Joint:
    """The fit.

    Args:
        goals: The networks.
        start: First level of the core.
        q: Exponent of the mean over networks.
        say: Told one line per step.
    """

    def __init__(self, goals: Sequence[Goal], start: float, q: float, say: Callable[[str], None]) -> None:
        self.goals, self.start, self.q, self.say = goals, start, q, say

    def aggregate(self, losses: Array) -> float:
        """F of the losses of all networks."""
        worst = float(losses.max())
        return worst * float(np.mean((losses / worst) ** self.q) ** (1 / self.q)) if np.isfinite(worst) else np.inf

    def losses(self, core: Core) -> Array:
        """Losses of all networks; infinite where a sample is not finite or the core does not fit."""
        found = list[float]()
        for goal in self.goals:
            try:
                found.append(goal.loss(core))
            except LongstrideError:
                found.append(np.inf)
        losses: Array = np.nan_to_num(np.array(found, np.float64), nan=np.inf)
        return losses

    def fit(
        self,
        numbers: Array,
        nfe: int,
        steps: int,
        *,
        damping: float = 1e-2,
        ridge: float = 1e-4,
        keep: Callable[[Array, Array], None] = lambda numbers, losses: None,
    ) -> Array:
        """Free numbers after at most so many steps.

        Args:
            numbers: First free numbers.
            nfe: Network calls.
            steps: Most steps.
            damping: First damping.
            ridge: Pull to the first numbers.
            keep: Told the numbers and losses after every step.
        """
        sizes = np.full(len(numbers), _WEIGHT)
        sizes[len(numbers) - nfe + 1 :] = _LEVEL
        first, slow = numbers, 0
        for step in range(steps):
            core = Core.of(numbers, nfe, self.start)
            total, moment = np.zeros((len(numbers), len(numbers))), np.zeros(len(numbers))
            found = [goal.equations(core, numbers, sizes) for goal in self.goals]
            losses = np.array([loss for _, _, loss in found], np.float64)
            here = self.aggregate(losses)
            weight = (losses / here) ** (self.q - 1) / len(losses)
            for w, (gram, m, _) in zip(weight, found, strict=True):
                total, moment = total + w * gram, moment + w * m
            diagonal = np.diag(np.diag(total) + 1e-9 * np.trace(total))
            moment = moment - ridge * np.diag(diagonal) * (numbers - first)
            self.say(f"step {step}: F {here:.4f}, worst {losses.max():.3f}, mean {losses.mean():.3f}")
            for _ in range(7):
                delta: Array = np.asarray(np.linalg.solve(total + (damping + ridge) * diagonal, moment), np.float64)
                trial = self._moved(numbers, delta, nfe)
                tried = self.losses(Core.of(trial, nfe, self.start))
                if self.aggregate(tried) < here:
                    break
                damping *= 6
            else:
                self.say("no step lowers the objective")
                return numbers
            before, numbers, damping = here, trial, max(damping / 4, 1e-6)
            keep(numbers, tried)
            slow = slow + 1 if self.aggregate(tried) > _LEAST_GAIN * before else 0
            if slow == _PATIENCE:
                self.say(f"converged: F {self.aggregate(tried):.4f}, worst {tried.max():.3f}")
                break
        return numbers

    def _moved(self, numbers: Array, delta: Array, nfe: int) -> Array:
        """Numbers after a step; levels keep their order and move by less than half the way to a neighbour."""
        moved, levels = numbers + delta, slice(len(numbers) - nfe + 1, None)
        logs = np.concatenate([[np.log(self.start)], numbers[levels]])
        gaps = -np.diff(np.append(logs, logs[-1] - 1.5))
        room = _PART * np.minimum(gaps[:-1], gaps[1:])
        moved[levels] = numbers[levels] + room * np.tanh(delta[levels] / room)
        return moved
