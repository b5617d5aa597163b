"""diffusers' counterparts of our solvers: every entry is true."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest

import longstride as ls
from longstride.integrations.counterparts import COUNTERPARTS, Counterpart, counterpart_of
from longstride.nodes import Nodes

NODES = Nodes.of(np.append(np.geomspace(14.0, 0.1, 8), 0.0))


def test_every_entry_is_of_a_solver_and_a_new_solver_needs_none() -> None:
    assert set(COUNTERPARTS) <= set(ls.SOLVERS)
    assert counterpart_of("a solver of tomorrow") == Counterpart()


@pytest.mark.parametrize("solver", ls.SOLVERS)
def test_an_entry_is_of_diffusers_and_of_the_solver(solver: str) -> None:
    entry = COUNTERPARTS[solver]
    assert hasattr(diffusers, entry.scheduler_class or entry.levels_class)
    table = ls.build(solver, NODES.sigmas, alphas=NODES.alphas, **entry.options({}, NODES))
    if entry.one_call:
        assert table.nfe == NODES.steps
    if entry.continues_as is not None:
        assert COUNTERPARTS[entry.continues_as].one_call
        assert table.nfe > NODES.steps or ls.SOLVERS[solver].own_levels
