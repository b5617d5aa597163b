r"""How sure a share of samples is: the bound of Clopper and Pearson."""

from __future__ import annotations

import math

from scipy.stats import beta

from longstride.errors import InputError

__all__ = ["needed", "upper_share"]


def upper_share(bad: int, samples: int, confidence: float) -> float:
    r"""Largest share of bad samples that ``bad`` of ``samples`` leave possible.

    The bound u solves :math:`P(\text{Binomial}(n, u) \le \text{bad}) = 1 - \text{confidence}`: of many independent
    sets of samples, at least this part has a bound above the true share.

    Args:
        bad: Number of bad samples.
        samples: Number n of samples.
        confidence: Between 0 and 1.

    Raises:
        InputError: impossible counts or confidence.

    References:
        Clopper & Pearson, The use of confidence or fiducial limits, 1934.
    """
    if not 0 <= bad <= samples or samples < 1 or not 0 < confidence < 1:
        raise InputError(f"expected 0 <= bad <= samples and a confidence in (0, 1), got {bad}, {samples}, {confidence}")
    return 1.0 if bad == samples else float(beta.ppf(confidence, bad + 1, samples - bad))


def needed(share: float, confidence: float) -> int:
    """Fewest samples, none of them bad, whose bound is at most ``share``.

    >>> needed(0.02, 0.95), upper_share(0, 149, 0.95) <= 0.02 < upper_share(0, 148, 0.95)
    (149, True)
    """
    return math.ceil(math.log(1 - confidence) / math.log(1 - share))
