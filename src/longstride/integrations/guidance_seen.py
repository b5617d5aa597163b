"""The guidance that is in force, as it can be seen: the weights of a network's predictions in what ``step`` is given.

Classifier-free guidance gives ``(1 - s) u + s c``. A pipeline predicts ``u`` and ``c`` as one batch of two or in two
calls, one after the other. Two numbers are solved for. If no two numbers explain what ``step`` was given, as with
rescaled guidance and with guiders of other kinds, nothing is said. A network with embedded guidance is told its scale
as an argument, which is read.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["GuidanceWatch", "Seen", "seen_in"]

#: Largest error of a fit that is taken for rounding, relative to what is explained, if float32 is the lowest precision.
_ROUNDING = 2e-5
#: Weights of two runs that differ by less, relative to the larger of 1 and the weight, are one guidance.
_SAME = 0.02


@dataclass(frozen=True)
class Seen:
    """Weights of the predictions in what a scheduler was given.

    Attributes:
        weights: One weight per prediction, in the order in which the network made them.
        residual: Part of what was given that the weights leave unexplained, from 0 to 1.
    """

    weights: tuple[float, ...]
    residual: float

    @property
    def scale(self) -> float | None:
        """The guidance scale ``s`` of ``(1 - s) u + s c``, or None if the weights are of another form.

        The order of the two predictions is the pipeline's. The larger weight is taken for that of the condition.
        """
        if len(self.weights) == 1:
            return 1.0 if abs(abs(self.weights[0]) - 1) < _SAME else None
        total = sum(self.weights)
        if abs(abs(total) - 1) >= _SAME:
            return None
        return max(self.weights) if total > 0 else -min(self.weights)

    def differs(self, weights: Sequence[float]) -> str | None:
        """How these weights differ from others, in words; None if they are the same."""
        if len(weights) == len(self.weights):
            pairs = zip(self.weights, weights, strict=True)
            if all(abs(mine - other) <= _SAME * max(1.0, abs(other)) for mine, other in pairs):
                return None
        return f"the network's predictions have {_shown(self.weights)}, the card was made with {_shown(weights)}"


def _shown(weights: Sequence[float]) -> str:
    scale, listed = Seen(tuple(weights), 0.0).scale, ", ".join(f"{weight:.4g}" for weight in weights)
    return f"the weights {listed}" + (f" (guidance {scale:.4g})" if scale is not None and len(weights) > 1 else "")


def seen_in(outputs: Iterable[Tensor], given: Tensor) -> Seen | None:
    """The weights that turn a network's outputs into what a scheduler was given.

    Args:
        outputs: What the network returned for one step, each of shape ``(n B, *)``; further channels are left out.
        given: What the scheduler was given, shape ``(B, *)``.

    Returns:
        The weights, or None: no output, more than two predictions, two predictions that are the same, or no two
        numbers explain what was given.
    """
    predictions = [part for output in outputs for part in _parts(output, given)]
    if not 1 <= len(predictions) <= 2:
        return None
    whole = [given, *predictions]
    bound = max(_ROUNDING, *(torch.finfo(one.dtype).eps for one in whole))
    target, *columns = (one.detach().cpu().double().flatten() for one in whole)
    size = float(target.norm())
    if not torch.isfinite(torch.stack([one.norm() for one in (target, *columns)])).all() or size == 0:
        return None
    if len(columns) == 1:
        weights = [float(columns[0] @ target / (columns[0] @ columns[0]).clamp(min=1e-300))]
        fitted = weights[0] * columns[0]
    else:
        mean, half = (columns[0] + columns[1]) / 2, (columns[1] - columns[0]) / 2
        if float(half.norm()) <= bound * float(mean.norm()):
            return None
        basis = torch.stack([mean, half], dim=1)
        both = torch.linalg.lstsq(basis, target[:, None]).solution[:, 0]
        fitted = basis @ both
        weights = [float(both[0] - both[1]) / 2, float(both[0] + both[1]) / 2]
    residual = float((target - fitted).norm()) / size
    return Seen(tuple(weights), residual) if residual <= bound else None


def _parts(output: Tensor, given: Tensor) -> Sequence[Tensor]:
    """The predictions in an output; none if it has another shape. Axes of length 1 are of no account."""
    size = len(given)
    if output.ndim < 2 or given.ndim < 2 or len(output) % size or not output.is_floating_point():
        return ()
    if output.ndim == given.ndim and output.shape[1] == 2 * given.shape[1]:
        output = output[:, : given.shape[1]]  # a learned variance comes behind the prediction
    kinds = [[n for n in one.shape[1:] if n != 1] for one in (output, given)]
    return torch.split(output, size) if kinds[0] == kinds[1] else ()


class _Anywhere:
    """What was seen.

    Attributes:
        outputs: Outputs for the first step, or None if nobody waits for them.
        told: Guidance scale that a network was told as an argument, or None.
        why: Why a card is not for this run, or None.
    """

    def __init__(self) -> None:
        self.outputs: list[Tensor] | None = None
        self.told: float | None = None
        self.why: str | None = None


class _Here(threading.local, _Anywhere):
    """What this thread has seen."""


class GuidanceWatch:
    """Watches networks until a scheduler is given what was made of their outputs; a context manager.

    A hook stays on every network until the watch is closed or collected. It copies outputs between :meth:`arm` and
    :meth:`read` and does nothing else. A network that was compiled in place cannot be watched.

    Args:
        networks: The networks.
        expected: Weights that a card was made with, or None.
        told: Guidance scale that a network was told when the card was made, or None.
        everywhere: Whether to watch calls of other threads, too.
    """

    def __init__(
        self,
        networks: Iterable[torch.nn.Module],
        expected: Sequence[float] | None = None,
        told: float | None = None,
        *,
        everywhere: bool = False,
    ) -> None:
        self.expected = None if expected is None else tuple(expected)
        self.expected_told = told
        self._here: Any = _Anywhere() if everywhere else _Here()
        handles = [one.register_forward_hook(_Hook(self._here), with_kwargs=True) for one in networks]
        self._close = weakref.finalize(self, _remove, handles)

    def arm(self) -> None:
        """Wait for the outputs of a first step."""
        self._here.outputs, self._here.told, self._here.why = [], None, None

    def read(self, given: Tensor) -> Seen | None:
        """The weights in what a scheduler was given at its first step, ``(B, *)``; None at other steps."""
        outputs, self._here.outputs = self._here.outputs, None
        return None if not outputs else seen_in(outputs, given)

    @property
    def told(self) -> float | None:
        """Guidance scale that a network was told at its first call, or None if none was told any."""
        found: float | None = self._here.told
        return found

    def compare(self, given: Tensor) -> None:
        """Compare what a scheduler was given at its first step, ``(B, *)``, with the card: :attr:`why` says it."""
        self._here.why = None
        if self._here.outputs is None:
            return
        seen, told, then = self.read(given), self.told, self.expected_told
        if seen is not None and self.expected is not None:
            self._here.why = seen.differs(self.expected)
        if told is not None and then is not None and abs(told - then) > _SAME * max(1.0, abs(then)):
            self._here.why = f"the network is told guidance {told:.4g}, the card was made with {then:.4g}"

    @property
    def why(self) -> str | None:
        """Why the card is not for the run of this thread, or None."""
        found: str | None = self._here.why
        return found

    def close(self) -> None:
        """Take the hooks away."""
        self._close()

    def __enter__(self) -> GuidanceWatch:
        self.arm()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> GuidanceWatch:
        return self  # a copied scheduler runs with the same networks

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # another process has other networks


class _Hook:
    """Copies outputs while somebody waits. A copy of the network has a hook that does nothing."""

    def __init__(self, here: Any = None) -> None:
        self.here = here

    def __call__(self, network: Any, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or self.here is None or self.here.outputs is None:
            return
        scale = kwargs.get("guidance")
        if self.here.told is None and isinstance(scale, Tensor) and scale.numel():
            self.here.told = float(scale.flatten()[0])
        found = getattr(output, "sample", None)
        if found is None:
            found = output[0] if isinstance(output, (tuple, list)) and len(output) else output
        if isinstance(found, list) and found and all(isinstance(one, Tensor) for one in found):
            found = torch.stack(found) if len({one.shape for one in found}) == 1 else None  # one tensor per sample
        if isinstance(found, Tensor):
            self.here.outputs.append(found.detach().clone())  # networks may reuse their buffer

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return _Hook()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, ()


def _remove(handles: Iterable[Any]) -> None:
    for handle in handles:
        handle.remove()
