"""Sampling with a guard: samples that the score flags are made again by the base, from their own noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from longstride.course import Course
from longstride.errors import InputError
from longstride.guard.monitor import Monitor
from longstride.guard.score import Guard
from longstride.guard.seen import Seen
from longstride.guard.statistics import Recorder
from longstride.network import as_network
from longstride.sampler import Callback, DenoiserLike, Run
from longstride.sampler import sample as sample_table
from longstride.table import SolverTable

__all__ = ["Guarded", "HasGuard", "sample", "sample_guarded"]


class HasGuard(Protocol):
    """A calibrated table with its base and its guard, such as :class:`~longstride.Card`."""

    @property
    def table(self) -> SolverTable:
        """The table to use."""

    @property
    def base_table(self) -> SolverTable:
        """The table that makes flagged samples again."""

    @property
    def guard(self) -> Guard | None:
        """The guard; None: no sample is made again."""


@dataclass(frozen=True, eq=False)
class Guarded:
    """Samples of a guarded sampler.

    Attributes:
        samples: Last states, in the shape, dtype and device of the noise.
        flagged: Which samples the base made, ``(B,)``, on the CPU.
        scores: Scores of the samples, ``(B,)`` in float64 on the CPU; empty without a guard.
        calls: Network calls per sample, samples that were made again included; a guided pair counts as one.
        seen: What the monitor saw; None without a monitor.
    """

    samples: Tensor
    flagged: Tensor
    scores: Tensor
    calls: float
    seen: Seen | None = None


@torch.inference_mode()
def sample_guarded(
    denoiser: DenoiserLike,
    noise: Tensor,
    card: HasGuard,
    *,
    monitor: Monitor | None = None,
    callback: Callback | None = None,
) -> Guarded:
    """Draw samples with a card; its base makes flagged samples again.

    A sample is flagged if its score exceeds the card's threshold, or if it or a statistic of its run is not finite, or
    if a monitor with the policy ``"fallback"`` says so. A guard that looks early stops the runs of flagged samples, and
    the others go on without them; beside a monitor all runs go on, since it compares whole runs. The base makes all
    flagged samples together, from their own noise, with the network bound to them. Its first call is not made again if
    that call has a known output. They are the base's samples bit for bit, as the base makes them from that noise, but
    for the rounding of a network in a batch of another size.

    Args:
        denoiser: See :func:`~longstride.sampler.sample`. Conditions with one entry per sample must be those of a
            :class:`~longstride.Denoiser`, which can be bound to some samples.
        noise: First states ``(B, *)``.
        card: A card.
        monitor: A monitor of this card, which judges the runs. Default: none.
        callback: Called after every network call of the card's table, with the samples that still run; not in the run
            of the base.

    Raises:
        InputError: ``noise`` is no floating-point tensor with a first axis of samples, the denoiser returned another
            shape, or the monitor is of another table.
        MonitorError: the monitor's policy is ``"raise"``, and it raised an alarm.
        NonFiniteError: the base's samples, or samples without a guard and a monitor, hold NaN or infinity.
    """
    guard, table = card.guard, card.table
    if not isinstance(noise, Tensor) or not noise.is_floating_point() or noise.ndim == 0 or len(noise) == 0:
        found = f"{noise.dtype} of shape {tuple(noise.shape)}" if isinstance(noise, Tensor) else type(noise).__name__
        raise InputError(f"noise must be a floating-point tensor (B, ...) for a card, got {found}")
    if monitor is not None:
        monitor.check_table(table)
    if guard is None and monitor is None:
        samples = sample_table(denoiser, noise, table, callback=callback)
        return Guarded(samples, torch.zeros(len(noise), dtype=torch.bool), torch.empty(0), float(table.nfe))
    recorder, network = Recorder(table), as_network(denoiser)
    base, known = card.base_table, None
    shared = not network.positional and (table.sigmas[0], table.alphas[0]) == (base.sigmas[0], base.alphas[0])

    def see(k: int, sigma: float, x: Tensor, prediction: Tensor) -> None:
        nonlocal known
        recorder(k, sigma, x, prediction)
        if k == 0 and shared:
            known = prediction.clone()  # a network may reuse the memory of its output

    run, look = Run(noise, table), table.nfe if guard is None or monitor is not None else guard.calls or table.nfe
    run.go(look, network, callback, watch=see)
    statistics = recorder.read(look)
    scores = torch.empty(0) if guard is None else torch.from_numpy(guard.scores(statistics))
    flagged = torch.zeros(len(noise), dtype=torch.bool) if guard is None else scores > guard.threshold
    early = look < table.nfe
    on = (~flagged if early else torch.ones_like(flagged)).nonzero()[:, 0].to(noise.device)
    if len(on) == len(noise):
        samples = run.finish(network, callback)
    else:
        samples = torch.zeros_like(noise)  # of runs that stopped
        if len(on):
            samples[on] = run.select(on).finish(network.select(on), callback)
    calls = look * len(noise) + (table.nfe - look) * len(on)
    # A sum of finite entries is finite in float32 or better, and is one pass over them.
    finite = torch.isfinite(samples.flatten(1).sum(1, dtype=run.history.dtype)).cpu()
    flagged |= ~finite
    seen = None if monitor is None else monitor.see(statistics, finite.numpy())
    if seen is not None:
        flagged |= torch.from_numpy(seen.again)
    again = flagged.nonzero()[:, 0].to(noise.device)
    if len(again):
        first = None if known is None or not torch.isfinite(known[again]).all() else known[again]
        samples[again] = sample_table(network.select(again), noise[again], base, first=first)
        calls += (base.nfe - (first is not None)) * len(again)
    return Guarded(samples, flagged, scores, calls / len(noise), seen)


def sample(
    denoiser: DenoiserLike,
    noise: Tensor,
    table: SolverTable | HasGuard,
    *,
    callback: Callback | None = None,
    first: Tensor | None = None,
    before: Course | None = None,
) -> Tensor:
    """Draw samples: run a table from ``noise``, or a card with its guard.

    Args:
        denoiser: ``denoiser(x, sigma)`` returns the clean prediction; called ``table.nfe`` times with ``x`` in the
            dtype of ``noise`` and ``sigma`` a Python float.
        noise: First state, of any shape: ``table.sigmas[0]`` times standard normal noise (plus ``alphas[0]`` times a
            picture, for a start in the middle). A card's needs a first axis of samples.
        table: The sampler, or a card: its base then makes the samples again that its guard flags. See
            :func:`~longstride.guard.sample_guarded`, which also tells which samples, and the network calls.
        callback: Called after every network call with ``(k, sigma, x, prediction)``.
        first: The network's output for ``noise``, if it is known; the first call is then not made. For a table alone.
        before: Levels of the run that led to ``noise``, for networks that answer by the number of their step. For a
            table alone.

    Returns:
        The last state, in the shape, dtype and device of ``noise``.

    Raises:
        InputError: ``noise`` is no floating-point tensor, or the denoiser returned another shape.
        NonFiniteError: the result holds NaN or infinity; the message names the first call that returned such an output.

    Examples:
        >>> import torch, longstride as ls
        >>> table = ls.build("ddim", ls.grid("karras", 5, sigma_min=0.01, sigma_max=10.0))
        >>> x = ls.sample(lambda x, sigma: x / (1 + sigma**2), 10 * torch.randn(4, 2), table)
        >>> x.shape
        torch.Size([4, 2])
    """
    if isinstance(table, SolverTable):
        return sample_table(denoiser, noise, table, callback=callback, first=first, before=before)
    if first is not None or before is not None:
        raise InputError("first= and before= are for a table alone: pass card.table in place of the card")
    return sample_guarded(denoiser, noise, table, callback=callback).samples
