"""Online adaptation: it follows a network that has changed, through a roll-out, and proposes nothing by chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import Mixture, Point
from toy_fits import SIGMAS, exact, networked, noise_of, rmse

import longstride as ls
from longstride.adaptation import AdaptationSettings
from longstride.adaptation.trial import Measured, Trial, ratio_share
from longstride.history import load_history, replace_card, roll_back
from longstride.rollout import Stage, live_errors

#: The mixture of the session's card, after its network was trained further.
MOVED = Mixture(weights=(0.55, 0.45), means=(-1.3, 0.9), stds=(0.3, 0.8))
SHORT = (Stage(share=1.0, requests=4, measured=4),)


def feed(adaptation, problem, count, seed):
    """Requests of one sample with their exact ends; whether a candidate has won."""
    noise = noise_of(count, seed)
    for one, end in zip(noise.split(1), exact(problem, noise).split(1), strict=True):
        if adaptation.observe(networked(problem), one, end).won:
            return True
    return False


@pytest.fixture(scope="module")
def won(found, tmp_path_factory):
    """An adaptation whose candidate has won on the moved mixture, its store and its proposal."""
    path = tmp_path_factory.mktemp("won") / "adaptation.db"
    adaptation = ls.Adaptation(found.card, path)
    assert feed(adaptation, MOVED, 200, 5)
    yield adaptation, path, adaptation.proposal()
    adaptation.close()


@pytest.mark.slow
def test_a_network_that_has_changed_is_followed(found):
    """Proposals that are adopted one after the other take back most of the harm."""
    fresh, adopted = noise_of(512, 77), 0
    before = rmse(MOVED, found.card.table, fresh)
    with ls.Adaptation(found.card) as adaptation:
        for seed in range(6):
            if feed(adaptation, MOVED, 100, seed):
                proposal = adaptation.proposal()
                now, then = (rmse(MOVED, card.table, fresh) for card in (proposal.card, adaptation.card))
                assert now < then
                adaptation.settle(adopted=True)
                adopted += 1
        assert adopted >= 2
        assert adaptation.status().counters.adopted == adopted == len(adaptation.status().lineage) - 1
        assert rmse(MOVED, adaptation.card.table, fresh) < 0.75 * before


def test_a_proposal_is_a_card_that_says_what_it_is(found, won):
    adaptation, _, proposal = won
    card, settings = proposal.card, AdaptationSettings()
    assert (card.method, card.solver, card.base_data) == ("adaptation", found.card.solver, found.card.base_data)
    assert card.settings["lineage"] == list(adaptation.status().lineage)
    assert (card.settings["bound"], card.settings["held_out"]) == (settings.bound, proposal.samples)
    assert card.settings["move"] == proposal.move <= settings.step
    assert card.model.fingerprint is None
    assert (card.end.accepted, card.end.samples) == (True, proposal.samples)
    assert (card.end.base, card.end.calibrated) == (proposal.errors["base"], proposal.errors["fitted"])
    assert proposal.errors["fitted"].rmse < min(proposal.errors["card"].rmse, proposal.errors["base"].rmse)
    assert card.end.stability.gain <= settings.stability * card.end.stability.base_gain
    assert (card.guard, card.calls) == (None, adaptation.status().counters.calls)
    assert len(card.schedule.times) == card.nfe + 1
    assert "surely better" in proposal.reason


def test_a_proposal_stays_until_it_is_settled_and_survives_its_file(won, tmp_path):
    adaptation, path, proposal = won
    assert adaptation.proposal() == proposal
    with ls.Adaptation(None, path) as again:
        assert again.proposal() == proposal
        assert again.status().doing == "proposed"
    proposal.card.save(tmp_path / "card.json")
    assert ls.load_card(tmp_path / "card.json") == proposal.card


def test_it_enters_a_roll_out_and_never_the_traffic_by_itself(found, won, tmp_path):
    """The lines of the page, and what follows from the end of the roll-out."""
    adaptation, _, proposal = won
    assert adaptation.card == found.card
    card, proposed = tmp_path / "card.json", tmp_path / "proposed.json"
    adaptation.card.save(card)
    proposal.card.save(proposed)
    with ls.Rollout.start(tmp_path / "rollout.db", new=proposed, old=card, stages=SHORT) as rollout:
        assert rollout.load("new") == proposal.card
        for n in range(8):
            noise = noise_of(1, 1000 + n)
            arm = rollout.arm(n)
            table = rollout.load(arm).table if rollout.load(arm) else proposal.card.base_table
            served = ls.sample(networked(MOVED), noise, table)
            found_errors = live_errors(networked(MOVED), noise, served, table, adaptation.card.table, steps=16)
            rollout.record(n, arm, error=found_errors.error, other_error=found_errors.other)
        assert rollout.status().status == "complete"
        replace_card(card, adaptation.card, proposal.card, "adapted", proposal.reason, proposal.errors)
    assert ls.load_card(card) == proposal.card
    assert load_history(card).entries[-1].by == "adapted"
    roll_back(card)
    assert ls.load_card(card) == found.card


def test_a_proposal_that_the_roll_out_refused_is_dropped(found, tmp_path):
    with ls.Adaptation(found.card) as adaptation:
        assert feed(adaptation, MOVED, 200, 5)
        first = adaptation.proposal()
        adaptation.settle(adopted=False)
        assert adaptation.proposal() is None
        assert adaptation.card == found.card
        told = adaptation.status()
        assert (told.doing, told.counters.rejected, told.counters.adopted) == ("collecting", 1, 0)
        assert feed(adaptation, MOVED, 200, 6)
        assert adaptation.proposal().card.table.distance(first.card.table) > 0
        adaptation.settle(adopted=True)
        with pytest.raises(ls.InputError, match="no proposal that waits"):
            adaptation.settle(adopted=True)


def test_a_card_that_is_the_best_one_gets_no_rival(found):
    """Solutions are the card's own samples and noise that nothing explains: candidates are made to try, and lose."""
    network, tried = networked(Mixture()), 0
    for seed in range(3):
        noise = noise_of(60, seed)
        ends = ls.sample(network, noise, found.card.table) + 0.1 * noise_of(60, 50 + seed) / 10
        with ls.Adaptation(found.card, gain=0.0) as adaptation:
            for one, end in zip(noise.split(1), ends.split(1), strict=True):
                assert not adaptation.observe(network, one, end).won
            told = adaptation.status()
            assert adaptation.proposal() is None
            assert (told.counters.used, told.counters.proposed) == (60, 0)
            tried += told.counters.candidates
    assert tried > 0


def test_from_the_exact_card_nothing_is_tried():
    """On a single point every solver is exact, and no loss is left to be saved."""
    network = networked(Point())
    card = ls.calibrate(network, noise_of(64), ls.build("ddim", SIGMAS), scouts=0, iterations=1).card
    with ls.Adaptation(card) as adaptation:
        assert not feed(adaptation, Point(), 40, 9)
        assert adaptation.status().counters.proposed == 0


def test_chance_proposes_seldom():
    """A candidate that errs as much as the card: at the level of one half at most half of the trials are won."""
    table, settings, won = ls.build("ddim", SIGMAS), AdaptationSettings(level=0.5, stability=1e9), 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        trial = Trial.begin(1, np.zeros(3), None, 30.0, settings)
        while (verdict := trial.verdict(table, table, settings)[0]) == "open":
            new, card = rng.lognormal(0, 0.5, 2)
            trial.see(Measured(float(new), 1e3, np.zeros(3), (1.0, 1.0)), float(card))
        won += verdict == "won"
    assert won <= 200 * 0.25 + 3 * (200 * 0.25 * 0.75) ** 0.5


def test_a_trial_ends_as_it_should():
    table, settings = ls.build("ddim", SIGMAS), AdaptationSettings()

    def ended(new, card, base, gains=(1.0, 1.0)):
        trial = Trial.begin(1, np.zeros(3), None, 30.0, settings)
        while trial.verdict(table, table, settings)[0] == "open":
            trial.see(Measured(new, base, np.zeros(3), gains), card)
        return (*trial.verdict(table, table, settings), len(trial.squared))

    verdict, reason, count = ended(0.2, 1.0, 1.0)
    assert (verdict, count < 30) == ("won", True)
    assert "surely better" in reason
    assert ended(1.0, 0.2, 2.0)[0] == "worse"
    assert "surely not better than the card" in ended(1.0, 0.2, 2.0)[1]
    assert ended(0.2, 1.0, 0.1)[0] == "worse"
    assert "base" in ended(0.2, 1.0, 0.1)[1]
    assert "amplified" in ended(0.2, 1.0, 1.0, gains=(100.0, 1.0))[1]
    assert ended(0.2, 1.0, 1.0, gains=(100.0, 1.0))[2] == settings.patience
    assert ended(float("inf"), 1.0, 1.0)[0] == "worse"
    assert ended(0.9, 1.0, 5.0)[0] == "lost"


def test_shares_of_errors_that_are_not_finite():
    assert ratio_share(1.0, 3.0) == 0.25
    assert ratio_share(0.0, 0.0) == 0.5
    assert ratio_share(float("inf"), 1.0) == 1.0
    assert ratio_share(1.0, float("inf")) == 0.0
    assert ratio_share(float("inf"), float("inf")) is None


def test_later_candidates_need_more_evidence():
    """The levels of all candidates sum up to the declared one."""
    settings = AdaptationSettings(level=0.1)
    needed = []
    for number in (1, 4):
        trial = Trial.begin(number, np.zeros(3), None, 30.0, settings)
        while not all(bounds.upper <= 0.5 for bounds in trial.bounds.values()):
            trial.see(Measured(0.5, 1.0, np.zeros(3)), 1.0)
        needed.append(len(trial.squared))
    assert needed[0] < needed[1]
    assert sum(0.1 / (n * (n + 1)) for n in range(1, 10**5)) == pytest.approx(0.1, rel=1e-4)


def test_a_live_reference_teaches_the_adaptation(found, caplog):
    noise, table = noise_of(1, 3), found.card.table
    served = ls.sample(Mixture(), noise, table)
    with ls.Adaptation(found.card) as adaptation:
        plain = live_errors(Mixture(), noise, served, table, steps=16)
        assert live_errors(Mixture(), noise, served, table, steps=16, also=adaptation.observe) == plain
        assert adaptation.status().counters.used == 1

    def broken(denoiser, noise, converged):
        raise RuntimeError("no room")

    assert live_errors(Mixture(), noise, served, table, steps=16, also=broken) == plain
    assert "no room" in caplog.text


def test_a_sample_that_was_measured_at_a_former_card_does_not_count(found, tmp_path):
    path = tmp_path / "adaptation.db"
    with ls.Adaptation(found.card, path) as adaptation:
        assert feed(adaptation, MOVED, 200, 5)
        adaptation.proposal()

        def slow(x, t):
            with ls.Adaptation(None, path) as other:
                if other.proposal() is not None:
                    other.settle(adopted=True)
            return MOVED(x, float(t[0]))

        network = ls.as_denoiser(slow, ls.Schedule.edm(0.05, 10.0), "data")
        noise = noise_of(1, 999)
        before = adaptation.status().effective
        seen = adaptation.observe(network, noise, exact(MOVED, noise))
        assert (seen.used, seen.refused) == (0, ("late",))
        assert adaptation.status().effective == before


def test_a_card_that_needs_its_guard_is_refused(found):
    guarded = ls.calibrate(networked(Mixture()), noise_of(96), ls.build("ddim", SIGMAS), guard_share=0.05).card
    assert guarded.guard is not None
    needed = guarded.model_copy(update={"guard": replace(guarded.guard, needed=True)})
    with pytest.raises(ls.InputError, match="needs its guard"):
        ls.Adaptation(needed)
    ls.Adaptation(guarded).close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": 0.5, "bound": 0.3},
        {"forgetting": 0.0},
        {"forgetting": 0.9, "fewest": 11.0},
        {"level": 1.0},
        {"patience": 0},
        {"ridge": float("nan")},
        {"cap": 0.0},
        {"speed": 3},
    ],
)
def test_settings_are_checked(found, wrong):
    with pytest.raises(ls.InputError):
        ls.Adaptation(found.card, **wrong)


def test_inference_mode_does_not_leak(found):
    noise = noise_of(1, 8)
    with ls.Adaptation(found.card) as adaptation:
        adaptation.observe(networked(Mixture()), noise, exact(Mixture(), noise))
    assert torch.ones(1, requires_grad=True).mul(2).requires_grad
