"""Recalibration: a card follows a network that has changed, and stays where nothing surely better is found."""

from __future__ import annotations

import numpy as np
import pytest
from problems import Gaussian, Mixture
from toy_fits import SIGMAS, networked, noise_of, rmse

import longstride as ls
from longstride.calibration.endpoint.recalibrating import Recalibrating

#: The mixture of the session's card, after its network was trained further.
MOVED = Mixture(weights=(0.55, 0.45), means=(-1.3, 0.9), stds=(0.3, 0.8))
HANDFUL = noise_of(32, 5)


@pytest.fixture(scope="module")
def moved(found):
    return ls.recalibrate(found.card, networked(MOVED), HANDFUL, seed=5)


def test_a_handful_of_samples_improves_a_card_whose_network_has_changed(found, moved):
    assert moved.verdict == "improved"
    fresh = noise_of(512, 77)
    assert rmse(MOVED, moved.card.table, fresh) < 0.8 * rmse(MOVED, found.card.table, fresh)
    assert moved.errors["fitted"].rmse < min(moved.errors["card"].rmse, moved.errors["base"].rmse)


def test_the_new_card_says_how_it_was_made(found, moved):
    card = moved.card
    assert card.base_data == found.card.base_data
    assert (card.settings["samples"], card.settings["held_out"], card.settings["seed"]) == (32, 16, 5)
    assert (card.search.start, card.calls, card.solver) == ("current", moved.calls, "gauss_newton")
    assert card.end.calibrated == moved.errors["fitted"]
    assert card.end.base == moved.errors["base"]
    assert card.model.fingerprint is None  # the weights may be others


def test_held_out_samples_choose_nothing_before_they_decide(found, moved):
    """The fit is that of the fitted samples alone: other held-out samples find the same table."""
    other = HANDFUL.clone()
    other[16:] = noise_of(16, 6)
    again = ls.recalibrate(found.card, networked(MOVED), other, seed=5)
    assert again.card.table.distance(moved.card.table) < 1e-9


def test_from_the_optimum_the_card_stays():
    """Every table acts on a Gaussian as one number: the fitted number is exact, and stays so to rounding."""
    network = networked(Gaussian(mean=0.0))
    card = ls.calibrate(network, noise_of(64), ls.build("ddim", SIGMAS)).card
    best = ls.recalibrate(card, network, noise_of(32, 3), ridge=0.0, iterations=4).card
    again = ls.recalibrate(best, network, noise_of(32, 4))
    assert again.verdict == "kept"
    assert again.card is best
    assert again.errors["card"].rmse < 1e-3 * again.errors["base"].rmse


def test_a_pull_without_end_keeps_the_numbers(found):
    kept = ls.recalibrate(found.card, networked(MOVED), HANDFUL, ridge=1e12)
    assert kept.verdict == "kept"
    assert kept.card is found.card


def test_a_base_that_is_surely_better_takes_the_place_of_a_spoiled_card(found):
    data = found.card.data
    rows = [row.model_copy(update={"outputs": {j: 1.3 * w for j, w in row.outputs.items()}}) for row in data.rows]
    spoiled = found.card.model_copy(update={"data": data.model_copy(update={"rows": rows})})
    result = ls.recalibrate(spoiled, networked(Mixture()), HANDFUL, ridge=1e12)
    assert result.verdict == "base"
    assert result.card.table.distance(found.card.base_table) == 0
    assert not result.card.end.accepted


def test_too_few_samples_decide_nothing(found):
    result = ls.recalibrate(found.card, networked(MOVED), HANDFUL[:20], held_out=4)
    assert result.verdict == "kept"
    assert "4 held-out samples cannot show" in result.reason


def test_a_guarded_card_gets_a_new_guard(found):
    guarded = ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), guard_share=0.05).card
    result = ls.recalibrate(guarded, networked(MOVED), HANDFUL)
    assert result.verdict == "improved"
    assert result.card.settings["guard_share"] == 0.05
    assert result.card.guard != guarded.guard


def test_chance_improves_seldom(found):
    """On its own network: if nothing can be won, at most one in twenty handfuls may say so by chance.

    The card fits 48 samples, so that a true gain is small; what is accepted must not be worse on fresh noise.
    """
    network, fresh = networked(Mixture()), noise_of(1024, 99)
    before = rmse(Mixture(), found.card.table, fresh)
    for seed in range(10, 16):
        result = ls.recalibrate(found.card, network, noise_of(32, seed))
        assert rmse(Mixture(), result.card.table, fresh) <= 1.02 * before


def test_another_guidance_scale_is_refused(found):
    with pytest.raises(ls.InputError, match="for guidance None, not 3"):
        ls.recalibrate(found.card, networked(MOVED), HANDFUL, model=ls.ModelInfo(guidance=3.0))


def test_the_method_wants_the_table_in_use():
    with pytest.raises(ls.InputError, match="the table in use alone"):
        ls.calibrate(networked(Mixture()), HANDFUL, ls.build("ddim", SIGMAS), method=Recalibrating())


def test_a_kill_goes_on_to_the_same_card(found, moved, tmp_path):
    class Killed(Exception):
        pass

    calls = 0

    def dying(x, sigma):
        nonlocal calls
        calls += 1
        if calls == 60:
            raise Killed
        return MOVED(x, sigma)

    with pytest.raises(Killed):
        ls.recalibrate(found.card, networked(dying), HANDFUL, seed=5, journal=tmp_path / "work")
    again = ls.recalibrate(found.card, networked(MOVED), HANDFUL, seed=5, journal=tmp_path / "work")
    assert again.card == moved.card
    assert np.isfinite(again.calls)
