"""The algebra of rows, the two faces of a table, and what a table refuses."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from problems import Mixture

import longstride as ls
from longstride import Row, SolverTable
from longstride.table_builder import TableBuilder

SIGMAS = np.geomspace(10.0, 0.1, 9)


def value(row, states, outputs):
    """A row by its definition."""
    return sum(w * states[i] for i, w in row.states.items()) + sum(w * outputs[j] for j, w in row.outputs.items())


def test_rows_are_linear_combinations():
    rng = np.random.default_rng(0)
    states, outputs = rng.normal(size=3), rng.normal(size=3)
    left, right = Row({0: 1.5, 1: -2.0}, {0: 0.25}), Row({1: 3.0, 2: 1.0}, {0: 4.0, 2: -1.0})
    x, y = value(left, states, outputs), value(right, states, outputs)
    for row, wanted in [
        (left + right, x + y),
        (left - right, x - y),
        (-left, -x),
        (2 * left, 2 * x),
        (left * 2, 2 * x),
        (np.float64(0.3) * left, 0.3 * x),  # NumPy must not make an array of it
        (left / 4, x / 4),
        (Row() + left, x),
        (0.5 * (left + right) - left / 2, y / 2),
    ]:
        assert isinstance(row, Row)
        assert value(row, states, outputs) == pytest.approx(wanted, rel=1e-15)


def test_pruning_drops_exact_zeros_only():
    row = Row({0: 1.0, 1: 0.0}, {0: 1e-300, 1: 0.0}) - Row({0: 1.0})
    assert row.pruned() == Row({}, {0: 1e-300})


def test_builder_writes_data_noise_and_transfers():
    """On x = alpha D + sigma e, the builder's noise is e, and a transfer keeps D and e."""
    alphas, sigmas = [0.6, 0.8], [0.8, 0.6]
    builder = TableBuilder(ls.Nodes.of(sigmas, alphas))
    data, noise = 0.3, -1.7
    states, outputs = {0: alphas[0] * data + sigmas[0] * noise}, {0: data}
    assert value(builder.noise(0), states, outputs) == pytest.approx(noise)
    for row in (builder.ddim(0), builder.transfer(0, builder.noise(0), alphas[1], sigmas[1])):
        assert value(row, states, outputs) == pytest.approx(alphas[1] * data + sigmas[1] * noise)


# Two faces of one table


@pytest.mark.parametrize("name", ls.SOLVERS)
def test_normal_form_is_the_same_sampler(name):
    table = ls.build(name, SIGMAS)
    unrolled = table.unrolled()
    assert all(set(row.states) <= {0} for row in unrolled.rows)
    assert table.distance(unrolled) < 1e-13
    noise = 10 * torch.linspace(-1, 1, 5, dtype=torch.float64)
    samples = [ls.sample(Mixture(), noise, t) for t in (table, unrolled)]
    torch.testing.assert_close(*samples, rtol=1e-12, atol=1e-12)


def test_normal_form_by_hand():
    rows = (Row({0: 0.5}, {0: 0.5}), Row({1: 0.5, 0: -0.1}, {0: 0.2, 1: 0.4}))
    table = SolverTable("by hand", np.ones(3), np.array([4.0, 2.0, 1.0]), rows, (0, 1, 2), exact=False)
    np.testing.assert_allclose(table.a, [1, 0.5, 0.15])
    np.testing.assert_allclose(table.b, [[0, 0], [0.5, 0], [0.45, 0.4]])


@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("dpmpp_2m", {}, 1),
        ("dpmpp_3m", {}, 1),
        ("dpm_solver_2m", {}, 1),
        ("dpm_solver_3m", {}, 1),
        ("dpmpp_2s", {"orders": [1] * 8}, 8),
        ("dpm_solver_3", {"orders": [1] * 8}, 8),
        ("deis", {"order": 1}, 8),
        ("ipndm", {"order": 1}, 8),
        ("unipc", {"order": 1, "corrector": False}, 8),
        ("unipc", {"order": 3}, 1),
    ],
)
def test_solvers_that_are_ddim(name, options, steps):
    sigmas = SIGMAS[: steps + 1]
    assert ls.build(name, sigmas, **options).distance(ls.build("ddim", sigmas)) < 1e-14


@pytest.mark.parametrize(
    ("left", "right"),
    [
        # without a corrector and with a = 1/2, UniP-2 is DPM-Solver++(2M)
        (("unipc", {"order": 2, "corrector": False}), ("dpmpp_2m", {"lower_order_final": True})),
        (
            ("unipc", {"order": 2, "corrector": False, "prediction": "noise", "lower_order_final": False}),
            ("dpm_solver_2m", {"lower_order_final": False}),
        ),
        # a line in log rho, integrated exactly
        (
            ("deis", {"order": 2, "variable": "log_rho"}),
            ("dpm_solver_2m", {"variant": "heun", "lower_order_final": False}),
        ),
        # without a schedule the time is rho
        (("deis", {"order": 3, "variable": "t"}), ("deis", {"order": 3, "variable": "rho"})),
        (("spndm", {}), ("pndm", {"order": 2, "start": "improved_euler"})),
    ],
)
def test_one_sampler_by_two_names(left, right):
    assert ls.build(left[0], SIGMAS, **left[1]).distance(ls.build(right[0], SIGMAS, **right[1])) < 1e-13


@pytest.mark.parametrize("name", ["ipndm", "deis"])
def test_even_steps_in_rho_make_adams_bashforth(name):
    """On an even grid, DEIS in rho has iPNDM's weights; on any other it does not."""
    for sigmas, same in ((np.linspace(5, 1, 7), True), (SIGMAS, False)):
        distance = ls.build("deis", sigmas, variable="rho").distance(ls.build("ipndm", sigmas, order=3))
        assert (distance < 1e-12) is same


def test_distance_tells_samplers_apart():
    table = ls.build("ddim", SIGMAS)
    assert table.distance(table) == 0
    assert table.distance(ls.build("dpmpp_2m", SIGMAS)) > 1e-3
    assert table.distance(ls.build("ddim", SIGMAS * 1.5)) == pytest.approx(5.0)
    assert table.distance(ls.build("ddim", SIGMAS[:-1])) == float("inf")


# What is held


@pytest.mark.parametrize(
    ("name", "options", "window"),
    [
        ("ddim", {}, 2),  # a state and its output
        ("dpmpp_2m", {}, 3),  # and one output before
        ("dpmpp_3m", {}, 4),
        ("dpm_solver_2m", {}, 4),  # a noise is a state and an output
        ("ipndm", {}, 8),
        ("heun", {}, 4),
        ("unipc", {"order": 2}, 4),  # the corrector reaches one output further back
        ("unipc", {"order": 3}, 5),
    ],
)
def test_window_does_not_grow_with_the_number_of_steps(name, options, window):
    for steps in (12, 24):
        assert ls.build(name, np.geomspace(10, 0.1, steps + 1), **options).window == window


def test_last_reader_by_hand():
    rows = (Row({0: 0.5}, {0: 0.5}), Row({1: 0.5}, {1: 0.5}), Row({0: 0.1}, {2: 0.9}))
    table = SolverTable("by hand", np.ones(4), np.array([8.0, 4.0, 2.0, 1.0]), rows, (0, 1, 2, 3), exact=False)
    assert table.last_reader == ((3, 2, 3, 4), (1, 2, 3))
    assert table.window == 3  # row 2: states 0 and 1, output 1


def test_steps_of_rows():
    table = ls.build("heun", [4.0, 2.0, 1.0, 0.0])
    assert table.grid == (0, 2, 4, 5)
    assert [table.step_of_row(k) for k in range(1, 6)] == [0, 0, 2, 2, 4]


# What cannot be made


GOOD = {"name": "mine", "alphas": np.ones(2), "sigmas": np.array([2.0, 1.0]), "grid": (0, 1)}
ROW = Row({0: 0.5}, {0: 0.5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ()}, "a table of 0 rows needs 1 levels and at least one row"),
        ({"rows": (ROW,), "sigmas": np.array([2.0, 1.0, 0.5])}, "1 rows needs 2 levels.*got 2 alphas and 3 sigmas"),
        ({"rows": (Row(),)}, "row 1 must read states and outputs 0 … 0 only"),
        ({"rows": (Row({1: 1.0}),)}, "row 1 must read states and outputs 0 … 0 only"),
        ({"rows": (Row({0: 1.0}, {-1: 1.0}),)}, "row 1 must read"),
        ({"rows": (Row({0: float("nan")}, {0: 0.5}),)}, r"mine: a weight of row 1 is not finite \(levels 2 → 1\)"),
        ({"rows": (ROW,), "grid": (0,)}, r"grid must be increasing state indices from 0 to 1, got \(0,\)"),
        ({"rows": (ROW,), "grid": ()}, "grid must be increasing state indices from 0 to 1"),
        ({"rows": (Row({0: 0.5}, {0: 0.6}),)}, "mine: the rows are not exact on a single data point .defect 1.0e-01"),
        ({"rows": (Row({0: 0.4}, {0: 0.5}),)}, "mine: the rows are not exact on a single data point"),
    ],
)
def test_construction_errors(changes, message):
    with pytest.raises(ls.InputError, match=message):
        SolverTable(**{**GOOD, **changes})


def test_an_inexact_table_must_be_wanted():
    table = SolverTable(rows=(Row({0: 0.5}, {0: 0.6}),), exact=False, **GOOD)
    assert table.defect == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("sigmas", "alphas", "message"),
    [
        ([2.0, 1.0], [1.0], r"one alpha per sigma, got \(1,\) alphas for \(2,\) sigmas"),
        ([2.0, 1.0], [1.0, 1.5], r"alphas must lie in \[0, 1\]"),
        ([0.9, 0.5], [0.1, 0.0], "only the first may be 0"),
        ([2.0, 1.0], [1.0, float("nan")], r"alphas must lie in \[0, 1\]"),
        ([1.0, 2.0], None, r"level 0 \(1\) is below level 1 \(2\)"),
    ],
)
def test_nodes_refuse(sigmas, alphas, message):
    with pytest.raises(ls.InputError, match=message):
        ls.build("ddim", sigmas, alphas=alphas)


@pytest.mark.parametrize("family", ["vp", "flow"])
def test_nodes_refuse_levels_that_the_schedule_lacks(family):
    zero_snr = ls.Schedule.vp([0.9, 0.5, 0.1, 0.0]) if family == "vp" else ls.Schedule.flow()
    with pytest.raises(ls.InputError, match=r"alphas must lie in \[0, 1\]"):
        ls.build("ddim", [1.5, 0.5], schedule=zero_snr)


def test_levels_between_need_a_family():
    sigmas, alphas = [0.9, 0.5, 0.2], [0.3, 0.6, 0.9]
    assert ls.build("dpmpp_2m", sigmas, alphas=alphas).nfe == 2
    with pytest.raises(ls.InputError, match="needs levels between the given ones"):
        ls.build("dpm_solver_2", sigmas, alphas=alphas)


# A table does not change


def test_tables_are_frozen():
    sigmas = SIGMAS.copy()
    table = ls.build("dpmpp_2m", sigmas)
    with pytest.raises(FrozenInstanceError):
        table.name = "other"
    for array in (table.a, table.b, table.alphas, table.sigmas):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    sigmas[0] = 99
    assert table.sigmas[0] == SIGMAS[0]


def test_tables_can_be_compared_and_hashed():
    """Equality is identity: whether two tables are one sampler is what ``distance`` says."""
    left, right = ls.build("ddim", SIGMAS), ls.build("ddim", SIGMAS)
    assert left != right
    assert len({left, right, left}) == 2


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "unipc", "heun", "dpmpp_2s", "pndm"])
def test_calls_that_linger_at_a_level_change_nothing(name):
    """The further calls are made, and the result is that of the plain table."""
    sigmas, counts = np.array([9.0, 6.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.0]), [1, 3, 1, 2, 1, 1, 1, 2]
    table = ls.build(name, sigmas)
    lingering = table.lingering(counts)
    assert lingering.nfe == table.nfe + sum(counts) - len(counts)
    assert lingering.sigmas[list(lingering.grid)].tolist() == np.repeat(sigmas, counts).tolist()
    assert table.lingering([1] * len(sigmas)).distance(table) == 0
    x = 9 * torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, expected = (ls.sample(lambda x, s: torch.tanh(x) / (1 + s), x, one) for one in (lingering, table))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
