"""Tables written row by row, in the notation of the papers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from longstride.errors import InputError
from longstride.nodes import Nodes
from longstride.table import Row, SolverTable

__all__ = ["TableBuilder"]


class TableBuilder:
    """Writes a table row by row, in the notation of the papers.

    ``state(j)``, ``data(j)`` and ``noise(j)`` are rows: the state :math:`x_j`, the network's clean prediction
    :math:`D_j`, and the noise :math:`(x_j - \\alpha_j D_j) / \\sigma_j`. :meth:`step` adds a finished row at the next
    grid level, :meth:`stage` at a level within a step. Both return the index of the new state.

    Args:
        nodes: Grid levels of the table.
    """

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self._alphas = [float(nodes.alphas[0])]
        self._sigmas = [float(nodes.sigmas[0])]
        self._rows: list[Row] = []
        self._grid = [0]

    def state(self, j: int) -> Row:
        """State ``j``."""
        return Row({j: 1.0})

    def data(self, j: int) -> Row:
        """Network output (clean prediction) at state ``j``."""
        return Row({}, {j: 1.0})

    def noise(self, j: int) -> Row:
        """Noise prediction at state ``j``."""
        return (self.state(j) - self._alphas[j] * self.data(j)) / self._sigmas[j]

    def at(self, i: int) -> int:
        """Index of the state at grid level ``i``."""
        return self._grid[i]

    def ddim(self, i: int) -> Row:
        """First-order row from grid level ``i`` to the next; it may start at alpha = 0."""
        j = self.at(i)
        alpha, sigma = float(self.nodes.alphas[i + 1]), float(self.nodes.sigmas[i + 1])
        return alpha * self.data(j) + sigma * self.noise(j)

    def transfer(self, i: int, noise: Row, alpha: float, sigma: float) -> Row:
        """DDIM from grid level ``i`` to ``(alpha, sigma)`` with the noise prediction ``noise`` (Song et al., Eq. 12).

        Raises:
            InputError: the start has alpha = 0, where noises do not determine the clean prediction.
        """
        alpha_i, sigma_i = float(self.nodes.alphas[i]), float(self.nodes.sigmas[i])
        if alpha_i == 0:
            raise InputError(
                "this solver combines noise predictions and cannot start at alpha = 0: start below the last level, "
                "or use ddim, dpmpp_2m, dpmpp_3m or unipc"
            )
        return alpha / alpha_i * self.state(self.at(i)) + (sigma - alpha / alpha_i * sigma_i) * noise

    def stage(self, row: Row, alpha: float, sigma: float) -> int:
        """Add a state within a step."""
        self._rows.append(row.pruned())
        self._alphas.append(float(alpha))
        self._sigmas.append(float(sigma))
        return len(self._rows)

    def step(self, row: Row) -> int:
        """Add the state at the next grid level."""
        level = len(self._grid)
        index = self.stage(row, self.nodes.alphas[level], self.nodes.sigmas[level])
        self._grid.append(index)
        return index

    def levels(self) -> Iterator[int]:
        """Grid levels ``0 … N - 1``, each the start of a step."""
        return iter(range(self.nodes.steps))

    def table(self, name: str, **options: Any) -> SolverTable:
        """The finished table; its constructor checks the identities."""
        return SolverTable(
            name, np.array(self._alphas), np.array(self._sigmas), tuple(self._rows), tuple(self._grid), options
        )
