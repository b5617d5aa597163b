"""The door to calibration: one reference serves, starts are checked, and whatever is wrong is said before any call."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture
from toy_fits import SIGMAS, networked, noise_of

import longstride as ls

#: Levels of the tests of single rows.
FIVE = ls.grid("karras", 5, sigma_min=0.05, sigma_max=10.0, final="sigma_min")


def test_the_same_noise_gives_the_same_card_and_batches_do_not_matter():
    table = ls.build("ddim", FIVE)
    first, again = (ls.calibrate(Mixture(), noise_of(12, 11), table, method="iia").card.dumps() for _ in range(2))
    assert first == again
    whole = ls.calibrate(Mixture(), noise_of(12, 11), table, method="iia").table
    assert whole.distance(ls.calibrate(Mixture(), noise_of(12, 11), table, batch_size=5, method="iia").table) < 1e-9


def test_guided_calibration_counts_both_calls():
    schedule = ls.Schedule.edm(0.05, 10.0)

    def network(x, t, shift):
        return Gaussian(std=0.5)(x - shift.view(-1, 1), float(t[0])) + shift.view(-1, 1)

    denoiser = ls.as_denoiser(
        network,
        schedule,
        "data",
        condition={"shift": torch.linspace(-1, 1, 8).double()},
        uncondition={"shift": torch.zeros(1).double()},
        guidance=3.0,
    )
    result = ls.calibrate(denoiser, noise_of(8, 12), ls.build("ddim", FIVE), substeps=4, batch_size=3, method="iia")
    assert result.fit_calls == 2 * 4
    assert result.end.calibrated.rmse < result.end.base.rmse


def test_errors_name_what_was_wrong():
    table, x = ls.build("ddim", FIVE), noise_of(8, 13)
    with pytest.raises(ls.InputError, match="unknown family of directions 'differences of'"):
        ls.calibrate(Mixture(), x, table, directions="differences of", method="iia")
    with pytest.raises(ls.InputError, match="did you mean 'iia'"):
        ls.calibrate(Mixture(), x, table, method="iaa")
    with pytest.raises(ls.InputError, match="unexpected keyword argument 'substep'"):
        ls.calibrate(Mixture(), x, table, substep=3, method="iia")
    with pytest.raises(ls.InputError, match="unknown fine solver 'bogus'"):
        ls.calibrate(Mixture(), x, table, fine="bogus", method="iia")
    with pytest.raises(ls.InputError, match="of 8 samples 8 cannot be held out"):
        ls.calibrate(Mixture(), x, table, held_out=8, method="iia")
    with pytest.raises(ls.InputError, match="substeps >= 1"):
        ls.calibrate(Mixture(), x, table, substeps=0, method="iia")
    with pytest.raises(ls.InputError, match="holds 3 samples, but the 4 held-out are needed"):
        ls.calibrate(Mixture(), x, table, reference=ls.Reference(x[:3], 0.0, 1), method="iia")
    with pytest.raises(ls.InputError, match="does not start from the 4 held-out samples"):
        ls.calibrate(Mixture(), x, table, reference=ls.solve_reference(Mixture(), x[:4], table, steps=4), method="iia")
    with pytest.raises(ls.NonFiniteError, match=r"call 2 \(sigma = "):
        ls.calibrate(lambda x, s: x / 2 if s > 5 else x * float("nan"), x, table, substeps=1, method="iia")


def test_the_same_noise_gives_the_same_card(found):
    again = ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), seed=0)
    assert again.card.dumps() == found.card.dumps()
    assert again.calls == found.calls


def test_one_reference_serves_and_changes_nothing(found):
    reference = ls.solve_reference(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS))
    again = ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), reference=reference)
    assert again.table.distance(found.table) < 1e-5
    assert again.calls < found.calls


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


def never(x, sigma):
    raise AssertionError("the network was called")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"residual": "pixels"}, "expected residual to be a function from samples .* got 'pixels'"),
        ({"iterations": 0}, "at least one iteration, sample and trial, .*iterations=0"),
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


def test_a_journal_tells_residuals_of_one_name_apart_and_objects_resume(tmp_path):
    """By what they return: names may be the same, and an object has another address in every process."""

    class Edges:
        def __init__(self, power):
            self.power, self.lock = power, threading.Lock()  # a lock cannot be copied

        def __call__(self, samples):
            return samples.flatten(1) ** self.power

    def calibrated(power):
        base, options = ls.build("ddim", SIGMAS), {"scouts": 0, "iterations": 1, "journal": tmp_path}
        return ls.calibrate(Mixture(), noise_of(24), base, residual=Edges(power), **options)

    first = calibrated(2)
    assert first.card.settings["residual"] == "Edges"
    assert calibrated(2).card == first.card
    with pytest.raises(ls.InputError, match="unfinished work with another residual"):
        calibrated(3)
