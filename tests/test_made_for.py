"""What a card is made for: all networks of the loop, and all that the call of a pipeline is told."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tiny_models import seeded, tiny_unet
from tiny_pipelines import _text_encoder, _vae

from longstride.integrations.anatomy import takes
from longstride.integrations.made_for import call_of, denoisers_of, made_for, model_of
from longstride.zoo.weights import weights_digest

DENOISERS = (
    diffusers.UNet2DConditionModel,
    diffusers.StableCascadeUNet,
    diffusers.FluxTransformer2DModel,
    diffusers.WanTransformer3DModel,
    diffusers.HiDreamImageTransformer2DModel,
    diffusers.ZImageTransformer2DModel,
    diffusers.PriorTransformer,
    diffusers.ControlNetModel,
    diffusers.SD3ControlNetModel,
)
OTHERS = (diffusers.AutoencoderKL, diffusers.AutoencoderKLLTXVideo, diffusers.AutoencoderKLWan, diffusers.T2IAdapter)


class Pipeline:
    """A pipeline of some components, with the call of a pipeline."""

    def __init__(self, **components: Any) -> None:
        self.config = {"boundary_ratio": 0.9, "_name_or_path": "x", "requires_safety_checker": True}
        self.components = components
        for name, one in components.items():
            setattr(self, name, one)

    def __call__(
        self,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        prompt_embeds: torch.Tensor | None = None,
        image: Any = None,
        image_latents: torch.Tensor | None = None,
        height: int | None = None,
        guidance_scale: float = 5.0,
        guidance_scale_2: float | None = None,
        num_inference_steps: int = 50,
        num_images_per_prompt: int = 1,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
        skip_layers: list[int] | None = None,
        instruction: str = "a" * 300,
        output_type: str = "pil",
        attention_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None: ...


@pytest.mark.parametrize("kind", DENOISERS)
def test_a_network_that_is_told_a_time_is_one_of_the_loop(kind: type[torch.nn.Module]) -> None:
    network = torch.nn.Module.__new__(kind)
    torch.nn.Module.__init__(network)
    assert list(denoisers_of(Pipeline(any_name=network))) == ["any_name"]


@pytest.mark.parametrize("kind", OTHERS)
def test_other_networks_are_not(kind: type[torch.nn.Module]) -> None:
    network = torch.nn.Module.__new__(kind)
    torch.nn.Module.__init__(network)
    assert denoisers_of(Pipeline(any_name=network)) == {}


def test_every_network_of_the_loop_is_part_of_the_fingerprint() -> None:
    first, second = tiny_unet(seed=0), tiny_unet(seed=1)
    alone = model_of(Pipeline(unet=first, vae=_vae(), text_encoder=_text_encoder()))
    assert alone.fingerprint == weights_digest(first)
    assert list(alone.networks) == ["unet"]
    both = model_of(Pipeline(transformer=first, transformer_2=second, vae=_vae()))
    digests = {"transformer": weights_digest(first), "transformer_2": weights_digest(second)}
    assert both.networks == digests
    assert both.fingerprint == hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    other = model_of(Pipeline(transformer=first, transformer_2=tiny_unet(seed=2)))
    assert other.fingerprint != both.fingerprint
    compiled = model_of(Pipeline(transformer=torch.compile(first, backend="eager"), transformer_2=second, vae=None))
    assert compiled.fingerprint == both.fingerprint
    unread = model_of(Pipeline(transformer=first, transformer_2=tiny_unet().to("meta")))
    assert (unread.fingerprint, unread.networks["transformer_2"]) == (None, None)


def test_settings_are_what_is_in_force() -> None:
    assert takes(Pipeline())["guidance_scale"] == 5.0
    call = call_of(Pipeline(), {"height": np.int64(64), "skip_layers": [1, 2], "prompt": "a"})
    long = "sha256:" + hashlib.sha256(json.dumps("a" * 300).encode()).hexdigest()
    assert call.settings == {
        "config.boundary_ratio": 0.9,
        "guidance_scale": 5.0,
        "height": 64,
        "skip_layers": [1, 2],
        "instruction": long,
    }
    assert call.conditions == ()
    same = call_of(Pipeline(), {"guidance_scale": 5.0, "height": 64, "skip_layers": (1, 2), "num_inference_steps": 3})
    assert same == call
    assert same.digest == call.digest
    assert call_of(Pipeline(), {"guidance_scale": 4.0}).digest != call_of(Pipeline(), {}).digest


def test_what_a_picture_is_of_is_no_setting() -> None:
    picture = torch.zeros(1, 3, 8, 8)
    for given in ({"image": picture}, {"image_latents": picture}, {"image": "file.png"}, {"image": [picture]}):
        assert call_of(Pipeline(), given).conditions == ("image",)
    for given in ({"negative_prompt": ""}, {"negative_prompt_embeds": picture}, {"negative_prompt_2": "red"}):
        assert call_of(Pipeline(), given).conditions == ("negative_prompt",)
    assert call_of(Pipeline(), {"prompt_embeds": picture, "pooled_prompt_embeds": picture}).conditions == ()
    several = call_of(Pipeline(), {}, ["prompt", "negative_prompt", "image"])
    assert several.conditions == ("image", "negative_prompt")


def test_guiders_are_settings_and_their_scale_is_the_guidance() -> None:
    guider = SimpleNamespace(num_conditions=2, config={"guidance_scale": 6.0, "_class_name": "x"}, _enabled=True)
    pipeline = Pipeline(guider=guider)
    pipeline.config = {}
    pipeline.components["unet"] = tiny_unet()
    found = call_of(pipeline, {})
    assert found.settings["guider"] == {"class": "SimpleNamespace", "enabled": True, "guidance_scale": 6.0}
    assert made_for(pipeline, {}).model.guidance == 5.0
    assert made_for(pipeline, {"guidance_scale": None}).model.guidance == 6.0


def test_a_modular_pipeline_tells_its_inputs() -> None:
    inputs = [SimpleNamespace(name="height", default=512), SimpleNamespace(name=None, default=None)]
    pipeline = Pipeline(unet=tiny_unet())
    pipeline.blocks = SimpleNamespace(inputs=inputs)  # type: ignore[attr-defined]
    assert takes(pipeline) == {"height": 512}


def test_a_pipeline_without_guidance_has_none() -> None:
    pipeline = diffusers.DDPMPipeline(unet=tiny_unet(classes=None), scheduler=diffusers.DDPMScheduler())
    found = made_for(pipeline, {}, shape=(1, 8, 8))
    assert (found.model.guidance, found.model.shape) == (None, (1, 8, 8))
    assert (found.call.settings, found.call.levels, found.call.seen) == ({}, None, None)


def test_seeded_parts_are_the_same_network() -> None:
    """Or nothing above would say anything about weights."""
    assert weights_digest(tiny_unet(seed=3)) == weights_digest(tiny_unet(seed=3)) != weights_digest(tiny_unet(seed=4))
    assert seeded(torch.nn.Linear, in_features=2, out_features=2).weight.shape == (2, 2)
