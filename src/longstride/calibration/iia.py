r"""Improved Integration Approximation: per step, the coefficients that best meet a fine-grained solution.

One principle for every solver. The base solver's row gives :math:`\hat x_{i+1}`; M fine steps from the sampler's own
state :math:`x_i` give the target :math:`x_{i+1}^\*`; and coefficients of a few *directions* built from the r + 1
most recent gradients are added to the row:

.. math:: x_{i+1} = \hat x_{i+1} + \sum_d \beta_d v_d, \qquad
          \beta = \arg\min \mathbb E \| x_{i+1}^\* - \hat x_{i+1} - \textstyle\sum_d \beta_d v_d \|^2

For DDIM, S-PNDM and iPNDM the directions are the differences :math:`D_{i-j} - D_{i-j-1}` and
:math:`\epsilon_{i-j} - \epsilon_{i-j-1}`, ``j = 0 … r - 1``; the first step, which has a single gradient, uses
:math:`\epsilon_0` alone. States are rolled out along the calibrated rows, as at inference.

References:
    Zhang, Niwa & Kleijn, On Accelerating Diffusion-Based Sampling Processes via Improved Integration Approximation,
    ICLR 2024, Sec. 4 and App. G. https://arxiv.org/abs/2304.11328
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from torch import Tensor

from longstride.calibration.normal_equations import NormalEquations
from longstride.calibration.reference import in_batches, refine, sigma_floor
from longstride.errors import InputError, unknown
from longstride.sampler import DenoiserLike, History, raise_if_not_finite, sample
from longstride.solvers import SOLVERS
from longstride.table import Row, SolverTable

__all__ = ["IIA_BASES", "IIASettings", "RowReport", "calibrate_iia", "directions"]

#: Base solvers whose rows take the difference directions.
IIA_BASES = ("ddim", "spndm", "ipndm")


@dataclass(frozen=True)
class IIASettings:
    """Settings of IIA; the defaults are the paper's.

    Attributes:
        r: Differences per prediction: the r + 1 most recent gradients are used.
        substeps: Fine steps M of the target, per step. A solver that spends more than one call per step, or at its
            start, takes as many steps as M calls allow.
        fine: Solver that takes them; ``"base"``: the base solver itself.
        ridge: Penalty towards the base row, relative to the energy of each direction.
    """

    r: int = 1
    substeps: int = 10
    fine: str = "base"
    ridge: float = 1e-6

    def __post_init__(self) -> None:
        if self.r < 0 or self.substeps < 1 or not 0 <= self.ridge < np.inf:
            raise InputError(f"expected r >= 0, substeps >= 1 and ridge >= 0, got {self}")


@dataclass(frozen=True)
class RowReport:
    """What calibration did to one step.

    Attributes:
        row: Index of the state that the step arrives at.
        sigma_from: Level where it starts.
        sigma_to: Level where it ends.
        labels: Names of the directions.
        coefficients: Their fitted coefficients.
        base_error: Root-mean-square distance of the base row to the target, on the samples that were fitted.
        error: The same with the coefficients.
        held_out_base_error: As ``base_error``, on the held-out samples.
        held_out_error: As ``error``, on the held-out samples.
        accepted: Whether the coefficients are in use: they must not raise the held-out error of this step, and the
            gate must not have given the row back to the base.
    """

    row: int
    sigma_from: float
    sigma_to: float
    labels: tuple[str, ...]
    coefficients: tuple[float, ...]
    base_error: float
    error: float
    held_out_base_error: float
    held_out_error: float
    accepted: bool


def directions(table: SolverTable, k: int, r: int) -> dict[str, Row]:
    """The directions that may be added to row ``k``, by name.

    The gradients are those of the step's own stages, latest first, and then those of earlier grid levels.

    Args:
        table: The base solver.
        k: Row that ends a step, in ``table.grid``.
        r: Differences per prediction.
    """
    start = table.step_of_row(k)
    calls = [*range(k - 1, start - 1, -1), *(g for g in reversed(table.grid) if g < start)]

    def noise(j: int) -> Row:
        return (Row({j: 1.0}) - float(table.alphas[j]) * Row({}, {j: 1.0})) / float(table.sigmas[j])

    if len(calls) == 1:
        return {"noise(0)": noise(0)}
    found: dict[str, Row] = {}
    for latest, before in list(pairwise(calls))[:r]:
        found[f"data({latest}) - data({before})"] = Row({}, {latest: 1.0, before: -1.0})
        found[f"noise({latest}) - noise({before})"] = noise(latest) - noise(before)
    return found


def _fine_table(table: SolverTable, start: int, k: int, settings: IIASettings, floor: float) -> SolverTable:
    """The fine solver from state ``start`` to state ``k``: as many steps as its share of the calls allows.

    Of the ``substeps + 1`` calls that a step may cost, the base row has spent ``k - start``.
    """
    name, options = (table.name, dict(table.options)) if settings.fine == "base" else (settings.fine, {})
    if name not in SOLVERS:
        raise unknown("fine solver", name, ("base", *SOLVERS))
    budget = max(1, settings.substeps + 1 - (k - start))
    for steps in range(budget, 0, -1):
        nodes = refine(table, start, k, steps, floor)
        try:
            fine = SOLVERS[name](nodes, **options)
        except InputError:  # too few levels for this solver
            break
        if fine.nfe <= budget:
            return fine
    return SOLVERS["ddim"](refine(table, start, k, budget, floor))


def calibrate_iia(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable,
    held_out: int,
    settings: IIASettings,
    *,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SolverTable, list[RowReport]]:
    """Rewrite the rows of ``table``, one step after the other, in a single roll-out.

    At most ``settings.substeps + 1`` network calls per sample and step are spent.

    Args:
        denoiser: The network, bound to the whole batch.
        noise: First states, shape ``(B, *)``; the last ``held_out`` samples decide what is accepted.
        table: The base solver, one of :data:`IIA_BASES`.
        held_out: Number of held-out samples, ``1 … B - 1``.
        settings: See :class:`IIASettings`.
        batch_size: Most samples per network call; default: all at once.
        progress: Called with (steps done, steps in all).

    Raises:
        InputError: a base without difference directions.
        NonFiniteError: the network returned NaN or infinity.
    """
    if table.name not in IIA_BASES:
        raise InputError(f"IIA is defined here for the bases {', '.join(IIA_BASES)}, not for {table.name!r}")
    fitted = len(noise) - held_out
    network = in_batches(denoiser, batch_size or len(noise))
    floor = sigma_floor(denoiser, table)
    rows, reports = list(table.rows), []

    def rewrite(k: int, history: History) -> Row:
        base = table.rows[k - 1]
        if k not in table.grid:
            return base
        start = table.step_of_row(k)
        fine_table = _fine_table(table, start, k, settings, floor)
        target = sample(network, history.states[start].to(noise.dtype), fine_table)
        residual = target.to(history.dtype) - history.combine(base)
        candidates = directions(table, k, settings.r)
        vectors = [history.combine(row) for row in candidates.values()]
        train, test = NormalEquations(len(vectors)), NormalEquations(len(vectors))
        train.add([v[:fitted] for v in vectors], residual[:fitted])
        test.add([v[fitted:] for v in vectors], residual[fitted:])
        train.all_reduce()
        test.all_reduce()
        beta, zero = train.solve(settings.ridge), np.zeros(len(vectors))
        accepted = bool(test.mse(beta) <= test.mse(zero))
        reports.append(
            RowReport(
                row=k,
                sigma_from=float(table.sigmas[start]),
                sigma_to=float(table.sigmas[k]),
                labels=tuple(candidates),
                coefficients=tuple(beta.tolist()),
                base_error=train.mse(zero) ** 0.5,
                error=train.mse(beta) ** 0.5,
                held_out_base_error=test.mse(zero) ** 0.5,
                held_out_error=test.mse(beta) ** 0.5,
                accepted=accepted,
            )
        )
        if accepted:
            for weight, direction in zip(beta.tolist(), candidates.values(), strict=True):
                base = base + weight * direction
            rows[k - 1] = base.pruned()
        if progress is not None:
            progress(len(reports), len(table.grid) - 1)
        return rows[k - 1]

    sample(network, noise, table, callback=raise_if_not_finite, rewrite=rewrite)
    changed = any(new != old for new, old in zip(rows, table.rows, strict=True))
    name = f"iia_{table.name}"
    return replace(table, name=name, rows=tuple(rows), exact=not changed), reports
