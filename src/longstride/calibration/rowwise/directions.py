r"""Families of directions that may be added to a row, built from the base table and recent outputs.

A family is a function of the base table, a row and r, for tables of any solver. The calls ``c_0, c_1, …`` count
backwards from the row: calls within the step, then calls at earlier grid levels. With
:math:`\epsilon_j = (x_j - \alpha_j D_j) / \sigma_j`:

================  ==================================================  ==============================================
family            directions                                          published as
================  ==================================================  ==============================================
``differences``   :math:`D_{c_j} - D_{c_{j+1}}` and                   IIA-DDIM, IIA-SPNDM, IIA-IPNDM (2 per j);
                  :math:`\epsilon_{c_j} - \epsilon_{c_{j+1}}`,        IIA-DPM-Solver
                  j < r; a row that has seen one call:
                  :math:`\epsilon_0`
``increments``    the base row's whole increment of this and of the   BIIA-EDM; with r = 0 on DDIM: the one
                  r steps before it, one coefficient each             coefficient per step of IIA-DDIM under guidance
``split``         each of these increments in two: :math:`\epsilon`   IIA-EDM
                  where the step starts, and the differences of the
                  predictions of its calls
================  ==================================================  ==============================================

For Heun's step from level i the increment is :math:`\tfrac12 d_i + \tfrac12 d'_{i+1}` times its width, and its split is
:math:`x_i - D_i` and :math:`D_i - \tilde D_{i+1}`, for
:math:`\tfrac12 d_i + \tfrac12 d'_{i+1} = (x_i - D_i)/\sigma_i + (D_i - \tilde D_{i+1})/(2\sigma_{i+1})`. A last step to
sigma 0, which is Euler's, has the first direction alone. Near the first step fewer than r earlier steps exist.

References:
    Zhang, Niwa & Kleijn, On Accelerating Diffusion-Based Sampling Processes via Improved Integration Approximation,
    ICLR 2024, Sec. 3 and 4, App. A, C and G. https://arxiv.org/abs/2304.11328
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from longstride.table import Row, SolverTable

__all__ = ["DIRECTIONS", "differences", "increments", "split"]


def _noise(table: SolverTable, j: int) -> Row:
    return (Row({j: 1.0}) - float(table.alphas[j]) * Row({}, {j: 1.0})) / float(table.sigmas[j])


def _difference(later: int, earlier: int) -> Row:
    return Row({}, {later: 1.0, earlier: -1.0})


def _steps(table: SolverTable, k: int, r: int) -> list[tuple[int, int]]:
    """Start and end of the step that row ``k`` belongs to, up to that row, and of up to ``r`` steps before it."""
    start = table.step_of_row(k)
    before = [g for g in table.grid if g <= start]
    return [(start, k), *list(pairwise(before))[::-1][:r]]


def differences(table: SolverTable, k: int, r: int) -> dict[str, Row]:
    """Differences of the r + 1 most recent gradients; see the module."""
    start = table.step_of_row(k)
    calls = [*range(k - 1, start - 1, -1), *(g for g in reversed(table.grid) if g < start)]
    if len(calls) == 1:
        return {"noise(0)": _noise(table, 0)}
    found: dict[str, Row] = {}
    for later, earlier in list(pairwise(calls))[:r]:
        found[f"data({later}) - data({earlier})"] = _difference(later, earlier)
        found[f"noise({later}) - noise({earlier})"] = _noise(table, later) - _noise(table, earlier)
    return found


def increments(table: SolverTable, k: int, r: int) -> dict[str, Row]:
    """Increments of base rows, each per unit of sigma: mean gradients of steps; see the module."""
    found: dict[str, Row] = {}
    for start, end in _steps(table, k, r):
        width = float(table.sigmas[end] - table.sigmas[start])
        found[f"gradient({start} -> {end})"] = (table.rows[end - 1] - Row({start: 1.0})) / width
    return found


def split(table: SolverTable, k: int, r: int) -> dict[str, Row]:
    """The increments in two parts each; see the module."""
    found: dict[str, Row] = {}
    for start, end in _steps(table, k, r):
        found[f"noise({start})"] = _noise(table, start)
        for earlier, later in pairwise(range(start, end)):
            found[f"data({earlier}) - data({later})"] = _difference(earlier, later)
    return found


#: Families by name. A family is called with the base table, a row 1 … K, and r.
DIRECTIONS: dict[str, Callable[[SolverTable, int, int], dict[str, Row]]] = {
    "differences": differences,
    "increments": increments,
    "split": split,
}
