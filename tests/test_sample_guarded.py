"""A guard and a monitor in pipelines: what they are told, and pictures that the base makes again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pipelines import make_pipeline

import longstride as ls
from longstride.guard import Guard, Seen
from longstride.guard.normal import fit_normal
from longstride.guard.statistics import names
from longstride.integrations.diffusers import LongstrideScheduler
from longstride.integrations.pipelines import calibrate_pipeline, sample_guarded, use_card

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SIZE = {"height": 16, "width": 16}
FEW: dict[str, Any] = {"samples": 16, "held_out": 16, "method": "iia", "reference_steps": 8}
PROMPTS = ["a boat", "a"]
#: Pipelines, and the class whose levels their calibrations visit.
LEVELS = {"stable_diffusion": "DPMSolverMultistepScheduler", "sd3": None}
KINDS = tuple(LEVELS)


@dataclass
class Chooses:
    """A monitor that chooses pictures by their numbers, and keeps what it was told."""

    again: tuple[int, ...] = ()
    told: list[np.ndarray] = field(default_factory=list)

    def check_table(self, table: ls.SolverTable) -> None:
        pass

    def see(self, statistics: np.ndarray, finite: np.ndarray) -> Seen:
        self.told.append(statistics)
        chosen = np.isin(np.arange(len(statistics)), self.again)
        return Seen(np.zeros(len(chosen)), chosen, chosen, (), False)


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def cards(maker: Path) -> dict[str, ls.Card]:
    return {
        name: calibrate_pipeline(make_pipeline(name, maker), 4, prompts=PROMPTS, options=SIZE, **FEW).card
        for name in KINDS
    }


def generators(count: int = 3) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def asked(**more: Any) -> dict[str, Any]:
    return {"prompt": ["a boat", "a", "a cat"], "generator": generators(), "output_type": "latent", **SIZE, **more}


def guard_of(card: ls.Card, threshold: float, *, needed: bool = False) -> ls.Card:
    size = len(names(card.nfe))
    plain = ((0.0,) * size, (1.0,) * size, (0.0,) * size)
    return card.model_copy(update={"guard": Guard(*plain, 0.0, threshold, 0.03, needed)})


@pytest.mark.parametrize("name", KINDS)
def test_pictures_that_are_flagged_are_the_bases_bit_for_bit(name: str, maker: Path, cards: dict[str, ls.Card]):
    pipe, card = make_pipeline(name, maker), cards[name]
    found = sample_guarded(pipe, card, monitor=Chooses((1,)), **asked())
    assert found.flagged.tolist() == [False, True, False]
    whole = pipe(**use_card(pipe, card, **asked())).images
    alone = sample_guarded(pipe, card, monitor=Chooses((0,)), **asked(prompt="a", generator=generators()[1:2])).images
    assert torch.equal(found.images, torch.cat([whole[:1], alone, whole[2:]]))
    config = {**card.scheduler, "solver": card.base.name, "solver_options": card.base.options, "levels": LEVELS[name]}
    pipe.scheduler = LongstrideScheduler.from_config(config)
    classical = pipe(**asked(num_inference_steps=4)).images
    torch.testing.assert_close(found.images[1], classical[1], rtol=1e-3, atol=1e-3)
    assert (whole[1] - classical[1]).abs().max() > 5e-3


@pytest.mark.parametrize("name", KINDS)
def test_the_monitor_is_told_what_the_calibration_saw(name: str, maker: Path, cards: dict[str, ls.Card]):
    """The calibration's prompts and noise again: its clean runs to the rounding of another loop."""
    pipe, card, monitor = make_pipeline(name, maker), cards[name], Chooses()
    call = asked(prompt=PROMPTS * 16, generator=generators(32))
    sample_guarded(pipe, card, monitor=monitor, **call)
    again = fit_normal(monitor.told[0])
    np.testing.assert_allclose(again.centre, card.normal.centre, atol=2e-4)
    np.testing.assert_allclose(again.scale, card.normal.scale, rtol=2e-2, atol=1e-4)


def test_a_real_monitor_and_a_guard(maker: Path, cards: dict[str, ls.Card]):
    """Of another guidance, which a card of no call does not notice; a guard that flags all, and one that flags none."""
    pipe, card = make_pipeline("stable_diffusion", maker), cards["stable_diffusion"]
    monitor = ls.Monitor(card, window=3)
    sample_guarded(pipe, card, monitor=monitor, **asked())
    assert (monitor.report().samples, monitor.report().windows) == (3, 1)
    plain = pipe(**use_card(pipe, card, **asked())).images
    assert pipe.scheduler.flagged is None
    none = sample_guarded(pipe, guard_of(card, 1.0), **asked())
    assert torch.equal(none.images, plain)
    assert none.seen is None
    every = sample_guarded(pipe, guard_of(card, -1.0), **asked())
    assert every.flagged.all()
    assert not torch.equal(every.images, plain)


def test_a_scheduler_says_what_its_guard_flags(maker: Path, cards: dict[str, ls.Card]):
    pipe = make_pipeline("stable_diffusion", maker)
    pipe(**use_card(pipe, guard_of(cards["stable_diffusion"], -1.0), **asked()))
    assert pipe.scheduler.flagged.tolist() == [True] * 3
    pipe.scheduler.set_timesteps(4)
    assert pipe.scheduler.flagged is None


def test_a_card_that_needs_its_guard_runs_with_it_alone(maker: Path, cards: dict[str, ls.Card]):
    pipe, card = make_pipeline("stable_diffusion", maker), guard_of(cards["stable_diffusion"], 1.0, needed=True)
    with pytest.raises(ls.CardError, match="pipelines.sample_guarded"):
        pipe(**use_card(pipe, card, **asked()))
    sample_guarded(pipe, card, **asked())
    with pytest.raises(ls.CardError, match="pipelines.sample_guarded"):
        pipe(**asked(num_inference_steps=4))


def test_several_pictures_of_a_prompt_and_given_latents(maker: Path, cards: dict[str, ls.Card]):
    pipe, card = make_pipeline("stable_diffusion", maker), cards["stable_diffusion"]
    call = asked(prompt=PROMPTS, generator=generators(4), num_images_per_prompt=2)
    many = sample_guarded(pipe, card, monitor=Chooses((1, 2)), **call)
    one = sample_guarded(
        pipe, card, monitor=Chooses((1, 2)), **asked(prompt=["a boat", "a boat", "a", "a"], generator=generators(4))
    )
    torch.testing.assert_close(many.images, one.images)
    latents = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in generators(2)])
    given = {"prompt": PROMPTS, "latents": latents, "output_type": "latent", **SIZE}
    found = sample_guarded(pipe, card, monitor=Chooses((1,)), **given)
    alone = sample_guarded(pipe, card, monitor=Chooses((0,)), **{**given, "prompt": "a", "latents": latents[1:]})
    assert torch.equal(found.images[1:], alone.images)


def test_pictures_that_cannot_be_made_again_are_refused(maker: Path, cards: dict[str, ls.Card]):
    pipe, card = make_pipeline("stable_diffusion", maker), cards["stable_diffusion"]
    for wrong, why in (
        ({"generator": torch.Generator()}, "a list of one generator per picture"),
        ({"generator": None}, "noise that is known"),
        ({"num_images_per_prompt": 2}, "3 generators or latents are not 2 per prompt"),
    ):
        with pytest.raises(ls.InputError, match=why):
            sample_guarded(pipe, card, monitor=Chooses(), **asked(**wrong))
    with pytest.raises(ls.InputError, match="has no guard"):
        sample_guarded(pipe, card, **asked())
    other = ls.Monitor(replace_table(card))
    with pytest.raises(ls.InputError, match="this monitor is of another card"):
        sample_guarded(pipe, card, monitor=other, **asked())


def replace_table(card: ls.Card) -> Any:
    return card.model_copy(update={"data": card.base_data})
