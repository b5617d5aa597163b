"""The service itself, without any web: a picture of a key and a seed, by the arm that the roll-out names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import longstride as ls
from examples.serve.adapt import in_use
from longstride.rollout import LiveReference, Measured, live_errors

__all__ = ["Picture", "Service", "Settings"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How the service runs.

    Attributes:
        store: File of the roll-out; ``longstride rollout start`` makes it.
        model: Name or folder of the model.
        concurrency: Pictures that are made at the same time.
        waiting: Most requests that wait for their turn; more are told to come back (503).
        reference_share: Share of the requests of every arm whose error is measured in the background.
        reference_steps: Steps of the converged solution.
        flag: Whether a sample ``(1, *shape)`` is suspect, or None without a guard of your own.
        false_alarms: Share of false alarms of the monitor of every card that holds clean runs.
        adapt: File of an adaptation of the card that is in use when it is made; None: nothing is adapted.
    """

    store: Path
    model: str = "garments"
    concurrency: int = 1
    waiting: int = 8
    reference_share: dict[str, float] = field(default_factory=lambda: {"base": 0.01, "old": 0.01, "new": 0.1})
    reference_steps: int = 64
    flag: Callable[[Tensor], bool] | None = None
    false_alarms: float = 0.001
    adapt: Path | None = None


@dataclass(frozen=True)
class Picture:
    """An answer.

    Attributes:
        sample: Shape ``(1, *shape)``.
        arm: The arm whose picture it is.
        seconds: Time that it took.
        non_finite: Whether the arm that was asked first returned NaN or infinity.
        flagged: Whether the sample is suspect; None without a guard.
        drift: Whether the monitor of the card raised its alarm, or it stands; None without a monitor.
    """

    sample: Tensor
    arm: str
    seconds: float
    non_finite: bool
    flagged: bool | None
    drift: bool | None = None


@dataclass(frozen=True)
class _Drawn:
    """What an arm made; ``odd``: the monitor says of the sample by itself that it is not like clean samples."""

    sample: Tensor
    flagged: bool | None = None
    drift: bool | None = None
    odd: bool = False


class Service:
    """Makes pictures; safe to call from several threads.

    Args:
        settings: How.

    Raises:
        LongstrideError: the model, the store or every card of the roll-out cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.model = settings, ls.load_model(settings.model)
        self.rollout = ls.Rollout(settings.store)
        self.reference = LiveReference(self.rollout, settings.reference_share)
        self._lock = threading.Lock()
        self._tables: dict[tuple[str, str | None], ls.SolverTable] = {}
        self._cards: dict[tuple[str, str | None], tuple[ls.Card, ls.Monitor | None]] = {}
        self._base: ls.SolverTable | None = None
        self.adaptation: ls.Adaptation | None = None
        try:
            for name in self.rollout.plan.names[::-1]:  # the newest card that can be read says what the base is
                with suppress(ls.CardError):
                    self.table(name)
            if self._base is None:
                raise ls.CardError("no card of the roll-out can be read, so the classical solver is not known")
            self.adaptation = self._adaptation()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the background work, and close the store."""
        self.reference.close()
        self.rollout.close()
        if self.adaptation is not None:
            self.adaptation.close()

    def _adaptation(self) -> ls.Adaptation | None:
        """The adaptation that live references teach."""
        if self.settings.adapt is None:
            return None
        card = None
        if not self.settings.adapt.exists():
            file = in_use(self.rollout)
            if file is None:
                raise ls.InputError("no card is in use yet that could be adapted: wait for the end of its roll-out")
            card = ls.load_card(file)
        return ls.Adaptation(card, self.settings.adapt)

    def table(self, arm: str) -> ls.SolverTable:
        """The sampler of an arm: read once for every card, so a new roll-out brings its cards without a restart.

        A card that cannot be read, or does not belong to the model, is rolled back; until that is in effect its
        requests are answered by the classical solver.
        """
        plan = self.rollout.plan
        known = next((one for one in plan.arms if one.name == arm), plan.arms[0])
        with self._lock:
            if known.card is None and self._base is not None:
                return self._base
            key = (known.name, known.digest)
            if known.card is not None and key not in self._tables:
                try:
                    card = known.load()
                    if not isinstance(card, ls.Card):
                        raise ls.CardError(f"{known.card} is a book: this service wants a card")
                    card.check_model(self.model.info())
                except ls.CardError as error:
                    self._give_up(known.name, str(error))
                else:
                    self._tables[key] = card.table
                    watched = None if card.normal is None else ls.Monitor(card, self.settings.false_alarms)
                    self._cards[key] = card, watched
                    self._base = card.base_table if self._base is None or known.name == plan.new else self._base
            if self._base is None and key not in self._tables:
                raise ls.CardError(f"the card of {known.name} cannot be read")
            return self._tables.get(key, self._base)

    def _give_up(self, arm: str, reason: str) -> None:
        _log.error("%s answers nothing: %s", arm, reason)
        names = self.rollout.plan.names
        with suppress(ls.LongstrideError):  # another process was faster, or the store cannot be written
            self.rollout.rollback(reason, to=names[names.index(arm) - 1])

    def _drawn(self, arm: str, denoiser: ls.Denoiser, noise: Tensor) -> _Drawn:
        """A sample of an arm."""
        known = next((one for one in self.rollout.plan.arms if one.name == arm), None)
        card, monitor = self._cards.get((known.name, known.digest), (None, None)) if known else (None, None)
        if card is None or (card.guard is None and monitor is None):
            return _Drawn(ls.sample(denoiser, noise, self.table(arm)))
        found = ls.sample_guarded(denoiser, noise, card, monitor=monitor)
        if not (torch.isfinite(found.scores).all() and (found.seen is None or found.seen.finite)):
            raise ls.NonFiniteError("the card's sample is not finite")  # the arm is withdrawn
        drift = None if found.seen is None or monitor is None else found.seen.alarm or monitor.report().alarm_stands
        flagged = None if card.guard is None else bool(found.flagged.any())
        return _Drawn(found.samples, flagged, drift, found.seen is not None and bool(found.seen.alarms.any()))

    @torch.inference_mode()
    def picture(self, key: str, seed: int) -> Picture:
        """The picture of a seed; never fails for a fault of a card or the store.

        Args:
            key: Of the request, or of its user; chooses the arm.
            seed: Of the noise and the class.
        """
        start = time.perf_counter()
        arm = self.rollout.arm(key)
        seeds = range(seed, seed + 1)
        table, denoiser = self.table(arm), self.model.denoiser(seeds)
        noise, served, non_finite = self.model.noise(seeds, table.sigmas[0]), arm, False
        try:
            drawn = self._drawn(arm, denoiser, noise)
        except ls.NonFiniteError as error:
            _log.error("%s: %s", arm, error)
            names = self.rollout.plan.names
            non_finite, served, table = True, names[0], self.table(names[0])
            noise = self.model.noise(seeds, table.sigmas[0])
            drawn = _Drawn(ls.sample(denoiser, noise, table))
        sample, flagged, drift = drawn.sample, drawn.flagged, drawn.drift
        if self.settings.flag is not None and not non_finite:
            flagged = self.settings.flag(sample)
        seconds = time.perf_counter() - start
        self.rollout.record(key, arm, flagged=flagged, drift=drift, non_finite=non_finite, seconds=seconds)
        if not non_finite:
            self._offer(key, arm, seeds, noise, drawn, table)
        return Picture(sample, served, seconds, non_finite, flagged, drift)

    def _offer(self, key: str, arm: str, seeds: range, noise: Tensor, drawn: _Drawn, table: ls.SolverTable) -> None:
        other = self.table(self.rollout.control) if arm == self.rollout.plan.new else None

        def measure() -> Measured:
            denoiser = self.model.denoiser(seeds)
            also = None if self.adaptation is None else partial(self.adaptation.observe, flagged=drawn.odd)
            steps = self.settings.reference_steps
            return live_errors(denoiser, noise, drawn.sample, table, other, steps=steps, also=also)

        self.reference.offer(key, arm, measure)
