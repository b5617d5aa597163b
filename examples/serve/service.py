"""The service itself, without any web: a picture of a key and a seed, by the arm that the roll-out names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import longstride as ls
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
        flag: Whether a sample ``(1, *shape)`` is suspect, or None without a guard.
    """

    store: Path
    model: str = "garments"
    concurrency: int = 1
    waiting: int = 8
    reference_share: dict[str, float] = field(default_factory=lambda: {"base": 0.01, "old": 0.01, "new": 0.1})
    reference_steps: int = 64
    flag: Callable[[Tensor], bool] | None = None


@dataclass(frozen=True)
class Picture:
    """An answer.

    Attributes:
        sample: Shape ``(1, *shape)``.
        arm: The arm whose picture it is.
        seconds: Time that it took.
        non_finite: Whether the arm that was asked first returned NaN or infinity.
        flagged: Whether the sample is suspect; None without a guard.
    """

    sample: Tensor
    arm: str
    seconds: float
    non_finite: bool
    flagged: bool | None


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
        self._base: ls.SolverTable | None = None
        try:
            for name in self.rollout.plan.names[::-1]:  # the newest card that can be read says what the base is
                with suppress(ls.CardError):
                    self.table(name)
            if self._base is None:
                raise ls.CardError("no card of the roll-out can be read, so the classical solver is not known")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the background work, and close the store."""
        self.reference.close()
        self.rollout.close()

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
                    self._base = card.base_table if self._base is None or known.name == plan.new else self._base
            if self._base is None and key not in self._tables:
                raise ls.CardError(f"the card of {known.name} cannot be read")
            return self._tables.get(key, self._base)

    def _give_up(self, arm: str, reason: str) -> None:
        _log.error("%s answers nothing: %s", arm, reason)
        names = self.rollout.plan.names
        with suppress(ls.LongstrideError):  # another process was faster, or the store cannot be written
            self.rollout.rollback(reason, to=names[names.index(arm) - 1])

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
            sample = ls.sample(denoiser, noise, table)
        except ls.NonFiniteError as error:
            _log.error("%s: %s", arm, error)
            names = self.rollout.plan.names
            non_finite, served, table = True, names[0], self.table(names[0])
            noise = self.model.noise(seeds, table.sigmas[0])
            sample = ls.sample(denoiser, noise, table)
        flagged = None if self.settings.flag is None or non_finite else self.settings.flag(sample)
        seconds = time.perf_counter() - start
        self.rollout.record(key, arm, flagged=flagged, non_finite=non_finite, seconds=seconds)
        if not non_finite:
            self._offer(key, arm, seeds, noise, sample, table)
        return Picture(sample, served, seconds, non_finite, flagged)

    def _offer(self, key: str, arm: str, seeds: range, noise: Tensor, sample: Tensor, table: ls.SolverTable) -> None:
        other = self.table(self.rollout.control) if arm == self.rollout.plan.new else None

        def measure() -> Measured:
            denoiser = self.model.denoiser(seeds)
            return live_errors(denoiser, noise, sample, table, other, steps=self.settings.reference_steps)

        self.reference.offer(key, arm, measure)
