"""diffusers' own scheduler classes, stepping an exact nonlinear denoiser, next to our tables.

A scheduler runs here twice. *As shipped* it keeps its tables in float32 and most classes cast the state to float32 at
every step. *In double* the very same ``step`` code runs on the same float32 levels, widened to float64 and with those
casts widened too; what is left then is a difference of formulas, not of rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import longstride as ls
from longstride import SolverTable

MEANS = torch.tensor([[1.2, -0.3, 0.5, 0.9], [-0.8, 0.7, -1.1, 0.2], [0.1, -1.0, 0.6, -0.7]], dtype=torch.float64)
SPREADS = torch.tensor([0.25, 0.4, 0.15], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)

#: Largest relative difference of final samples in double, and as shipped.
TIGHT, SHIPPED = 1e-11, 1e-5

#: Stable Diffusion's schedule: sigma / alpha up to 14.6, against 157 for DDPM's, the schedulers' default.
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def clean(x_t: Tensor, alpha: float, sigma: float) -> Tensor:
    """Posterior mean of ``x_0`` given ``x_t = alpha x_0 + sigma eps``, ``x_0`` from a mixture of three Gaussians."""
    variance = alpha**2 * SPREADS**2 + sigma**2
    offset = x_t.double()[:, None] - alpha * MEANS
    logits = WEIGHTS.log() - 0.5 * offset.square().sum(-1) / variance - 0.5 * MEANS.shape[1] * variance.log()
    means = MEANS + (alpha * SPREADS**2 / variance)[:, None] * offset
    return (torch.softmax(logits, 1)[..., None] * means).sum(1)


def denoiser(table: SolverTable, data: Callable[[Tensor, float, float], Tensor] = clean) -> ls.sampler.DenoiserLike:
    """The mixture as ``D(x, sigma)`` in the frame of ``table``."""
    alphas = dict(zip(table.sigmas.tolist(), table.alphas.tolist(), strict=True))
    return lambda x, sigma: data(x, alphas[sigma], sigma)


def network(prediction: str, x_t: Tensor, alpha: float, sigma: float, data: Callable[..., Tensor] = clean) -> Tensor:
    """What a network of the given ``prediction_type`` returns for the state ``x_t``."""
    x_0 = data(x_t, alpha, sigma)
    if prediction == "sample":
        return x_0
    if prediction == "v_prediction":  # in the form that needs no division by sigma or alpha
        return (alpha * x_t.double() - x_0) / sigma
    eps = (x_t.double() - alpha * x_0) / sigma
    return eps - x_0 if prediction == "flow_prediction" else eps


class Widened(TorchFunctionMode):
    """Casts to float32 become casts to float64."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.to:
            args = [torch.float64 if a is torch.float32 else a for a in args]
            kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


class Reference(NamedTuple):
    """A scheduler ready to run.

    Attributes:
        scheduler: With its timesteps set.
        alphas: Process alphas of the levels that it visits, shape ``(N + 1,)``, from its own tables.
        sigmas: Process sigmas, likewise.
        calls: For every network call the index of its level, or its own ``(alpha, sigma)``.
        prediction: What the network returns.
        scaled: Whether the scheduler's state is divided by alpha.
    """

    scheduler: Any
    alphas: np.ndarray
    sigmas: np.ndarray
    calls: list[int | tuple[float, float]]
    prediction: str
    scaled: bool = False

    @property
    def ratios(self) -> np.ndarray:
        """Levels in our default frame."""
        return self.sigmas / self.alphas

    def noise(self, count: int = 16) -> Tensor:
        """First state in the process's own scale."""
        eps = torch.randn(count, MEANS.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        return eps * float(self.sigmas[0])

    def run(self, double: bool, data: Callable[..., Tensor] = clean) -> Tensor:
        """Final samples, in our default frame."""
        scheduler, x = copy.deepcopy(self.scheduler), self.noise()
        if self.scaled:
            x = x / float(self.alphas[0])
        if double:
            widen(scheduler)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # otherwise timesteps that coincide after rounding start at the second one
        for t, call in zip(scheduler.timesteps, self.calls, strict=True):
            alpha, sigma = call if isinstance(call, tuple) else (float(self.alphas[call]), float(self.sigmas[call]))
            model_input = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            if self.prediction == "edm":
                data_sd = scheduler.config.sigma_data
                x_t = model_input.double() * (sigma**2 + data_sd**2) ** 0.5
                skip, gain = data_sd**2 / (sigma**2 + data_sd**2), sigma * data_sd / (sigma**2 + data_sd**2) ** 0.5
                output = (data(x_t, 1.0, sigma) - skip * x_t) / gain
            else:
                output = network(self.prediction, model_input, alpha, sigma, data)
            with Widened() if double else nullcontext():
                x = scheduler.step(output, t, x).prev_sample
        return x.double() if self.scaled else x.double() / float(self.alphas[-1])


def widen(scheduler: Any) -> None:
    """Turn a scheduler's float32 tables into float64, the values as they are."""
    for name in ("sigmas", "alphas_cumprod", "final_alpha_cumprod", "betas"):
        if isinstance(getattr(scheduler, name, None), Tensor):
            setattr(scheduler, name, getattr(scheduler, name).double())
    if type(scheduler).__name__ == "IPNDMScheduler":
        scheduler.alphas = (1 - scheduler.betas**2) ** 0.5


def by_sigma(cls: Any, steps: int, prediction: str = "epsilon", **config: Any) -> Reference:
    """A scheduler that steps along ``scheduler.sigmas``, ratios of a VP process (or flow sigmas)."""
    scheduler = cls(prediction_type=prediction, **config)
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas.double().numpy()
    flow = config.get("use_flow_sigmas", False)
    alphas = 1 - levels if flow else 1 / np.sqrt(1 + levels**2)
    return Reference(scheduler, alphas, levels if flow else levels * alphas, list(range(steps)), prediction)


def by_time(cls: Any, steps: int, prediction: str = "epsilon", **config: Any) -> Reference:
    """A scheduler that steps along integer times, from ``alphas_cumprod[t]`` to ``alphas_cumprod[t - T // N]``."""
    scheduler = cls(prediction_type=prediction, **config)
    scheduler.set_timesteps(steps)
    table = scheduler.alphas_cumprod.double().numpy()
    times = scheduler.timesteps.tolist()
    width = scheduler.config.num_train_timesteps // steps
    visited = list(range(times[0], times[0] - steps * width, -width))
    bars = np.append(table[visited], float(scheduler.final_alpha_cumprod))
    calls: list[int | tuple[float, float]] = [(float(table[t] ** 0.5), float((1 - table[t]) ** 0.5)) for t in times]
    return Reference(scheduler, np.sqrt(bars), np.sqrt(1 - bars), calls, prediction)


def heun(cls: Any, steps: int, prediction: str = "epsilon", **config: Any) -> Reference:
    """HeunDiscreteScheduler, whose ``sigmas`` hold every inner level twice and whose state is divided by alpha."""
    scheduler = cls(prediction_type=prediction, **config)
    scheduler.set_timesteps(steps)
    doubled = scheduler.sigmas.double().numpy()
    levels = np.append(doubled[0], doubled[1::2])
    alphas = 1 / np.sqrt(1 + levels**2)
    calls: list[int | tuple[float, float]] = [(k + 1) // 2 for k in range(2 * steps - 1)]
    return Reference(scheduler, alphas, levels * alphas, calls, prediction, scaled=True)


def edm(cls: Any, steps: int, **config: Any) -> Reference:
    """An EDM scheduler: alpha = 1 and a preconditioned network."""
    scheduler = cls(**config)
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas.double().numpy()
    return Reference(scheduler, np.ones_like(levels), levels, list(range(steps)), "edm")


def flow_match(cls: Any, steps: int, **config: Any) -> Reference:
    """FlowMatchEulerDiscreteScheduler: alpha = 1 - sigma."""
    scheduler = cls(**config)
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas.double().numpy()
    return Reference(scheduler, 1 - levels, levels, list(range(steps)), "flow_prediction")


def ipndm(cls: Any, steps: int, first: float = 1.0) -> Reference:
    """IPNDMScheduler on its own sin/cos levels, from ``first`` of its time; its network predicts v.

    The scheduler's own first level, ``first = 1``, has alpha = 0.
    """
    betas = None if first == 1 else np.sin(np.linspace(first, 0, steps + 1) * np.pi / 2).tolist()
    scheduler = cls(num_train_timesteps=steps, trained_betas=betas)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.betas.double().numpy()
    return Reference(scheduler, np.sqrt(1 - sigmas**2), sigmas, list(range(steps)), "v_prediction")


def ours(name: str, reference: Reference, *, own_scale: bool = False, drop: int = 0, **options: Any) -> Tensor:
    """Final samples of our solver ``name`` on the reference's levels, in our default frame.

    Args:
        name: Solver.
        reference: Gives levels and noise.
        own_scale: Whether to work on the process's own scale; needed where it starts at alpha = 0.
        drop: Number of last levels to leave out: those that diffusers repeats.
        **options: Of the solver.
    """
    stop = len(reference.sigmas) - drop
    alphas, sigmas, x = reference.alphas[:stop], reference.sigmas[:stop], reference.noise()
    if not own_scale:
        x, alphas, sigmas = x / float(alphas[0]), np.ones_like(alphas), sigmas / alphas
    table = ls.build(name, sigmas, alphas=alphas, **options)
    return ls.sample(denoiser(table), x, table) / float(alphas[-1])


def difference(theirs: Tensor, mine: Tensor) -> float:
    """Norm of the difference of two sets of samples, relative to their norm; infinity if one is not finite."""
    value = float((theirs - mine).norm() / mine.norm())
    return value if np.isfinite(value) else float("inf")


def assert_parity(reference: Reference, name: str, *, shipped: float = SHIPPED, **options: Any) -> None:
    """Final samples agree to :data:`TIGHT` in double and to ``shipped`` as shipped."""
    mine = ours(name, reference, **options)
    for double, tolerance in ((True, TIGHT), (False, shipped)):
        gap = difference(reference.run(double), mine)
        assert gap < tolerance, f"{name}: relative difference {gap:.1e} with double={double}"


def assert_differs(reference: Reference, mine: Tensor, least: float = 1e-3) -> None:
    """diffusers' samples are finite and further than ``least`` from ours: another formula, not rounding."""
    gap = difference(reference.run(double=True), mine)
    assert least < gap < 1e3, f"relative difference {gap:.1e}"
