"""One loader for every pretrained model, and what the rest of longstride needs to know of it."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from longstride.card import ModelInfo
from longstride.denoiser import DIFFUSERS_PREDICTIONS, Denoiser, Prediction, as_denoiser
from longstride.errors import InputError, unknown
from longstride.schedule import Schedule

__all__ = ["BUNDLED", "Model", "load_model"]

#: Models inside the package, by name.
BUNDLED = {"garments": Path(__file__).parent / "garments"}
#: Network classes of diffusers that are called as ``network(x, t, class_labels=...)``.
_COMPONENTS = ("unet", "transformer")


@dataclass(frozen=True)
class Model:
    """A pretrained network with its schedule.

    Attributes:
        name: What the user called it.
        network: The module, in evaluation mode.
        schedule: Meaning of its times.
        prediction: What it predicts.
        shape: Shape of one sample, such as ``(1, 28, 28)``.
        num_classes: Number of classes that it is conditioned on, or 0.
        null_class: Label of the unconditional prediction, or None.
        class_names: Names of the classes, or empty.
        clip: Clean predictions are clamped to [-clip, clip] (``clip_sample_range`` of the scheduler), or None.
    """

    name: str
    network: torch.nn.Module
    schedule: Schedule
    prediction: Prediction
    shape: tuple[int, ...]
    num_classes: int = 0
    null_class: int | None = None
    class_names: tuple[str, ...] = ()
    clip: float | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, shapes and values (as float32) of all weights: the same on every device."""
        digest = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def info(self, guidance: float | None = None) -> ModelInfo:
        """What a card says of this model.

        Raises:
            InputError: the guidance scale is not finite.
        """
        _check_guidance(guidance)
        return ModelInfo(name=self.name, fingerprint=self.fingerprint, guidance=guidance)

    def noise(self, seeds: range, sigma: float) -> Tensor:
        """Noise at level ``sigma``, shape ``(len(seeds), *shape)``: sample ``n`` depends on ``seeds[n]`` alone."""
        draws = [torch.randn(self.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return (torch.stack(draws) * sigma).to(self.device)

    def labels(self, seeds: range) -> Tensor | None:
        """Class of every seed: ``seed mod num_classes``; None for an unconditional model."""
        if not self.num_classes:
            return None
        return torch.tensor([seed % self.num_classes for seed in seeds], device=self.device)

    def check_labels(self, labels: Iterable[int]) -> None:
        """Make sure that the model knows ``labels``.

        Raises:
            InputError: it does not, or has no classes.
        """
        if bad := sorted({label for label in labels if not 0 <= label < self.num_classes}):
            known = f"classes 0 … {self.num_classes - 1}" if self.num_classes else "no classes"
            raise InputError(f"{self.name} has {known}, got label {', '.join(map(str, bad))}")

    def check_pictures(self) -> None:
        """Make sure that samples can be drawn as pictures.

        Raises:
            InputError: they are neither grey nor coloured, such as latents.
        """
        if self.shape[0] not in (1, 3):
            raise InputError(f"{self.name} makes samples of shape {self.shape}: only 1 or 3 channels can be drawn")

    def denoiser(self, seeds: range, guidance: float | None = None, labels: Tensor | None = None) -> Denoiser:
        """The network as ``denoiser(x, sigma)`` for the samples of ``seeds``.

        Args:
            seeds: One per sample; they choose the classes.
            guidance: Classifier-free guidance scale; ``None`` for the conditional prediction alone.
            labels: Classes ``(B,)`` in place of those that the seeds choose.

        Raises:
            InputError: guidance for a model without a null class or that is not finite, or labels that it does not
                know.
        """
        condition: dict[str, Any] = {}
        chosen = self.labels(seeds) if labels is None else labels.to(self.device)
        if chosen is not None:
            self.check_labels(chosen.tolist())
            condition["class_labels"] = chosen
        if guidance is not None and self.null_class is None:
            raise InputError(f"{self.name} cannot be guided: it has no unconditional class")
        _check_guidance(guidance)
        null = None if guidance is None else {"class_labels": torch.tensor([self.null_class], device=self.device)}
        return as_denoiser(
            self.network,
            self.schedule,
            self.prediction,
            condition=condition,
            uncondition=null,
            guidance=guidance,
            threshold=None if self.clip is None else partial(torch.clamp, min=-self.clip, max=self.clip),
            dtype=next(self.network.parameters()).dtype,
            shape=self.shape,
        )


def _check_guidance(guidance: float | None) -> None:
    if guidance is not None and not math.isfinite(guidance):
        raise InputError(f"guidance must be a finite number, got {guidance}")


def load_model(source: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """Load a pretrained model.

    Args:
        source: ``"garments"`` (inside the package), ``"galaxy:NAME"`` (needs galaxygrad installed), a folder in
            diffusers layout, or a hub id such as ``"google/ddpm-cifar10-32"``. Weights are read from safetensors only.
        device: Where to put the network.
        dtype: Precision of the weights.

    Raises:
        InputError: no such model, or one whose parts are missing or of another kind.
    """
    name = str(source)
    if name.startswith("galaxy:"):
        return _load_galaxy(name, device, dtype)
    folder = BUNDLED.get(name, Path(os.path.expanduser(source)))
    if not folder.is_dir():
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise unknown("model", name, BUNDLED) if "/" not in name else InputError(f"no such folder: {name}")
        folder = _download(name)
    return _load_folder(name, folder, device, dtype)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [
        "model_index.json",
        "*config.json",
        *(f"{part}/*" for part in (*_COMPONENTS, "scheduler")),
        "*.safetensors",
    ]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        raise InputError(
            f"cannot get {name!r} from the hub ({type(error).__name__}: {error}); is it a folder?"
        ) from None


def _load_folder(name: str, folder: Path, device: str, dtype: torch.dtype) -> Model:
    import diffusers

    index_file = folder / "model_index.json"
    if not index_file.is_file():
        raise InputError(f"{folder} is no diffusers model: model_index.json is missing")
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {index_file}: {error}") from None
    kinds = {name: kind for name in (*_COMPONENTS, "scheduler") if (kind := _class_name(index, name))}
    part = next((p for p in _COMPONENTS if p in kinds), None)
    if part is None or "scheduler" not in kinds:
        raise InputError(f"{index_file} names no scheduler with a {' or '.join(_COMPONENTS)}")

    def load(component: str, **options: Any) -> Any:
        kind = getattr(diffusers, kinds[component], None)
        where = folder / component if (folder / component).is_dir() else folder
        if kind is None:
            raise InputError(f"diffusers {diffusers.__version__} has no class {kinds[component]} (for {where})")
        try:
            return kind.from_pretrained(where, **options)
        except Exception as error:  # a damaged file can raise nearly anything
            reason = str(error).partition("\n")[0]
            raise InputError(f"cannot load the {component} of {folder}: {reason}") from None

    network = load(part, torch_dtype=dtype, use_safetensors=True).to(device).eval().requires_grad_(False)
    _, time, *further = inspect.signature(network.forward).parameters.values()
    needed = [p for p in further if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if time.name != "timestep" or needed:
        raise InputError(
            f"the {part} of {folder}, a {type(network).__name__}, is not called as network(x, timestep, class_labels): "
            "wrap it with longstride.as_denoiser"
        )
    scheduler = load("scheduler")
    kind = (
        "flow_prediction"
        if type(scheduler).__name__.startswith("FlowMatch")
        else scheduler.config.get("prediction_type", "epsilon")
    )
    if kind not in DIFFUSERS_PREDICTIONS:
        raise unknown("prediction type", str(kind), DIFFUSERS_PREDICTIONS)
    if scheduler.config.get("thresholding", False):
        raise InputError(f"{folder} asks for dynamic thresholding: pass it to longstride.as_denoiser as threshold=")
    schedule = Schedule.from_diffusers(scheduler)
    if schedule.family == "ve":
        raise InputError(
            f"{folder} has EDM's preconditioning around its network, which is not applied here: wrap the "
            "preconditioned network with longstride.as_denoiser(..., prediction='data')"
        )
    config = network.config
    size = config.get("sample_size")
    if size is None:
        raise InputError(f"{folder} does not say how large a sample is: set sample_size in the {part}'s config.json")
    height, width = (size, size) if isinstance(size, int) else size
    classes = tuple(index.get("_classes", ()))
    null_class = index.get("_null_class")
    embeds = int(config.get("num_class_embeds") or 0)
    if not embeds and config.get("norm_type") == "ada_norm_zero":  # DiT keeps one more embedding, for no class
        embeds = int(config.num_embeds_ada_norm) + 1
        null_class = embeds - 1
    if null_class not in (None, embeds - 1):
        raise InputError(f"{index_file}: _null_class must be the last of the {embeds} classes, got {null_class!r}")
    return Model(
        name=name,
        network=cast(torch.nn.Module, network),
        schedule=schedule,
        prediction=DIFFUSERS_PREDICTIONS[kind],
        shape=(int(config.in_channels), int(height), int(width)),
        num_classes=embeds - 1 if null_class is not None else embeds,
        null_class=null_class,
        class_names=classes,
        clip=float(scheduler.config.get("clip_sample_range", 1.0)) if scheduler.config.get("clip_sample") else None,
    )


def _class_name(index: Any, component: str) -> str | None:
    """The class that ``model_index.json`` names, as ``["diffusers", "UNet2DModel"]``, for a component."""
    entry = index.get(component) if isinstance(index, dict) else None
    return entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else None


def _load_galaxy(name: str, device: str, dtype: torch.dtype) -> Model:
    from longstride.zoo.galaxy import load_galaxy

    network = load_galaxy(name.removeprefix("galaxy:")).to(device=device, dtype=dtype).eval().requires_grad_(False)
    schedule = Schedule.vp_continuous(beta_min=1.0, beta_max=1.0, t_min=2.5e-3, t_max=10.0)
    return Model(name=name, network=network, schedule=schedule, prediction="score", shape=network.shape)
