"""A stand-in for ComfyUI, which cannot be installed where the tests run: what nodes use of it, with today's protocol.

A guider's ``sample`` loads the model and encodes the conditioning, and makes a denoiser that is there until it returns.
A SAMPLER scales the noise by the model's ``model_sampling`` and calls its function with ``model, x, sigmas`` and the
keywords ``extra_args``, ``callback`` and ``disable``. A node class has ``INPUT_TYPES``, ``RETURN_TYPES``, ``FUNCTION``
and ``CATEGORY``. ``IS_CHANGED`` is asked with the inputs that are constants, and None for the linked.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["FlowSampling", "Model", "ScaledSampling", "install", "load_nodes"]

NODES = Path(__file__).parent.parent / "comfyui"


class ScaledSampling:
    """``model_sampling`` of networks whose states are divided by alpha: levels of Stable Diffusion, or some given."""

    def __init__(self, sigmas: Tensor | None = None) -> None:
        bars = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
        self.sigmas = ((1 - bars) / bars).sqrt().float() if sigmas is None else sigmas.float()

    @property
    def sigma_min(self) -> Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[-1]

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        return noise * (torch.sqrt(1 + sigma**2) if max_denoise else sigma) + latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent


class FlowSampling(ScaledSampling):
    """``model_sampling`` of flows, with a shift."""

    def __init__(self, shift: float = 3.0) -> None:
        t = torch.arange(1, 1001) / 1000
        super().__init__(shift * t / (1 + (shift - 1) * t))

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        return sigma * noise + (1 - sigma) * latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent / (1 - sigma)


class Model:
    """MODEL: a patcher around a network ``network(x, sigma, conditioning)`` that predicts clean pictures."""

    def __init__(self, network: Callable[[Tensor, Tensor, Tensor], Tensor], sampling: ScaledSampling) -> None:
        self.network, self.model_sampling, self.calls, self.loaded = network, sampling, 0, False

    def get_model_object(self, name: str) -> Any:
        return getattr(self, name)


class _Masked:
    """What the function of a SAMPLER calls."""

    def __init__(self, guider: Any) -> None:
        self.inner_model = guider

    def __call__(
        self, x: Tensor, sigma: Tensor, denoise_mask: Any, model_options: Any = None, seed: int | None = None
    ) -> Tensor:
        assert denoise_mask is None
        return self.inner_model(x, sigma, model_options=model_options, seed=seed)


class KSAMPLER:
    """SAMPLER."""

    def __init__(self, sampler_function: Any, extra_options: Any = None, inpaint_options: Any = None) -> None:
        self.sampler_function, self.extra_options = sampler_function, extra_options or {}

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Any = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        extra_args["denoise_mask"] = denoise_mask
        sampling = model_wrap.inner_model.model_sampling
        whole = bool(sigmas[0] >= sampling.sigma_max * (1 - 1e-5))
        x = sampling.noise_scaling(sigmas[0], noise, latent_image, whole)

        def told(one: dict[str, Any]) -> None:
            callback(one["i"], one["denoised"], one["x"], len(sigmas) - 1)

        known = {"extra_args": extra_args, "callback": told if callback else None, "disable": disable_pbar}
        found = self.sampler_function(_Masked(model_wrap), x, sigmas, **known, **self.extra_options)
        return sampling.inverse_noise_scaling(sigmas[-1], found)


class CFGGuider:
    """GUIDER with classifier-free guidance."""

    def __init__(self, model: Model) -> None:
        self.model_patcher, self.cfg = model, 1.0

    def set_conds(self, positive: Any, negative: Any) -> None:
        self.conds = [positive[0][0], negative[0][0]]

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any, seed: int | None) -> Tensor:
        assert self.model_patcher.loaded
        assert sigma.shape == x.shape[:1]
        self.model_patcher.calls += len(x)
        positive, negative = (self.model_patcher.network(x, sigma, cond.repeat(len(x), 1, 1)) for cond in self.conds)
        return negative + self.cfg * (positive - negative)

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: KSAMPLER,
        sigmas: Tensor,
        denoise_mask: Any = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        self.model_patcher.loaded, self.inner_model = True, self.model_patcher
        try:
            extra = {"model_options": {"transformer_options": {"sample_sigmas": sigmas}}, "seed": seed}
            return sampler.sample(self, sigmas, extra, callback, noise, latent_image, denoise_mask, disable_pbar)
        finally:
            self.model_patcher.loaded = False
            del self.inner_model


class ProgressBar:
    """Progress; ComfyUI stops work by an error that is raised in here."""

    bars: list[ProgressBar] = []  # noqa: RUF012
    stopped = False

    def __init__(self, total: int) -> None:
        self.total, self.current, self.seen = total, 0, [(0, total)]
        self.bars.append(self)

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        if ProgressBar.stopped:
            raise InterruptedError("the user has stopped it")
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        self.seen.append((self.current, self.total))

    def update(self, value: int) -> None:
        self.update_absolute(self.current + value)


def install(monkeypatch: Any, output: Path) -> Any:
    """Put the stand-in where ``import comfy`` and ``import folder_paths`` find it."""
    parts = {
        "comfy": {},
        "comfy.samplers": {"KSAMPLER": KSAMPLER, "CFGGuider": CFGGuider},
        "comfy.sample": {"fix_empty_latent_channels": lambda model, latent: latent},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "folder_paths": {"get_output_directory": lambda: str(output)},
    }
    for name, content in parts.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(ProgressBar, "bars", [])
    monkeypatch.setattr(ProgressBar, "stopped", False)
    return ProgressBar


def load_nodes() -> Any:
    """The folder of nodes as ComfyUI loads it: by its path, under a name that is no package's."""
    found = importlib.util.spec_from_file_location(str(NODES), NODES / "__init__.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
