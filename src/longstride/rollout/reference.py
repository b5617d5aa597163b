"""The error of live traffic: a small share of the requests is solved to convergence in the background."""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from longstride.calibration.reference.solve import solve_reference, squared_errors
from longstride.errors import InputError
from longstride.rollout.assignment import point
from longstride.rollout.evidence import Measured
from longstride.rollout.rollout import Rollout
from longstride.sampler import DenoiserLike, sample
from longstride.table import SolverTable

__all__ = ["LiveReference", "Tally", "live_errors"]

_log = logging.getLogger(__name__)


@torch.inference_mode()
def live_errors(
    denoiser: DenoiserLike,
    noise: Tensor,
    served: Tensor,
    table: SolverTable,
    other: SolverTable | None = None,
    *,
    steps: int = 64,
    also: Callable[[DenoiserLike, Tensor, Tensor], object] | None = None,
) -> Measured:
    """Errors of a request: of the sample that was served, and of the arm that it is compared with on the same noise.

    Args:
        denoiser: The network, as it answered the request.
        noise: First states of the request, shape ``(B, *)``.
        served: The samples that were served, in that shape.
        table: The sampler that served them; gives the first and last level of the converged solution.
        other: The sampler of the other arm; None: it is not run.
        steps: Fine steps of the converged solution.
        also: Called at the end with ``(denoiser, noise, converged)``, such as :meth:`longstride.Adaptation.observe`.
            The log tells what it raises.

    Returns:
        Root-mean-square errors over all samples of the request; infinite for NaN or infinity.
    """
    converged = solve_reference(denoiser, noise, table, steps=steps, check_samples=0).samples

    def error(samples: Tensor) -> float:
        found = math.sqrt(float(squared_errors(samples, converged.to(samples)).mean()))
        return found if math.isfinite(found) else math.inf

    found = Measured(error(served), None if other is None else error(sample(denoiser, noise, other)))
    if also is not None:
        try:
            also(denoiser, noise, converged)
        except Exception:  # what is measured already is not lost
            _log.exception("a converged solution was measured, and could not be used further")
    return found


@dataclass(frozen=True)
class Tally:
    """What became of the requests that were chosen.

    Attributes:
        chosen: Requests that the share fell on.
        measured: Requests whose error was recorded.
        dropped: Requests that were not measured because the queue was full.
        failed: Requests whose measurement raised an error.
    """

    chosen: int = 0
    measured: int = 0
    dropped: int = 0
    failed: int = 0


class LiveReference:
    """Measures a share of the requests in a thread of its own, and records their errors in a roll-out.

    Which requests is decided by a hash of their keys, apart from the hash that chooses the arm. A full queue drops a
    request and never waits, so that no request is slowed down by more than its share of the machine.

    Args:
        rollout: Takes the errors.
        share: Share of the requests that are measured, or one per arm: a new card of which 1 % of the traffic is known
            wants a larger share of its own. Arms that are not named are not measured.
        waiting: Most requests that wait.

    Raises:
        InputError: a share is not in [0, 1], or nothing may wait.
    """

    def __init__(self, rollout: Rollout, share: float | Mapping[str, float] = 0.05, *, waiting: int = 8) -> None:
        shares = list(share.values()) if isinstance(share, Mapping) else [share]
        if not all(0 <= one <= 1 for one in shares):
            raise InputError(f"a share lies between 0 and 1, got {share}")
        if waiting < 1:
            raise InputError(f"at least 1 request must be able to wait, got {waiting}")
        self._rollout, self._share = rollout, share
        self._jobs: queue.Queue[tuple[str | bytes | int, str, Callable[[], Measured]] | None] = queue.Queue(waiting)
        self._lock, self._tally, self._closed = threading.Lock(), Tally(), False
        self._worker = threading.Thread(target=self._work, name="longstride-reference", daemon=True)
        self._worker.start()

    @property
    def tally(self) -> Tally:
        """What became of the requests so far."""
        return self._tally

    def wants(self, key: str | bytes | int, arm: str) -> bool:
        """Whether the request is among the measured share."""
        share = self._share.get(arm, 0.0) if isinstance(self._share, Mapping) else self._share
        return point(key, "reference") < share

    def offer(self, key: str | bytes | int, arm: str, measure: Callable[[], Measured]) -> bool:
        """Measure a request later, if the share falls on it and the queue has room.

        Args:
            key: Of the request.
            arm: Who answered it.
            measure: Computes the errors, such as by :func:`live_errors`; called in the worker's thread.

        Returns:
            Whether the request will be measured.
        """
        if self._closed or not self.wants(key, arm):
            return False
        try:
            self._jobs.put_nowait((key, arm, measure))
        except queue.Full:
            self._count(chosen=1, dropped=1)
            return False
        self._count(chosen=1)
        return True

    def wait(self) -> None:
        """Wait until every request in the queue is measured."""
        self._jobs.join()

    def close(self) -> None:
        """Take no more requests, and end after those in the queue."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        self._worker.join()

    def __enter__(self) -> LiveReference:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _count(self, **more: int) -> None:
        with self._lock:
            self._tally = replace(self._tally, **{k: getattr(self._tally, k) + n for k, n in more.items()})

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            key, arm, measure = job
            try:
                found = measure()
                self._rollout.measured(key, arm, found.error, found.other)
                self._count(measured=1)
            except Exception:  # of the network: the service goes on
                self._count(failed=1)
                _log.exception("the error of request %s could not be measured", key)
            finally:
                self._jobs.task_done()
        self._jobs.task_done()
