"""The free numbers of a table: nothing moved is nothing changed, levels cannot meet, frames are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import Mixture, in_frame

import longstride as ls
from longstride.families import alpha_of_ratio
from longstride.parameters import Parameters

KARRAS = ls.grid("karras", 6, sigma_min=0.02, sigma_max=40.0)
FLOW = np.array([1.0, 0.85, 0.6, 0.35, 0.1, 0.0])
SINES = np.sin(np.linspace(np.pi / 2, 0.0, 6))  # from alpha = 0 to sigma = 0 on the process's own scale

#: One base per frame; the last two begin at alpha = 0, and all end at sigma = 0.
TABLES = {
    "ve": ls.build("ipndm", KARRAS),
    "ve, no last zero": ls.build("dpmpp_2m", ls.grid("karras", 5, sigma_min=0.02, sigma_max=40.0, final="sigma_min")),
    "flow": ls.build("dpmpp_2m", FLOW, alphas=1 - FLOW),
    "vp": ls.build("unipc", SINES, alphas=np.append(0.0, np.sqrt(1 - SINES[1:] ** 2))),
}
FAMILY = {"ve": "ve", "ve, no last zero": "ve", "flow": "flow", "vp": "vp"}


@pytest.fixture(params=list(TABLES))
def frame(request):
    return request.param


def choices(table):
    return [
        Parameters(table.nfe, levels=levels, column=column, window=window)
        for levels in (False, True)
        for column in (False, True)
        for window in (None, 1, 3)
    ]


def same_to_the_bit(one, other):
    assert one.rows == other.rows
    for name in ("sigmas", "alphas", "a", "b"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


def thetas(count, seed, size):
    """Moves from tiny to absurd, of both signs, some of them equal in size."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.choice([-1.0, 1.0], size) * 10 ** rng.uniform(-6, rng.choice([0, 2, 8, 300]), size)


def test_theta_zero_is_the_table_itself(frame):
    """Rows too: a weight that is not there does not appear as one of 0, which would count as another row."""
    for parameters in choices(TABLES[frame]):
        table = parameters.prepared(TABLES[frame])
        same_to_the_bit(parameters.moved(table, np.zeros(len(parameters))), table)


def test_a_move_touches_its_own_row_and_level_alone(frame):
    for parameters in choices(TABLES[frame]):
        table = parameters.prepared(TABLES[frame])
        free = parameters.free(table)
        for one, unit, may in zip(parameters.all, np.eye(len(parameters)), free, strict=True):
            moved = parameters.moved(table, unit * one.step)
            rows = [k for k in range(1, table.nfe + 1) if moved.rows[k - 1] != table.rows[k - 1]]
            levels = np.flatnonzero(moved.sigmas != table.sigmas).tolist()
            assert rows == ([one.k] if may and one.kind != "level" else [])
            assert levels == ([one.k] if may and one.kind == "level" else [])


def test_values_follow_moves(frame):
    """Weights move by theta itself, and so does the column within its bounds; a level by no more than its room."""
    table = TABLES[frame].unrolled()
    parameters = Parameters(table.nfe, column=True)
    free, before = parameters.free(table), parameters.values(table)
    level = np.array([one.kind == "level" for one in parameters.all])
    column = np.array([one.kind == "column" for one in parameters.all])
    for theta in np.random.default_rng(0).normal(size=(20, len(parameters))):
        change = parameters.values(parameters.moved(table, theta)) - before
        expected = np.where(column, np.clip(theta, -1, 1), theta)
        np.testing.assert_allclose(change[~level & free], expected[~level & free], rtol=1e-9, atol=1e-12)
        assert np.all(change[~free] == 0)
        assert np.all(np.sign(change[level & free]) == np.sign(theta[level & free]))
        assert np.all(np.abs(change[level]) <= np.minimum(np.abs(theta[level]), 1) + 1e-12)
    small = np.where(level & free, 1e-5, 0.0)
    change = parameters.values(parameters.moved(table, small)) - before
    np.testing.assert_allclose(change[level & free], 1e-5, rtol=1e-4)


def test_weights_move_there_and_back(frame):
    table = TABLES[frame].unrolled()
    parameters = Parameters(table.nfe, levels=False)
    theta = np.random.default_rng(1).normal(size=len(parameters))
    back = parameters.moved(parameters.moved(table, theta), -theta)
    np.testing.assert_allclose(back.b, table.b, rtol=0, atol=1e-12 * np.abs(table.b).max())
    other = parameters.moved(table, theta)
    np.testing.assert_allclose(other.b - table.b, _lower(parameters, theta), atol=1e-12 * np.abs(table.b).max())


def _lower(parameters, theta):
    found = np.zeros((parameters.nfe + 1, parameters.nfe))
    for one, value in zip(parameters.all, theta, strict=True):
        found[one.k, one.j] = value
    return found


def test_levels_fall_for_every_theta(frame):
    """Neighbours that are both pushed to the middle between them, as far as they go, do not meet there."""
    table, family = TABLES[frame], FAMILY[frame]
    parameters = Parameters(table.nfe, column=False)
    alternating = np.array([(-1.0) ** one.k * 1e6 if one.kind == "level" else 0.0 for one in parameters.all])
    for theta in (alternating, -alternating, *thetas(300, 2, len(parameters))):
        levels_alone = np.where([one.kind == "level" for one in parameters.all], theta, 0.0)
        moved = parameters.moved(table, levels_alone)
        assert np.all(np.diff(moved.sigmas) < 0)
        assert np.all(np.diff(moved.alphas) >= 0)
        assert np.all(np.diff(moved.alphas) > 0) or family == "ve"
        assert moved.sigmas[[0, -1]].tolist() == table.sigmas[[0, -1]].tolist()
        assert moved.alphas[[0, -1]].tolist() == table.alphas[[0, -1]].tolist()
        inner = slice(1, -1)
        np.testing.assert_allclose(
            moved.alphas[inner], alpha_of_ratio(family, moved.sigmas[inner] / moved.alphas[inner]), rtol=1e-12
        )


def test_levels_fall_through_many_moves(frame):
    """As a fit makes them: every move starts from the levels that the last one left."""
    table = TABLES[frame]
    parameters = Parameters(table.nfe)
    level = np.array([one.kind == "level" for one in parameters.all])
    rng = np.random.default_rng(3)
    for _ in range(200):
        table = parameters.moved(table, np.where(level, rng.normal(size=len(parameters)), 0.0))
        assert np.all(np.diff(table.sigmas) < 0)
    assert table.sigmas[1] != TABLES[frame].sigmas[1]


def test_moves_of_any_size_give_a_table(frame):
    """No size of step is an error: one that is too long is a bad table, which the fit finds out by running it."""
    table = TABLES[frame].unrolled()
    parameters = Parameters(table.nfe, column=True)
    for theta in thetas(100, 4, len(parameters)):
        bounded = np.clip(theta, -1e100, 1e100)
        assert np.isfinite(parameters.moved(table, bounded).sigmas).all()


@pytest.mark.parametrize("window", [None, 2])
def test_levels_without_room_are_not_free(window):
    """Heun calls the network twice per inner level: neither the stage nor the level has room."""
    table = ls.build("heun", KARRAS)
    parameters = Parameters(table.nfe, window=window)
    free = parameters.free(table)
    levels = {one.k: bool(may) for one, may in zip(parameters.all, free, strict=True) if one.kind == "level"}
    assert len(levels) == table.nfe - 1
    assert not any(levels.values())
    assert all(may for one, may in zip(parameters.all, free, strict=True) if one.kind == "weight")
    pushed = parameters.moved(table, np.where(free, 0.0, 5.0))
    assert pushed.sigmas.tolist() == table.sigmas.tolist()


def test_levels_of_single_calls_are_free():
    table = ls.build("dpm_solver_2", KARRAS[:-1])
    parameters = Parameters(table.nfe)
    assert parameters.free(table).all()


def test_the_first_state_is_free_where_a_row_reads_it(frame):
    """At sigma 0 the state is gone from the last row, and no factor brings it back."""
    table = TABLES[frame].unrolled()
    parameters = Parameters(table.nfe, column=True)
    free = {o.k: bool(may) for o, may in zip(parameters.all, parameters.free(table), strict=True) if o.kind == "column"}
    assert [free[k] for k in range(1, table.nfe)] == [True] * (table.nfe - 1)
    assert free[table.nfe] == (table.sigmas[-1] > 0)


def test_a_window_keeps_the_recurrence():
    """What a window frees are the latest outputs; states that the base's rows read are read on, and no more held."""
    base = ls.build("ipndm", KARRAS, order=3)
    for window in (1, 2, 3):
        parameters = Parameters(base.nfe, levels=True, window=window)
        table = parameters.prepared(base)
        assert table is base
        weights = {(one.k, one.j) for one in parameters.all if one.kind == "weight"}
        assert weights == {(k, j) for k in range(1, base.nfe + 1) for j in range(k) if k - j <= window}
        moved = parameters.moved(table, np.full(len(parameters), 0.01))
        assert [row.states for row in moved.rows] == [row.states for row in base.rows]
        assert moved.window <= base.window
    whole = Parameters(base.nfe)
    assert whole.prepared(base).distance(base) < 1e-12
    assert all(set(row.states) <= {0} for row in whole.prepared(base).rows)


def test_a_moved_table_runs_in_its_frame(frame):
    """The numbers that are moved are the ones that the sampler uses: one step by hand, at the moved level."""
    table, family = TABLES[frame].unrolled(), FAMILY[frame]
    parameters = Parameters(table.nfe, column=True)
    theta = 0.1 * np.random.default_rng(5).normal(size=len(parameters))
    moved = parameters.moved(table, theta)
    denoiser, told = in_frame(Mixture(), family), []

    def told_levels(x, sigma):
        told.append(sigma)
        return denoiser(x, sigma)

    x = table.sigmas[0] * torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = ls.sample(told_levels, x, moved)
    assert told == moved.sigmas[:-1].tolist()
    states = [x]
    for k in range(1, table.nfe + 1):
        outputs = [denoiser(state, float(moved.sigmas[j])) for j, state in enumerate(states)]
        states.append(moved.a[k] * x + sum(moved.b[k, j] * output for j, output in enumerate(outputs)))
    torch.testing.assert_close(end, states[-1], rtol=1e-10, atol=1e-10)


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ls.InputError, match="a window holds at least one output, got 0"):
        Parameters(4, window=0)
