"""Every solver of the registry: exact on a point, equal to its paper's loop, and of the order that theory gives."""

from __future__ import annotations

import math
from functools import lru_cache, partial

import numpy as np
import pytest
import textbook
import torch
from problems import Gaussian, Mixture, Point, alpha_of, in_frame, level_of_lambda

import longstride as ls
from longstride.solvers import CLASSICAL_SOLVERS

FAMILIES = ["ve", "vp", "flow"]


def levels(family, steps, final_zero):
    """Alphas and sigmas of a grid between rho = 8 and 0.1, even in no variable that a solver uses."""
    ratios = np.linspace(8**0.25, 0.1**0.25, steps + 1) ** 4
    if final_zero:
        ratios[-1] = 0
    with np.errstate(divide="ignore"):
        both = [level_of_lambda(family, -math.log(r)) if r else (1.0, 0.0) for r in ratios]
    return (np.array(part) for part in zip(*both, strict=True))


def options_id(value):
    return ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None


# Equal to the papers' loops

UNIPC = [
    {"order": p, "variant": b, "prediction": m, "corrector": c, "lower_order_final": low}
    for p in (1, 2, 3)
    for b in ("bh1", "bh2")
    for m in ("data", "noise")
    for c in (True, False)
    for low in (True, False)
]


def halfway_in_ratio(family):
    return lambda start, end: level_of_lambda(family, -math.log((textbook.rho(start) + textbook.rho(end)) / 2))


#: Solver, options, and its loop for a family.
CASES = [
    ("ddim", {}, lambda family: textbook.ddim),
    ("spndm", {}, lambda family: textbook.improved_euler_start),
    ("heun", {"variable": "ratio"}, lambda family: textbook.heun),
    ("dpm_solver_2", {}, lambda family: partial(textbook.dpm_solver_2, family=family)),
    ("dpm_solver_3", {}, lambda family: partial(textbook.dpm_solver_3, family=family)),
    ("dpm_solver_3", {"prediction": "data"}, lambda family: partial(textbook.dpmpp_3s, family=family)),
    ("dpmpp_2s", {}, lambda family: partial(textbook.dpmpp_2s, family=family)),
]
for p in (1, 2, 3, 4):
    CASES += [
        ("ipndm", {"order": p}, lambda family, p=p: partial(textbook.ipndm, order=p)),
        ("pndm", {"order": p}, lambda f, p=p: partial(textbook.pndm, order=p, halfway=halfway_in_ratio(f))),
        (
            "pndm",
            {"order": p, "start": "improved_euler"},
            lambda family, p=p: partial(textbook.improved_euler_start, order=p),
        ),
    ]
# Without a schedule the network's time is rho itself.
for name, integrals in (("t", "rho_integrals"), ("rho", "rho_integrals"), ("log_rho", "log_rho_integrals")):
    for p in (1, 2, 3):
        loop = partial(textbook.deis, order=p, integrals=getattr(textbook, integrals))
        CASES.append(("deis", {"order": p, "variable": name}, lambda family, loop=loop: loop))
for low in (True, False):
    for name, loop in (("dpmpp_2m", textbook.dpmpp_2m), ("dpm_solver_2m", textbook.dpm_solver_2m)):
        loop = partial(loop, lower_order_final=low)
        CASES.append((name, {"lower_order_final": low, "variant": "midpoint"}, lambda family, loop=loop: loop))
    for name, kind, p in (
        ("dpmpp_2m", "data", 2),
        ("dpm_solver_2m", "noise", 2),
        ("dpmpp_3m", "data", 3),
        ("dpm_solver_3m", "noise", 3),
    ):
        loop = partial(textbook.exact_weights, prediction=kind, order=p, lower_order_final=low)
        CASES.append((name, {"lower_order_final": low, "variant": "heun"}, lambda family, loop=loop: loop))
CASES += [("unipc", options, lambda family, o=options: partial(textbook.unipc, **o)) for options in UNIPC]
CASE_IDS = [f"{name}-{options_id(options)}" for name, options, _ in CASES]


def calls_the_end_of(name, options):
    """Number of first steps whose end is handed to the network, which therefore cannot lie at sigma 0."""
    if name == "spndm" or options.get("start") == "improved_euler":
        return 1
    return 3 if name == "pndm" else 0


def test_every_solver_has_a_loop():
    assert {name for name, _, _ in CASES} == set(CLASSICAL_SOLVERS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "options", "loop"), CASES, ids=CASE_IDS)
def test_equals_the_loop_of_its_paper(name, options, loop, family):
    problem = Mixture()
    for steps in (1, 2, 3, 4, 7):
        for final_zero in (False, True):
            if final_zero and steps <= calls_the_end_of(name, options):
                continue
            alphas, sigmas = levels(family, steps, final_zero)
            start = torch.tensor([-0.8, -0.1, 0.05, 0.4, 1.1], dtype=torch.float64) * sigmas[0]
            table = ls.build(name, sigmas, alphas=alphas, **options)
            wanted = loop(family)(problem, start, list(zip(alphas.tolist(), sigmas.tolist(), strict=True)))
            found = ls.sample(in_frame(problem, family), start, table)
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_integrates_in_the_time_of_its_schedule(order):
    schedule, problem = ls.Schedule.vp_continuous(), Mixture()
    sigmas = schedule.frame_sigma(np.linspace(0.9, 0.05, 7))
    start = torch.linspace(-1, 1, 5, dtype=torch.float64) * sigmas[0]
    loop = partial(textbook.deis, order=order, integrals=textbook.time_integrals(schedule))
    wanted = loop(problem, start, [(1.0, s) for s in sigmas.tolist()])
    found = ls.sample(in_frame(problem, "ve"), start, ls.build("deis", sigmas, schedule=schedule, order=order))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def test_pndm_starts_halfway_in_the_time_of_its_schedule():
    schedule, problem = ls.Schedule.vp_continuous(), Mixture()
    times = np.linspace(0.8, 0.1, 6)
    sigmas = schedule.frame_sigma(times)
    middles = dict(zip(sigmas[:-1].tolist(), schedule.frame_sigma((times[:-1] + times[1:]) / 2).tolist(), strict=True))
    start = torch.linspace(-1, 1, 5, dtype=torch.float64) * sigmas[0]
    levels = [(1.0, s) for s in sigmas.tolist()]
    wanted = textbook.pndm(problem, start, levels, halfway=lambda start, end: (1.0, middles[start[1]]))
    found = ls.sample(in_frame(problem, "ve"), start, ls.build("pndm", sigmas, schedule=schedule))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("family", FAMILIES)
def test_orders_may_differ_from_step_to_step(family):
    """DPM-Solver-fast: third-order steps, then a second-order one, then DDIM to sigma 0."""
    problem, (alphas, sigmas) = Mixture(), levels(family, 4, True)
    start = torch.linspace(-1, 1, 5, dtype=torch.float64) * sigmas[0]
    nodes = list(zip(alphas.tolist(), sigmas.tolist(), strict=True))
    wanted = textbook.dpm_solver_3(problem, start, nodes[:3], family)
    wanted = textbook.ddim(problem, textbook.dpm_solver_2(problem, wanted, nodes[2:4], family), nodes[3:])
    table = ls.build("dpm_solver_3", sigmas, alphas=alphas, orders=[3, 3, 2, 1])
    torch.testing.assert_close(ls.sample(in_frame(problem, family), start, table), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "order"), [("dpm_solver_2", 2), ("dpm_solver_3", 3), ("dpmpp_2s", 2)])
def test_stages_on_the_grid_are_inner_stages_of_a_coarser_grid(name, order):
    fine = np.geomspace(8, 0.1, 2 * order + 1)
    on_grid = ls.build(name, fine, stages="grid", orders=[order, order])
    inner = ls.build(name, fine[::order])
    assert on_grid.grid == tuple(range(2 * order + 1))
    assert inner.grid == (0, order, 2 * order)
    assert on_grid.distance(inner) < 1e-12


# Exact on a point


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "options", "loop"), CASES, ids=CASE_IDS)
def test_exact_on_a_point(name, options, loop, family):
    """Both identities, as numbers and as what they say: every state, stages included, is alpha c + sigma eps."""
    for steps in (1, 2, 5, 12):
        for final_zero in (False, True):
            if final_zero and steps <= calls_the_end_of(name, options):
                continue
            alphas, sigmas = levels(family, steps, final_zero)
            table = ls.build(name, sigmas, alphas=alphas, **options)
            assert table.defect <= 1e-12
            np.testing.assert_array_equal(table.sigmas[list(table.grid)], sigmas)
            check_states_on_a_point(table, float(alphas[0]))


def check_states_on_a_point(table, alpha_0):
    point, first = Point(), (alpha_0, float(table.sigmas[0]))
    start, states = torch.tensor([-1.0, 2.0], dtype=torch.float64), []
    end = ls.sample(point, start, table, callback=lambda k, sigma, x, prediction: states.append(x))
    for k, state in enumerate([*states, end]):
        wanted = point.solution(start, first, (float(table.alphas[k]), float(table.sigmas[k])))
        torch.testing.assert_close(state, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("final_zero", [False, True])
@pytest.mark.parametrize("family", ["vp", "flow"])
@pytest.mark.parametrize(("name", "options", "loop"), CASES, ids=CASE_IDS)
def test_start_at_pure_noise(name, options, loop, family, final_zero):
    """At alpha 0 a state holds no data: solvers whose first step needs the noise there refuse, the others are exact."""
    sigmas = np.linspace(1.0, 0.0 if final_zero else 0.05, 6)
    alphas = np.array([alpha_of(family, s) for s in sigmas])
    if name in ("heun", "pndm", "spndm"):
        with pytest.raises(ls.InputError, match="cannot start at alpha = 0.*ddim"):
            ls.build(name, sigmas, alphas=alphas, **options)
        return
    table = ls.build(name, sigmas, alphas=alphas, **options)
    assert table.defect <= 1e-12
    check_states_on_a_point(table, 0.0)


# Orders of convergence
#
# "row": with exact states and outputs behind it, one step of width h errs by h^(order + 1).
# "global": the whole run from sigma 2 to 0.4 errs by h^order.
# A method that starts itself with a first-order step pays h² for it once, so no such method is globally better than
# second order: "row" 3 becomes "global" 2. UniPC corrects its first step (h³), which caps it at 3. For UniPC "row" maps
# predicted states to predicted states: its correction takes back the predictor's error of the step before, and the
# next predictor makes the same one again up to a higher order, so that a row has the corrector's order.

KARRAS, UNIFORM = "karras", "uniform"
FULL = {"lower_order_final": False}
ORDERS = [
    # solver, options, grid, row, global
    ("ddim", {}, KARRAS, 1, 1),
    ("heun", {}, KARRAS, 2, 2),
    ("dpm_solver_2", {}, KARRAS, 2, 2),
    ("dpmpp_2s", {}, KARRAS, 2, 2),
    ("dpm_solver_3", {}, KARRAS, 3, 3),
    ("dpm_solver_3", {"exact_second_stage": False}, KARRAS, 3, 3),
    ("dpm_solver_3", {"prediction": "data"}, KARRAS, 3, 3),
    ("dpmpp_2m", {**FULL, "variant": "midpoint"}, KARRAS, 2, 2),
    ("dpmpp_2m", {**FULL, "variant": "heun"}, KARRAS, 2, 2),
    ("dpm_solver_2m", {**FULL, "variant": "midpoint"}, KARRAS, 2, 2),
    ("dpm_solver_2m", {**FULL, "variant": "heun"}, KARRAS, 2, 2),
    # 3M as published: D2 estimates h² m'' / 2 but carries the weight that belongs to h² m'', so half of that term is
    # missing and the rows are of second order. UniP-3 below, with the full weight, is of third.
    ("dpmpp_3m", FULL, KARRAS, 2, 2),
    ("dpm_solver_3m", FULL, KARRAS, 2, 2),
    # DEIS: the exponential Adams method of its order, whichever variable carries the polynomial.
    ("deis", {"order": 2, "variable": "rho"}, KARRAS, 2, 2),
    ("deis", {"order": 2, "variable": "log_rho"}, KARRAS, 2, 2),
    ("deis", {"order": 3, "variable": "rho"}, KARRAS, 3, 2),
    ("deis", {"order": 3, "variable": "log_rho"}, KARRAS, 3, 2),
    # Weights of even steps: neighbouring steps of a smooth grid differ by h², so order 2 survives and no more; the
    # classical orders need a grid that is even in rho.
    ("ipndm", {"order": 2}, KARRAS, 2, 2),
    ("ipndm", {"order": 3}, KARRAS, 2, 2),
    ("ipndm", {"order": 4}, KARRAS, 2, 2),
    ("ipndm", {"order": 3}, UNIFORM, 3, 2),
    ("ipndm", {"order": 4}, UNIFORM, 4, 2),
    ("spndm", {}, KARRAS, 2, 2),
    ("pndm", {"start": "improved_euler"}, KARRAS, 2, 2),
    ("pndm", {}, KARRAS, 2, 2),
    ("pndm", {}, UNIFORM, 4, 4),  # Runge–Kutta starts it at full order
    # UniP alone, then UniPC, then what the default fall of the order over the last steps costs.
    ("unipc", {**FULL, "order": 1, "corrector": False}, KARRAS, 1, 1),
    ("unipc", {**FULL, "order": 2, "corrector": False}, KARRAS, 2, 2),
    ("unipc", {**FULL, "order": 3, "corrector": False}, KARRAS, 3, 2),
    ("unipc", {**FULL, "order": 1}, KARRAS, 2, 2),
    ("unipc", {**FULL, "order": 2}, KARRAS, 3, 3),
    ("unipc", {**FULL, "order": 2, "variant": "bh1"}, KARRAS, 3, 3),
    ("unipc", {**FULL, "order": 2, "prediction": "noise"}, KARRAS, 3, 3),
    ("unipc", {**FULL, "order": 3}, KARRAS, 4, 3),
    ("unipc", {**FULL, "order": 3, "variant": "bh1"}, KARRAS, 4, 3),
    ("unipc", {**FULL, "order": 3, "prediction": "noise"}, KARRAS, 4, 3),
    ("unipc", {"order": 2, "lower_order_final": True}, KARRAS, 3, 2),
    ("unipc", {"order": 3, "lower_order_final": True}, KARRAS, 4, 2),
]
START = torch.tensor([-3.0, -1.5, -0.5, 0.2, 1.0, 1.5, 3.0], dtype=torch.float64)


@lru_cache(maxsize=4)
def fine_table(name, options, kind, steps):
    power = 7 if kind == KARRAS else 1
    return ls.build(name, np.linspace(2 ** (1 / power), 0.4 ** (1 / power), steps + 1) ** power, **dict(options))


def run_error(problem, table):
    """Error of a whole run."""
    wanted = problem.solution(START, (1.0, float(table.sigmas[0])), (1.0, float(table.sigmas[-1])))
    return float((ls.sample(problem, START, table) - wanted).norm())


def row_error(problem, table):
    """Error of the middle step when all that it reads from earlier steps is exact."""
    sigmas, step = table.sigmas.tolist(), (len(table.grid) - 1) // 2
    first, last = table.grid[step], table.grid[step + 1]
    exact = lru_cache(lambda k: problem.solution(START, (1.0, sigmas[0]), (1.0, sigmas[k])))
    inside = {}
    state = lambda k: inside[k] if k > first else exact(k)  # noqa: E731
    output = lru_cache(lambda k: problem(state(k), sigmas[k]))
    for k in range(first + 1, last + 1):
        row = table.rows[k - 1]
        inside[k] = sum(w * state(i) for i, w in row.states.items()) + sum(
            w * output(j) for j, w in row.outputs.items()
        )
    return float((inside[last] - exact(last)).norm())


@pytest.mark.parametrize("problem", [Gaussian(), Mixture()], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(("name", "options", "kind", "row", "whole"), ORDERS, ids=options_id)
def test_order_of_convergence(name, options, kind, row, whole, problem):
    coarse, fine = (fine_table(name, tuple(options.items()), kind, steps) for steps in (192, 384))
    measured = [math.log2(error(problem, coarse) / error(problem, fine)) for error in (row_error, run_error)]
    assert measured == pytest.approx([row + 1, whole], abs=0.15)


def test_even_weights_lose_their_order_on_an_uneven_grid():
    """iPNDM on steps that alternate between long and short: first order, where DEIS with the same outputs keeps two."""
    problem, orders = Gaussian(), {}
    for name, options in (("ipndm", {"order": 2}), ("deis", {"order": 2, "variable": "rho"})):
        errors = []
        for steps in (64, 128):
            sigmas = np.linspace(2, 0.4, steps + 1)
            sigmas[1:-1:2] += 0.5 * (sigmas[0] - sigmas[1])
            errors.append(run_error(problem, ls.build(name, sigmas, **options)))
        orders[name] = math.log2(errors[0] / errors[1])
    assert orders == pytest.approx({"ipndm": 1, "deis": 2}, abs=0.15)


def test_a_lower_final_order_keeps_second_order_methods_second_order():
    """One last first-order step costs h², as the first one does."""
    errors = [
        run_error(Mixture(), fine_table("dpmpp_2m", (("lower_order_final", True),), KARRAS, n)) for n in (192, 384)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


# What each costs and what it refuses


@pytest.mark.parametrize(
    ("name", "options", "steps", "final_zero", "nfe"),
    [
        ("ddim", {}, 5, False, 5),
        ("heun", {}, 5, False, 10),
        ("heun", {}, 5, True, 9),
        ("dpm_solver_2", {}, 5, True, 9),
        ("dpm_solver_3", {}, 5, True, 13),
        ("dpm_solver_3", {"orders": (3, 3, 2)}, 3, False, 8),
        ("spndm", {}, 5, True, 6),
        ("pndm", {}, 5, True, 14),
        ("pndm", {"start": "improved_euler"}, 5, True, 6),
        ("unipc", {"order": 3}, 5, True, 5),
    ],
)
def test_number_of_network_calls(name, options, steps, final_zero, nfe):
    _, sigmas = levels("ve", steps, final_zero)
    assert ls.build(name, sigmas, **options).nfe == nfe
    if "orders" not in options:
        assert ls.steps_for_nfe(name, nfe, final_zero=final_zero, **options) == steps


@pytest.mark.parametrize("nfe", [1, 7, 40])
def test_the_universal_solver_makes_one_call_per_step(nfe):
    """Also where UniPC runs in its place; to ask for the number of steps warns of nothing."""
    assert ls.steps_for_nfe("longstride", nfe) == nfe


def test_an_impossible_number_of_calls_names_the_nearest():
    with pytest.raises(ls.InputError, match="heun cannot spend exactly 7 network calls; [68] would work"):
        ls.steps_for_nfe("heun", 7)
    with pytest.raises(ls.InputError, match="nfe must be at least 1, got 0"):
        ls.steps_for_nfe("heun", 0)
    with pytest.raises(ls.InputError, match="unknown solver 'huen': did you mean 'heun'"):
        ls.steps_for_nfe("huen", 4)


LEVELS, TO_ZERO = [2.0, 1.0, 0.5], [2.0, 0.0]


@pytest.mark.parametrize(
    ("name", "sigmas", "options", "message"),
    [
        ("dpmpp2m", LEVELS, {}, "unknown solver 'dpmpp2m': did you mean 'dpmpp_2m'"),
        ("ddim", LEVELS, {"order": 2}, "solver 'ddim': got an unexpected keyword argument 'order'"),
        ("ipndm", LEVELS, {"order": 5}, "ipndm has order 1, 2, 3 or 4, got 5"),
        ("pndm", LEVELS, {"order": 0}, "pndm has order 1, 2, 3 or 4, got 0"),
        ("pndm", LEVELS, {"start": "improved"}, "unknown start 'improved': did you mean 'improved_euler'"),
        ("pndm", TO_ZERO, {}, "start calls the network at the end of its step: sigma 0 must come later"),
        ("pndm", TO_ZERO, {"start": "improved_euler"}, "end of its first step, which cannot lie at sigma 0"),
        ("spndm", TO_ZERO, {}, "end of its first step, which cannot lie at sigma 0"),
        ("deis", LEVELS, {"order": 4}, "deis has order 1, 2 or 3, got 4"),
        ("deis", LEVELS, {"variable": "logrho"}, "unknown variable 'logrho': did you mean 'log_rho'"),
        ("unipc", LEVELS, {"order": 4}, "unipc has order 1, 2 or 3, got 4"),
        ("unipc", LEVELS, {"variant": "bh3"}, "unknown variant 'bh3': did you mean 'bh"),
        ("unipc", LEVELS, {"prediction": "eps"}, "unknown prediction 'eps'.*data, noise"),
        ("dpmpp_2m", LEVELS, {"variant": "huen"}, "unknown variant 'huen': did you mean 'heun'"),
        ("dpm_solver_2", LEVELS, {"stages": "on_grid"}, "unknown stages 'on_grid': did you mean 'grid'"),
        ("dpm_solver_2", LEVELS, {"orders": [2]}, r"orders \[2\] cover 1 grid intervals, the grid has 2"),
        ("dpm_solver_2", LEVELS, {"orders": [2, 4]}, r"orders must be 1, 2 or 3, got \[2, 4\]"),
        ("dpmpp_2s", TO_ZERO, {"orders": [2]}, "a step of order 2 cannot start at alpha 0 or end at sigma 0"),
    ],
)
def test_refusals_name_what_was_wrong(name, sigmas, options, message):
    with pytest.raises(ls.InputError, match=message):
        ls.build(name, sigmas, **options)


def test_heun_in_sigma_is_for_flows():
    """On a velocity that is constant along straight lines it is exact, from alpha = 0 on."""
    sigmas = np.array([1.0, 0.7, 0.3, 0.0])
    table = ls.build("heun", sigmas, alphas=1 - sigmas, variable="sigma")
    assert table.nfe == 5
    assert table.distance(ls.build("heun", sigmas, alphas=1 - sigmas)) == 0
    assert ls.build("heun", [3.0, 1.0, 0.0]).distance(ls.build("heun", [3.0, 1.0, 0.0], variable="ratio")) == 0
    assert ls.build("heun", [0.8, 0.5, 0.2], alphas=[0.1, 0.5, 0.9]).nfe == 4  # of no family
    x = ls.sample(lambda x, sigma: torch.full_like(x, 0.25), torch.full((1, 2), 3.0, dtype=torch.float64), table)
    torch.testing.assert_close(x, torch.full_like(x, 0.25), rtol=0, atol=1e-15)
    with pytest.raises(ls.InputError, match="for rectified flows, alpha . sigma = 1, and these levels are not"):
        ls.build("heun", [3.0, 1.0, 0.0], variable="sigma")
    with pytest.raises(ls.InputError, match="unknown variable 't'"):
        ls.build("heun", [3.0, 1.0, 0.0], variable="t")
