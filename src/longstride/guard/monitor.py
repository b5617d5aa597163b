"""The monitor of a service that samples with a card: are its runs still like those of the calibration?

    monitor = ls.Monitor(card)
    found = ls.sample_guarded(denoiser, noise, card, monitor=monitor)

It compares the statistics of every run, which cost no network call, with those of clean runs, which the card holds. So
it notices that something else is run than what was calibrated: another guidance scale, schedule, network or noise. It
judges single samples, windows of samples, and the stream; see :mod:`~longstride.guard.thresholds` and
:mod:`~longstride.guard.drift`. It does not judge pictures.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from longstride.arrays import Array
from longstride.errors import InputError, MonitorError, unknown
from longstride.guard.drift import Drift
from longstride.guard.normal import MOST_STATISTICS, Normal
from longstride.guard.seen import MonitorReport, Policy, Seen, Window
from longstride.guard.statistics import Recorder, names
from longstride.guard.thresholds import ranks, score_threshold, shift_law, spread_bounds
from longstride.journal import table_digest
from longstride.table import SolverTable

__all__ = ["HasNormal", "Monitor"]

#: Statistics that a window names.
_NAMED = 3


class HasNormal(Protocol):
    """A table with the distribution of its clean runs, such as :class:`~longstride.Card`."""

    @property
    def table(self) -> SolverTable:
        """The table that is run."""

    @property
    def normal(self) -> Normal | None:
        """The distribution; None: nothing is known of clean runs."""


class Monitor:
    """Compares runs of a card's table with clean runs; see the module. It may be used from several threads.

    Args:
        card: A card that holds the distribution of clean runs.
        false_alarms: Share of clean samples, and of clean windows, that may raise an alarm. Alarms of a clean stream
            come at least ``1 / false_alarms`` windows apart in the mean.
        policy: What is done at an alarm, see :data:`~longstride.guard.seen.Policy`. Samples that are not finite are
            made again by the base at once, whatever the policy, unless it raises.
        window: Samples of a window. Samples of smaller calls are pooled; a larger call holds several windows.

    Raises:
        InputError: the card holds no clean runs, or an impossible share, policy or window.
    """

    def __init__(
        self, card: HasNormal, false_alarms: float = 0.001, policy: Policy = "observe", window: int = 16
    ) -> None:
        if card.normal is None:
            raise InputError(_missing(card.table.nfe))
        if policy not in get_args(Policy):
            raise unknown("policy", policy, get_args(Policy))
        if window < 2:
            raise InputError(f"a window needs at least 2 samples, got {window}")
        self.table, self._normal = card.table, card.normal
        sample = score_threshold(self._normal, false_alarms)
        self._law = shift_law(self._normal, window)
        self._plain = MonitorReport(
            policy,
            false_alarms,
            window,
            self._normal.samples,
            sample.score,
            sample.how,
            self._law.quantile(false_alarms / 2),
            spread_bounds(self._normal, window, false_alarms / 2),
        )
        self._names, self._lock = names(self.table.nfe), threading.Lock()
        self.reset()

    def check_table(self, table: SolverTable) -> None:
        """Make sure that ``table`` is the monitor's.

        Raises:
            InputError: it is another table.
        """
        if table is not self.table and table_digest(table) != table_digest(self.table):
            raise InputError("this monitor is of another card: make one of the card that is used, ls.Monitor(card)")

    def reset(self) -> None:
        """Forget all samples, such as after a fault was mended."""
        with self._lock:
            self._report = self._plain
            self._drift = Drift(self._normal, self._plain.false_alarms, self._plain.window)
            self._pool: list[tuple[Array, float, Array]] = []

    def report(self) -> MonitorReport:
        """What was seen so far."""
        with self._lock:
            return replace(self._report, drift_near=self._drift.near)

    @contextmanager
    def watching(self) -> Iterator[Recorder]:
        """A callback for one run of the table, which is judged when the block ends without an error.

        Nothing is made again: :func:`~longstride.sample_guarded` with ``monitor=`` does that.

        Examples:
            >>> with monitor.watching() as callback:  # doctest: +SKIP
            ...     images = ls.sample(denoiser, noise, card.table, callback=callback)
        """
        recorder = Recorder(self.table)
        yield recorder
        self.see(recorder.read())

    def see(self, statistics: Array, finite: NDArray[np.bool_] | None = None) -> Seen:
        """Judge the samples of one call, and act by the policy.

        Args:
            statistics: Their statistics ``(B, F)``, as a :class:`~longstride.guard.Recorder` reads them.
            finite: Which samples ended finite, ``(B,)``; default: all whose statistics are.

        Raises:
            InputError: another number of statistics.
            MonitorError: an alarm, with the policy ``"raise"``.
        """
        cut, scores = self._normal.judged(statistics)
        if finite is not None:
            scores = np.where(finite, scores, np.inf)
        with self._lock:
            seen = self._judge(cut, scores, self._normal.scaled(statistics))
        if seen.alarm and self._plain.policy == "raise":
            raise MonitorError(self._told(seen))
        if seen.alarm and self._plain.policy == "warn":
            warnings.warn(self._told(seen), stacklevel=2)
        return seen

    def _judge(self, cut: Array, scores: Array, scaled: Array) -> Seen:
        plain, size, places = self._plain, self._plain.window, ranks(self._normal, scores)
        whole, stands, drift = np.isfinite(scores), self._report.alarm_stands, False
        alarms, windows = scores > plain.score_above, list[Window]()
        again, since = alarms.copy(), 0
        for i in range(len(scores)):
            drift |= self._drift.sample(float(places[i]))
            if whole[i]:
                self._pool.append((cut[i], float(places[i]), scaled[i]))
            if len(self._pool) == size:
                windows.append(self._window())
                drift |= self._drift.window(windows[-1].above)
                stands = windows[-1].alarm
                again[since : i + 1] |= stands
                since = i + 1
        stands |= drift
        again[since:] |= stands
        again = again if plain.policy == "fallback" else ~whole
        before, alarmed = self._report, [one for one in windows if one.alarm]
        self._report = replace(
            before,
            samples=before.samples + len(scores),
            non_finite=before.non_finite + int((~whole).sum()),
            sample_alarms=before.sample_alarms + int(alarms.sum()),
            windows=before.windows + len(windows),
            window_alarms=before.window_alarms + len(alarmed),
            drift_alarms=before.drift_alarms + drift,
            again=before.again + int(again.sum()),
            alarm_stands=stands,
            last=windows[-1] if windows else before.last,
            last_alarm=alarmed[-1] if alarmed else before.last_alarm,
        )
        return Seen(scores, alarms, again, tuple(windows), drift)

    def _window(self) -> Window:
        """The pooled samples as a window; the pool is empty then."""
        cut, places, scaled = (np.array(part) for part in zip(*self._pool, strict=True))
        self._pool = []
        shift, spread = len(cut) * float(np.square(cut.mean(0)).sum()), float(places.mean())
        low, high = self._plain.spread_within
        means = scaled.mean(0)
        worst = np.argsort(-np.abs(means))[:_NAMED]
        return Window(
            shift,
            float(self._law.above(np.array(shift))),
            spread,
            shift > self._plain.shift_above or not low <= spread <= high,
            tuple((self._names[n], float(means[n])) for n in worst),
        )

    def _told(self, seen: Seen) -> str:
        """The alarm in words."""
        plain, found = self._plain, list[str]()
        if bad := int(np.isinf(seen.scores).sum()):
            found.append(f"{bad} of {len(seen.scores)} samples are not finite")
        if odd := int(seen.alarms.sum()) - bad:
            found.append(f"{odd} of {len(seen.scores)} samples have scores above {plain.score_above:.4g}")
        for one in [window for window in seen.windows if window.alarm][-1:]:
            low, high = plain.spread_within
            found.append(
                f"a window of {plain.window} samples has a shift of {one.shift:.4g} (at most {plain.shift_above:.4g}) "
                f"and a mean rank of {one.spread:.2f} ({low:.2f} to {high:.2f}), farthest off: "
                + ", ".join(f"{name} by {away:+.1f} deviations" for name, away in one.unusual)
            )
        if seen.drift:
            found.append("the stream has drifted")
        return (
            f"these runs are not like clean runs of the card: {'; '.join(found)}. Compare guidance, schedule, weights, "
            "noise and conditions with those that the card was made for"
        )


def _missing(nfe: int) -> str:
    if len(names(nfe)) > MOST_STATISTICS:
        return f"a card of {nfe} network calls has too many statistics to hold their distribution: there is no monitor"
    return (
        "this card does not say what clean runs look like: it is of an older longstride, or was made with monitor=0. "
        "Add that with card = card.with_normal(denoiser, noise), at K network calls for each of about 256 samples, or "
        "calibrate again"
    )
