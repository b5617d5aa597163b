"""Where in a run a network call stands: some networks answer by the number of their step, not by its level alone.

Pipelines of diffusers read the index of the loop: guidance that ends after a share of the steps, a level looked up in
the scheduler's list. So every call tells the levels of its whole run, and its number. Networks that do not care ignore
it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longstride.arrays import Array
from longstride.table import SolverTable

__all__ = ["Course"]


@dataclass(frozen=True, eq=False)
class Course:
    """Levels of a whole run, in the frame of its table.

    Attributes:
        alphas: Alpha of every state, shape ``(K + 1,)``. The network is called at all but the last.
        sigmas: Sigma of every state, shape ``(K + 1,)``.
    """

    alphas: Array
    sigmas: Array

    @staticmethod
    def of(table: SolverTable) -> Course:
        """The levels of a table."""
        return Course(table.alphas, table.sigmas)

    @property
    def nfe(self) -> int:
        """Network calls K of the run."""
        return len(self.sigmas) - 1

    def before(self, k: int) -> Course:
        """The states before state ``k``."""
        return Course(self.alphas[:k], self.sigmas[:k])

    def then(self, other: Course) -> Course:
        """The states of this course, and then the states of another."""
        return Course(np.append(self.alphas, other.alphas), np.append(self.sigmas, other.sigmas))

    def through(self, alpha: float, sigma: float) -> tuple[Course, int]:
        """A course with a call at a level, and the number of that call.

        Args:
            alpha: Alpha of the level.
            sigma: Sigma of the level. The course itself is returned if it has a call there.
        """
        found = np.flatnonzero((self.alphas[:-1] == alpha) & (self.sigmas[:-1] == sigma))
        if len(found):
            return self, int(found[0])
        k = int((self.sigmas > sigma).sum())
        return Course(np.insert(self.alphas, k, alpha), np.insert(self.sigmas, k, sigma)), k

    def on(self) -> Course:
        """The course with one more call, at its last level."""
        return self.then(Course(np.array([1.0]), np.array([0.0])))
