"""One loader for every pretrained model: the bundled one, diffusers folders and hub ids, the galaxy networks."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch

from longstride.errors import InputError, unknown
from longstride.predictions import DIFFUSERS_PREDICTIONS, Prediction
from longstride.schedule import Schedule
from longstride.zoo.conditioning import ClassLabels, Conditioning, Unconditional
from longstride.zoo.edm import EDMPreconditioning
from longstride.zoo.folder import Folder
from longstride.zoo.model import BUNDLED, Model
from longstride.zoo.own import is_own, load_own
from longstride.zoo.pictures import PictureDecoder
from longstride.zoo.text import Prompts, TextEncoder, as_prompts

__all__ = ["CHECKOUT", "load_model"]

#: Models of the source repository, too large for the package, by name.
CHECKOUT = {"cifar10": Path(__file__).resolve().parents[3] / "models" / "cifar10"}
#: Names of a network in ``model_index.json``.
_NETWORKS = ("unet", "transformer")
#: Names of the decoder of latents there.
_DECODERS = ("vae", "vqvae")
#: Networks that are called as ``network(x, timestep, class_labels)``; older folders call DiT a Transformer2DModel.
_CLASS_NETWORKS = ("UNet2DModel", "DiTTransformer2DModel", "Transformer2DModel", "SongUNet", "DhariwalUNet")
_PROMPT_NETWORK = "UNet2DConditionModel"
#: Inputs of further networks, for the message that refuses them.
_FURTHER = ("encoder_hidden_states", "pooled_projections", "img_ids", "txt_ids", "guidance", "added_cond_kwargs")
#: Settings of a UNet2DConditionModel that ask for more than a prompt, and what they ask for.
_FURTHER_SETTINGS = {
    "addition_embed_type": "added_cond_kwargs (as Stable Diffusion XL: text_embeds and time_ids)",
    "class_embed_type": "class_labels (such as a noise level)",
    "num_class_embeds": "class_labels (such as a noise level)",
    "time_cond_proj_dim": "timestep_cond (the guidance scale, as in consistency models)",
}
#: What is fetched from the hub: first the descriptions. If the model can be used, then the weights and tokens.
_DESCRIPTIONS = ("*.json",)
_PARTS = (*_NETWORKS, *_DECODERS, "text_encoder")
_CONTENTS = (
    *_DESCRIPTIONS,
    "tokenizer/*",
    "diffusion_pytorch_model*.safetensors",
    *(f"{part}/*.safetensors" for part in _PARTS),
)
_VARIANTS = ("*.fp16.*", "*.bf16.*", "*.non_ema.*")


def load_model(
    source: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    prompts: Iterable[str] | None = None,
    negative: str = "",
) -> Model:
    """Load a pretrained model; ``docs/models.md`` says which.

    Args:
        source: A name, a folder in diffusers layout, or a hub id such as ``"google/ddpm-cifar10-32"``. Names are
            ``"garments"`` and ``"garments_flow"`` (inside the package), ``"cifar10"`` (in the source repository), and
            ``"galaxy:NAME"`` (needs galaxygrad installed). ``"module:attribute"`` names a model of your own code,
            which is imported; device and dtype are then its own. Weights are read from safetensors only.
        device: Device of the network.
        dtype: Precision of the weights; a VAE stays in float32.
        prompts: For a model that takes prompts: seed ``n`` draws the prompt ``n mod len(prompts)``. By default the 16
            prompts of :data:`longstride.zoo.text.DEFAULT_PROMPTS`.
        negative: What the unconditional call of guidance is told.

    Raises:
        InputError: there is no such model, its parts are missing or of another kind, or it takes no prompts but is
            given some.
    """
    name = str(source)
    given = as_prompts(prompts)
    if name.startswith("galaxy:"):
        model = _load_galaxy(name, device, dtype)
    elif is_own(name):
        model = load_own(name)
    else:
        model = _load_folder(name, _find(name), device, dtype)
    return model if prompts is None and not negative else model.with_prompts(given, negative)


def _find(name: str) -> Folder:
    """The folder of a model, with all files that are needed to load it."""
    path = BUNDLED.get(name) or CHECKOUT.get(name) or Path(os.path.expanduser(name))
    if name in CHECKOUT and not path.is_dir():
        raise InputError(
            f"the model {name!r} is not in the package: it is the folder models/{name} of longstride's source "
            f"repository; load it from there as longstride.load_model('…/models/{name}')"
        )
    if path.is_dir():
        folder = Folder(path)
        _check_kinds(folder)
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise (
            unknown("model", name, (*BUNDLED, *CHECKOUT)) if "/" not in name else InputError(f"no such folder: {name}")
        )
    _check_kinds(Folder(_download(name, _DESCRIPTIONS)))  # before gigabytes of what cannot be used
    return Folder(_download(name, _CONTENTS))


def _download(name: str, patterns: Iterable[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=list(_VARIANTS)))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"cannot get {name!r} from the hub ({type(error).__name__}: {reason}); is it a folder?"
        ) from None


def _network_part(folder: Folder) -> str:
    part = next((part for part in _NETWORKS if folder.kind(part)), None)
    if part is None or not folder.kind("scheduler"):
        raise InputError(
            f"{folder.path / 'model_index.json'} names no scheduler with a {' or '.join(_NETWORKS)} for it"
        )
    return part


def _check_kinds(folder: Folder) -> None:
    """Refuse, before any weights are read, networks that need more than a class or a prompt."""
    part = _network_part(folder)
    kind = str(folder.kind(part))
    network, _ = folder.part_class(part), folder.part_class("scheduler")
    config = folder.config(part)
    needs = [what for setting, what in _FURTHER_SETTINGS.items() if config.get(setting) is not None]
    if kind == _PROMPT_NETWORK:
        needs = needs or [f"a {p} (as SDXL)" for p in ("text_encoder_2", "text_encoder_3") if folder.kind(p)]
    elif kind in _CLASS_NETWORKS:
        older_dit = kind != "Transformer2DModel" or config.get("norm_type") == "ada_norm_zero"
        needs = [] if older_dit else ["encoder_hidden_states"]
        needs += [what for what in [_FURTHER_SETTINGS["class_embed_type"]] if config.get("class_embed_type")]
    else:
        inputs = inspect.signature(network.forward).parameters if hasattr(network, "forward") else {}
        needs = [name for name in _FURTHER if name in inputs] or ["other inputs than network(x, timestep)"]
    if needs:
        raise InputError(
            f"the {part} of {folder.path}, a {kind}, needs {', '.join(dict.fromkeys(needs))} besides the state, its "
            "time and a class or prompt: wrap it with longstride.as_denoiser(..., condition={...})"
        )


def _load_folder(name: str, folder: Folder, device: str, dtype: torch.dtype) -> Model:
    part = _network_part(folder)
    size = folder.config(part).get("sample_size")
    if size is None:
        raise InputError(
            f"{folder.path} does not say how large a sample is: set sample_size in the {part}'s config.json"
        )
    height, width = (size, size) if isinstance(size, int) else size
    scheduler = folder.load("scheduler", weights=False)
    schedule, prediction = _process(folder, scheduler)
    network = folder.load(part, torch_dtype=dtype)
    config = network.config
    channels, made = int(config["in_channels"]), int(config.get("out_channels") or config["in_channels"])
    if made not in (channels, 2 * channels):
        raise InputError(
            f"the {part} of {folder.path} takes {channels} channels and returns {made}: it needs more than the state, "
            "such as a mask; wrap it with longstride.as_denoiser"
        )
    conditioning = _conditioning(folder, part, config, device, dtype)
    decoder = _decoder(folder, part, channels, device)
    if schedule.family == "ve":
        if made != channels:
            raise InputError(f"the {part} of {folder.path} returns a variance, which EDM's preconditioning has not")
        kind = str(scheduler.config.get("prediction_type", "epsilon"))
        network = EDMPreconditioning(network, float(scheduler.config["sigma_data"]), kind)
    return Model(
        name=name,
        network=cast(torch.nn.Module, network).to(device).eval().requires_grad_(False),
        schedule=schedule,
        prediction=prediction,
        shape=(channels, int(height), int(width)),
        conditioning=conditioning,
        clip=_clip(scheduler),
        decoder=decoder,
        folder=folder.path,
    )


def _process(folder: Folder, scheduler: Any) -> tuple[Schedule, Prediction]:
    """The schedule, and what the network predicts; with EDM's preconditioning it predicts the clean picture."""
    flow = type(scheduler).__name__.startswith("FlowMatch")
    kind = "flow_prediction" if flow else scheduler.config.get("prediction_type", "epsilon")
    if kind not in DIFFUSERS_PREDICTIONS:
        raise unknown("prediction type", str(kind), DIFFUSERS_PREDICTIONS)
    if scheduler.config.get("thresholding", False):
        raise InputError(
            f"{folder.path} asks for dynamic thresholding: pass it to longstride.as_denoiser as threshold="
        )
    schedule, prediction = Schedule.from_diffusers(scheduler), DIFFUSERS_PREDICTIONS[kind]
    if prediction == "flow" and schedule.family != "flow":
        raise InputError(
            f"{folder.path} has a flow prediction with a {type(scheduler).__name__}, whose noise schedule is no flow: "
            "use a FlowMatchEulerDiscreteScheduler, or use_flow_sigmas"
        )
    return schedule, "data" if schedule.family == "ve" else prediction


def _clip(scheduler: Any) -> float | None:
    """Bound of the clean prediction; the setting of a scheduler that does not clamp is ignored."""
    takes = "clip_sample" in inspect.signature(type(scheduler).__init__).parameters
    if not takes or not scheduler.config.get("clip_sample"):
        return None
    return float(scheduler.config.get("clip_sample_range", 1.0))


def _conditioning(folder: Folder, part: str, config: Any, device: str, dtype: torch.dtype) -> Conditioning:
    if folder.kind(part) == _PROMPT_NETWORK:
        return _prompts(folder, part, config, device, dtype)
    null_class = folder.index.get("_null_class")
    embeds = int(config.get("num_class_embeds") or 0)
    if not embeds and config.get("norm_type") == "ada_norm_zero":  # DiT keeps one more embedding, for no class
        embeds = int(config["num_embeds_ada_norm"]) + 1
        null_class = embeds - 1
    if null_class not in (None, embeds - 1):
        where = folder.path / "model_index.json"
        raise InputError(f"{where}: _null_class must be the last of the {embeds} classes, got {null_class!r}")
    if not embeds:
        return Unconditional()
    return ClassLabels(embeds if null_class is None else embeds - 1, null_class, _class_names(folder.index))


def _class_names(index: dict[str, Any]) -> tuple[str, ...]:
    names = index.get("_classes") or index.get("id2label") or ()  # DiT's folders number them
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=lambda key: int(key))]
    return tuple(map(str, names))


def _prompts(folder: Folder, part: str, config: Any, device: str, dtype: torch.dtype) -> Prompts:
    for needed in ("tokenizer", "text_encoder"):
        if folder.kind(needed) is None or folder.library(needed) != "transformers":
            raise InputError(f"{folder.path / 'model_index.json'} names no {needed} of transformers for the {part}")
    tokenizer = folder.load("tokenizer", weights=False)
    encoder = folder.load("text_encoder").to(device=device, dtype=dtype).eval().requires_grad_(False)
    width, wanted = encoder.config.hidden_size, config.get("cross_attention_dim")
    projected = config.get("encoder_hid_dim") or wanted
    if projected != width:
        raise InputError(f"the text_encoder of {folder.path} makes {width} channels, the {part} reads {projected}")
    return Prompts(TextEncoder(tokenizer, encoder))


def _decoder(folder: Folder, part: str, channels: int, device: str) -> PictureDecoder | None:
    name = next((name for name in _DECODERS if folder.kind(name)), None)
    if name is None:
        return None
    decoder = PictureDecoder(folder.load(name, torch_dtype=torch.float32).to(device).eval().requires_grad_(False))
    if decoder.latent_channels != channels:
        raise InputError(
            f"the {part} of {folder.path} makes {channels} channels, its {name} decodes {decoder.latent_channels}"
        )
    return decoder


def _load_galaxy(name: str, device: str, dtype: torch.dtype) -> Model:
    from longstride.zoo.galaxy import load_galaxy

    network = load_galaxy(name.removeprefix("galaxy:")).to(device=device, dtype=dtype).eval().requires_grad_(False)
    schedule = Schedule.vp_continuous(beta_min=1.0, beta_max=1.0, t_min=2.5e-3, t_max=10.0)
    return Model(name=name, network=network, schedule=schedule, prediction="score", shape=network.shape)
