"""Runs of many tables that differ in little: network calls that they have in common are made once.

Two savings. Tables that agree up to some state share every call before it. And runs that stand at the same level can
make their next call together, as one larger batch, which is what fills a GPU when the samples are few.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from longstride.network import Network
from longstride.sampler import Run
from longstride.table import SolverTable

__all__ = ["PrefixRuns", "finish_together", "first_difference"]


def first_difference(table: SolverTable, known: SolverTable) -> int:
    """First state ``1 … K`` whose row, or whose network call, differs; K where none does.

    The last row costs no call, so K is also the answer for tables that differ in it alone.

    Args:
        table: A table.
        known: Another with as many calls.
    """
    for k in range(1, table.nfe):
        if table.rows[k - 1] != known.rows[k - 1] or table.sigmas[k] != known.sigmas[k]:
            return k
    return table.nfe


class PrefixRuns:
    """One run of a known table, kept whole, from which runs of other tables go on where they first differ.

    Args:
        network: The network, bound to the samples.
        noise: First states ``(b, *)``.
        known: The table; those that come share its first level.

    Attributes:
        end: Last state of the known table.
    """

    @torch.inference_mode()
    def __init__(self, network: Network, noise: Tensor, known: SolverTable) -> None:
        self.network, self.known, self.size = network, known, len(noise)
        run = Run(noise, known, keep=True)
        self._points: list[Run] = []  # as it was when call k had been made
        while run.k < known.nfe:
            run.see(network(run.x, run.sigma))
            self._points.append(run.fork(known))
            run.advance()
        self.end = run.x

    @torch.inference_mode()
    def ends(self, tables: Sequence[SolverTable], batch_size: int | None = None) -> list[Tensor]:
        """Last states of other tables.

        As many as fill a network call go to their ends together, so that outputs are held of these and of the known
        run alone.

        Args:
            tables: They have the known table's first level and number of calls.
            batch_size: Most samples per network call where several runs make theirs together; default: one run each.

        Returns:
            Their last states ``(b, *)``, in the order of the tables.
        """
        together = max(1, (batch_size or 0) // self.size)
        first = [first_difference(table, self.known) for table in tables]
        # Neighbours make most calls together: those that start alike, and of these the ones at the known levels.
        same = [np.array_equal(table.sigmas, self.known.sigmas) for table in tables]
        order = sorted(range(len(tables)), key=lambda n: (first[n], not same[n]))
        found: dict[int, Tensor] = {}
        for begin in range(0, len(order), together):
            runs = {n: self._start(tables[n], first[n]) for n in order[begin : begin + together]}
            finish_together(self.network, list(runs.values()))
            found |= {n: run.x for n, run in runs.items()}
        return [found[n] for n in range(len(tables))]

    def _start(self, table: SolverTable, first: int) -> Run:
        """A run of ``table`` that stands before its first call that is not known."""
        run = self._points[first - 1].fork(table)
        run.keep = False
        run.advance()
        return run


def finish_together(network: Network, runs: Sequence[Run]) -> None:
    """Take runs of one batch of samples to their ends; runs at the same level make their network call together.

    Args:
        network: The network, bound to the samples.
        runs: Of tables with as many calls; they may stand at different calls.
    """
    for k in range(max((run.table.nfe for run in runs), default=0)):
        waiting: dict[float, list[Run]] = {}
        for run in runs:
            if run.k == k and run.k < run.table.nfe:
                waiting.setdefault(run.sigma, []).append(run)
        for group in waiting.values():
            _step(network, group)


def _step(network: Network, runs: Sequence[Run]) -> None:
    """One network call for several runs at the same level."""
    if len(runs) == 1:
        runs[0].see(network(runs[0].x, runs[0].sigma))
    else:
        found = network.repeat(len(runs))(torch.cat([run.x for run in runs]), runs[0].sigma)
        for run, prediction in zip(runs, found.chunk(len(runs)), strict=True):
            run.see(prediction)
    for run in runs:
        run.advance()
