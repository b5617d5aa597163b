"""What holds for every solver on any levels, and for every table whatever its weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import LIGHT, NUMBERS, built, levels, tables

import longstride as ls

WEIGHTS = st.dictionaries(st.integers(0, 5), st.floats(-1e3, 1e3), max_size=4)
ROWS = st.builds(ls.Row, WEIGHTS, WEIGHTS)


def noise(seed, count=2, size=3):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(x, sigma):
    return torch.tanh(x) / (1 + sigma)


@LIGHT
@given(built(), st.floats(-5.0, 5.0), st.integers(0, 99))
def test_every_solver_is_exact_where_the_data_are_one_value(table, value, seed):
    eps = noise(seed)
    first = float(table.alphas[0]) * value + float(table.sigmas[0]) * eps
    last = ls.sample(lambda x, sigma: torch.full_like(x, value), first, table)
    wanted = float(table.alphas[-1]) * value + float(table.sigmas[-1]) * eps
    size = float(np.abs(table.b).sum(1).max() * (1 + abs(value)) + table.sigmas[0])
    assert torch.allclose(last, wanted, rtol=0, atol=1e-10 * size)
    if table.sigmas[-1] == 0:
        assert torch.allclose(last, torch.full_like(last, value), rtol=0, atol=1e-10 * size)


@LIGHT
@given(tables(), st.integers(0, 99))
def test_a_run_is_its_normal_form(table, seed):
    outputs, first = [], float(table.sigmas[0]) * noise(seed)

    def network(x, sigma):
        outputs.append(smooth(x, sigma))
        return outputs[-1]

    last = ls.sample(network, first, table)
    terms = [float(table.a[-1]) * first, *(float(w) * d for w, d in zip(table.b[-1], outputs, strict=True))]
    assert torch.allclose(last, sum(terms), rtol=1e-9, atol=1e-9 * max(float(t.abs().max()) for t in terms) * 10)


@LIGHT
@given(tables() | built(), st.integers(0, 99))
def test_all_forms_of_a_table_are_one_sampler(table, seed):
    first = float(table.sigmas[0]) * noise(seed)
    size = float(np.abs(table.a).max() + np.abs(table.b).max())
    assert table.unrolled().distance(table) <= 1e-12 * size
    counts = [1 + (k % 2) for k in range(len(table.grid))]
    lingering = table.lingering(counts)
    assert lingering.nfe == table.nfe + sum(counts) - len(counts)
    plain, slow = ls.sample(smooth, first, table), ls.sample(smooth, first, lingering)
    assert torch.allclose(plain, slow, rtol=1e-9, atol=1e-9 * size * (1 + float(first.abs().max())))


@LIGHT
@given(built(), st.data())
def test_a_frame_can_be_left_and_entered_again(table, data):
    count = table.nfe + 1
    factors = np.array(data.draw(st.lists(st.floats(0.1, 10.0), min_size=count, max_size=count)))
    assert table.rescaled(factors).rescaled(1 / factors).distance(table) <= 1e-9 * max(1.0, np.abs(table.b).max())
    assert table.rescaled(factors).defect <= 1e-10


@LIGHT
@given(ROWS, ROWS, st.floats(-100, 100))
def test_rows_are_vectors(one, other, factor):
    def value(row, seed=0):
        states, outputs = np.random.default_rng(seed).normal(size=(2, 6))
        return sum(w * states[i] for i, w in row.states.items()) + sum(w * outputs[j] for j, w in row.outputs.items())

    assert value(factor * (one - other)) == pytest.approx(factor * (value(one) - value(other)), rel=1e-9, abs=1e-6)
    assert value(one + other) == pytest.approx(value(other + one), rel=1e-12, abs=1e-9)
    assert value((-one).pruned()) == pytest.approx(-value(one), rel=1e-12, abs=1e-12)


@LIGHT
@given(levels(), st.integers(1, 3), NUMBERS | st.just(float("nan")))
def test_what_is_no_table_is_refused(both, ahead, weight):
    """A row that reads what is not there yet, and weights that are no numbers."""
    alphas, sigmas = both
    count = len(sigmas) - 1
    rows = [ls.Row({k: 1.0}) for k in range(count)]
    grid = tuple(range(count + 1))
    with pytest.raises(ls.InputError, match="must read states and outputs"):
        ls.SolverTable("t", alphas, sigmas, (*rows[:-1], ls.Row({count - 1 + ahead: weight})), grid, {}, False)
    with pytest.raises(ls.InputError, match="needs .* levels"):
        ls.SolverTable("t", alphas[:-1], sigmas, tuple(rows), grid, {}, False)
    if not np.isfinite(weight):
        with pytest.raises(ls.InputError, match="is not finite"):
            ls.SolverTable("t", alphas, sigmas, (*rows[:-1], ls.Row({}, {0: weight})), grid, {}, False)
