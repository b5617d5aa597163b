"""A pretrained model, with all that the rest of longstride asks of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from longstride.card import ModelInfo
from longstride.denoiser import Denoiser, as_denoiser
from longstride.errors import InputError
from longstride.predictions import Prediction
from longstride.schedule import Schedule
from longstride.zoo.conditioning import ClassLabels, Conditioning, Unconditional
from longstride.zoo.edm import EDMPreconditioning
from longstride.zoo.pictures import PictureDecoder
from longstride.zoo.text import Prompts, as_prompts
from longstride.zoo.weights import weights_digest

__all__ = ["BUNDLED", "Model"]

#: Models inside the package, by name.
BUNDLED = {name: Path(__file__).parent / name for name in ("garments", "garments_flow")}


@dataclass(frozen=True)
class Model:
    """A pretrained network with its schedule.

    Attributes:
        name: Name that the user gave.
        network: The module in evaluation mode, including EDM's preconditioning.
        schedule: Meaning of the network's times.
        prediction: What the network predicts.
        shape: Shape of one sample, such as ``(1, 28, 28)``.
        conditioning: What the network is told besides the state and its time: nothing, classes or prompts.
        clip: Clean predictions are clamped to [-clip, clip] (``clip_sample_range`` of the scheduler), or None.
        decoder: From latents to pictures, or None.
        folder: Folder that holds the model, or None.
    """

    name: str
    network: torch.nn.Module
    schedule: Schedule
    prediction: Prediction
    shape: tuple[int, ...]
    conditioning: Conditioning = field(default_factory=Unconditional)
    clip: float | None = None
    decoder: PictureDecoder | None = None
    folder: Path | None = None

    @property
    def _classes(self) -> ClassLabels:
        return self.conditioning if isinstance(self.conditioning, ClassLabels) else ClassLabels(0)

    @property
    def num_classes(self) -> int:
        """Number of classes that the network is conditioned on, or 0."""
        return self._classes.count

    @property
    def null_class(self) -> int | None:
        """Label of the unconditional prediction, or None."""
        return self._classes.null_class

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, or empty."""
        return self._classes.names

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts that the seeds go through in turn; empty for a model that takes none."""
        return self.conditioning.prompts if isinstance(self.conditioning, Prompts) else ()

    def with_prompts(self, prompts: Iterable[str], negative: str = "") -> Model:
        """The same model with other prompts.

        Args:
            prompts: Seed ``n`` draws the prompt ``n mod len(prompts)``.
            negative: What the unconditional call of guidance is told.

        Raises:
            InputError: the model takes no prompts, or these are none.
        """
        if not isinstance(self.conditioning, Prompts):
            raise InputError(f"{self.name} takes no prompts: it has {self._choices()}")
        return replace(self, conditioning=replace(self.conditioning, prompts=as_prompts(prompts), negative=negative))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, shapes and values (as float32) of all weights: the same on every device.

        EDM's preconditioning around the network changes nothing.
        """
        return weights_digest(self.network.bare if isinstance(self.network, EDMPreconditioning) else self.network)

    def info(self, guidance: float | None = None) -> ModelInfo:
        """What a card records of this model.

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
        """Number of the class or prompt of every seed; None for an unconditional model.

        Up to a hundred choices come in turn: choice ``seed mod size``. More choices come in steps of a golden section,
        so that any few seeds in a row are spread over all.
        """
        size = self.conditioning.size
        if not size:
            return None
        stride = 1 if size <= 100 else round(size * (math.sqrt(5) - 1) / 2)
        while math.gcd(stride, size) > 1:
            stride += 1
        return torch.tensor([seed * stride % size for seed in seeds], device=self.device)

    def _choices(self) -> str:
        size, choices = self.conditioning.size, self.conditioning.choices
        return f"{choices} 0 … {size - 1}" if size else f"no {choices}"

    def check_labels(self, labels: Iterable[int]) -> None:
        """Make sure that the model knows ``labels``, its classes or prompts.

        Raises:
            InputError: the model does not know a label, or has no choices.
        """
        if bad := sorted({label for label in labels if not 0 <= label < self.conditioning.size}):
            raise InputError(f"{self.name} has {self._choices()}, got label {', '.join(map(str, bad))}")

    def check_pictures(self) -> None:
        """Make sure that samples can be drawn as pictures.

        Raises:
            InputError: the samples are neither grey nor coloured, such as latents of a model without a VAE.
        """
        channels = self.shape[0] if self.decoder is None else self.decoder.channels
        if channels not in (1, 3):
            what = f"samples of shape {self.shape}" if self.decoder is None else f"pictures of {channels} channels"
            raise InputError(f"{self.name} makes {what}: only 1 or 3 channels can be drawn")

    def pictures(self, x: Tensor, *, batch_size: int = 8) -> Tensor:
        """Pictures of samples, nominally in [-1, 1] and not clamped.

        Args:
            x: Samples ``(B, *shape)``.
            batch_size: Most samples per call of the VAE.

        Returns:
            ``x`` itself for a model of pixels. For a model of latents what the VAE decodes, ``(B, 1 or 3, H, W)`` in
            float32.

        Raises:
            InputError: the model makes no pictures, see :meth:`check_pictures`.
        """
        self.check_pictures()
        return x if self.decoder is None else self.decoder(x, batch_size)

    def denoiser(self, seeds: range, guidance: float | None = None, labels: Tensor | None = None) -> Denoiser:
        """The network as ``denoiser(x, sigma)`` for the samples of ``seeds``.

        Args:
            seeds: One seed per sample; the seeds choose the classes or prompts.
            guidance: Classifier-free guidance scale; with ``None`` the conditional prediction alone is taken.
            labels: Numbers of classes or prompts ``(B,)``, in place of the choice by seeds.

        Raises:
            InputError: the guidance is not finite, the model has no unconditional class or prompt for it, or the model
                does not know a label.
        """
        chosen = self.labels(seeds) if labels is None else labels.to(self.device)
        if chosen is not None:
            self.check_labels(chosen.tolist())
        if guidance is not None and not self.conditioning.guided:
            raise InputError(f"{self.name} cannot be guided: it has no unconditional class")
        _check_guidance(guidance)
        preconditioned = isinstance(self.network, EDMPreconditioning)  # which casts by itself, behind its scalings
        return as_denoiser(
            self.network,
            self.schedule,
            self.prediction,
            condition={} if chosen is None else self.conditioning.condition(chosen),
            uncondition=None if guidance is None else self.conditioning.uncondition(self.device),
            guidance=guidance,
            threshold=None if self.clip is None else partial(torch.clamp, min=-self.clip, max=self.clip),
            dtype=None if preconditioned else next(self.network.parameters()).dtype,
            shape=self.shape,
        )


def _check_guidance(guidance: float | None) -> None:
    if guidance is not None and not math.isfinite(guidance):
        raise InputError(f"guidance must be a finite number, got {guidance}")
