"""EDM's preconditioning: parity with diffusers, and folders that hold a bare network."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tiny_models import save_tiny_model, tiny_unet

import longstride as ls
from longstride.zoo import loading
from longstride.zoo.edm import EDMPreconditioning

KINDS = [diffusers.EDMEulerScheduler, diffusers.EDMDPMSolverMultistepScheduler]
LEVELS = (0.002, 0.1, 1.0, 7.3, 80.0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Bare(torch.nn.Module):
    """A network that is a function of all it is told, with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, x: torch.Tensor, t: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
        self.seen = (x, t)
        return torch.tanh(self.weight * x + t.view(-1, 1, 1, 1) + shift).to(x.dtype)


# The formulas


@torch.no_grad()
@pytest.mark.parametrize("sigma", LEVELS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
@pytest.mark.parametrize("kind", KINDS)
def test_parity_with_diffusers(kind: Any, sigma_data: float, prediction: str, sigma: float):
    scheduler = kind(sigma_data=sigma_data, prediction_type=prediction)
    bare, x, level = Bare(), sigma * normal(2, 3, 4, 4), torch.tensor(sigma)
    out = bare(scheduler.precondition_inputs(x, level), scheduler.precondition_noise(level).expand(2), shift=0.2)
    expected = scheduler.precondition_outputs(x, out, level)
    clean = EDMPreconditioning(bare, sigma_data, prediction)(x, level.expand(2), shift=0.2)
    torch.testing.assert_close(clean, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_every_sample_has_its_own_level():
    denoiser, x, sigma = EDMPreconditioning(Bare()), normal(3, 1, 2, 2), torch.tensor([0.1, 1.0, 30.0])
    each = [denoiser(x[n : n + 1], sigma[n : n + 1]) for n in range(3)]
    torch.testing.assert_close(denoiser(x, sigma), torch.cat(each))


@torch.no_grad()
def test_what_the_bare_network_sees_has_unit_variance():
    """Data of standard deviation sigma_data with noise of level sigma: Karras et al., 2022, App. B.6."""
    bare = Bare()
    for sigma in LEVELS:
        x = 0.7 * normal(1, 1, 300, 300) + sigma * normal(1, 1, 300, 300).flip(2)
        EDMPreconditioning(bare, 0.7)(x, torch.tensor([sigma]))
        assert float(bare.seen[0].std()) == pytest.approx(1, rel=0.02)
        assert bare.seen[1].item() == pytest.approx(math.log(sigma) / 4, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_inside_the_scalings_alone(dtype: torch.dtype):
    """At sigma = 0.01 D is x up to c_out F: rounding x itself would show."""
    x, sigma = normal(2, 3, 4, 4), torch.tensor([0.01, 0.01])
    bare = Bare().to(dtype)
    clean = EDMPreconditioning(bare)(x, sigma)
    assert bare.seen[0].dtype == dtype
    torch.testing.assert_close(clean, EDMPreconditioning(Bare())(x, sigma), rtol=0, atol=3e-4)


def test_wrong_settings():
    with pytest.raises(ls.InputError, match="unknown prediction type of EDM's preconditioning 'v': .*v_prediction"):
        EDMPreconditioning(Bare(), prediction_type="v")
    with pytest.raises(ls.InputError, match="sigma_data must be a positive number, got 0"):
        EDMPreconditioning(Bare(), 0)


# Folders


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_an_edm_scheduler(tmp_path: Path, kind: Any, prediction: str):
    scheduler = kind(sigma_min=0.01, sigma_max=50.0, sigma_data=0.6, prediction_type=prediction)
    model = ls.load_model(save_tiny_model(tmp_path, scheduler=scheduler, null_class=2))
    assert (model.prediction, model.schedule) == ("data", ls.Schedule.edm(0.01, 50.0))
    assert (model.shape, model.num_classes, model.null_class, model.clip) == ((1, 8, 8), 2, 2, None)
    assert not model.network.training
    assert not any(weight.requires_grad for weight in model.network.parameters())
    unet, x, sigma, seeds = tiny_unet(), normal(3, 1, 8, 8), torch.tensor(4.0), range(3)
    told, noise_level = scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma)
    clean = {
        label: scheduler.precondition_outputs(
            x, unet(told, noise_level, class_labels=torch.tensor(label)).sample, sigma
        )
        for label in ((0, 1, 0), (2, 2, 2))
    }
    c, u = clean.values()
    torch.testing.assert_close(model.denoiser(seeds)(x, 4.0), c, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.denoiser(seeds, 3.0)(x, 4.0), u + 3 * (c - u), rtol=1e-4, atol=1e-4)


def test_the_fingerprint_is_that_of_the_bare_network(tmp_path: Path):
    """The same weights with and without preconditioning."""
    scheduler = diffusers.EDMEulerScheduler()
    edm = ls.load_model(save_tiny_model(tmp_path / "edm", scheduler=scheduler))
    assert isinstance(edm.network, EDMPreconditioning)
    assert edm.fingerprint == ls.load_model(save_tiny_model(tmp_path / "vp")).fingerprint


def test_sampling_and_precision(tmp_path: Path):
    folder = save_tiny_model(tmp_path, scheduler=diffusers.EDMEulerScheduler(), classes=None)
    drawn = []
    for dtype in (torch.float32, torch.bfloat16):
        model = ls.load_model(folder, dtype=dtype)
        table = ls.build("heun", ls.grid("karras", 3, schedule=model.schedule), schedule=model.schedule)
        drawn.append(ls.sample(model.denoiser(range(2)), model.noise(range(2), table.sigmas[0]), table))
    assert drawn[0].dtype == drawn[1].dtype == torch.float32
    assert 1e-4 < float((drawn[0] - drawn[1]).abs().max()) < 0.2


@pytest.mark.parametrize(
    ("options", "learned", "message"),
    [
        ({"prediction_type": "sample"}, False, "unknown prediction type of EDM's preconditioning 'sample'"),
        ({"sigma_data": 0}, False, "sigma_data must be a positive number"),
        ({"sigma_max": 0.001}, False, "expected 0 < sigma_min < sigma_max"),
        ({}, True, "returns a variance, which EDM's preconditioning has not"),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, Any], learned: bool, message: str):
    save_tiny_model(tmp_path, scheduler=diffusers.EDMEulerScheduler(), learned_variance=learned)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))
    with pytest.raises(ls.InputError, match=message):
        ls.load_model(tmp_path)


# The model of the source repository


def test_cifar10_is_found_in_the_source_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert loading.CHECKOUT["cifar10"] == Path(__file__).resolve().parents[1] / "models" / "cifar10"
    monkeypatch.setitem(loading.CHECKOUT, "cifar10", tmp_path / "cifar10")
    with pytest.raises(ls.InputError, match="'cifar10' is not in the package: it is the folder models/cifar10 of"):
        ls.load_model("cifar10")
    save_tiny_model(tmp_path / "cifar10", scheduler=diffusers.EDMEulerScheduler(), null_class=2)
    assert ls.load_model("cifar10").name == "cifar10"
