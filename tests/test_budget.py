"""What a budget buys: never more network calls than it has, from universal tables, with one clear message below."""

import math

import pytest
import torch
from command_line import error, run
from problems import Mixture

import longstride as ls
from longstride.calibration.budget import LADDER, plan_for
from longstride.calibration.endpoint.settings import GaussNewtonSettings
from longstride.cli.budgeting import Budget, budget_of, planned


class Counted:
    """An exact denoiser that counts its calls in samples."""

    def __init__(self) -> None:
        self.calls, self.problem = 0, Mixture()

    def __call__(self, x, sigma):
        self.calls += len(x)
        return self.problem(x.double(), sigma).to(x)


@pytest.mark.parametrize("budget", [1600, 2600, 9000])
@pytest.mark.parametrize("nfe", [4, 6])
def test_a_calibration_stays_within_its_budget(budget: int, nfe: int) -> None:
    plan, denoiser = plan_for(budget, nfe), Counted()
    table = ls.build("ddim", ls.grid("log_snr", nfe, sigma_min=0.02, sigma_max=80.0))
    noise = 80 * torch.randn(plan.samples, 3, generator=torch.Generator().manual_seed(1))
    result = ls.calibrate(
        denoiser,
        noise,
        table,
        held_out=plan.held_out,
        reference_steps=plan.reference_steps,
        monitor=plan.monitor,
        **plan.settings,
    )
    assert denoiser.calls == result.calls <= plan.calls <= budget
    assert result.search.start.endswith("@universal")


def test_plans_grow_with_the_budget_to_the_default_calibration() -> None:
    plans = [plan_for(budget, 8) for budget in (2400, 6000, 10000, 20000, 1e9)]
    assert [one.calls for one in plans] == sorted(one.calls for one in plans)
    assert [one.samples for one in plans] == sorted(one.samples for one in plans)
    assert (plans[-1].fitted, plans[-1].held_out, dict(plans[-1].settings)) == (96, 48, {})
    assert plan_for(20000, 8, per_call=2).fitted == plan_for(10000, 8).fitted
    assert all(fitted >= 4 and held_out >= 8 for fitted, held_out, *_ in LADDER)


@pytest.mark.parametrize("nfe", [3, 4, 5, 6, 8])
def test_two_thousand_calls_are_enough_up_to_eight_calls(nfe: int) -> None:
    assert (plan_for(2000, nfe).fitted, nfe) in [(20, 3), (12, 4), (12, 5), (8, 6), (8, 8)]
    assert plan_for(2000, min(nfe, 5), per_call=2).fitted >= 4


@pytest.mark.parametrize("nfe", [5, 8])
def test_a_plan_says_closely_what_it_costs(nfe: int) -> None:
    """The bound is kept, and not far above what is used: a bound that is too high buys too small a plan."""
    for budget in (2000, 5000):
        plan, denoiser = plan_for(budget, nfe), Counted()
        table = ls.build("ddim", ls.grid("log_snr", nfe, sigma_min=0.02, sigma_max=80.0))
        noise = 80 * torch.randn(plan.samples, 3, generator=torch.Generator().manual_seed(2))
        asked = {"held_out": plan.held_out, "reference_steps": plan.reference_steps, "monitor": plan.monitor}
        ls.calibrate(denoiser, noise, table, **asked, **plan.settings)
        assert 0.75 * plan.calls < denoiser.calls <= plan.calls


def test_a_step_makes_as_many_trials_as_it_may() -> None:
    with pytest.raises(ls.InputError, match="at least one iteration, sample and trial"):
        GaussNewtonSettings(trials=0)


def test_too_small_a_budget_is_refused_with_what_costs_nothing() -> None:
    with pytest.raises(ls.InputError, match=r"a budget of 100 network calls is below one step .* longstride.universal"):
        plan_for(100, 5)
    with pytest.raises(ls.InputError, match=r"5 s at 1 s per network call: a budget of 5 network calls"):
        planned(Budget(seconds=5.0), 5, 1, lambda: 1.0)


def test_a_budget_is_calls_or_time() -> None:
    assert budget_of("2,000") == Budget(calls=2000.0) == budget_of("2000")
    assert [budget_of(text).seconds for text in ("90s", "20min", "1.5h")] == [90.0, 1200.0, 5400.0]
    assert math.isinf(budget_of("90s").calls)
    for wrong in ("", "0", "-5", "20 days", "1e3", "min"):
        with pytest.raises(ls.InputError, match="expected a budget such as 2000"):
            budget_of(wrong)
    assert planned(Budget(seconds=10.0), 5, 1, lambda: 1e-3) == plan_for(10_000, 5)


def test_the_command_tells_its_plan_and_keeps_to_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = " ".join(run("calibrate", "garments", "--nfe", 3, "--budget", 900, "--out", "card.json").split())
    assert "within the budget: 10 samples to fit in 1 step, 8 that decide" in told
    card = ls.load_card("card.json")
    assert card.calls <= 900
    for option in ("--held-out", "--iterations", "--rank"):
        assert f"{option} does nothing beside --budget" in error("calibrate", "garments", "--budget", 800, option, 8)
    both = error("calibrate", "garments", "--nfe", "4-6", "--budget", 9000, "--out", "book.json")
    assert "a budget is for one number of calls and one guidance scale" in both
    assert "expected a budget such as 2000" in error("calibrate", "garments", "--budget", "soon")
