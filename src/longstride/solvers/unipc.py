"""UniPC: a unified predictor–corrector of any order."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longstride.errors import InputError, unknown
from longstride.nodes import Nodes
from longstride.solvers.exponential import ExponentialStep, Form, model
from longstride.table import Row, SolverTable
from longstride.table_builder import TableBuilder

__all__ = ["combine", "match", "moments_of", "unipc"]

Variant = Literal["bh1", "bh2"]


def unipc(
    nodes: Nodes,
    order: int = 2,
    variant: Variant = "bh2",
    corrector: bool = True,
    prediction: Form = "data",
    lower_order_final: bool = True,
) -> SolverTable:
    r"""UniPC-p: exponential predictor, and a corrector that reuses the next step's output at no further call.

    .. math:: x_{i+1} = c\, x_i^c + w_0 m_i + B(h) \sum_k \frac{a_k}{r_k} (m_{i-k} - m_i)

    with :math:`r_k = (\lambda_{i-k} - \lambda_i) / h` and weights ``a`` that match the exact integral to the order.
    The network is called at the predicted state. The next step starts from the corrected state, a combination of the
    predicted state and of outputs. The last state is not corrected.

    Args:
        nodes: ``(alpha, sigma)`` from noisy to clean, each ``(N + 1,)``; the last sigma may be 0.
        order: Order of the predictor, 1, 2 or 3; the corrector's order is higher by 1.
        variant: The free function: ``"bh1"``, B(h) = h, or ``"bh2"``, B(h) = e^h - 1.
        corrector: Whether to correct; without the corrector the solver is UniP.
        prediction: ``"data"`` or ``"noise"``.
        lower_order_final: Whether the order falls to 1 over the last steps (the authors' default).

    Returns:
        A table with ``nfe = N``.

    Raises:
        InputError: an order outside 1 … 3, or unknown options.

    References:
        Zhao et al., UniPC, 2023, Algorithms 1–2 and Eq. (9). https://arxiv.org/abs/2302.04867
    """
    if order not in (1, 2, 3):
        raise InputError(f"unipc has order 1, 2 or 3, got {order}")
    if variant not in ("bh1", "bh2"):
        raise unknown("variant", variant, ("bh1", "bh2"))
    table, lam = TableBuilder(nodes), nodes.lambdas
    levels = list(zip(nodes.alphas.tolist(), nodes.sigmas.tolist(), strict=True))
    corrected = table.state(0)
    for i in table.levels():
        usable = min(
            order, i + 1, nodes.steps - i if lower_order_final else order, int(np.isfinite(lam[: i + 1]).sum())
        )
        if usable == 0 or not np.isfinite(lam[i + 1]):
            # From alpha 0, or to sigma 0: first order. At alpha 0 the noise does not tell the clean prediction.
            form: Form = "data" if nodes.alphas[i] == 0 else prediction
            step = ExponentialStep(corrected, levels[i], levels[i + 1], form)
            corrected = table.state(table.step(step.first(model(table, i, form))))
            continue
        step = ExponentialStep(corrected, levels[i], levels[i + 1], prediction)
        m = [model(table, i - k, prediction) for k in range(usable)]
        r = np.array([(lam[i - k] - lam[i]) / step.h for k in range(1, usable)])
        slopes = [(m[k] - m[0]) / r[k - 1] for k in range(1, usable)]
        base, scale, moments = step.first(m[0]), *moments_of(step, variant, usable)
        predictor = np.array([0.5]) if usable == 2 else match(r, moments[: usable - 1])
        predicted = table.step(base + combine(slopes, scale * predictor))
        corrected = table.state(predicted)
        if corrector and i + 1 < nodes.steps:
            weights = np.array([0.5]) if usable == 1 else match(np.append(r, 1.0), moments)
            arrived = model(table, predicted, prediction) - m[0]
            # Written from the predicted state, so that the recurrence reaches back ``order`` steps and no further.
            corrected = corrected + combine([*slopes, arrived], scale * weights) - combine(slopes, scale * predictor)
    return table.table(
        "unipc",
        order=order,
        variant=variant,
        corrector=corrector,
        prediction=prediction,
        lower_order_final=lower_order_final,
    )


def combine(rows: list[Row], weights: NDArray[np.float64]) -> Row:
    """The sum of rows, each times its weight."""
    total = Row()
    for row, weight in zip(rows, weights, strict=True):
        total = total + float(weight) * row
    return total


def match(r: NDArray[np.float64], moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights ``a`` with ``sum_k a_k r_k^(n-1) = moments[n-1]``: the Vandermonde system of Theorem 3.1."""
    if len(r) == 0:
        return np.zeros(0)
    return np.asarray(np.linalg.solve(np.vander(r, increasing=True).T, moments), np.float64)


def moments_of(step: ExponentialStep, variant: Variant, count: int) -> tuple[float, NDArray[np.float64]]:
    """The scale of all correction terms, and the moments ``n! phi_{n+1} / B`` for ``n = 1 … count``."""
    sign = -1.0 if step.prediction == "data" else 1.0
    hh = sign * step.h
    phi_1 = math.expm1(hh)
    b = hh if variant == "bh1" else phi_1
    phi, factorial, moments = phi_1 / hh - 1, 1.0, []
    for n in range(1, count + 1):
        factorial *= n
        moments.append(phi * factorial / b)
        phi = phi / hh - 1 / (factorial * (n + 1))
    size = step.target[0] if step.prediction == "data" else step.target[1]
    return -size * b, np.array(moments)
