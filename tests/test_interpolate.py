"""Filled tables: what all anchors agree on stays, what follows a polynomial is found, and levels fall."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import longstride as ls
from longstride.families import alpha_of_ratio
from longstride.interpolate import average_table, fill_guidance, fill_nfe, resampled
from longstride.parameters import Parameters, falling
from longstride.table import SolverTable

#: Ranges of three networks.
RANGES = ((0.002, 80.0), (0.01, 157.0), (0.05, 148.0))
FLOW = np.array([1.0, 0.85, 0.6, 0.35, 0.1, 0.0])
#: One per frame: finite ends, sigma 0 at the end, and alpha 0 at the start as well.
TABLES = {
    "ve": ls.build("ipndm", ls.grid("karras", 5, sigma_min=0.02, sigma_max=40.0, final="sigma_min")),
    "zero": ls.build("unipc", ls.grid("karras", 6, sigma_min=0.02, sigma_max=40.0)),
    "flow": ls.build("dpmpp_2m", FLOW, alphas=1 - FLOW),
}


@pytest.fixture(params=list(TABLES))
def table(request: pytest.FixtureRequest) -> SolverTable:
    return TABLES[request.param].unrolled()


def same_to_the_bit(one: SolverTable, other: SolverTable) -> None:
    for name in ("sigmas", "alphas", "a", "b"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


def moved(table: SolverTable, seed: int, size: float = 0.05) -> SolverTable:
    parameters = Parameters(table.nfe, column=True)
    return parameters.moved(table, size * np.random.default_rng(seed).normal(size=len(parameters)))


# with_values, the inverse of values


def test_with_values_of_its_own_values_is_the_table_itself(table):
    parameters = Parameters(table.nfe, column=True)
    assert parameters.with_values(table, parameters.values(table)) is table


def test_with_values_is_the_inverse_of_values(table):
    """From one table to the numbers of another: that other comes out, to rounding of exp and log."""
    parameters = Parameters(table.nfe, column=True)
    other = moved(table, 0)
    made = parameters.with_values(table, parameters.values(other))
    assert made.distance(other) < 1e-12 * max(1.0, float(table.sigmas[0]))
    np.testing.assert_allclose(parameters.values(made), parameters.values(other), rtol=0, atol=1e-12)
    family, inner = "flow" if table.alphas[0] == 0 else "ve", slice(1, -1)
    np.testing.assert_allclose(made.alphas[inner], alpha_of_ratio(family, made.sigmas[inner] / made.alphas[inner]))


def test_levels_fall_whatever_is_asked_for(table):
    parameters = Parameters(table.nfe, column=True)
    rng = np.random.default_rng(1)
    for size in (0.1, 1.0, 5.0):
        for _ in range(20):
            wild = parameters.values(table) + size * rng.normal(size=len(parameters))
            made = parameters.with_values(table, wild)
            assert np.all(np.diff(made.sigmas) < 0)
            assert made.sigmas[[0, -1]].tolist() == table.sigmas[[0, -1]].tolist()


def test_falling_changes_nothing_that_falls_and_keeps_both_ends():
    logs = np.array([3.0, 2.0, -1.0, -4.0])
    assert falling(logs) is logs
    made = falling(np.array([3.0, 4.0, -5.0, -4.0]))
    assert np.all(np.diff(made) < 0)
    assert made[[0, -1]].tolist() == [3.0, -4.0]


@pytest.mark.parametrize("wrong", [np.zeros(3), np.full(27, np.nan)])
def test_with_values_refuses_what_are_not_its_numbers(wrong):
    with pytest.raises(ls.InputError, match="finite numbers"):
        Parameters(5, column=True).with_values(TABLES["ve"].unrolled(), wrong)


# Over guidance


def family_of(table: SolverTable, degree: int):
    """Tables whose free numbers are a polynomial of log(1 + guidance)."""
    parameters = Parameters(table.nfe, column=True)
    slopes = 0.02 * np.random.default_rng(2).normal(size=(degree, len(parameters)))
    start = parameters.values(table)

    def at(guidance: float) -> SolverTable:
        x = np.log1p(guidance)
        return parameters.with_values(table, start + sum(slope * x ** (n + 1) for n, slope in enumerate(slopes)))

    return at


@pytest.mark.parametrize(
    ("degree", "scales"), [(1, (1, 8)), (1, (1, 3, 8)), (2, (1, 3, 8)), (2, (0, 1, 2, 4, 7.5)), (1, (0, 1, 4, 9))]
)
def test_a_polynomial_family_is_filled_exactly(table, degree, scales):
    at = family_of(table, degree)
    for guidance in (*scales, 1.7, 5.0):
        made = fill_guidance({scale: at(scale) for scale in scales}, guidance)
        assert made.distance(at(guidance)) < 1e-11 * float(table.sigmas[0])


def test_up_to_three_anchors_are_met(table):
    anchors = {1.0: moved(table, 1), 2.5: moved(table, 2), 7.0: moved(table, 3)}
    for guidance, anchor in anchors.items():
        assert fill_guidance(anchors, guidance).distance(anchor) < 1e-12 * float(table.sigmas[0])


def test_between_equal_tables_guidance_changes_nothing(table):
    other = moved(table, 4)
    for anchors in ({2.0: other}, {1.0: other, 8.0: other}, {1.0: other, 3.0: other, 4.0: other, 8.0: other}):
        same_to_the_bit(fill_guidance(anchors, 3.3), other)


def test_a_filled_table_can_have_its_own_name(table):
    assert fill_guidance({1.0: table, 2.0: table}, 1.5, name="between").name == "between"


@pytest.mark.parametrize(
    ("anchors", "guidance", "message"),
    [
        ({}, 1.0, "expected anchors"),
        ({-1.0: "ve"}, 1.0, "above -1"),
        ({1.0: "ve"}, -2.0, "above -1"),
        ({1.0: "ve", 2.0: "zero"}, 1.5, "as many calls"),
        ({1.0: "ve", 2.0: "flow"}, 1.5, "same two levels"),
    ],
)
def test_guidance_that_cannot_be_filled(anchors, guidance, message):
    with pytest.raises(ls.InputError, match=message):
        fill_guidance({scale: TABLES[name] for scale, name in anchors.items()}, guidance)


# Over the number of calls


def log_grid(nfe: int, final: str) -> np.ndarray:
    return ls.grid("log_snr", nfe, sigma_min=0.02, sigma_max=40.0, final=final)


@pytest.mark.parametrize("base", ["ddim", "dpmpp_2m", "dpmpp_3m"])
def test_a_classical_solver_on_even_levels_is_filled_exactly(base):
    """Its corrections are none at every number of calls, and even levels lie evenly by position."""
    anchors = {nfe: ls.build(base, log_grid(nfe, "sigma_min")).unrolled() for nfe in (4, 8)}
    for nfe in (5, 6, 7):
        exact = ls.build(base, log_grid(nfe, "sigma_min"))
        assert fill_nfe(anchors, nfe, base=base).distance(exact) < 1e-11


def test_corrections_that_do_not_depend_on_the_calls_are_filled_exactly():
    """Shares of the step, and a column, that are the same in every row and at every number of calls."""

    def at(nfe: int) -> SolverTable:
        sigmas = log_grid(nfe, "sigma_min")
        rows = []
        for k in range(1, nfe + 1):
            ratio = sigmas[k] / sigmas[k - 1]
            shares = {k - 1: 1.3, k - 2: -0.2, k - 3: 0.1}
            outputs = {j: share * (1 - ratio) for j, share in shares.items() if j >= 0}
            rows.append(ls.Row({k - 1: 0.97 * ratio}, outputs))
        levels = range(nfe + 1)
        return SolverTable("made", np.ones(nfe + 1), sigmas, tuple(rows), tuple(levels), exact=False).unrolled()

    for nfe in (6, 7, 9):
        assert fill_nfe({5: at(5), 10: at(10)}, nfe, base="ddim").distance(at(nfe)) < 1e-12


def test_an_anchor_is_its_own_table(table):
    anchors = {table.nfe: table, table.nfe + 3: TABLES["ve"]}
    assert fill_nfe(anchors, table.nfe) is table


@pytest.mark.parametrize("frame", ["ve", "zero", "flow"])
def test_filled_levels_fall_between_both_ends(frame):
    """In every frame, also from alpha = 0 and to sigma = 0, and beside wild anchors."""

    def anchor(nfe: int, seed: int) -> SolverTable:
        if frame == "flow":
            sigmas = np.linspace(1, 0, nfe + 1)
            made = ls.build("dpmpp_2m", sigmas, alphas=1 - sigmas)
        else:
            made = ls.build("dpmpp_2m", log_grid(nfe, "zero" if frame == "zero" else "sigma_min"))
        return moved(made.unrolled(), seed, 0.3)

    anchors = {4: anchor(4, 0), 9: anchor(9, 1)}
    for nfe in (5, 6, 7, 8):
        made = fill_nfe(anchors, nfe)
        assert made.nfe == nfe
        assert np.all(np.diff(made.sigmas) < 0)
        assert made.sigmas[[0, -1]].tolist() == anchors[4].sigmas[[0, -1]].tolist()
        assert np.isfinite(made.b).all()
        if frame != "ve":
            assert made.a[-1] == 0
        inner = made.sigmas[1:-1] / made.alphas[1:-1]
        np.testing.assert_allclose(made.alphas[1:-1], alpha_of_ratio("flow" if frame == "flow" else "ve", inner))


def test_even_levels_stay_even_when_resampled():
    table = ls.build("ddim", log_grid(6, "sigma_min"))
    alphas, sigmas = resampled(table, 9)
    np.testing.assert_allclose(sigmas, log_grid(9, "sigma_min"), rtol=1e-12)
    assert np.all(alphas == 1)


@pytest.mark.parametrize("nfe", [3, 9])
def test_nothing_is_extrapolated(nfe):
    with pytest.raises(ls.InputError, match="do not lie between anchors"):
        fill_nfe({n: ls.build("ddim", log_grid(n, "sigma_min")) for n in (4, 8)}, nfe)


def test_tables_that_cannot_be_filled_from():
    plain = ls.build("ddim", log_grid(8, "sigma_min"))
    with pytest.raises(ls.InputError, match="one call per step"):
        fill_nfe({4: ls.build("heun", log_grid(2, "sigma_min")), 8: plain}, 6)
    with pytest.raises(ls.InputError, match="same two levels"):
        fill_nfe({4: ls.build("ddim", log_grid(4, "zero")), 8: plain}, 6)
    rows = tuple(ls.Row({0: -0.1}, row.outputs) for row in plain.rows)
    with pytest.raises(ls.InputError, match="changes sign"):
        fill_nfe({4: ls.build("ddim", log_grid(4, "sigma_min")), 8: replace(plain, rows=rows, exact=False)}, 6)


# The average over networks, a prior


def test_the_average_of_one_table_between_its_own_ends_is_the_table(table):
    assert average_table([table, table], table).distance(table) < 1e-9 * max(1.0, float(table.sigmas[0]))


def test_a_classical_solver_averages_to_itself_between_other_ends():
    """DDIM on log-even levels has the same positions and shares whatever the range: so has their average."""
    few = [ls.build("ddim", ls.grid("log_snr", 5, sigma_min=a, sigma_max=b, final="sigma_min")) for a, b in RANGES]
    like = ls.build("ddim", ls.grid("log_snr", 5, sigma_min=0.1, sigma_max=30.0, final="sigma_min"))
    assert average_table(few, like).distance(like) < 1e-9


def test_the_average_lies_between():
    one, other = (moved(TABLES["ve"].unrolled(), seed) for seed in (3, 4))
    made = average_table([one, other], one)
    logs = np.log([one.sigmas, other.sigmas, made.sigmas])[:, 1:-1]
    np.testing.assert_allclose(logs[2], logs[:2].mean(0))
    assert made.distance(average_table([other, one], one)) < 1e-9


def test_tables_of_other_calls_are_not_averaged():
    with pytest.raises(ls.InputError, match="tables of 5 calls"):
        average_table([TABLES["zero"]], TABLES["ve"])
    with pytest.raises(ls.InputError, match="tables of 5 calls"):
        average_table([], TABLES["ve"])
