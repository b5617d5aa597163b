"""The example service with an adaptation: live references teach it, and a job takes proposals through roll-outs."""

from __future__ import annotations

from pathlib import Path

import pytest
from problems import Mixture
from tiny_models import save_tiny_model
from toy_fits import exact, networked, noise_of

import longstride as ls
from examples.serve.adapt import advance, in_use
from examples.serve.service import Service, Settings
from longstride.rollout import Stage

MOVED = Mixture(weights=(0.55, 0.45), means=(-1.3, 0.9), stds=(0.3, 0.8))
WHOLE = (Stage(share=1.0),)


def finished(store: Path, card: Path) -> None:
    """A roll-out of a card that has ended well."""
    with ls.Rollout.start(store, card, stages=WHOLE) as rollout:
        rollout.promote("whole")
        assert rollout.status().status == "complete"


def save_model_and_card(folder: Path) -> None:
    """A tiny network, and a card of it."""
    save_tiny_model(folder / "model", classes=None)
    model = ls.load_model(str(folder / "model"))
    table = ls.build("ddim", ls.grid("karras", 3, schedule=model.schedule))
    noise = model.noise(range(4), float(table.sigmas[0]))
    ls.calibrate(model.denoiser(range(4)), noise, table, method="iia", monitor=0).card.save(folder / "card.json")


def test_live_references_teach_the_adaptation(tmp_path):
    save_model_and_card(tmp_path)
    finished(tmp_path / "rollout.db", tmp_path / "card.json")
    shares = {"base": 1.0, "new": 1.0}
    settings = Settings(
        tmp_path / "rollout.db",
        str(tmp_path / "model"),
        reference_share=shares,
        reference_steps=8,
        adapt=tmp_path / "adaptation.db",
    )
    service = Service(settings)
    for seed in (0, 1, 2, 1):
        service.picture(str(seed), seed)
        service.reference.wait()
    counters = service.adaptation.status().counters
    assert (counters.samples, counters.used, counters.refused["repeated"]) == (4, 3, 1)
    service.close()
    again = Service(settings)
    assert again.adaptation.status().counters.used == 3
    again.close()


def test_without_a_card_in_use_there_is_nothing_to_adapt(tmp_path):
    save_model_and_card(tmp_path)
    ls.Rollout.start(tmp_path / "rollout.db", tmp_path / "card.json").close()
    with pytest.raises(ls.InputError, match="no card is in use yet"):
        Service(Settings(tmp_path / "rollout.db", str(tmp_path / "model"), adapt=tmp_path / "adaptation.db"))


def test_the_job_takes_a_proposal_through_its_roll_out(found, tmp_path):
    store, adapt, card = tmp_path / "rollout.db", tmp_path / "adaptation.db", tmp_path / "card.json"
    found.card.save(card)
    finished(store, card)
    with ls.Adaptation(found.card, adapt) as adaptation:
        assert advance(store, adapt, tmp_path) == "nothing is proposed"
        noise = noise_of(300, 5)
        for one, end in zip(noise.split(1), exact(MOVED, noise).split(1), strict=True):
            if adaptation.observe(networked(MOVED), one, end).won:
                break
        assert "adapted-1.json enters a roll-out" in advance(store, adapt, tmp_path, WHOLE)
        assert "under way, at stage 1" in advance(store, adapt, tmp_path)
        with ls.Rollout(store) as rollout:
            assert in_use(rollout) == card.resolve()
            assert rollout.load("new") == adaptation.proposal().card
            rollout.promote()
            assert in_use(rollout) == tmp_path.resolve() / "adapted-1.json"
        assert "has ended: complete" in advance(store, adapt, tmp_path)
        assert adaptation.card == ls.load_card(tmp_path / "adapted-1.json")
        assert advance(store, adapt, tmp_path) == "nothing is proposed"


def test_the_job_knows_when_another_card_is_in_use(found, tmp_path):
    store, adapt, card = tmp_path / "rollout.db", tmp_path / "adaptation.db", tmp_path / "card.json"
    with ls.Adaptation(found.card, adapt) as adaptation:
        noise = noise_of(300, 5)
        for one, end in zip(noise.split(1), exact(MOVED, noise).split(1), strict=True):
            if adaptation.observe(networked(MOVED), one, end).won:
                break
        adaptation.proposal().card.save(card)
    finished(store, card)
    assert "another card is in use" in advance(store, adapt, tmp_path)
