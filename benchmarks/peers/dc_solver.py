r"""DC-Solver: UniPC whose kept outputs are moved along their own interpolation to undo the corrector's misalignment.

In a predictor–corrector the output :math:`D_i` is taken at the *predicted* state, while the next step starts from the
*corrected* one. Dynamic compensation replaces the newest kept output, once the corrector has used it, by the value of
the Lagrange polynomial through the last K + 1 kept outputs at a shifted time,

.. math:: \hat D_i = \sum_{k=0}^{K} \prod_{l \ne k} \frac{t' - t_{i-l}}{t_{i-k} - t_{i-l}}\, D_{i-k},
          \qquad t' = \rho_i t_i + (1 - \rho_i)\, t_{i-1},

so that :math:`\rho_i = 1` changes nothing. What stands in the buffer, compensated outputs included, feeds the next
predictor and corrector. One ratio per step is searched, in order, each with the ones before it fixed, to minimise

.. math:: \rho_i^* = \arg\min_\rho\, \mathbb{E}\, \lVert x_{i+1}(\rho) - x^{GT}_{i+1} \rVert^2

against the converged trajectory at the next level, after its correction (the last step has none). Everything is
linear in the network's outputs, so the result is one table.

Reference: Zhao, Wang, Zhou, Lu, DC-Solver: Improving predictor-corrector diffusion sampler via dynamic compensation,
ECCV 2024. https://arxiv.org/abs/2409.03755

Settings: K = 2 as in the paper (less while fewer outputs are kept), UniPC of order 3, bh2.

Adapted:

- The levels are the usual grid on which UniPC does best on the calibration samples.
- Ratios are found by golden-section search in a bracket, after a few even trials that place it, instead of AdamW
  through the network: one number per step, and no backward pass. The accepted ratio is never worse on the calibration
  samples than 1.
- The polynomial is over :math:`\lambda = \log(\alpha/\sigma)` where the network's time is sigma itself (EDM), whose
  even steps mean little across four decades; over the network's time otherwise.
- Ratios are found for this task's number of calls; the paper's regression of ratios over other numbers is not needed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.peer_task import Found, OutOfBudget, Task
from benchmarks.peers.anchor import strongest
from longstride.nodes import Nodes
from longstride.solvers.exponential import ExponentialStep
from longstride.solvers.unipc import combine, match, moments_of
from longstride.table import Row, SolverTable
from longstride.table_builder import TableBuilder

LABEL = "DC-Solver"
BACKPROP = False

ORDER = 3
REACH = 2
Array = NDArray[np.float64]

#: Share of a budget that the choice of the grid may spend.
CHOICE = 0.25
#: Ratios that are tried first, and the golden-section steps around the best of them.
TRIALS = (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
GOLDEN_STEPS = 12


def find(task: Task) -> Found:
    """One compensation ratio per step, by a scalar search."""
    most = None if task.meter.budget is None else int(CHOICE * (task.meter.budget - task.meter.calls))
    anchor, tried = strongest(task, slice(0, len(task.noise)), [("unipc", {"order": ORDER})], most)
    nodes = Nodes.of(anchor.sigmas, schedule=task.schedule)
    ratios, done = [1.0] * task.nfe, 0
    try:
        search = _Search(task, nodes)
        for i in range(1, task.nfe):
            ratios[i] = search.step(ratios, i)
            done = i
    except OutOfBudget:
        pass
    about = {"solver": "unipc", "grid": anchor.grid, "ratios": ratios, "searched": done, "tried": tried}
    return Found(dc_table(nodes, ratios, times(task, nodes)), about)


def times(task: Task, nodes: Nodes) -> Array:
    """The variable of the compensation polynomial at every level."""
    return -np.log(nodes.sigmas) if task.schedule.family == "ve" else task.schedule.time(nodes.sigmas)


def compensated(kept: list[Row], variable: Array, ratio: float) -> Row:
    """The newest of the kept outputs (oldest first) moved to ``ratio`` along the polynomial through the last ones."""
    reach = min(REACH + 1, len(kept))
    if reach < 2 or ratio == 1.0:
        return kept[-1]
    t = variable[len(kept) - reach : len(kept)]
    at = ratio * t[-1] + (1 - ratio) * t[-2]
    total = Row()
    for k in range(reach):
        others = np.delete(t, k)
        total = total + float(np.prod((at - others) / (t[k] - others))) * kept[len(kept) - reach + k]
    return total


def dc_table(nodes: Nodes, ratios: list[float], variable: Array) -> SolverTable:
    """UniPC with compensation; all ratios 1: UniPC itself. Its states are the predicted ones."""
    return walk(nodes, ratios, variable)[0]


def walk(nodes: Nodes, ratios: list[float], variable: Array) -> tuple[SolverTable, Array]:
    """The table, and the normal form of what each step starts from, shape ``(K, K + 1)``: of ``x_0``, then outputs.

    Row 0 is the noise; row k the corrected state at level k.
    """
    table, lam = TableBuilder(nodes), nodes.lambdas
    levels = list(zip(nodes.alphas.tolist(), nodes.sigmas.tolist(), strict=True))
    starts, kept = [table.state(0)], []
    for i in table.levels():
        kept.append(table.data(i))
        kept[i] = compensated(kept, variable, ratios[i])
        step = ExponentialStep(starts[i], levels[i], levels[i + 1], "data")
        usable = min(ORDER, i + 1, nodes.steps - i, int(np.isfinite(lam[: i + 1]).sum()))
        if usable == 0:  # from alpha 0
            starts.append(table.state(table.step(step.first(kept[i]))))
            continue
        r = np.array([(lam[i - k] - lam[i]) / step.h for k in range(1, usable)])
        slopes = [(kept[i - k] - kept[i]) / r[k - 1] for k in range(1, usable)]
        base, (scale, moments) = step.first(kept[i]), moments_of(step, "bh2", usable)
        predictor = np.array([0.5]) if usable == 2 else match(r, moments[: usable - 1])
        predicted = table.step(base + combine(slopes, scale * predictor))
        weights = np.array([0.5]) if usable == 1 else match(np.append(r, 1.0), moments)
        if i + 1 < nodes.steps:
            arrived = table.data(predicted) - kept[i]
            starts.append(base + combine([*slopes, arrived], scale * weights))
    finished = table.table("dc_solver", ratios=tuple(ratios))
    form = np.zeros((nodes.steps, nodes.steps + 1))
    for k, row in enumerate(starts[: nodes.steps]):
        for i, weight in row.states.items():
            form[k] += weight * np.append(finished.a[i], finished.b[i])
        for j, weight in row.outputs.items():
            form[k, 1 + j] += weight
    return finished, form


class _Search:
    """Runs the first steps once, and asks the network again only for the step in question."""

    def __init__(self, task: Task, nodes: Nodes) -> None:
        self.task, self.nodes, self.variable = task, nodes, times(task, nodes)
        self.outputs: list[Tensor] = []

    def combined(self, form: Array, outputs: list[Tensor]) -> Tensor:
        """A state from its normal form: weights of the noise and of ``outputs``, the others being 0."""
        x = float(form[0]) * self.task.noise
        for weight, output in zip(form[1:], outputs, strict=False):
            x = x + float(weight) * output
        return x

    def predicted(self, table: SolverTable, k: int) -> Tensor:
        return self.combined(np.append(table.a[k], table.b[k]), self.outputs[:k])

    def output(self, x: Tensor, k: int) -> Tensor:
        return self.task.call(x, float(self.nodes.sigmas[k]))

    def step(self, ratios: list[float], i: int) -> float:
        """The ratio of step ``i``, with the earlier ones as they are."""
        table = dc_table(self.nodes, ratios, self.variable)
        for k in range(len(self.outputs), i + 1):
            self.outputs.append(self.output(self.predicted(table, k), k))
        target = self.task.solution.at(float(self.nodes.sigmas[i + 1]))

        def error(ratio: float) -> float:
            trial, starts = walk(self.nodes, [*ratios[:i], ratio, *ratios[i + 1 :]], self.variable)
            x = self.predicted(trial, i + 1)
            if i + 1 < trial.nfe:
                x = self.combined(starts[i + 1], [*self.outputs[: i + 1], self.output(x, i + 1)])
            return float((x - target).double().square().mean())

        return golden(error, TRIALS, GOLDEN_STEPS)


def golden(error: Callable[[float], float], trials: tuple[float, ...], steps: int) -> float:
    """A minimum of ``error`` near the best of ``trials``, which include 1."""
    values = [error(trial) for trial in trials]
    best = int(np.argmin(values))
    low, high = trials[max(best - 1, 0)], trials[min(best + 1, len(trials) - 1)]
    found, least = trials[best], values[best]
    shrink = (5**0.5 - 1) / 2
    left, right = high - shrink * (high - low), low + shrink * (high - low)
    at_left, at_right = error(left), error(right)
    for _ in range(steps):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - shrink * (high - low)
            at_left = error(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + shrink * (high - low)
            at_right = error(right)
    for ratio, value in ((left, at_left), (right, at_right)):
        if value < least:
            found, least = ratio, value
    return found
