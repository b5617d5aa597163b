"""ComfyUI's nodes against a stand-in of its protocol: they load, notice changed cards, sample, and calibrate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import comfy_stand_in
import pytest
import torch
from comfy_stand_in import CFGGuider, FlowSampling, Model, ScaledSampling
from torch import Tensor

import longstride as ls
from longstride.integrations.comfyui import base_table, calibrate_guided
from longstride.integrations.k_diffusion import sigmas_of

POSITIVE, NEGATIVE = ([[torch.full((1, 2, 3), value), {}]] for value in (0.6, -0.2))
SHAPE = (2, 4, 4)
QUICK = {"nfe": 4, "samples": 8, "held_out": 4, "seed": 3}


def scaled_network(x: Tensor, sigma: Tensor, conditioning: Tensor) -> Tensor:
    """Exact for Gaussian data around a mean that the prompt sets, divided by alpha."""
    s, mean = sigma.reshape(-1, 1, 1, 1), conditioning.mean((1, 2)).reshape(-1, 1, 1, 1)
    return torch.tanh(mean + (x - mean) / (1 + 4 * s**2))


def flow_network(x: Tensor, sigma: Tensor, conditioning: Tensor) -> Tensor:
    s, mean = sigma.reshape(-1, 1, 1, 1), conditioning.mean((1, 2)).reshape(-1, 1, 1, 1)
    return torch.tanh(mean + (1 - s) * (x - (1 - s) * mean) / ((1 - s) ** 2 + 4 * s**2))


MODELS = {"scaled": (scaled_network, ScaledSampling), "flow": (flow_network, FlowSampling)}


def model_of(kind: str) -> Model:
    network, sampling = MODELS[kind]
    return Model(network, sampling())


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    return comfy_stand_in.install(monkeypatch, tmp_path / "output")


@pytest.fixture
def nodes(bars: Any) -> dict[str, Any]:
    del bars
    found: dict[str, Any] = comfy_stand_in.load_nodes().NODE_CLASS_MAPPINGS
    return found


def latent(batch: int = 3) -> dict[str, Tensor]:
    return {"samples": torch.zeros(batch, *SHAPE)}


def calibrated(nodes: dict[str, Any], model: Model, **changed: Any) -> str:
    given = {"cfg": 2.0, "name": "tiny", **QUICK, **changed}
    (path,) = nodes["LongstrideCalibrate"]().calibrate(model, POSITIVE, NEGATIVE, latent(), **given)
    return str(path)


# Loading


def test_the_mappings_are_those_of_a_folder_of_nodes(nodes: dict[str, Any]) -> None:
    module = comfy_stand_in.load_nodes()
    assert set(module.NODE_CLASS_MAPPINGS) == set(module.NODE_DISPLAY_NAME_MAPPINGS)
    kinds = {"MODEL", "CONDITIONING", "LATENT", "FLOAT", "INT", "STRING"}
    for node in nodes.values():
        inputs = node.INPUT_TYPES()
        assert set(inputs) <= {"required", "optional"}
        for name, (kind, *_) in {**inputs["required"], **inputs.get("optional", {})}.items():
            assert isinstance(kind, list) or kind in kinds, name
        assert callable(getattr(node(), node.FUNCTION))
        assert isinstance(node.RETURN_TYPES, tuple)
        assert node.CATEGORY.startswith("sampling/")
        assert node.IS_CHANGED(**dict.fromkeys(inputs["required"])) == ""


def test_the_folder_loads_where_comfyui_is_not() -> None:
    assert len(comfy_stand_in.load_nodes().NODE_CLASS_MAPPINGS) == 3


# Changed cards


def test_nodes_notice_a_card_that_changed_under_its_name(nodes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    for node in (nodes["LongstrideSampler"], nodes["LongstrideSigmas"]):
        path.write_text("one")
        first = node.IS_CHANGED(card=str(path))
        assert first == node.IS_CHANGED(card=str(path)) != ""
        path.write_text("two")
        assert node.IS_CHANGED(card=str(path)) not in ("", first)
        path.unlink()
        assert node.IS_CHANGED(card=str(path)) == node.IS_CHANGED(card=None) == node.IS_CHANGED(card="") == ""


def test_a_calibration_is_repeated_only_if_its_card_is_gone(nodes: dict[str, Any]) -> None:
    """ComfyUI runs a node again if the answer is another one than last time; NaN always is."""
    node = nodes["LongstrideCalibrate"]
    given = {"model": None, "name": "tiny", "nfe": 4}
    assert node.IS_CHANGED(**given) == ""
    path = Path(calibrated(nodes, model_of("scaled")))
    assert node.IS_CHANGED(**given) == ""
    path.unlink()
    assert math.isnan(node.IS_CHANGED(**given))


# Calibrating and sampling


@pytest.mark.parametrize("kind", MODELS)
def test_a_card_is_made_and_used_in_comfyui(kind: str, nodes: dict[str, Any], bars: Any, tmp_path: Path) -> None:
    model = model_of(kind)
    path = calibrated(nodes, model)
    assert path == str(tmp_path / "output" / "longstride" / "tiny.json")
    card = ls.load_card(path)
    assert (card.model.name, card.model.guidance, card.model.shape, card.nfe) == ("tiny", 2.0, SHAPE, 4)
    assert card.end.calibrated.rmse <= card.end.base.rmse
    assert card.calls is not None
    assert model.calls == card.calls + 3 * 3  # three questions of three samples before it
    (bar,) = bars.bars
    assert bar.seen[-1] == (1, 1)  # checked
    fitted = [seen for seen in bar.seen if seen[1] > 1]
    assert fitted == sorted(fitted)
    assert len(set(fitted)) > 4

    # The card is that of the function that the guider samples, from the states that it begins with.
    def denoiser(x: Tensor, sigma: float) -> Tensor:
        answers = [
            MODELS[kind][0](x, x.new_full([len(x)], sigma), c[0][0].repeat(len(x), 1, 1)) for c in (POSITIVE, NEGATIVE)
        ]
        return answers[1] + 2.0 * (answers[0] - answers[1])

    drawn = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(3))
    first = 1.0 if kind == "flow" else float((model.model_sampling.sigma_max**2 + 1).sqrt())
    table = base_table(model.model_sampling, 4)
    floor = float(model.model_sampling.sigma_min)
    right = ls.calibrate(denoiser, first * drawn, table, held_out=4, batch_size=3, sigma_floor=floor, seed=3)
    torch.testing.assert_close(torch.tensor(card.table.sigmas), torch.tensor(right.table.sigmas), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(card.table.b), torch.tensor(right.table.b), rtol=1e-3, atol=1e-3)

    # The path goes on to the other nodes; a path within the output folder will do.
    (sampler,) = nodes["LongstrideSampler"]().get("unipc", path)
    (levels,) = nodes["LongstrideSigmas"]().get("longstride/tiny.json")
    torch.testing.assert_close(levels, sigmas_of(card))
    guider, seen = CFGGuider(model), list[int]()
    guider.set_conds(POSITIVE, NEGATIVE)
    guider.set_cfg(2.0)
    noise, before = torch.randn(2, *SHAPE), model.calls
    told = {"callback": lambda i, clean, x, steps: seen.append(i), "disable_pbar": True, "seed": 1}
    found = guider.sample(noise, torch.zeros_like(noise), sampler, levels, **told)
    torch.testing.assert_close(found, ls.sample(denoiser, first * noise, card.table), rtol=1e-4, atol=1e-4)
    assert model.calls - before == 4 * 2
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", MODELS)
def test_solvers_follow_the_kind_of_the_model(kind: str, nodes: dict[str, Any]) -> None:
    model = model_of(kind)
    table = base_table(model.model_sampling, 6)
    guider = CFGGuider(model)
    guider.set_conds(POSITIVE, POSITIVE)
    (sampler,) = nodes["LongstrideSampler"]().get("dpmpp_2m")
    noise, levels = torch.randn(2, *SHAPE), torch.tensor(table.levels, dtype=torch.float32)
    found = guider.sample(noise, torch.zeros_like(noise), sampler, levels, disable_pbar=True)
    first = 1.0 if kind == "flow" else float((model.model_sampling.sigma_max**2 + 1).sqrt())
    expected = ls.sample(
        lambda x, s: MODELS[kind][0](x, x.new_full([len(x)], s), POSITIVE[0][0].repeat(len(x), 1, 1)),
        first * noise,
        table,
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_levels_are_the_models_own() -> None:
    flow, scaled = FlowSampling(shift=3.0), ScaledSampling()
    table = base_table(flow, 4)
    shifted = [3 * t / (1 + 2 * t) for t in (1.0, 0.75, 0.5, 0.25, 0.0)]
    assert table.sigmas.tolist() == pytest.approx(shifted, abs=1e-6)
    assert table.alphas.tolist() == pytest.approx([1 - s for s in shifted], abs=1e-6)
    assert table.alphas[0] == 0
    table = base_table(scaled, 4)
    assert table.sigmas.tolist() == pytest.approx([*scaled.sigmas[[999, 749, 499, 249]].tolist(), 0.0])
    assert (table.alphas == 1).all()
    with pytest.raises(ls.InputError, match="from 1 to 1000, the levels of this model, got 1001"):
        base_table(scaled, 1001)


def test_cards_are_not_used_on_other_models_or_scales(nodes: dict[str, Any]) -> None:
    path = calibrated(nodes, model_of("scaled"))
    (sampler,) = nodes["LongstrideSampler"]().get("ddim", path)
    (levels,) = nodes["LongstrideSigmas"]().get(path)
    noise = torch.randn(2, *SHAPE)

    def draw(kind: str, cfg: float) -> Tensor:
        guider = CFGGuider(model_of(kind))
        guider.set_conds(POSITIVE, NEGATIVE)
        guider.set_cfg(cfg)
        return guider.sample(noise, torch.zeros_like(noise), sampler, levels, disable_pbar=True)

    with pytest.raises(ls.InputError, match="model is a flow, but this card is for another kind of network"):
        draw("flow", 2.0)
    with pytest.warns(UserWarning, match="calibrated at guidance 2, not 7.5; ddim runs in its place"):
        draw("scaled", 7.5)
    with pytest.warns(UserWarning, match="calibrated at guidance 2, and cfg is 1 here: give the network that scale"):
        draw("scaled", 1.0)


def test_step_caches_are_refused(nodes: dict[str, Any]) -> None:
    """A cache that answers with the last output if the question is a new one; and random parts."""
    last: list[Tensor] = []

    def cached(x: Tensor, sigma: Tensor, conditioning: Tensor) -> Tensor:
        last.append(scaled_network(x, sigma, conditioning))
        return last[max(0, len(last) - 4)]

    def noisy(x: Tensor, sigma: Tensor, conditioning: Tensor) -> Tensor:
        return scaled_network(x, sigma, conditioning) + 0.1 * torch.randn_like(x)

    for network in (cached, noisy):
        model = Model(network, ScaledSampling())
        with pytest.raises(ls.InputError, match="answers the same question in two ways"):
            calibrated(nodes, model)
        assert model.calls == 3 * 3
        assert not model.loaded


def test_what_cannot_be_calibrated_is_refused_before_any_work(nodes: dict[str, Any]) -> None:
    model = model_of("scaled")
    for name in ("", "../card", "a/b", "a\\b", ".hidden"):
        with pytest.raises(ls.InputError, match="name must be a plain name of a file"):
            calibrated(nodes, model, name=name)
    several = [[torch.zeros(2, 2, 3), {}]]
    with pytest.raises(ls.InputError, match="the conditioning holds 2 prompts: calibrate with one"):
        nodes["LongstrideCalibrate"]().calibrate(model, several, NEGATIVE, latent(), cfg=2.0, name="tiny", **QUICK)
    assert model.calls == 0


def test_the_user_can_stop_a_calibration(nodes: dict[str, Any], bars: Any, tmp_path: Path) -> None:
    """ComfyUI raises where progress is told; it is told at every network call."""
    model = model_of("scaled")
    bars.stopped = True
    with pytest.raises(InterruptedError):
        calibrated(nodes, model)
    assert model.calls == 3
    assert not (tmp_path / "output").exists()


def test_other_guiders_calibrate_too() -> None:
    """Whatever has ``sample``; without a scale of guidance the card has none."""

    class Basic(CFGGuider):
        def __init__(self, model: Model) -> None:
            super().__init__(model)
            self.set_conds(POSITIVE, POSITIVE)
            del self.cfg

        def __call__(self, x: Tensor, sigma: Tensor, model_options: Any, seed: int | None) -> Tensor:
            return scaled_network(x, sigma, POSITIVE[0][0].repeat(len(x), 1, 1))

    model = model_of("scaled")
    quick = {**QUICK, "method": "iia"}
    result = calibrate_guided(
        Basic(model), comfy_stand_in.KSAMPLER, model.model_sampling, torch.zeros(2, *SHAPE), **quick
    )
    assert result.card.model.guidance is None
