r"""A table for a setting between calibrated settings: no network is called.

**Over the guidance scale g**, the anchors make the same number of calls. Every free number of a table
(:mod:`longstride.parameters`) is a polynomial of order at most 2 in :math:`\log(1 + g)`, by least squares.

**Over the number of calls K**, the anchors are the nearest number below and the nearest number above. Three functions
of the position in the table describe an anchor. Each of them is linear in :math:`1 / K` between the anchors:

- the levels: :math:`\log(\sigma_k / \alpha_k)`, or a variable that is finite at both ends (:func:`_scale`);
- the shares :math:`(c_{ki} - c'_{ki}) / h_k`;
- the column :math:`\log(r_k \sigma_{k-1} / \sigma_k)`.

Here :math:`x_k = r_k x_{k-1} + \sum_i c_{ki} D_{k-1-i}` is the recurrence of the anchor. A classical table on the
levels of the anchor has the weights :math:`c'_{ki}`. DDIM's step has the size
:math:`h_k = \alpha_k - \alpha_{k-1} \sigma_k / \sigma_{k-1}`. Shares and columns hardly depend on K. The filled table
adds them to the classical table at the filled levels. The normal form would not do: its weights in row k depend on all
earlier rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from longstride.arrays import Array
from longstride.errors import InputError
from longstride.families import alpha_of_ratio
from longstride.nodes import Nodes
from longstride.parameters import Parameters, falling
from longstride.solvers import SOLVERS
from longstride.table import Row, SolverTable

__all__ = ["ORDER", "average_table", "fill_guidance", "fill_nfe", "resampled"]

#: Highest order of the polynomial over guidance.
ORDER = 2


def fill_guidance(anchors: Mapping[float, SolverTable], guidance: float, *, name: str | None = None) -> SolverTable:
    """The table at a guidance scale, from tables with as many calls at other scales.

    Args:
        anchors: Tables by guidance scale, at least one, with as many calls between the same two levels.
        guidance: The scale, above -1. At an anchor's scale its table comes out, if there are at most ``ORDER + 1``
            anchors.
        name: Name of the filled table; default: the nearest anchor's.

    Raises:
        InputError: no anchors, anchors of several shapes, or scales that have no logarithm.
    """
    scales = sorted(anchors)
    if not scales or not min(*scales, guidance) > -1:
        raise InputError(f"expected anchors and guidance scales above -1, got {scales} for {guidance}")
    tables = [anchors[scale].unrolled() for scale in scales]
    _check_alike(tables, same_calls=True)
    near = tables[int(np.argmin([abs(np.log1p(scale) - np.log1p(guidance)) for scale in scales]))]
    unknowns = Parameters(near.nfe, column=True)
    found = np.stack([unknowns.values(table) for table in tables])
    made = unknowns.with_values(near, _polynomial(np.log1p(scales), found, float(np.log1p(guidance))))
    return made if name is None else replace(made, name=name)


def _polynomial(x: Array, y: Array, at: float) -> Array:
    """Least-squares polynomial of order ``min(ORDER, n - 1)`` through rows of ``y``, shape ``(n, p)``, at a point.

    A column in which all rows agree comes out to the bit.
    """
    order = min(ORDER, len(x) - 1)
    middle, width = float(x.mean()), max(float(np.ptp(x)), 1e-12)
    powers = np.vander((x - middle) / width, order + 1)
    shares = np.vander(np.array([(at - middle) / width]), order + 1) @ np.linalg.pinv(powers)
    found: Array = y[0] + (shares @ (y - y[0]))[0]
    return found


@dataclass(frozen=True)
class _Shape:
    """A table without its ends; see the module.

    Attributes:
        calls: K.
        levels: Shape ``(K + 1,)``, in the variable of :func:`_levels`.
        column: Shape ``(K,)``: ``log(r_k sigma_{k-1} / sigma_k)``; 0 if sigma_k is 0.
        shares: Shape ``(K, K)``: entry ``[k - 1, i]`` of the output i calls ago, NaN if i ≥ k.
    """

    calls: int
    levels: Array
    column: Array
    shares: Array


def fill_nfe(anchors: Mapping[int, SolverTable], nfe: int, *, base: str = "ddim") -> SolverTable:
    """The table at a number of calls, from tables with other numbers of calls.

    Args:
        anchors: Tables by number of calls; the nearest below and above are used.
        nfe: Calls K. For the number of an anchor the anchor itself is returned.
        base: Classical solver of one call per step, of the weights c'.

    Raises:
        InputError: no anchor on one side, anchors between other levels, more calls than steps, or a weight of the first
            state that changes its sign.
    """
    if nfe in anchors:
        return anchors[nfe]
    below, above = [n for n in anchors if n < nfe], [n for n in anchors if n > nfe]
    if not below or not above:
        raise InputError(f"{nfe} calls do not lie between anchors: {sorted(anchors)}")
    tables = [anchors[max(below)], anchors[min(above)]]
    _check_alike(tables, same_calls=False)
    low, high = (_shape(table, base) for table in tables)
    t = (1 / nfe - 1 / low.calls) / (1 / high.calls - 1 / low.calls)

    def between(one: Array, other: Array) -> Array:
        mixed: Array = np.where(np.isnan(one), other, np.where(np.isnan(other), one, one + t * (other - one)))
        return mixed

    levels = between(*(_at_positions(s.levels, nfe) for s in (low, high)))
    shares = between(*(_at_rows(s.shares, nfe) for s in (low, high)))
    column = between(*(_at_rows(s.column[:, None], nfe)[:, 0] for s in (low, high)))
    return _placed(_Shape(nfe, levels, column, shares), tables[0], base)


def average_table(tables: Sequence[SolverTable], like: SolverTable, *, base: str = "ddim") -> SolverTable:
    """The mean of the tables of several networks, between the ends of another network's table, as a start for it.

    The mean is over levels relative to their ends, shares and columns. So the networks may have other processes.

    Args:
        tables: Tables with as many calls as ``like``, at least one.
        like: Gives the ends and the family of the process.
        base: Classical solver of one call per step, of the weights c'.

    Raises:
        InputError: no tables, tables of another number of calls, more calls than steps, or a weight of the first state
            that changes its sign.
    """
    if not tables or any(table.nfe != like.nfe or len(table.grid) != table.nfe + 1 for table in (*tables, like)):
        calls = [table.nfe for table in tables]
        raise InputError(f"expected tables of {like.nfe} calls, one per step, to average, got {calls}")
    shapes = [_shape(table, base) for table in tables]
    parts = [(s.levels - s.levels[-1]) / (s.levels[0] - s.levels[-1]) for s in shapes]
    ends = _levels(like)[[0, -1]]
    levels = ends[1] + (ends[0] - ends[1]) * np.mean(parts, axis=0)
    shares = np.mean([np.nan_to_num(s.shares) for s in shapes], axis=0)
    column = np.mean([s.column for s in shapes], axis=0)
    return _placed(_Shape(like.nfe, levels, column, shares), like, base)


def _placed(shape: _Shape, like: SolverTable, base: str) -> SolverTable:
    """The table of a shape between the two ends of ``like``."""
    alphas, sigmas = _from_levels(like, falling(shape.levels))
    classical = SOLVERS[base](Nodes(alphas, sigmas))
    shares = np.nan_to_num(shape.shares) + np.nan_to_num(_shares(classical, alphas, sigmas))
    rows = []
    for n in range(1, shape.calls + 1):
        ratio, size = _step(alphas, sigmas, n)
        outputs = {n - 1 - i: float(size * shares[n - 1, i]) for i in range(n)}
        rows.append(Row({n - 1: float(ratio * np.exp(shape.column[n - 1]))}, outputs).pruned())
    grid = tuple(range(shape.calls + 1))
    return SolverTable(like.name, alphas, sigmas, tuple(rows), grid, exact=False).unrolled()


def _shape(table: SolverTable, base: str) -> _Shape:
    alphas, sigmas = table.alphas, table.sigmas
    classical = SOLVERS[base](Nodes(alphas, sigmas))
    column = np.zeros(table.nfe)
    for k in range(1, table.nfe + 1):
        if sigmas[k] > 0:
            ratio = table.a[k] / table.a[k - 1] / _step(alphas, sigmas, k)[0] if table.a[k - 1] else 0.0
            if not ratio > 0:
                raise InputError(f"{table.name}: the weight of the first state changes sign, which cannot be filled")
            column[k - 1] = np.log(ratio)
    shares = _shares(table, alphas, sigmas) - _shares(classical, alphas, sigmas)
    return _Shape(table.nfe, _levels(table), column, shares)


def _step(alphas: Array, sigmas: Array, k: int) -> tuple[float, float]:
    """DDIM's row k: weight of state ``k - 1``, and weight ``h_k`` of the output there."""
    ratio = float(sigmas[k] / sigmas[k - 1])
    return ratio, float(alphas[k] - alphas[k - 1] * ratio)


def _shares(table: SolverTable, alphas: Array, sigmas: Array) -> Array:
    """``c_ki / h_k`` at ``[k - 1, i]``, shape ``(K, K)``; NaN if i ≥ k."""
    found = np.full((table.nfe, table.nfe), np.nan)
    for k in range(1, table.nfe + 1):
        before = table.a[k - 1]
        ratio = table.a[k] / before if before else 0.0
        weights = table.b[k, :k] - ratio * table.b[k - 1, :k]
        found[k - 1, :k] = weights[::-1] / _step(alphas, sigmas, k)[1]
    return found


def _at_positions(levels: Array, steps: int) -> Array:
    """Levels at the positions ``k / steps``, shape ``(steps + 1,)``."""
    found: Array = np.interp(np.arange(steps + 1) / steps, np.arange(len(levels)) / (len(levels) - 1), levels)
    return found


def resampled(table: SolverTable, steps: int) -> tuple[Array, Array]:
    """Alphas and sigmas of another number of steps, spread like the grid levels of a table.

    Args:
        table: Gives the levels.
        steps: Steps N.

    Returns:
        Two arrays ``(N + 1,)`` with the table's two ends.
    """
    return _from_levels(table, falling(_at_positions(_levels(table)[list(table.grid)], steps)))


def _at_rows(values: Array, nfe: int) -> Array:
    """Values by row, ``(K', m)``, at the rows of another number of calls, ``(nfe, m)``: first on first, last on last.

    They are linear between two rows. If one of the two rows has no such output, the value is the other row's.
    """
    at = np.linspace(0, len(values) - 1, nfe)
    low = np.clip(np.floor(at).astype(int), 0, max(len(values) - 2, 0))
    high = np.minimum(low + 1, len(values) - 1)
    part = (at - low)[:, None]
    one, other = values[low], values[high]
    mixed = np.where(np.isnan(one), other, np.where(np.isnan(other), one, one + part * (other - one)))
    found = np.full((nfe, max(nfe, values.shape[1])), np.nan) if values.shape[1] > 1 else np.empty((nfe, 1))
    found[:, : values.shape[1]] = mixed
    return found[:, :nfe] if values.shape[1] > 1 else found


def _levels(table: SolverTable) -> Array:
    """Levels in a variable that is finite at both ends; see :func:`_scale`."""
    scale = _scale(table)
    with np.errstate(divide="ignore"):
        logs = np.log(table.sigmas) - np.log(table.alphas)
    return logs if np.isinf(scale) else 1 / (1 + np.exp(-logs / scale))


def _from_levels(like: SolverTable, levels: Array) -> tuple[Array, Array]:
    """Alphas and sigmas of levels in the variable of :func:`_levels`; both ends are the ends of ``like``."""
    scale = _scale(like)
    inner = levels[1:-1]
    ratios = np.exp(inner if np.isinf(scale) else scale * (np.log(inner) - np.log1p(-inner)))
    family = Nodes(like.alphas, like.sigmas).family
    alphas = alpha_of_ratio(family, ratios)
    ends = ((like.alphas[0], like.sigmas[0]), (like.alphas[-1], like.sigmas[-1]))
    return (
        np.concatenate([[ends[0][0]], alphas, [ends[1][0]]]),
        np.concatenate([[ends[0][1]], alphas * ratios, [ends[1][1]]]),
    )


def _scale(table: SolverTable) -> float:
    """Scale s of the variable of levels ``1 / (1 + exp(-l / s))``, ``l = log(sigma / alpha)``; infinity: l itself.

    From alpha 0, s = 1: on a flow the variable is sigma. To sigma 0, s = 7: nearly a logarithm, and finite.
    """
    return 1.0 if table.alphas[0] == 0 else 7.0 if table.sigmas[-1] == 0 else float("inf")


def _check_alike(tables: list[SolverTable], *, same_calls: bool) -> None:
    first = tables[0]
    for table in tables:
        if len(table.grid) != table.nfe + 1:
            raise InputError(f"{table.name}: only tables of one call per step can be filled from")
        if same_calls and table.nfe != first.nfe:
            raise InputError(f"anchors over guidance make as many calls, got {first.nfe} and {table.nfe}")
        ends = [(one.alphas[[0, -1]], one.sigmas[[0, -1]]) for one in (first, table)]
        if not np.allclose(ends[0], ends[1], rtol=1e-9, atol=1e-12):
            raise InputError("anchors do not run between the same two levels")
