"""Any network as one function: ``denoiser(x, sigma)``, the predicted clean picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import lru_cache
from typing import Any, cast, get_args

import torch
from torch import Tensor

from longstride.course import Course
from longstride.errors import InputError, unknown
from longstride.families import told_levels
from longstride.predictions import CleanWeights, Prediction, clean_weights, combined
from longstride.schedule import Schedule
from longstride.thresholds import Clamp, DynamicThreshold

__all__ = [
    "Clamp",
    "CleanWeights",
    "Denoiser",
    "DynamicThreshold",
    "Prediction",
    "as_denoiser",
    "clean_weights",
    "combined",
]


class Denoiser:
    """A network wrapped as ``denoiser(x, sigma)``; made by :func:`as_denoiser`.

    It counts its forward passes in samples: a batch of 16 counts 16, a guided batch of 16 counts 32.

    Attributes:
        schedule: The network's schedule; ``sigma`` is in its frame.
        guidance: Guidance scale, or None.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        schedule: Schedule,
        prediction: Prediction | CleanWeights,
        *,
        condition: Mapping[str, Any],
        uncondition: Mapping[str, Any] | None,
        guidance: float | None,
        threshold: Callable[[Tensor], Tensor] | None,
        dtype: torch.dtype | None,
        shape: tuple[int, ...] | None,
    ) -> None:
        self.model, self.schedule, self.prediction = model, schedule, prediction
        self.condition, self.uncondition, self.guidance = dict(condition), uncondition, guidance
        self.threshold, self.dtype, self.shape = threshold, dtype, shape
        self._counter = [0]
        self._level = lru_cache(maxsize=1024)(self._level_uncached)

    @property
    def cost(self) -> int:
        """Network calls that one sample costs per step: 2 with guidance, else 1."""
        return 1 if self.guidance is None else 2

    @property
    def calls(self) -> int:
        """Forward passes so far, in samples; shared with the views of :meth:`with_condition` and :meth:`select`."""
        return self._counter[0]

    def with_condition(self, **condition: Any) -> Denoiser:
        """The same network with other conditioning, such as ``class_labels`` for another batch."""
        other = copy(self)
        other.condition = {**self.condition, **condition}
        return other

    @property
    def positional(self) -> bool:
        """Whether an answer depends on the number of its step: the network's own attribute ``positional``, or False."""
        return bool(getattr(self.model, "positional", False))

    def at(self, course: Course, k: int) -> Denoiser:
        """The same network as one call of a run, if its answers depend on that.

        The network's own ``at(times, ratios, k)`` then makes the function that is called in its place: ``times`` are
        what the network is told at every call, shape ``(K,)``; ``ratios`` are ``sigma / alpha`` of every state, or
        sigma itself for a flow, shape ``(K + 1,)``.

        Args:
            course: Levels of the whole run.
            k: Number of the call, ``0 … K - 1``.
        """
        if not self.positional:
            return self
        times = self.schedule.time(course.sigmas[:-1])
        ratios = told_levels(self.schedule.family, course.alphas, course.sigmas)
        other = copy(self)
        other.model = cast(Any, self.model).at(times, ratios, k)
        return other

    def select(self, part: slice | Tensor) -> Denoiser:
        """The same network for some samples of the batch: conditions with one entry per sample are cut, too.

        Args:
            part: A slice of the batch, or indices ``(b,)`` of samples.
        """
        cut = {
            name: value[part] if isinstance(value, Tensor) and value.ndim > 0 and len(value) > 1 else value
            for name, value in self.condition.items()
        }
        return self.with_condition(**cut)

    def repeat(self, times: int) -> Denoiser:
        """The same network for a batch that holds all samples ``times`` times, one whole copy after the other."""
        many = {
            name: value.repeat(times, *(1,) * (value.ndim - 1))
            for name, value in self.condition.items()
            if isinstance(value, Tensor) and value.ndim > 0 and len(value) > 1
        }
        return self.with_condition(**many)

    def _level_uncached(self, sigma: float) -> tuple[float, float, float]:
        """Network time, and alpha and sigma on the network's own scale, as Python floats."""
        t = float(self.schedule.time(sigma))
        if not self.schedule.scaled:
            return t, float(self.schedule.frame_alpha(sigma)), sigma
        alpha = float(self.schedule.alpha(t)) if self.schedule.family == "vp" else 1.0
        return t, alpha, alpha * sigma

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        self._check(x)
        t, alpha, own_sigma = self._level(float(sigma))
        x_t = x * alpha if self.schedule.scaled else x
        if self.guidance is None:
            own = {name: _for_each(value, len(x_t)) for name, value in self.condition.items()}
            return self._finish(self._predict(x_t, t, own), x_t, alpha, own_sigma)
        unknown_names = sorted(set(self.uncondition or ()) - set(self.condition))
        if unknown_names:
            raise InputError(f"uncondition gives {unknown_names}, which condition lacks: guidance needs both")
        pairs = {name: (value, self._unconditional(name, value)) for name, value in self.condition.items()}
        both = {name: _stack(c, u, len(x_t)) for name, (c, u) in pairs.items()}
        out_c, out_u = self._predict(torch.cat([x_t, x_t]), t, both).chunk(2)
        return self._finish(out_u + self.guidance * (out_c - out_u), x_t, alpha, own_sigma)

    def _check(self, x: Tensor) -> None:
        if self.shape is not None and tuple(x.shape[1:]) != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise InputError(f"this network takes states of shape (B, {expected}), got {tuple(x.shape)}")
        for name, value in self.condition.items():
            if isinstance(value, Tensor) and value.ndim > 0 and len(value) not in (1, len(x)):
                raise InputError(f"condition {name!r} holds {len(value)} entries for a batch of {len(x)}")

    def _unconditional(self, name: str, value: Any) -> Any:
        return value if self.uncondition is None or name not in self.uncondition else self.uncondition[name]

    def _predict(self, x_t: Tensor, t: float, condition: Mapping[str, Any]) -> Tensor:
        network_input = x_t if self.dtype is None else x_t.to(self.dtype)
        times = torch.full((len(x_t),), t, device=x_t.device, dtype=torch.float32)
        returned = self.model(network_input, times, **condition)
        self._counter[0] += len(x_t)  # after the call: one that does not fit into memory is made again
        out: Tensor = returned[0] if isinstance(returned, tuple) else getattr(returned, "sample", returned)
        if x_t.ndim > 1 and out.shape[1] == 2 * x_t.shape[1]:  # a learned variance comes behind the prediction
            out = out[:, : x_t.shape[1]]
        return out.to(torch.promote_types(x_t.dtype, torch.float32))

    def _finish(self, out: Tensor, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        kind = self.prediction
        clean = combined(x_t, out, kind(alpha, sigma) if callable(kind) else clean_weights(kind, alpha, sigma))
        return clean if self.threshold is None else self.threshold(clean)


def _for_each(value: Any, count: int) -> Any:
    """A condition for a batch of ``count``: a tensor with one entry holds for every sample."""
    if isinstance(value, Tensor) and value.ndim > 0 and len(value) == 1:
        return value.expand(count, *value.shape[1:])
    return value


def _stack(conditional: Any, unconditional: Any, count: int) -> Any:
    """Both conditions for a batch of ``2 count``; a value that is no tensor serves both."""
    if not isinstance(conditional, Tensor) or not isinstance(unconditional, Tensor):
        return conditional
    each = conditional.expand(count, *conditional.shape[1:])
    return torch.cat([each, unconditional.expand_as(each)])


def as_denoiser(
    model: Callable[..., Any],
    schedule: Schedule,
    prediction: Prediction | CleanWeights = "noise",
    *,
    condition: Mapping[str, Any] | None = None,
    uncondition: Mapping[str, Any] | None = None,
    guidance: float | None = None,
    threshold: Callable[[Tensor], Tensor] | None = None,
    dtype: torch.dtype | None = None,
    shape: tuple[int, ...] | None = None,
) -> Denoiser:
    """Wrap a network as ``denoiser(x, sigma)``.

    Args:
        model: Called as ``model(x_t, t, **condition)`` with ``x_t`` on the network's own scale, shape ``(B, *)``, and
            times ``(B,)``; returns a tensor, a tuple, or an object with ``.sample`` as in diffusers. A learned
            variance (twice the channels) is cut.
        schedule: The network's schedule.
        prediction: Kind of the network's output: ``noise``, ``data``, ``v``, ``flow`` or ``score``; or the weights of
            the clean prediction, for other kinds of output.
        condition: Keyword arguments of every call, such as ``class_labels`` of shape ``(B,)``.
        uncondition: Unconditional counterparts by name, in shapes that expand to the conditional shapes.
        guidance: Classifier-free guidance scale w: ``u + w (c - u)`` on the network's output, from one call at twice
            the batch (Ho & Salimans, 2022). ``None``: the conditional prediction alone.
        threshold: Function that is applied to the clean prediction, such as :class:`Clamp`. A table must not do so.
        dtype: Precision of the network's input; default: that of the state.
        shape: Shape of one sample; states of another shape are then refused.

    Raises:
        InputError: an unknown prediction, a flow prediction on another schedule, guidance without ``uncondition``, or
            guided conditions that are no tensors.

    References:
        Karras et al., 2022, Sec. 2 (the denoiser D); Salimans & Ho, 2022, App. D (v).
    """
    if not callable(prediction) and prediction not in get_args(Prediction):
        raise unknown("prediction", prediction, get_args(Prediction))
    if prediction == "flow" and schedule.family != "flow":
        raise InputError(f"a flow prediction needs a flow schedule, got family {schedule.family!r}")
    if guidance is not None and not uncondition:
        raise InputError("guidance needs uncondition={...}: what the network is told for the unconditional call")
    for side, values in (("condition", condition), ("uncondition", uncondition)):
        for key, value in (values or {}).items():
            if guidance is not None and key in (uncondition or {}) and not isinstance(value, Tensor):
                raise InputError(f"{side}[{key!r}] must be a tensor to be guided, got {type(value).__name__}")
    return Denoiser(
        model,
        schedule,
        prediction,
        condition=condition or {},
        uncondition=uncondition,
        guidance=guidance,
        threshold=threshold,
        dtype=dtype,
        shape=shape,
    )
