"""Calibration as it is called: whole-trajectory rows, the search, the judge that nothing gets past, and bad input."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, Point

import longstride as ls
from longstride.calibration.acceptance.gate import FEWEST, _objection, judge
from longstride.calibration.endpoint.gauss_newton import GaussNewton
from longstride.calibration.endpoint.settings import (
    GaussNewtonSettings,
    fitted_samples,
    last_steps,
    most_calls,
    most_finals,
    whole_fit_samples,
)
from longstride.calibration.endpoint.short_fits import chosen_starts, strongest_first
from longstride.calibration.loss import Fit
from longstride.calibration.reference.solve import Errors, Reference, squared_errors
from longstride.calibration.rowwise.whole_trajectory import GlobalSettings, calibrate_global
from longstride.calibration.samples import Batches
from longstride.calibration.starts.classical import DISCOUNTS, classical_tables
from longstride.table import Row

SCHEDULE = ls.Schedule.edm(0.05, 10.0)
SIGMAS = ls.grid("karras", 4, schedule=SCHEDULE, final="sigma_min")
FIRST, LAST = (1.0, float(SIGMAS[0])), (1.0, float(SIGMAS[-1]))


def noise_of(count, seed=0, size=6):
    return SIGMAS[0] * torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(problem, x):
    return problem.solution(x, FIRST, LAST)


def squared(problem, table, x):
    return squared_errors(ls.sample(problem, x, table), exact(problem, x))


def networked(problem):
    """The problem as a network with a schedule."""
    return ls.as_denoiser(lambda x, t: problem(x, float(t[0])), SCHEDULE, "data")


# Rows fitted to a converged trajectory


@pytest.mark.parametrize("window", [None, 1])
@pytest.mark.parametrize("base", ["ddim", "ipndm", "heun", "unipc"])
def test_rows_of_a_whole_trajectory_fit_never_lose_on_held_out_samples(base, window):
    table = ls.build(base, SIGMAS)
    batches = Batches(Mixture(), noise_of(48), 24)
    fitted, rows = calibrate_global(batches, table, GlobalSettings(window), "fitted", steps=64, floor=0.05)
    assert [row.row for row in rows] == list(range(1, table.nfe + 1))
    for row in rows:
        assert row.accepted == (row.held_out_error <= row.held_out_base_error)
        assert (fitted.rows[row.row - 1] == table.rows[row.row - 1]) == (not row.accepted)
        assert len(row.labels) == len(row.coefficients) <= (window or row.row)
        assert row.labels == tuple(f"data({j})" for j in range(row.row - 1, -1, -1))[: len(row.labels)]
    assert any(row.held_out_error < (0.5 if window is None else 0.95) * row.held_out_base_error for row in rows)


def test_a_whole_trajectory_fit_meets_the_solution_of_a_linear_problem():
    """Centred Gaussian data: all outputs are multiples of the noise, so every state can be met exactly."""
    problem, table = Gaussian(mean=0.0), ls.build("ddim", SIGMAS)
    batches = Batches(problem, noise_of(16), 8)
    fitted, rows = calibrate_global(batches, table, GlobalSettings(ridge=0.0), "fitted", steps=256, floor=0.05)
    assert all(row.held_out_error < 1e-9 for row in rows)
    x, levels = noise_of(8, 1), []
    ls.sample(problem, x, fitted, callback=lambda k, sigma, state, d: levels.append((sigma, state)))
    for sigma, state in levels:  # not the last state alone
        torch.testing.assert_close(state, problem.solution(x, FIRST, (1.0, sigma)), rtol=0, atol=2e-3)
    assert np.sqrt(squared(problem, fitted, x).mean()) < 1e-2 * np.sqrt(squared(problem, table, x).mean())


def test_a_whole_trajectory_fit_repairs_what_single_steps_cannot():
    """A first row that is wrong on purpose: later rows aim at the trajectory, and bring the run back to it."""
    problem, base = Mixture(), ls.build("ddim", SIGMAS).unrolled()
    x = noise_of(200)
    local = ls.calibrate(problem, x, base, method="iia", r=1)
    whole = ls.calibrate(problem, x, base, method="global")
    fresh = noise_of(200, 1)
    errors = [np.sqrt(squared(problem, table, fresh).mean()) for table in (base, local.table, whole.table)]
    assert whole.end.accepted
    assert errors[2] < 0.25 * errors[1] < errors[0]


def test_a_converged_run_that_is_not_finite_is_an_error():
    with pytest.raises(ls.NonFiniteError, match="call 1"):
        ls.calibrate(lambda x, s: x * float("nan"), noise_of(8), ls.build("ddim", SIGMAS), method="global")


# The judge


def simulated(kind, n, rng, shift):
    """Squared errors of a base and of a table whose logarithms of ratios scatter about ``shift``, evenly."""
    before = np.exp(rng.normal(size=n) * 1.5)  # a few samples have most of the error
    scatter = {
        "normal": rng.normal(size=n),
        "heavy": rng.standard_t(2, size=n),
        "two worlds": rng.choice([-1.0, 1.0], size=n) * (1 + 0.1 * rng.random(n)),
    }[kind]
    return before * np.exp(2 * (shift + 0.5 * scatter)), before


@pytest.mark.parametrize("n", [FEWEST, 16, 64])
@pytest.mark.parametrize("kind", ["normal", "heavy", "two worlds"])
def test_of_tables_that_are_no_better_fewer_than_one_in_twenty_pass(kind, n):
    rng = np.random.default_rng(0)
    passed = np.mean([not _objection(*simulated(kind, n, rng, 0.0), margin=np.inf) for _ in range(3000)])
    assert passed < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 3000)
    worse = np.mean([not _objection(*simulated(kind, n, rng, 0.2), margin=np.inf) for _ in range(1000)])
    assert worse < 0.02
    better = np.mean([not _objection(*simulated(kind, n, rng, -1.2), margin=0.0) for _ in range(300)])
    assert better > (0.4 if kind == "heavy" else 0.8)


def test_a_few_lucky_samples_bring_no_table_through():
    """Nine of ten samples are worse; the error is lower all the same, since the tenth had nearly all of it."""
    before = np.tile([1.0] * 9 + [1e4], 4)
    after = np.tile([1.3] * 9 + [1.0], 4)
    assert np.sqrt(after.mean()) < 0.1 * np.sqrt(before.mean())
    assert "not sure" in _objection(after, before, 0.0)


def test_most_samples_bring_no_table_through_that_spoils_the_rest():
    """Nine of ten are better; the error is higher all the same."""
    before = np.ones(40)
    after = np.tile([0.5] * 9 + [20.0], 4)
    assert "the base's 1" in _objection(after, before, 0.0)
    assert _objection(after, before, 1.0) == ""  # what a margin is for: here twice the error would do


def test_what_the_judge_looks_at_first():
    good = np.full(FEWEST, 0.25), np.ones(FEWEST)
    assert _objection(*good, 0.0) == ""
    few = tuple(side[:-1] for side in good)
    assert _objection(*few, 0.0) == f"7 held-out samples cannot show that it is better: hold out {FEWEST} or more"
    bad = good[0].copy()
    bad[3] = np.inf
    assert _objection(bad, good[1], np.inf) == "samples overflow on held-out noise"
    assert "not sure" in _objection(good[1], good[1], 0.0)  # the base itself
    nothing = np.zeros(FEWEST)
    assert "not sure" in _objection(nothing, nothing, 0.0)  # both perfect
    assert _objection(nothing, good[1], 0.0) == ""


def judged(problem, base, calibrated, x, **limits):
    target = exact(problem, x).to(x)
    batches = Batches(problem, torch.cat([x[:2], x]), len(x))
    settings = {"margin": 0.0, "stability": 4.0, **limits}
    return judge(batches, base, replace(calibrated, name="fitted"), Reference(target, 0.0, 1), **settings)


def off(table, size):
    """The table with its last outputs weighed wrongly by a factor."""
    last = table.rows[-1]
    return replace(
        table, rows=(*table.rows[:-1], Row(last.states, {j: size * w for j, w in last.outputs.items()})), exact=False
    )


def balanced(table, size):
    """The table with large weights of opposite signs on two outputs."""
    last = table.rows[-1]
    outputs = {**last.outputs, 0: last.outputs.get(0, 0.0) + size, 1: last.outputs.get(1, 0.0) - size}
    return replace(table, rows=(*table.rows[:-1], Row(last.states, outputs)), exact=False)


def test_an_unstable_table_is_refused_however_well_it_fits():
    """On data that are one point opposite weights cancel, until the network is off by a rounding error."""
    good = ls.build("ddim", SIGMAS).unrolled()
    base, x = off(good, 0.9), noise_of(12)
    for size, accepted in ((0.5, True), (50.0, False)):
        table, report = judged(Point(), base, balanced(good, size), x)
        assert report.calibrated.rmse < 1e-9 < 1e-2 < report.base.rmse
        assert report.accepted == accepted
        assert table.distance(balanced(good, size) if accepted else base) == 0.0
        assert table.name == "fitted"
        assert report.stability.gain == pytest.approx(np.linalg.norm(balanced(good, size).b[-1]), rel=0.2)
        assert report.stability.base_gain == pytest.approx(np.linalg.norm(base.b[-1]), rel=0.2)
        assert report.stability.weights == pytest.approx(np.abs(balanced(good, size).b).sum(1).max())
    assert report.reason.startswith("errors of the network are amplified")
    assert "more than 4 times as much" in report.reason
    assert judged(Point(), base, balanced(good, 50.0), x, stability=1e3)[1].accepted


def test_a_table_that_overflows_is_refused():
    """Also where its gain is no number, and without a warning."""
    good, x = ls.build("ddim", SIGMAS).unrolled(), noise_of(12).float()
    table, report = judged(Point(20.0), good, off(good, 3e38), x)
    assert not report.accepted
    assert report.reason == "samples overflow on held-out noise"
    assert table.distance(good) == 0.0
    assert report.stability.gain == np.inf


def test_a_table_with_other_levels_is_judged_at_them():
    problem, x = Mixture(), noise_of(12)
    base = ls.build("ddim", SIGMAS)
    other = ls.build("dpmpp_2m", ls.grid("log_snr", 4, schedule=SCHEDULE, final="sigma_min"))
    table, report = judged(problem, base, other, x)
    assert report.accepted
    assert table.sigmas.tolist() == other.sigmas.tolist()
    for errors, one in ((report.base, base), (report.calibrated, other)):
        assert errors.rmse == pytest.approx(Errors.of(squared(problem, one, x)).rmse, rel=1e-9)


def test_tables_from_four_samples_under_guidance_are_never_worse_where_they_pass():
    """Small mixtures, guidance up to 8, four fitted samples and ten that decide; then fresh noise tells."""
    accepted, refused, wrong, typical = 0, 0, 0, []
    for seed in range(36):
        rng = np.random.default_rng(seed)
        means, stds, guidance = rng.normal(size=4) * 1.5, rng.uniform(0.05, 0.6, 4), rng.uniform(1, 8)
        one, all_of = Mixture((0.5,) * 2, tuple(means[:2]), tuple(stds[:2])), Mixture((0.25,) * 4, tuple(means), stds)

        def guided(x, sigma, one=one, all_of=all_of, guidance=guidance):
            return all_of(x, sigma) + guidance * (one(x, sigma) - all_of(x, sigma))

        base = ls.build("ddim" if seed % 2 else "ipndm", SIGMAS[[0, 2, 3, 4]])
        result = ls.calibrate(
            guided, noise_of(14, seed, 2), base, held_out=10, reference_steps=24, scouts=0, iterations=3
        )
        if not result.end.accepted:
            refused += 1
            assert result.end.reason
            assert result.table.distance(base) == 0.0
            continue
        accepted += 1
        fresh = noise_of(128, 1000 + seed, 2)
        target = ls.solve_reference(guided, fresh, base, steps=24, check_samples=0).samples
        after, before = (squared_errors(ls.sample(guided, fresh, t), target) for t in (result.table, base))
        typical.append(0.5 * np.log(after / before).mean())
        wrong += bool(after.mean() > before.mean())
    assert accepted >= 10
    assert refused >= 2
    assert wrong <= 0.05 * 36
    assert max(typical) < 0


# The search


@pytest.fixture(scope="module")
def found():
    return ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), seed=0)


def test_the_default_beats_every_classical_solver_on_fresh_noise(found):
    assert found.card.method == "gauss_newton"
    assert found.end.accepted
    fresh = noise_of(400, 1)
    classical = classical_tables(ls.build("ddim", SIGMAS), SCHEDULE, 0.05)
    errors = {name: Errors.of(squared(Mixture(), table, fresh)) for name, table in classical.items()}
    assert len(errors) > 20
    mine = Errors.of(squared(Mixture(), found.table, fresh))
    assert mine.rmse < 0.5 * min(error.rmse for error in errors.values())
    assert mine.median < 0.5 * min(error.median for error in errors.values())
    assert found.table.nfe == 4
    assert found.table.sigmas[[0, -1]].tolist() == SIGMAS[[0, -1]].tolist()


def test_what_a_search_says_of_itself(found):
    search, base = found.search, found.card.base_table
    assert search.base == next(iter(search.classical))  # no start of others was passed, so the best one is the base
    assert set(search.scouts) >= {search.start}
    assert set(search.finals) == set(search.scouts)  # so few calls pay for all of them
    assert min(search.finals, key=lambda name: search.finals[name].score) == search.start
    assert search.finals[search.start].score == 1.0
    held_out = [line.held_out_rmse for line in search.iterations]
    whole = search.finals[search.start].rmse
    assert min(abs(error - whole) for error in held_out[:-1]) < 1e-6 * whole  # it has gone on by one step since
    assert len({name.partition("@")[2] for name in search.scouts}) == len(search.scouts) == 3
    solver, _, spacing = search.base.partition("@")
    again = classical_tables(base, SCHEDULE, 0.05, dict.fromkeys(DISCOUNTS, base.sigmas))
    assert base.distance(again[f"{solver}@{spacing}"]) == 0.0
    assert found.end.calibrated.rmse == pytest.approx(min(held_out), rel=1e-6)
    assert found.end.base.rmse == pytest.approx(np.sqrt(squared(Mixture(), base, noise_of(96)[48:]).mean()), rel=0.05)
    assert found.rows == ()


def test_a_card_of_a_search_comes_back(found, tmp_path):
    found.card.save(tmp_path / "card.json")
    card = ls.load_card(tmp_path / "card.json")
    assert card == found.card
    assert card.table.distance(found.table) == 0.0
    assert card.steps == []
    assert card.search.start == found.search.start
    assert {name: final.detail for name, final in card.search.finals.items()} == {
        name: final.detail for name, final in found.search.finals.items()
    }
    assert [line.damping for line in card.search.iterations] == [line.damping for line in found.search.iterations]
    assert card.end.stability.gain == found.end.stability.gain
    assert card.end.stability.gain <= 4 * card.end.stability.base_gain
    assert card.schedule.times == pytest.approx(found.table.sigmas.tolist())


def test_cards_of_the_first_version_load(tmp_path):
    """They had rows, and nothing of a search, of stability or of reasons."""
    result = ls.calibrate(Mixture(), noise_of(12), ls.build("ddim", SIGMAS), method="iia")
    raw = json.loads(result.card.dumps())
    del raw["checksum"], raw["search"], raw["calls"], raw["end"]["reason"], raw["end"]["stability"]
    raw["version"] = 1
    file = tmp_path / "old.json"
    canonical = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    file.write_text(json.dumps({**raw, "checksum": "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()}))
    card = ls.load_card(file)
    assert card.version == 1
    assert card.table.distance(result.table) == 0.0
    assert len(card.steps) == 4
    assert (card.search, card.calls, card.end.stability, card.end.reason) == (None, None, None, "")


def test_the_same_noise_gives_the_same_card(found):
    again = ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), seed=0)
    assert again.card.dumps() == found.card.dumps()
    assert again.calls == found.calls


def test_batches_do_not_matter(found):
    """To rounding, which a fit that is not linear makes larger."""
    parts = ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), batch_size=20, scout_samples=48)
    whole = ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), scout_samples=48)
    assert parts.search.start == whole.search.start
    assert parts.table.distance(whole.table) < 1e-5


def test_one_reference_serves_and_changes_nothing(found):
    reference = ls.solve_reference(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS))
    again = ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), reference=reference)
    assert again.table.distance(found.table) < 1e-5
    assert again.calls < found.calls


def test_the_base_of_others_tables_is_still_the_best_classical_one(found):
    """A start that is better than every solver is taken as start, and is not what has to be beaten."""
    again = ls.calibrate(networked(Mixture()), noise_of(96, 2), ls.build("ddim", SIGMAS), starts={"mine": found.table})
    assert next(iter(again.search.classical)) == "mine"
    assert again.search.base != "mine"
    assert again.card.base_table.exact
    assert "mine" in again.search.scouts


def test_levels_and_window_are_held_where_that_is_asked():
    base = ls.build("ipndm", SIGMAS, order=3)
    result = ls.calibrate(Mixture(), noise_of(64), base, scouts=0, levels=False, column=False, window=2)
    assert result.end.accepted
    assert result.search.base == result.search.start == "given"
    assert result.table.sigmas.tolist() == base.sigmas.tolist()
    assert [row.states for row in result.table.rows] == [row.states for row in base.rows]
    for k, (new, old) in enumerate(zip(result.table.rows, base.rows, strict=True), start=1):
        assert {j for j in new.outputs if new.outputs[j] != old.outputs.get(j, 0.0)} <= {k - 1, k - 2}


@pytest.mark.parametrize("odd", [20, 40])
def test_starts_that_overflow_on_other_samples_are_passed_over(odd):
    """A fitted one that short fits do not see, or a held-out one, is infinite at the inner levels of one grid."""
    x = noise_of(48)
    x[odd, 0] = 1e3
    sigmas = ls.grid("karras", 5, schedule=SCHEDULE, final="sigma_min")
    trap = set(sigmas[1:-1].tolist())  # a fine solution of 64 steps has none of these levels

    def brittle(x, sigma):
        out = Mixture()(x, sigma)
        return torch.where((x[:, :1].abs() > 100) & torch.tensor(sigma in trap), float("inf"), out)

    result = ls.calibrate(brittle, x, ls.build("ddim", sigmas), levels=False)
    assert odd < 24 or not result.search.base.endswith(("given", "karras"))
    assert not result.search.start.endswith(("given", "karras"))
    karras = [name for name in result.search.scouts if name.endswith(("given", "karras"))]
    assert bool(karras) == (odd < 24)
    assert not set(karras) & set(result.search.finals)
    assert any(name.endswith("karras") for name in result.search.classical)


@pytest.mark.parametrize("finals", [1, 3])
def test_a_whole_fit_that_overflows_on_further_samples_is_passed_over(monkeypatch, finals):
    """The best of several; one alone is an error that names it."""
    fit, went = GaussNewton.fit, []

    def brittle(self, start, iterations, **options):
        if len(self.fitted) == 6:  # all batches: those that whole fits do not see
            went.append(start)
            if len(went) == 1:
                raise ls.InputError("it does not end in finite samples")
        return fit(self, start, iterations, **options)

    monkeypatch.setattr(GaussNewton, "fit", brittle)
    settings = {"scout_samples": 8, "final_samples": 12, "final_calls": 10**6 if finals == 3 else 0}

    def calibrated():
        return ls.calibrate(Mixture(), noise_of(48), ls.build("ddim", SIGMAS), **settings)

    if finals == 1:
        with pytest.raises(ls.InputError, match="finite samples"):
            calibrated()
        return
    result = calibrated()
    assert len(went) == 2
    assert len(result.search.finals) == finals - 1
    assert result.search.start in result.search.finals
    assert [line.samples for line in result.search.iterations][-1] == 24


def test_more_samples_are_fitted_at_few_calls():
    assert [fitted_samples(nfe) for nfe in (1, 5, 6, 7, 8, 20)] == [128, 128, 128, 96, 96, 96]


def test_scouts_are_the_best_of_the_best_grids():
    ranking = ["ipndm4@karras", "ipndm3@karras", "ipndm4@dp", "unipc3@dp", "ddim@karras", "ddim@uniform"]
    assert chosen_starts(ranking, 1) == ["ipndm4@karras"]
    assert chosen_starts(ranking, 2) == ["ipndm4@karras", "ipndm4@dp"]
    assert chosen_starts(ranking, 3) == chosen_starts(ranking, 9) == ["ipndm4@karras", "ipndm4@dp", "ddim@uniform"]
    assert chosen_starts(["given", "another", *ranking], 3) == ["given", "another", "ipndm4@karras"]


def test_a_table_that_is_a_classical_one_is_tried_once(found):
    """``found`` was given one of the tables that are made here anyway."""
    given, made = ls.build("ddim", SIGMAS), classical_tables(ls.build("ddim", SIGMAS), SCHEDULE, 0.05)
    same = [name for name, table in made.items() if table.distance(given) == 0]
    assert len(same) == 1
    assert "given" not in found.search.classical
    assert same[0] in found.search.classical
    other = ls.calibrate(Mixture(), noise_of(24), ls.build("heun", SIGMAS[[0, 2, 4]]), iterations=1, scouts=1)
    assert "given" in other.search.classical


def test_the_calls_that_are_announced_are_an_upper_bound(found):
    """Close enough to plan with, whatever is fitted."""
    for options in (
        {},
        {"levels": False, "iterations": 2},
        {"scouts": 0, "scout_samples": 48},
        {"scout_samples": 8, "final_samples": 12},
        {"scout_samples": 64},
        {"iterations": 1},
        {"iterations": 3, "scouts": 1},
        {"window": 1},
    ):
        nfe = 4 if not options else 5
        sigmas = ls.grid("karras", nfe, sigma_min=0.05, sigma_max=20.0)
        result = found if not options else ls.calibrate(Mixture(), noise_of(96), ls.build("ddim", sigmas), **options)
        most = most_calls(nfe, 48, 48, GaussNewtonSettings(**options))
        assert 0.5 * most < result.calls <= most


def test_a_whole_fit_sees_some_samples_and_the_last_steps_see_all():
    """Of 48 fitted samples, with short fits on 8: 16 and 24, and then all."""
    settings = {"scout_samples": 8, "final_samples": 24, "final_calls": 0}
    result = ls.calibrate(Mixture(), noise_of(96), ls.build("ddim", SIGMAS), **settings)
    assert [line.samples for line in result.search.iterations] == [16, 16, 24, 48, 48]


def test_the_jacobian_of_whole_fits_is_made_once_for_every_sample_and_then_for_all_at_every_step(monkeypatch):
    """Of the samples of the short fit that goes on, its model does."""
    made, equations = [], GaussNewton._equations

    def counted(self, table, c2, numbers):
        made.append(list(numbers))
        return equations(self, table, c2, numbers)

    monkeypatch.setattr(GaussNewton, "_equations", counted)
    settings = {"scouts": 2, "scout_samples": 8, "final_samples": 24, "final_calls": 0}
    result = ls.calibrate(Mixture(), noise_of(96), ls.build("ddim", SIGMAS), **settings)
    assert made[:4] == [[0, 1], [0, 1], [2, 3], [4, 5]]  # batches: of 48 fitted samples, 12
    assert made[4:] == [list(range(12))] * 2
    assert len(result.search.iterations) == 5


def test_a_step_that_an_old_model_fails_at_does_not_damp_the_last_ones():
    """At 2 calls of the mixture, whose first steps go far, the second step of the whole fit must be short."""
    sigmas = ls.grid("karras", 2, sigma_min=float(SIGMAS[-2]), sigma_max=float(SIGMAS[0]))
    result = ls.calibrate(Mixture(), noise_of(96), ls.build("ddim", sigmas))
    *_, second, third, fourth = result.search.iterations
    assert second.damping > 0.1
    assert (third.samples, fourth.samples) == (48, 48)
    assert max(third.damping, fourth.damping) <= 1e-3


@pytest.mark.parametrize(
    ("fitted", "sizes", "last"),
    [(512, [32, 48], 2), (96, [32, 48], 2), (40, [32, 40], 2), (32, [32], 3), (9, [9], 3)],
)
def test_the_last_steps_see_all_samples_however_many(fitted, sizes, last):
    """Whole fits see 48 at most; the one that is used takes all steps that are left on all samples."""
    settings = GaussNewtonSettings()
    assert (whole_fit_samples(fitted, settings), last_steps(fitted, settings)) == (sizes, last)
    more = GaussNewtonSettings(iterations=7)
    assert (whole_fit_samples(fitted, more), last_steps(fitted, more)) == (sizes, last + 3)


@pytest.mark.parametrize(("iterations", "sizes", "last"), [(1, [96], 0), (2, [48], 1), (3, [32, 48], 1)])
def test_the_last_step_sees_all_samples_however_few_steps_there_are(iterations, sizes, last):
    settings = GaussNewtonSettings(iterations=iterations)
    assert (whole_fit_samples(96, settings), last_steps(96, settings)) == (sizes, last)


@pytest.mark.parametrize("options", [{"scout_samples": 64}, {"final_samples": 8}])
def test_whole_fits_see_at_least_what_short_fits_do(options):
    settings = GaussNewtonSettings(**options)
    assert whole_fit_samples(96, settings) == [settings.scout_samples]
    assert all(1 <= most_finals(nfe, 96, 48, settings) <= 3 for nfe in range(1, 21))
    assert min(most_calls(nfe, 96, 48, settings) for nfe in range(1, 21)) > 0
    result = ls.calibrate(Mixture(), noise_of(96), ls.build("ddim", SIGMAS), **options)
    assert result.end.accepted


def test_the_base_is_the_strongest_of_the_best_few_on_the_samples_that_decide():
    """A solver that is ahead on a few samples by chance is no yardstick."""
    levels = {"other": 0.1, "a": 3.0, "b": np.inf, "c": 1.0, "d": 2.0, "e": 0.5}
    squared = {key: np.stack([np.full(9, np.nan), np.full(9, level)], 1) for key, level in levels.items()}
    newton = SimpleNamespace(held_out=[1], errors=lambda table, numbers: squared[table])
    names = dict(zip(levels, levels, strict=True))
    wanted = ["other", "c", "d", "a", "b", "e"]  # e is not of the best four; b overflows there
    assert strongest_first(newton, names, list(levels), foreign=["other"]) == wanted
    assert strongest_first(newton, names, ["b"]) == ["b"]
    assert strongest_first(newton, names, ["other"], foreign=["other"]) == ["other"]


@pytest.mark.parametrize(("fitted", "held_out"), [(1, 1), (1, 7), (3, 7)])
def test_with_too_few_held_out_samples_the_base_is_kept(fitted, held_out):
    base = ls.build("ddim", SIGMAS)
    result = ls.calibrate(Mixture(), noise_of(fitted + held_out), base, held_out=held_out, scouts=0)
    assert not result.end.accepted
    assert result.end.reason.startswith(f"{held_out} held-out samples cannot show that it is better")
    assert result.table.distance(base) == 0.0
    assert result.table.name == "gauss_newton"
    assert result.card.end.reason == result.end.reason


def test_a_fit_reports_how_far_it_is():
    seen = []
    ls.calibrate(
        Mixture(), noise_of(24), ls.build("ddim", SIGMAS), iterations=2, progress=lambda *said: seen.append(said)
    )
    assert seen[-1][2] == "checking"
    fitting = [(done, total) for done, total, what in seen if what == "fitting"]
    assert fitting == sorted(fitting)
    assert all(done <= total for done, total, _ in seen)


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"residual": "pixel"}, "unknown residual 'pixel': did you mean 'pixels'"),
        ({"iterations": 0}, "at least one iteration and sample, .*iterations=0"),
        ({"scout_iterations": 0}, "scout_iterations=0"),
        ({"scout_samples": 0}, "scout_samples=0"),
        ({"scouts": -1}, "scouts and final_calls >= 0, got .*scouts=-1"),
        ({"final_calls": -1}, "scouts and final_calls >= 0, got .*final_calls=-1"),
        ({"robust": float("nan")}, "finite robust.*robust=nan"),
        ({"ridge": -1.0}, "ridge=-1.0"),
        ({"margin": float("inf")}, "margin=inf"),
        ({"stability": 0.0}, "stability > 0, got .*stability=0.0"),
        ({"window": 0}, "expected a window of at least 1 output, or None for all, got 0"),
        ({"iteration": 3}, "method 'gauss_newton': got an unexpected keyword argument 'iteration'"),
        ({"method": "gauss-newton"}, "unknown method 'gauss-newton': did you mean 'gauss_newton'"),
        ({"method": "global", "window": 0}, "window of at least 1"),
        ({"method": "global", "levels": True}, "method 'global': got an unexpected keyword argument 'levels'"),
        ({"held_out": 0}, "of 16 samples 0 cannot be held out"),
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_named_before_the_network_is_called(settings, message):
    def never(x, sigma):
        raise AssertionError("the network was called")

    with pytest.raises(ls.InputError, match=message) as caught:
        ls.calibrate(never, noise_of(16), ls.build("ddim", SIGMAS), **settings)
    assert "\n" not in str(caught.value)


def never(x, sigma):
    raise AssertionError("the network was called")


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ({"mine": ls.build("ddim", SIGMAS[1:])}, r"starts\['mine'\] makes 3 network calls, but the table makes 4"),
        ({"mine": ls.build("heun", SIGMAS)}, "makes 8 network calls, but the table makes 4: pass starts of as many"),
        (
            {"mine": ls.build("ddim", SIGMAS * 2)},
            r"goes from sigma 20 to 0.1, but the table from 10 to 0.05.*same two levels",
        ),
        ({"mine": ls.build("ddim", [10, 5, 1, 0.1, 0])}, "goes from sigma 10 to 0, but the table from 10 to 0.05"),
        ({"given": ls.build("ddim", SIGMAS)}, "the name 'given' is taken"),
        ({"ddim@karras": ls.build("ddim", SIGMAS)}, "the name 'ddim@karras' is taken"),
    ],
)
def test_starts_that_do_something_else_are_refused(starts, message):
    with pytest.raises(ls.InputError, match=message):
        ls.calibrate(never, noise_of(16), ls.build("ddim", SIGMAS), starts=starts)


def test_starts_of_another_frame_are_refused():
    sigmas = np.array([0.9, 0.5, 0.2, 0.1])
    flow, other = (ls.build("ddim", sigmas, alphas=alphas) for alphas in (1 - sigmas, np.sqrt(1 - sigmas**2)))
    with pytest.raises(ls.InputError, match="its alphas there differ"):
        ls.calibrate(never, noise_of(16), flow, starts={"mine": other})


def test_starts_are_not_silently_ignored():
    base = ls.build("ddim", SIGMAS)
    for method in ("iia", "global", "iia_ddim"):
        with pytest.raises(ls.InputError, match=f"method '{method}' starts from its table alone: drop starts"):
            ls.calibrate(never, noise_of(16), base, method=method, starts={"mine": base})


def test_references_of_other_work_are_refused():
    x, base = noise_of(16), ls.build("ddim", SIGMAS)
    right = ls.solve_reference(Mixture(), x, base, steps=4)
    short = ls.solve_reference(Mixture(), x[8:], base, steps=4)
    with pytest.raises(ls.InputError, match="the reference holds 8 samples, but all 16 are needed"):
        ls.calibrate(never, x, base, reference=short)
    with pytest.raises(
        ls.InputError, match="does not start from the 16 all samples at sigma 10|solve it from the same"
    ):
        ls.calibrate(never, noise_of(16, 1), base, reference=right)
    other = ls.build("ddim", [10, 5, 1, 0.1, 0])
    with pytest.raises(ls.InputError, match="between those levels"):
        ls.calibrate(never, x, other, reference=right)
    wide = replace(right, samples=right.samples.repeat(1, 2), start="")
    with pytest.raises(ls.InputError, match=r"samples of shape \(12,\), but the noise has \(6,\)"):
        ls.calibrate(never, x, base, reference=wide)
    for method in ("gauss_newton", "global", "iia"):
        for value in (float("nan"), float("inf")):
            spoiled = right.samples.clone()
            spoiled[11, 2] = value
            with pytest.raises(ls.InputError, match="the reference holds NaN or infinity"):
                ls.calibrate(never, x, base, reference=replace(right, samples=spoiled), method=method)


def test_a_single_sample_cannot_both_be_fitted_and_decide():
    with pytest.raises(ls.InputError, match="of 1 samples 0 cannot be held out: keep at least one on either side"):
        ls.calibrate(never, noise_of(1), ls.build("ddim", SIGMAS))


def test_a_network_of_another_shape_or_without_numbers_is_refused():
    base = ls.build("ddim", SIGMAS)
    for method in ("gauss_newton", "global"):
        with pytest.raises(ls.InputError, match=r"returned shape \(8, 3\) for a state of shape \(8, 6\) at call 1"):
            ls.calibrate(lambda x, s: x[:, :3], noise_of(16), base, method=method)
        with pytest.raises(ls.NonFiniteError, match=r"call 1 \(sigma = 10\)"):
            ls.calibrate(lambda x, s: x * float("nan"), noise_of(16), base, method=method)


def test_levels_that_meet_are_refused():
    for sigmas in ([10, 5, 5, 0.1], [10, 5, 6, 0.1], [10, 5, 0, 0]):
        with pytest.raises(ls.InputError, match="levels"):
            ls.build("ddim", sigmas)


def test_settings_have_the_documented_defaults():
    settings = GaussNewtonSettings()
    assert settings.margin == 0.0  # nothing may get worse unless that is asked for
    assert settings.stability > 1
    assert Fit(ls.build("ddim", SIGMAS), (), "").iterations == ()
