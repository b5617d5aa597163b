"""The gate that nothing gets past: rows go back to their base, and tables that are not surely better are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, Point
from toy_fits import SCHEDULE, SIGMAS, exact, noise_of, samples_of, squared

import longstride as ls
from longstride.calibration.acceptance.gate import FEWEST, gate, judge, objection
from longstride.calibration.reference.solve import squared_errors
from longstride.calibration.rowwise.iia import IIASettings, calibrate_iia
from longstride.calibration.samples import Samples
from longstride.reports import Errors
from longstride.table import Row

#: Levels of the tests of single rows.
FIVE = ls.grid("karras", 5, sigma_min=0.05, sigma_max=10.0, final="sigma_min")


def test_what_held_out_noise_contradicts_is_refused():
    """The fitted and the held-out half of the batch come from different worlds; no row may be changed."""
    x = noise_of(16, 9)
    x[:8, 0], x[8:, 0] = 50.0, -50.0

    def two_worlds(x, sigma):
        sign = torch.sign(x[:, :1])
        return Gaussian(mean=0.0, std=1.0)(x, sigma) * torch.where(sign > 0, 1.0, -1.0)

    table = ls.build("ddim", FIVE)
    result = ls.calibrate(two_worlds, x, table, method="iia")
    refused = [row for row in result.rows if not row.accepted]
    contradicted = [row for row in refused if row.row not in result.end.given_back]
    assert contradicted
    assert all(row.held_out_error > row.held_out_base_error for row in contradicted)
    assert all(row.error < row.base_error for row in contradicted)
    for row in refused:
        assert result.table.rows[row.row - 1] == table.rows[row.row - 1]


def test_a_table_that_is_worse_at_the_end_falls_back_to_its_base():
    """A reference that is the base's own result cannot be improved on."""
    table, x = ls.build("ddim", FIVE), noise_of(16, 10)
    own = ls.Reference(ls.sample(Mixture(), x[8:], table), 0.0, 5)
    result = ls.calibrate(Mixture(), x, table, reference=own, method="iia")
    assert not result.end.accepted
    assert result.table.distance(table) == 0.0
    assert not result.card.end.accepted


def test_a_row_that_makes_whole_trajectories_worse_is_given_back():
    """Of two rewritten rows the spoiled one is found, and the good one stays."""
    problem = Gaussian(mean=0.0)
    table, x = ls.build("ddim", FIVE), noise_of(8, 14)
    fitting = Samples.of(problem, x, table, held_out=4)
    good, _ = calibrate_iia(fitting, table, IIASettings(substeps=200), "fitted")
    spoiled = replace(good, rows=(good.rows[0], good.rows[1] * 1.5, *good.rows[2:]))
    reference = ls.solve_reference(problem, x, table)
    samples = Samples.of(problem, torch.cat([x[:1], x]), table, held_out=8)
    settled, report = gate(replace(samples, reference=reference), table, spoiled)
    assert 2 in report.given_back
    assert 1 not in report.given_back
    assert settled.rows[1] == table.rows[1]
    assert report.accepted
    assert report.calibrated.rmse < report.base.rmse


def test_a_base_that_is_no_classical_table_is_kept_as_it_is():
    """Calibrated tables are not exact on a point; rows of theirs are given back all the same."""
    problem, x = Mixture(), noise_of(40)
    once = ls.calibrate(problem, x, ls.build("ddim", FIVE), method="iia").table
    assert not once.exact
    again = ls.calibrate(problem, x, once, method="iia", fine="ddim", substeps=20)
    assert again.card.base_table.distance(once) == 0.0
    assert again.end.calibrated.rmse <= again.end.base.rmse
    assert not again.table.exact
    perfect = ls.Reference(ls.sample(problem, x[20:], once), 0.0, 5)
    kept = ls.calibrate(problem, x, once, method="iia", fine="ddim", substeps=20, reference=perfect)
    assert not kept.end.accepted
    assert kept.table.distance(once) == 0.0
    spoiled = replace(once, rows=(*once.rows[:-1], once.rows[-1] * 1.5))
    samples = Samples.of(problem, x, once, held_out=20)
    settled, report = gate(replace(samples, reference=perfect), once, spoiled)
    assert (report.given_back, settled.distance(once)) == ((5,), 0.0)


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
    passed = np.mean([not objection(*simulated(kind, n, rng, 0.0), margin=np.inf) for _ in range(3000)])
    assert passed < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 3000)
    worse = np.mean([not objection(*simulated(kind, n, rng, 0.2), margin=np.inf) for _ in range(1000)])
    assert worse < 0.02
    better = np.mean([not objection(*simulated(kind, n, rng, -1.2), margin=0.0) for _ in range(300)])
    assert better > (0.4 if kind == "heavy" else 0.8)


@pytest.mark.parametrize("confidence", [0.6, 0.95])
def test_as_many_tables_that_are_no_better_pass_as_the_confidence_leaves(confidence):
    """Of logarithms of ratios that are normal, Student's t is exact: 1 - p of them."""
    rng = np.random.default_rng(1)
    passed = [
        not objection(*simulated("normal", 8, rng, 0.0), margin=np.inf, confidence=confidence) for _ in range(3000)
    ]
    assert np.mean(passed) == pytest.approx(1 - confidence, abs=3 * np.sqrt(confidence * (1 - confidence) / 3000))


def test_a_few_lucky_samples_bring_no_table_through():
    """Nine of ten samples are worse; the error is lower all the same, since the tenth had nearly all of it."""
    before = np.tile([1.0] * 9 + [1e4], 4)
    after = np.tile([1.3] * 9 + [1.0], 4)
    assert np.sqrt(after.mean()) < 0.1 * np.sqrt(before.mean())
    assert "not sure" in objection(after, before, 0.0)


def test_most_samples_bring_no_table_through_that_spoils_the_rest():
    """Nine of ten are better; the error is higher all the same."""
    before = np.ones(40)
    after = np.tile([0.5] * 9 + [20.0], 4)
    assert "the base's 1" in objection(after, before, 0.0)
    assert objection(after, before, 1.0) == ""  # what a margin is for: here twice the error would do


def test_what_the_judge_looks_at_first():
    good = np.full(FEWEST, 0.25), np.ones(FEWEST)
    assert objection(*good, 0.0) == ""
    few = tuple(side[:-1] for side in good)
    assert objection(*few, 0.0) == f"7 held-out samples cannot show that it is better: hold out {FEWEST} or more"
    bad = good[0].copy()
    bad[3] = np.inf
    assert objection(bad, good[1], np.inf) == "samples overflow on held-out noise"
    assert "not sure" in objection(good[1], good[1], 0.0)  # the base itself
    nothing = np.zeros(FEWEST)
    assert "not sure" in objection(nothing, nothing, 0.0)  # both perfect
    assert objection(nothing, good[1], 0.0) == ""


def judged(problem, base, calibrated, x, **limits):
    samples = samples_of(problem, torch.cat([x[:2], x]), exact(problem, x).to(x), held_out=len(x))
    return judge(samples, base, replace(calibrated, name="fitted"), **{"margin": 0.0, "stability": 4.0, **limits})


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
    assert report.stability is None  # what is not finite is no measurement


def test_a_table_with_other_levels_is_judged_at_them():
    problem, x = Mixture(), noise_of(12)
    base = ls.build("ddim", SIGMAS)
    other = ls.build("dpmpp_2m", ls.grid("log_snr", 4, schedule=SCHEDULE, final="sigma_min"))
    table, report = judged(problem, base, other, x)
    assert report.accepted
    assert table.sigmas.tolist() == other.sigmas.tolist()
    for errors, one in ((report.base, base), (report.calibrated, other)):
        assert errors.rmse == pytest.approx(Errors.of(squared(problem, one, x)).rmse, rel=1e-9)


@pytest.mark.slow
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
