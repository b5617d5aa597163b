r"""Bounds that hold at every moment at once, so that one may look after every request and stop whenever one likes.

Pairs (a, b) of numbers in [0, 1] arrive one by one. What is bounded is the share

.. math:: m = \frac{E[a]}{E[a] + E[b]},

and with it the ratio :math:`E[a] / E[b] = m / (1 - m)`. With b = 1 − a the share is the mean of a. For a guess m, the
gain :math:`g_t(m) = (1 - m) a_t - m b_t` lies in [−m, 1 − m] and has mean 0 if the guess is right. A bet on it starts
with a capital of 1 and stakes, before it sees the pair,

.. math:: K_t^\pm(m) = \prod_{i \le t} \big(1 \pm \lambda_i^\pm(m) g_i(m)\big), \qquad
          \lambda_t^+ = \min(\dot\lambda_t, c / m), \quad \lambda_t^- = \min(\dot\lambda_t, c / (1 - m)), \qquad
          \dot\lambda_t = \sqrt{\frac{2 \log(1 / \delta)}{\hat v_{t-1}\, t \log(t + 1)}}.

If the share is at most m, the capital :math:`K^+(m)` is a supermartingale, and by Ville's inequality it ever reaches
1/δ with a probability of at most δ. Then every share up to m is ruled out: :math:`K^+` falls with m. So the lower bound
is wrong at any time with a probability of at most δ, and so is the upper one. Nothing is assumed of the distribution,
and each pair may depend on the past: its conditional means count.

Libraries were compared: ``confseq`` (last release 2023) comes as source that must be compiled, ``expectation`` needs
Python 3.12, and ``savvi`` bounds proportions of groups alone.

References:
    Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, JRSS B 2024, Section 4, whose gain
    is that of a pair with b = 1 − a. Howard, Ramdas, McAuliffe & Sekhon, Time-uniform, nonparametric, nonasymptotic
    confidence sequences, Annals of Statistics 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from longstride.arrays import Array
from longstride.errors import InputError

__all__ = ["Bounds"]

#: Number of guesses, denser towards 0 and 1: the least is 1.5e-4, and ratios near 1 are told apart to 5 %.
_GUESSES = 129
#: Largest part of the capital that one pair may take.
_STAKE = 0.75


class Bounds:
    """Lower and upper bound of a share m, for pairs that arrive one by one.

    Args:
        level: Largest probability that the lower bound is ever wrong, and as much for the upper one.
        marks: Shares that a decision turns on; the bounds can stop exactly there.

    Attributes:
        count: Number of pairs.
        lower: Every smaller share is ruled out.
        upper: Every larger share is ruled out.

    Raises:
        InputError: the level or a mark does not lie between 0 and 1.

    Examples:
        >>> bounds = Bounds(0.05)
        >>> for n in range(100):
        ...     bounds.see(0.2 if n % 2 else 0.3)
        >>> 0.2 < bounds.lower < bounds.estimate < bounds.upper < 0.3
        True
    """

    def __init__(self, level: float, marks: Iterable[float] = ()) -> None:
        inner = [mark for mark in marks if mark not in (0.0, 1.0)]
        if not 0 < level < 1 or not all(0 < mark < 1 for mark in inner):
            raise InputError(f"levels and marks lie between 0 and 1, got {level} and {inner}")
        even = (1 - np.cos(np.pi * np.arange(1, _GUESSES + 1) / (_GUESSES + 1))) / 2
        self._m: Array = np.union1d(even, np.array(inner))
        self._needed = math.log(1 / level)
        self.count, self.lower, self.upper = 0, 0.0, 1.0
        self._a = self._b = self._squares = 0.0
        self._log_capital: Array = np.zeros((2, len(self._m)))

    @property
    def estimate(self) -> float:
        """The share among the pairs so far; NaN without any."""
        total = self._a + self._b
        return self._a / total if total > 0 else float("nan")

    def see(self, a: float, b: float | None = None) -> None:
        """Take a pair.

        Args:
            a: In [0, 1].
            b: In [0, 1]; default: ``1 - a``.

        Raises:
            InputError: a number is not in [0, 1].
        """
        b = 1 - a if b is None else b
        if not (0 <= a <= 1 and 0 <= b <= 1):
            raise InputError(f"bounds take numbers from 0 to 1, got {a} and {b}")
        t = self.count + 1
        variance = (0.25 + self._squares) / t
        stake = math.sqrt(2 * self._needed / (variance * t * math.log(t + 1)))
        gain = a - self._m * (a + b)
        self._log_capital[0] += np.log1p(np.minimum(stake, _STAKE / self._m) * gain)
        self._log_capital[1] += np.log1p(-np.minimum(stake, _STAKE / (1 - self._m)) * gain)
        out = self._log_capital >= self._needed
        if out[0].any():
            self.lower = max(self.lower, float(self._m[out[0]].max()))
        if out[1].any():
            self.upper = min(self.upper, float(self._m[out[1]].min()))
        self.count, self._a, self._b = t, self._a + a, self._b + b
        expected = (0.5 + self._a) / (1 + self._a + self._b)
        self._squares += (a - expected * (a + b)) ** 2

    def dumps(self) -> bytes:
        """All numbers of these bounds, to the bit."""
        head = (self.count, self.lower, self.upper, self._a, self._b, self._squares)
        return np.concatenate([head, self._log_capital.ravel()]).astype("<f8").tobytes()

    def loads(self, kept: bytes) -> Bounds:
        """Take over the numbers that bounds with the same level and marks gave to :meth:`dumps`; returns these bounds.

        Raises:
            InputError: the numbers are of other bounds.
        """
        numbers = np.frombuffer(kept, "<f8") if len(kept) % 8 == 0 else np.empty(0)
        if len(numbers) != 6 + self._log_capital.size:
            raise InputError(f"{len(kept)} bytes do not hold bounds with {len(self._m)} guesses")
        count, self.lower, self.upper, self._a, self._b, self._squares = (float(x) for x in numbers[:6])
        self.count = int(count)
        self._log_capital = numbers[6:].reshape(2, -1).copy()
        return self
