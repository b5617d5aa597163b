"""Runs of many similar tables: common network calls are made once.

Tables that agree up to a state share every call before that state. Runs at the same level make their next call
together, as one larger batch: few samples do not fill a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from longstride.network import Network
from longstride.sampler import Run
from longstride.table import SolverTable

__all__ = ["PrefixRuns", "answers", "finish_together", "first_difference"]


def first_difference(table: SolverTable, known: SolverTable) -> int:
    """First state ``1 … K - 1`` whose row, or the level of whose network call, differs; K if there is none.

    No network call follows the last row: K is also the answer for tables that differ in the last row alone.

    Args:
        table: A table.
        known: Another table with as many calls.
    """
    for k in range(1, table.nfe):
        if table.rows[k - 1] != known.rows[k - 1] or table.sigmas[k] != known.sigmas[k]:
            return k
    return table.nfe


class PrefixRuns:
    """One run of a known table, kept whole. Runs of other tables go on from it at their first different state.

    Args:
        network: The network, bound to the samples.
        noise: First states ``(b, *)``.
        known: The known table.

    Attributes:
        points: The run after each network call.
        end: Last state of the known table.
    """

    @torch.inference_mode()
    def __init__(self, network: Network, noise: Tensor, known: SolverTable) -> None:
        self.network, self.known, self.size = network, known, len(noise)
        run = Run(noise, known, keep=True)
        self.points: list[Run] = []
        while run.k < known.nfe:
            run.see(run.ask(network))
            self.points.append(run.fork(known))
            run.advance()
        self.end = run.x

    @torch.inference_mode()
    def ends(self, tables: Sequence[SolverTable], batch_size: int | None = None) -> list[Tensor]:
        """Last states of other tables.

        As many runs as fill a network call go on together. The outputs of these runs and of the known run are held.

        Args:
            tables: Tables with the known table's first level and number of calls.
            batch_size: Most samples per network call of several runs; default: every run makes its own calls.

        Returns:
            Their last states ``(b, *)``, in the order of the tables.
        """
        together = max(1, (batch_size or 0) // self.size)
        first = [first_difference(table, self.known) for table in tables]
        # Neighbours in this order make most calls together: by first difference, then by the known levels.
        same = [np.array_equal(table.sigmas, self.known.sigmas) for table in tables]
        order = sorted(range(len(tables)), key=lambda n: (first[n], not same[n]))
        found: dict[int, Tensor] = {}
        for begin in range(0, len(order), together):
            runs = {n: self.start(tables[n], first[n]) for n in order[begin : begin + together]}
            finish_together(self.network, list(runs.values()))
            found |= {n: run.x for n, run in runs.items()}
        return [found[n] for n in range(len(tables))]

    def start(self, table: SolverTable, first: int) -> Run:
        """A run of ``table`` before its first unknown call, number ``first``."""
        run = self.points[first - 1].fork(table)
        run.keep = False
        run.advance()
        return run


def finish_together(network: Network, runs: Sequence[Run]) -> None:
    """Take runs of one batch of samples to their ends; runs at the same level make their network call together.

    Args:
        network: The network, bound to the samples.
        runs: Of tables with as many calls; they may stand at different calls. Runs of a network that answers by the
            number of its step go to their ends one after the other.
    """
    if network.positional:
        for run in runs:
            run.finish(network)
        return
    for k in range(max((run.table.nfe for run in runs), default=0)):
        waiting: dict[float, list[Run]] = {}
        for run in runs:
            if run.k == k and run.k < run.table.nfe:
                waiting.setdefault(run.sigma, []).append(run)
        for group in waiting.values():
            _step(network, group)


def _step(network: Network, runs: Sequence[Run]) -> None:
    """One network call for several runs at the same level."""
    for run, prediction in zip(runs, answers(network, runs), strict=True):
        run.see(prediction)
        run.advance()


def answers(network: Network, runs: Sequence[Run]) -> list[Tensor]:
    """The network's outputs for the states of several runs at the same level, in one call if that is possible."""
    if len(runs) == 1:
        return [runs[0].ask(network)]
    if network.positional:  # it may return one tensor again and again
        return [run.ask(network).clone() for run in runs]
    found: Tensor = network.repeat(len(runs))(torch.cat([run.x for run in runs]), runs[0].sigma)
    return list(found.chunk(len(runs)))
