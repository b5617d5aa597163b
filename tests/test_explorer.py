"""The explorer without its page: what is shown is what the library draws, and wrong choices say what to choose."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import longstride as ls
from longstride.calibration.reference.solve import Reference
from longstride.evaluation.contestants import base_table
from longstride.evaluation.seeds import seed_range
from longstride.explorer import Classical, FromFile, Scene, Workbench
from longstride.explorer.calibrating import Effort
from longstride.explorer.drawing import errors_of
from longstride.explorer.figures import levels_figure, weights_figure
from longstride.explorer.pictures import film_of, pictures_of
from longstride.guard.score import Guard
from longstride.guard.statistics import names
from longstride.report.pictures import encoded

ROOT = Path(__file__).resolve().parent.parent
TINY = Effort(calls=3, fitted=4, held_out=4, method="iia")


# What is drawn


@pytest.mark.parametrize("guidance", [None, 2.0])
@pytest.mark.parametrize("label", [None, 1])
def test_the_pictures_are_those_of_sample(bench: Workbench, scene: Scene, guidance: float | None, label: int | None):
    scene = replace(scene, guidance=guidance, label=label)
    model = ls.load_model(scene.model)
    table = base_table(model.schedule, "dpmpp_2m", 4)
    seeds = seed_range("evaluation", 3, 4)
    labels = None if label is None else torch.full((4,), label)
    expected = ls.sample(model.denoiser(seeds, guidance, labels), model.noise(seeds, table.sigmas[0]), table)
    drawn = bench.show(scene, Classical("dpmpp_2m", 4)).drawn
    assert torch.equal(drawn.samples, expected)
    assert pictures_of(model, drawn.samples) == encoded(model.pictures(expected))


def test_every_call_of_a_run_is_kept(bench: Workbench, scene: Scene):
    """States follow from the first state and the predictions by the table's normal form."""
    drawn = bench.show(scene, Classical("unipc3", 5)).drawn
    table, calls = drawn.sampler.table, drawn.calls
    for k, state in enumerate([*(call.state for call in calls), drawn.samples]):
        parts = [float(table.b[k, j]) * calls[j].prediction for j in range(k)]
        assert torch.allclose(state, float(table.a[k]) * calls[0].state + sum(parts), atol=1e-4)
    assert [call.sigma for call in calls] == list(table.levels[:-1])


def test_a_card_draws_what_its_table_draws(bench: Workbench, scene: Scene):
    card, model = ls.load_card(bench.shelf.folder / "card.json"), bench.model(scene.model)
    shown = bench.show(scene, FromFile("card.json"))
    noise = model.noise(scene.seeds, card.table.sigmas[0])
    assert torch.equal(shown.drawn.samples, ls.sample(model.denoiser(scene.seeds), noise, card.table))
    assert shown.reference is None


def test_a_guarded_card_ends_as_the_library_does(bench: Workbench, scene: Scene):
    """A guard that flags every sample: the ends are the base's, and the film says so."""
    card, count = ls.load_card(bench.shelf.folder / "card.json"), len(names(3))
    guard = Guard((0.0,) * count, (1.0,) * count, (0.0,) * count, offset=1.0, threshold=0.0, share=0.05)
    card.model_copy(update={"guard": guard}).save(bench.shelf.folder / "guarded.json")
    drawn, model = bench.show(scene, FromFile("guarded.json")).drawn, bench.model(scene.model)
    noise = model.noise(scene.seeds, card.base_table.sigmas[0])
    assert drawn.flagged == (True,) * 4
    assert torch.allclose(drawn.samples, ls.sample(model.denoiser(scene.seeds), noise, card.base_table), atol=1e-6)
    assert film_of(model, drawn, 2).flagged
    assert drawn.spent > 3


def test_errors_are_distances_to_the_converged_solution(bench: Workbench, scene: Scene):
    drawn = bench.show(scene, Classical("ddim", 4)).drawn
    away = torch.tensor([0.0, 0.5, 1.0, 2.0]).view(4, 1, 1, 1)
    assert errors_of(drawn, Reference(drawn.samples + away, 0.0, 1)) == pytest.approx([0, 0.5, 1, 2], abs=1e-6)
    few, many = (bench.show(scene, Classical("ddim", calls), errors=True) for calls in (2, 30))
    assert few.reference is many.reference  # one solution serves all samplers between the same levels
    assert few.reference is not None
    assert np.all(errors_of(many.drawn, few.reference) < errors_of(few.drawn, few.reference))


def test_a_film_ends_with_the_sample(bench: Workbench, scene: Scene):
    drawn, model = bench.show(scene, Classical("ddim", 3)).drawn, bench.model(scene.model)
    film = film_of(model, drawn, 1)
    assert film.calls == 3
    assert film.predictions[-1] == film.states[-1] == pictures_of(model, drawn.samples)[1]
    assert len({*film.states}) == 4
    assert list(film.ratios) == sorted(film.ratios, reverse=True)


def test_a_file_that_was_replaced_is_read_again(bench: Workbench, scene: Scene, shared: Path):
    before = bench.show(scene, FromFile("card.json")).drawn
    assert bench.show(scene, FromFile("card.json")).drawn is before
    place = bench.shelf.folder / "card.json"
    card = ls.load_card(place)
    card.model_copy(update={"data": card.base_data}).save(place)
    after = bench.show(scene, FromFile("card.json")).drawn
    assert not torch.equal(after.samples, before.samples)
    assert after.sampler.base is None
    assert "kept the base" in after.sampler.note


# Tables


@pytest.mark.parametrize("choice", [Classical("dpmpp_3m", 5), Classical("ddim", 40), FromFile("card.json")])
def test_tables_of_all_sizes_can_be_drawn(bench: Workbench, scene: Scene, choice):
    sampler = bench.show(scene, choice).drawn.sampler
    for figure in (weights_figure, levels_figure):
        assert figure(sampler).startswith("data:image/svg+xml;base64,")


# Wrong choices


def test_a_card_of_another_model_says_which(bench: Workbench, scene: Scene):
    with pytest.raises(ls.InputError, match=r"card.json was calibrated on the model '.*a', not on '.*b': choose that"):
        bench.show(replace(scene, model=bench.names[1]), FromFile("card.json"))


def test_a_card_of_another_guidance_says_which(bench: Workbench, scene: Scene):
    with pytest.raises(ls.InputError, match="with no guidance, not with guidance 3: set no guidance"):
        bench.show(replace(scene, guidance=3.0), FromFile("card.json"))


def test_no_model_is_loaded_that_was_not_named(bench: Workbench, scene: Scene):
    with pytest.raises(ls.InputError, match="'os:getcwd' is not among"):
        bench.show(replace(scene, model="os:getcwd"), Classical("ddim"))


@pytest.mark.parametrize("choice", [Classical("heun", 5), Classical("nonsense", 5), Classical("gauss_newton", 5)])
def test_solvers_that_cannot_do_it_are_refused(bench: Workbench, scene: Scene, choice: Classical):
    with pytest.raises(ls.InputError):
        bench.show(scene, choice)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 17}, {"count": 2.5}, {"seed": -1}, {"seed": None}])
def test_scenes_out_of_bounds_are_refused(wrong):
    with pytest.raises(ls.InputError, match="must be a whole number from"):
        Scene("garments", **wrong)


@pytest.mark.slow
def test_the_example_of_the_page_on_the_explorer_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ui.md").read_text(), re.DOTALL)
    scope: dict[str, object] = {}
    exec(block, scope)
    assert scope["shown"].drawn.samples.shape == (4, 1, 28, 28)
