"""How sure a figure is: bootstrap intervals over independent groups of samples.

Both functions draw groups with replacement. A replicate is how often each group was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from longstride.arrays import Array
from longstride.errors import InputError

__all__ = ["Interval", "bootstrap_samples", "group_bootstrap"]

Groups = TypeVar("Groups")
#: Fewer groups do not tell how far a statistic scatters.
_FEWEST = 8


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its confidence interval, in the value's unit.

    The ends are None for fewer than 8 groups, and if a replicate is not finite.
    """

    value: float
    low: float | None
    high: float | None


def group_bootstrap(
    statistic: Callable[[Groups], float],
    groups: Groups,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    r"""Confidence interval of a statistic of sums over independent groups of samples.

    Groups are drawn with replacement, their sums are added up, and the statistic is taken of the result. A set with
    repeats has less spread than a fresh set. This shifts statistics such as Fréchet distances upward. So replicates
    :math:`s_r` tell how far the value scatters, not what the value is. Around the value :math:`s` of all G groups,

    .. math:: s + q\left(\tfrac{t}{z} \sqrt{G / (G - 1)} \, (s_r - \bar s)\right)

    at the two quantiles q of ``level``. The root makes the variance of a mean unbiased. Few groups tell their scatter
    only roughly: t / z allows for that, Student's quantile with G - 1 degrees of freedom over the normal quantile. The
    same seed draws the same groups. A difference of two contestants on the same samples is a statistic of the sums of
    both: shared scatter then cancels.

    >>> sums = {"count": np.ones(4), "total": np.array([1.0, 2.0, 3.0, 2.0])}
    >>> group_bootstrap(lambda s: s["total"] / s["count"], sums).value
    2.0

    Args:
        statistic: Takes what ``groups`` is, without the leading axes.
        groups: Arrays ``(G, ...)`` of sufficient statistics, alone or in nested dicts, tuples and lists.
        replicates: How often groups are drawn, and the statistic taken.
        seed: Seed of the draws.
        level: Share of intervals that are to hold the truth.

    Raises:
        InputError: there are no groups, their axes differ in length, or the level or number of replicates is
            impossible.

    References:
        Efron & Tibshirani, An Introduction to the Bootstrap, 1993, Ch. 13; Rao & Wu, Resampling inference with
        complex survey data, 1988, for the root.
    """
    lengths = {len(leaf) if leaf.ndim else 0 for leaf in _leaves(groups)}
    if len(lengths) != 1:
        raise InputError(f"expected arrays with one leading axis of groups, got lengths {sorted(lengths)}")
    drawn = _draws(lengths.pop(), replicates, seed)

    def summed(leaf: NDArray[Any]) -> Array:
        sums: Array = (drawn @ leaf.reshape(len(leaf), -1)).reshape(len(drawn), *leaf.shape[1:])
        return sums

    def row(number: int) -> Groups:
        picked: Groups = _map(lambda leaf: leaf[number], sums)
        return picked

    sums = _map(summed, groups)
    return _interval(lambda number: statistic(row(number)), drawn.shape, level)


def bootstrap_samples(
    statistic: Callable[[NDArray[Any]], float],
    groups: Sequence[ArrayLike],
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """:func:`group_bootstrap` of a statistic of the samples themselves, such as a median.

    >>> bootstrap_samples(np.median, [[1.0, 5.0], [2.0, 4.0]]).value
    3.0

    Args:
        statistic: Takes samples ``(n, ...)``: each group's samples as often as the group was drawn.
        groups: The samples of each group, ``(n_g,)``, or ``(n_g, contestants)`` to compare on the same draws.
        replicates: How often groups are drawn.
        seed: Seed of the draws.
        level: Share of intervals that are to hold the truth.

    Raises:
        InputError: there are no groups, their shapes differ, or the level or number of replicates is impossible.
    """
    parts = [np.asarray(group) for group in groups]
    if not parts or any(part.ndim == 0 or part.shape[1:] != parts[0].shape[1:] for part in parts):
        raise InputError(f"expected samples (n, ...) of every group, got shapes {[part.shape for part in parts]}")
    samples = np.concatenate(parts)
    index = np.arange(len(parts)).repeat([len(part) for part in parts])
    drawn = _draws(len(parts), replicates, seed)
    times = drawn.astype(np.intp)
    return _interval(lambda number: statistic(samples.repeat(times[number][index], axis=0)), drawn.shape, level)


@lru_cache(maxsize=2)  # a study asks for the same draws again and again, and they take longer than the statistics
def _draws(groups: int, replicates: int, seed: int) -> Array:
    """How often each replicate drew each group, ``(1 + replicates, groups)``; the first row is every group once."""
    if groups < 1 or replicates < 2:
        raise InputError(f"a bootstrap needs groups and two replicates or more, got {groups} and {replicates}")
    chosen = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=replicates)
    drawn: Array = np.concatenate([np.ones((1, groups)), chosen])
    drawn.flags.writeable = False
    return drawn


def _interval(statistic: Callable[[int], float], shape: tuple[int, ...], level: float) -> Interval:
    """The interval of a statistic by row of the draws, which have ``shape``."""
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
    rows, groups = shape
    value = float(statistic(0))
    if groups < _FEWEST:
        return Interval(value, None, None)
    with np.errstate(divide="ignore", invalid="ignore"):  # such as a ratio to a sum that no drawn group has
        replicates = np.array([statistic(row) for row in range(1, rows)], dtype=np.float64)
    if not np.isfinite(replicates).all():
        return Interval(value, None, None)
    wider = float(stdtrit(groups - 1, (1 + level) / 2)) / NormalDist().inv_cdf((1 + level) / 2)
    scatter = (replicates - replicates.mean()) * np.sqrt(groups / (groups - 1)) * wider
    low, high = np.quantile(scatter, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, value + float(low), value + float(high))


def _leaves(tree: Any) -> list[NDArray[Any]]:
    if isinstance(tree, dict):
        return [leaf for branch in tree.values() for leaf in _leaves(branch)]
    if isinstance(tree, (tuple, list)):
        return [leaf for branch in tree for leaf in _leaves(branch)]
    return [np.asarray(tree)]


def _map(function: Callable[[NDArray[Any]], Any], tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _map(function, branch) for name, branch in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(_map(function, branch) for branch in tree)
    return function(np.asarray(tree))
