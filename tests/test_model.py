"""A loaded model: its identity, its noise and its labels."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny_model

import longstride as ls
from longstride.zoo.conditioning import ClassLabels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "model", null_class=2)


@pytest.fixture
def tiny(folder: Path) -> ls.Model:
    return ls.load_model(folder)


def test_the_fingerprint_is_that_of_the_weights(folder: Path, tiny: ls.Model, tmp_path: Path):
    moved = ls.load_model(shutil.copytree(folder, tmp_path / "moved"))
    assert moved.fingerprint == tiny.fingerprint == moved.info().fingerprint
    with torch.no_grad():
        next(moved.network.parameters()).view(-1)[0] += 1e-3
    assert replace(moved).fingerprint != tiny.fingerprint


def test_noise_of_a_sample_depends_on_its_own_seed_alone(tiny: ls.Model):
    many = tiny.noise(range(10, 18), 3.0)
    assert torch.equal(tiny.noise(range(13, 15), 3.0), many[3:5])
    assert torch.equal(tiny.noise(range(10, 18), 1.0) * 3.0, many)
    assert len(many.flatten(1).unique(dim=0)) == 8


def test_labels_follow_the_seeds(tiny: ls.Model, tmp_path: Path):
    assert tiny.num_classes == 2  # the third is the null class
    assert tiny.labels(range(3, 7)).tolist() == [1, 0, 1, 0]
    assert ls.load_model(save_tiny_model(tmp_path / "plain", classes=None)).labels(range(4)) is None


def test_given_labels_replace_those_of_the_seeds(tiny: ls.Model):
    x = tiny.noise(range(4), 1.0)
    chosen = tiny.denoiser(range(4), labels=torch.tensor([1, 0, 1, 0]))(x, 1.0)
    assert torch.equal(chosen, tiny.denoiser(range(1, 5))(x, 1.0))
    assert not torch.equal(chosen, tiny.denoiser(range(4))(x, 1.0))


def test_guidance_costs_two_and_extrapolates(tiny: ls.Model):
    """On a v prediction, guidance of the output is guidance of the clean picture: both are affine in each other."""
    seeds, x = range(4), tiny.noise(range(4), 1.0)
    guided = tiny.denoiser(seeds, guidance=3.0)
    unconditional = replace(tiny, conditioning=ClassLabels(3)).denoiser(seeds, labels=torch.full((4,), 2))(x, 1.0)
    conditional = tiny.denoiser(seeds)(x, 1.0)
    torch.testing.assert_close(guided(x, 1.0), unconditional + 3.0 * (conditional - unconditional))
    assert (guided.cost, guided.calls, tiny.denoiser(seeds).cost) == (2, 8, 1)


def test_selecting_samples_cuts_their_labels(tiny: ls.Model):
    x, part = tiny.noise(range(6), 1.0), slice(1, 4)
    for guidance in (None, 2.0):
        denoiser = tiny.denoiser(range(6), guidance)
        cut = denoiser.select(part)
        assert cut.condition["class_labels"].tolist() == [1, 0, 1]
        torch.testing.assert_close(cut(x[part], 1.0), denoiser(x, 1.0)[part])


def test_wrong_labels_and_guidance(tiny: ls.Model, tmp_path: Path):
    with pytest.raises(ls.InputError, match="has classes 0 … 1, got label -1, 2"):
        tiny.denoiser(range(3), labels=torch.tensor([-1, 2, 0]))
    with pytest.raises(ls.InputError, match="guidance must be a finite number, got nan"):
        tiny.denoiser(range(2), guidance=float("nan"))
    plain = ls.load_model(save_tiny_model(tmp_path / "plain", classes=None))
    with pytest.raises(ls.InputError, match="has no classes, got label 0"):
        plain.denoiser(range(1), labels=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ls.InputError, match="cannot be guided: it has no unconditional class"):
        plain.denoiser(range(1), guidance=2.0)


def test_latents_are_no_pictures(tiny: ls.Model):
    tiny.check_pictures()
    with pytest.raises(ls.InputError, match="only 1 or 3 channels can be drawn"):
        replace(tiny, shape=(4, 8, 8)).check_pictures()


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 1, 32, 32), (2, 28, 28)])
def test_noise_of_another_shape_is_refused_by_name(shape):
    model = ls.load_model("garments")
    table = ls.build("ddim", [10.0, 1.0, 0.1])
    with pytest.raises(ls.InputError, match=r"takes states of shape \(B, 1, 28, 28\), got \(2, "):
        ls.sample(model.denoiser(range(2)), torch.zeros(shape), table)
    with pytest.raises(ls.InputError, match="'class_labels' holds 3 entries for a batch of 2"):
        ls.sample(model.denoiser(range(3)), torch.zeros(2, 1, 28, 28), table)


@pytest.mark.parametrize("size", [2, 10, 100, 101, 1000, 1001])
def test_seeds_in_a_row_spread_over_all_classes(size):
    """Every class once in as many seeds as there are classes; of many, a few seeds fall into every tenth of them."""
    model = replace(ls.load_model("garments"), conditioning=ClassLabels(size, None))
    labels = model.labels(range(7, 7 + size)).tolist()
    assert sorted(labels) == list(range(size))
    assert (labels[:2] == [n % size for n in (7, 8)]) == (size <= 100)
    if size > 100:
        assert {label * 10 // size for label in labels[:20]} == set(range(10))
