"""The default calibration: it beats every classical solver, says how, and spends samples where they count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import Mixture
from toy_fits import SCHEDULE, SIGMAS, networked, noise_of, squared

import longstride as ls
from longstride.calibration.endpoint.gauss_newton import GaussNewton
from longstride.calibration.starts.classical import classical_tables
from longstride.calibration.starts.dynamic_programming import DISCOUNTS
from longstride.calibration.starts.universal import is_universal
from longstride.reports import Errors


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


def test_batches_do_not_matter():
    """To rounding, which a fit that is not linear makes larger."""
    parts = ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), batch_size=20, scout_samples=48)
    whole = ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), scout_samples=48)
    assert parts.search.start == whole.search.start
    assert parts.table.distance(whole.table) < 1e-5


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
        if len(self.fitted) == 6:  # all units: those that whole fits do not see
            went.append(start)
            if len(went) == 1:
                raise ls.InputError("it does not end in finite samples")
        return fit(self, start, iterations, **options)

    monkeypatch.setattr(GaussNewton, "fit", brittle)
    settings = {"scout_samples": 8, "final_samples": 12, "final_calls": 10**6 if finals == 3 else 0, "universal": False}

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


def test_a_table_that_is_a_classical_one_is_tried_once(found):
    """``found`` was given one of the tables that are made here anyway."""
    given, made = ls.build("ddim", SIGMAS), classical_tables(ls.build("ddim", SIGMAS), SCHEDULE, 0.05)
    same = [name for name, table in made.items() if table.distance(given) == 0]
    assert len(same) == 1
    assert "given" not in found.search.classical
    assert same[0] in found.search.classical
    other = ls.calibrate(Mixture(), noise_of(24), ls.build("heun", SIGMAS[[0, 2, 4]]), iterations=1, scouts=1)
    assert "given" in other.search.classical


def test_a_whole_fit_sees_some_samples_and_the_last_steps_see_all():
    """Of 48 fitted samples, with short fits on 8: 16 and 24, and then all."""
    settings = {"scout_samples": 8, "final_samples": 24, "final_calls": 0}
    result = ls.calibrate(Mixture(), noise_of(96), ls.build("ddim", SIGMAS), **settings)
    assert [line.samples for line in result.search.iterations] == [16, 16, 24, 48, 48]


def test_the_jacobian_of_whole_fits_is_made_once_for_every_sample_and_then_for_all_at_every_step(monkeypatch):
    """Of the samples of the short fit that goes on, its model does."""
    made, equations = [], GaussNewton.equations

    def counted(self, table, loss, numbers, few=None):
        made.append(list(numbers))
        return equations(self, table, loss, numbers, few)

    monkeypatch.setattr(GaussNewton, "equations", counted)
    settings = {"scouts": 2, "scout_samples": 8, "final_samples": 24, "final_calls": 0, "universal": False}
    result = ls.calibrate(Mixture(), noise_of(96), ls.build("ddim", SIGMAS), **settings)
    assert made[:4] == [[0, 1], [0, 1], [2, 3], [4, 5]]  # units: of 48 fitted samples, 12
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


def test_universal_tables_take_one_place_among_scouts_and_one_among_whole_fits():
    """With as many whole fits as needed for one of each kind."""
    options = {"universal": True, "final_calls": 0}
    search = ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), **options).search
    assert [is_universal(name) for name in search.scouts].count(True) == 1
    assert len({name.partition("@")[2] for name in search.scouts}) == len(search.scouts) == 3
    assert sorted(is_universal(name) for name in search.finals) == [False, True]
    assert len([name for name in search.classical if is_universal(name)]) > 1
