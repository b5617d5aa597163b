"""Starts of a Gauss–Newton fit: tables ranked on a few samples, and short fits from the best tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from longstride.arrays import Array
from longstride.calibration.endpoint.fits import Fit
from longstride.calibration.endpoint.gauss_newton import GaussNewton
from longstride.calibration.endpoint.prior import Prior
from longstride.calibration.loss import Loss
from longstride.calibration.starts.universal import is_universal
from longstride.errors import InputError
from longstride.table import SolverTable

__all__ = ["ShortFits", "Starts", "chosen_starts", "most_compared", "ranked", "short_fits"]

#: How many of the best classical tables are compared on held-out samples, and how many of the best universal tables.
_STRONG, _UNIVERSAL = 4, 2
#: A short fit from another start ranks before the fit from the base if its objective is below this part of the
#: latter's. Short fits on a few samples scatter by about as much. A fit from the base seldom spoils samples that the
#: base does well, and the gate compares both.
_AHEAD = 0.85


@dataclass(frozen=True)
class Starts:
    """Tables that fits may start from, ranked.

    Attributes:
        tables: Tables by name.
        foreign: Names of the tables that were passed, and are neither classical nor universal.
        errors: Root-mean-square errors on the samples of short fits, best first; tables that overflow are left out.
        ranking: Names, best first; see :func:`ranked`.
    """

    tables: Mapping[str, SolverTable]
    foreign: Sequence[str]
    errors: Mapping[str, float]
    ranking: Sequence[str]

    @property
    def base(self) -> str:
        """Name of the best classical or universal table, which a result must beat."""
        return next((key for key in self.ranking if key not in self.foreign), self.ranking[0])


@dataclass(frozen=True)
class ShortFits:
    """Short fits, from which whole fits go on.

    Attributes:
        fits: Short fits by their start, best first.
        base: Name of the classical or universal table that the result must beat.
        objectives: Mean loss on held-out samples after each short fit, by its start.
    """

    fits: Mapping[str, Fit]
    base: str
    objectives: Mapping[str, float]


def most_compared(classical: int, universal: int) -> int:
    """How many of so many tables are compared on held-out samples."""
    return min(classical, _STRONG) + min(universal, _UNIVERSAL)


def ranked(newton: GaussNewton, tables: Mapping[str, SolverTable], foreign: Sequence[str] = ()) -> Starts:
    """Tables by their mean loss on the fitted samples, best first; held-out samples rank the best few of them.

    These few are classical and universal tables; the first of them is the base. The gate compares the result with the
    base on the same held-out samples. So neither the base nor a start is a table that a few fitted samples ranked first
    by chance.

    Args:
        newton: The fit on a few samples.
        tables: Tables by name.
        foreign: Names of the tables that were passed.

    Raises:
        InputError: no table ends in finite samples.
    """
    newton.measure(tables.values(), newton.fitted)
    squared = _squared(newton, tables, newton.fitted)
    if not squared:
        raise InputError("no classical solver ends in finite samples on this network: check its schedule and precision")
    errors = {key: float(np.sqrt(found.mean())) for key, found in squared.items()}
    own = [key for key in errors if key not in foreign]
    kinds = [key for key in own if not is_universal(key)], [key for key in own if is_universal(key)]
    strong = {*kinds[0][:_STRONG], *kinds[1][:_UNIVERSAL]}
    few = [key for key in own if key in strong]
    newton.measure([tables[key] for key in few], newton.held_out)
    finite = _squared(newton, {key: tables[key] for key in few}, newton.held_out)
    order = iter([*finite, *(key for key in few if key not in finite)])
    return Starts(tables, foreign, errors, [next(order) if key in few else key for key in errors])


def _squared(newton: GaussNewton, tables: Mapping[str, SolverTable], numbers: Sequence[int]) -> dict[str, Array]:
    """Squared errors of tables on the samples of some units, best table first; tables that overflow are left out."""
    squared = {key: newton.errors(one, numbers)[:, 1] for key, one in tables.items()}
    squared = {key: found for key, found in squared.items() if np.isfinite(found).all()}
    # By the mean loss: the few samples that switch modes would rule a root mean square.
    common = Loss.common(squared.values())
    return dict(sorted(squared.items(), key=lambda item: common.mean(item[1])))


def chosen_starts(ranking: Sequence[str], count: int) -> list[str]:
    """The best start, and the best start on each of the next best grids.

    The error of a start says little of the error of its fit. A fit finds the best weights for given levels from any
    solver's weights, and levels do not move far. So fits from one grid mostly end alike. Universal tables count as one
    grid, so that they leave room for classical ones.

    Args:
        ranking: Names ``solver@grid``, best first; another name counts as a grid of its own.
        count: How many starts to choose.
    """
    by_grid: dict[str, str] = {}
    for key in ranking:
        by_grid.setdefault(key.partition("@")[2] or key, key)
    return list(by_grid.values())[:count]


def short_fits(
    newton: GaussNewton,
    starts: Starts,
    chosen: Sequence[str],
    iterations: int,
    say: Callable[[], None],
    *,
    prior: Callable[[SolverTable], Prior | None] = lambda table: None,
) -> ShortFits:
    """Short fits from some tables, best on held-out samples first; the base's before fits that tie with it.

    The second is the best of the other kind, universal or classical, if there is one: fits of one kind end more alike.

    Args:
        newton: The fit on a few samples.
        starts: All tables.
        chosen: Names of the tables to start from, best first.
        iterations: Steps of every short fit; 0: the tables as they are.
        say: Called after every step.
        prior: Tells what is known beforehand of fits from a table.

    Raises:
        InputError: no fit is finite on the held-out samples.
    """
    fits: dict[str, Fit] = {}
    for key in chosen:
        table = starts.tables[key]
        try:
            if iterations:
                fits[key] = newton.fit(table, iterations, prior=prior(table), say=say)
            else:
                fits[key] = Fit(newton.parameters.prepared(table), (), "", prior=prior(table))
        except InputError:  # the fit is finite on its own samples, but not on the held-out samples
            if key == chosen[-1] and not fits:
                raise
    base = starts.base
    if base in chosen and base not in fits:
        base = next((key for key in fits if key not in starts.foreign), next(iter(fits)))
    held = {key: newton.errors(fit.table, newton.held_out)[:, 0] for key, fit in fits.items()}
    loss = Loss.common(held.values(), newton.robust)
    objectives = {key: loss.mean(errors) for key, errors in held.items()}
    order = sorted(objectives, key=lambda key: objectives[key] * (_AHEAD if key == base else 1))
    other = [key for key in order if is_universal(key) != is_universal(order[0])][:1]
    order = [order[0], *other, *(key for key in order[1:] if key not in other)]
    finite = {key: value for key, value in objectives.items() if np.isfinite(value)}
    return ShortFits({key: fits[key] for key in order}, base, finite)
